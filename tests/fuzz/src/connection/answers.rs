//! What came out of a connection, read as strictly as a client may.

use std::borrow::Cow;

/// The final answer.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) status: u16,
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

// === impl Answered ===

impl Answered {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    pub(super) fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }
}

/// Reads all of `written`: nothing, or one answer, which a `100 Continue` may go before. Anything else panics.
pub(super) fn read(written: &[u8], to_head: bool) -> Option<Answered> {
    if written.is_empty() {
        return None;
    }
    let (mut answered, mut rest) = one(written);
    if answered.status == 100 {
        assert!(answered.headers.is_empty(), "{answered:?}");
        if rest.is_empty() {
            return None;
        }
        (answered, rest) = one(rest);
        assert!(answered.status >= 200, "{answered:?}");
    }
    check_length(&answered, rest, to_head);
    Some(Answered { body: rest.to_vec(), ..answered })
}

/// The first head of `bytes`, and what follows it.
fn one(bytes: &[u8]) -> (Answered, &[u8]) {
    let shown = || String::from_utf8_lossy(bytes).into_owned();
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let Some(end) = end else { panic!("half a head: {:?}", shown()) };
    let Ok(head) = std::str::from_utf8(&bytes[..end]) else { panic!("not text: {:?}", shown()) };
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(status_of);
    let Some(status) = status else { panic!("no status line: {:?}", shown()) };
    let headers: Option<Vec<_>> = lines.map(header_of).collect();
    let Some(headers) = headers else { panic!("no header: {:?}", shown()) };
    (Answered { status, headers, body: Vec::new() }, &bytes[end + 4..])
}

fn status_of(line: &str) -> Option<u16> {
    let rest = line.strip_prefix("HTTP/1.1 ").or_else(|| line.strip_prefix("HTTP/1.0 "))?;
    let (code, reason) = rest.split_once(' ')?;
    let reason_is_right =
        !reason.is_empty() && reason.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    (code.len() == 3 && reason_is_right).then(|| code.parse().ok())?
}

fn header_of(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once(": ")?;
    let name_is_right =
        !name.is_empty() && name.bytes().all(|byte| byte == b'-' || byte.is_ascii_alphanumeric());
    let value_is_right = value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    (name_is_right && value_is_right).then(|| (name.to_ascii_lowercase(), value.to_owned()))
}

/// There is exactly one length and, unless HEAD asked, it is that of the rest: nothing is left for a second answer.
fn check_length(answered: &Answered, rest: &[u8], to_head: bool) {
    let lengths: Vec<&str> = answered
        .headers
        .iter()
        .filter(|(name, _)| name == "content-length")
        .map(|(_, value)| &**value)
        .collect();
    let [length] = lengths[..] else { panic!("{answered:?}") };
    if to_head {
        assert!(rest.is_empty(), "{answered:?} and {} bytes", rest.len());
    } else {
        assert_eq!(length.parse(), Ok(rest.len()), "{answered:?}");
    }
}
