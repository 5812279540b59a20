//! One request and its answer, as a client that measures wants them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail};

/// After so long a connection, or a read from it, has failed.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Read at once at most, bytes.
const CHUNK: usize = 4 << 10;

/// The connection that a client keeps to each server, if any.
#[derive(Debug, Default)]
pub(crate) struct Kept(Option<TcpStream>);

/// What the head of an answer says of the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    /// Bytes of the whole answer.
    whole: usize,
    ok: bool,
    closes: bool,
}

/// One request on a connection of its own, read to its end.
pub(crate) fn ask(addr: SocketAddr, request: &[u8], answer: &mut Vec<u8>) -> anyhow::Result<()> {
    let mut stream = connect(addr)?;
    stream.write_all(request).context("write")?;
    answer.clear();
    stream.read_to_end(answer).context("read")?;
    match head(answer) {
        Some(Head { whole, ok: true, .. }) if whole == answer.len() => Ok(()),
        _ => bail!("answered {}", told(answer)),
    }
}

// === impl Kept ===

impl Kept {
    /// One request on the connection that is kept, or on a new one where the server closed the last.
    pub(crate) fn ask(
        &mut self,
        addr: SocketAddr,
        request: &[u8],
        answer: &mut Vec<u8>,
    ) -> anyhow::Result<()> {
        let mut stream = self.0.take().map_or_else(|| connect(addr), Ok)?;
        stream.write_all(request).context("write")?;
        answer.clear();
        let mut chunk = [0; CHUNK];
        loop {
            let read = stream.read(&mut chunk).context("read")?;
            answer.extend_from_slice(&chunk[..read]);
            match head(answer) {
                Some(Head { whole, ok: true, closes }) if whole == answer.len() => {
                    self.0 = (!closes).then_some(stream);
                    return Ok(());
                }
                Some(Head { whole, ok: true, .. }) if read > 0 && whole > answer.len() => {}
                None if read > 0 => {}
                _ => bail!("answered {}", told(answer)),
            }
        }
    }
}

fn connect(addr: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&addr, TIMEOUT).context("connect")?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// The head, once it is there and says how long the body is.
fn head(answer: &[u8]) -> Option<Head> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let length: usize = field("content-length:")?.parse().ok()?;
    Some(Head {
        whole: end + length,
        ok: head.starts_with("http/1.1 200"),
        closes: field("connection:") == Some("close"),
    })
}

fn told(answer: &[u8]) -> String {
    let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
    format!("{:?}, {} bytes", String::from_utf8_lossy(line), answer.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_how_long_it_is_and_whether_another_may_follow() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        assert_eq!(head(answer), Some(Head { whole: answer.len(), ok: true, closes: false }));
        let half = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok";
        assert_eq!(head(half), Some(Head { whole: half.len() + 1, ok: true, closes: true }));
        let refused = head(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
        assert!(refused.is_some_and(|head| !head.ok));
        assert_eq!(head(b"HTTP/1.1 200 OK\r\nContent-"), None);
        assert_eq!(head(b""), None);
    }
}
