//! Just enough HTTP to keep every byte that matters: one request, one answer, close.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

/// Longest head read, in bytes.
const LONGEST: usize = 64 * 1024;

/// The head of a request.
pub(super) struct Head {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) headers: Vec<(String, String)>,
}

/// An answer.
pub(super) struct Answer {
    status: u16,
    content_type: &'static str,
    body: String,
    token_seconds: Option<u64>,
}

// === impl Head ===

impl Head {
    /// The first value of the header `name`.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }
}

// === impl Answer ===

impl Answer {
    pub(super) fn empty(status: u16) -> Self {
        Self { status, content_type: "text/plain", body: String::new(), token_seconds: None }
    }

    pub(super) fn text(body: String, token_seconds: Option<u64>) -> Self {
        Self { status: 200, content_type: "text/plain", body, token_seconds }
    }

    pub(super) fn not_found() -> Self {
        let body = "<?xml version=\"1.0\" encoding=\"iso-8859-1\"?>\n<!DOCTYPE html PUBLIC \"-//W3C//DTD XHTML \
                    1.0 Transitional//EN\"\n\t\"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd\">\n\
                    <html xmlns=\"http://www.w3.org/1999/xhtml\" xml:lang=\"en\" lang=\"en\">\n <head>\n  \
                    <title>404 - Not Found</title>\n </head>\n <body>\n  <h1>404 - Not Found</h1>\n </body>\n\
                    </html>\n";
        Self { status: 404, content_type: "text/html", body: body.to_owned(), token_seconds: None }
    }
}

/// Reads up to the empty line; a body is left unread but for what came with the head.
pub(super) fn read(stream: &mut TcpStream) -> io::Result<Head> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 2048];
    while !bytes.windows(4).any(|end| end == b"\r\n\r\n") {
        let read = stream.read(&mut chunk)?;
        if read == 0 || bytes.len() > LONGEST {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&chunk[..read]);
    }
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.split("\r\n");
    let mut words = lines.next().unwrap_or_default().splitn(2, ' ');
    let method = words.next().unwrap_or_default().to_owned();
    let rest = words.next().unwrap_or_default();
    let target = rest.rsplit_once(' ').map_or(rest, |(target, _)| target).to_owned();
    let headers = lines
        .take_while(|line| !line.is_empty())
        .map(|line| line.split_once(':').unwrap_or((line, "")))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    Ok(Head { method, target, headers })
}

/// Writes `answer` as the service does and closes.
pub(super) fn write(stream: &mut TcpStream, answer: &Answer, head_only: bool) -> io::Result<()> {
    let date = date();
    let mut text = format!("HTTP/1.1 {} {}\r\n", answer.status, reason(answer.status));
    if let Some(seconds) = answer.token_seconds {
        text.push_str(&format!("X-Aws-Ec2-Metadata-Token-Ttl-Seconds: {seconds}\r\n"));
    }
    if answer.status == 405 {
        text.push_str("Allow: OPTIONS, PUT\r\n");
    }
    text.push_str(&format!(
        "Content-Type: {}\r\nAccept-Ranges: none\r\nLast-Modified: {date}\r\nContent-Length: {}\r\n\
         Date: {date}\r\nServer: EC2ws\r\nConnection: close\r\n\r\n",
        answer.content_type,
        answer.body.len()
    ));
    if !head_only {
        text.push_str(&answer.body);
    }
    stream.write_all(text.as_bytes())?;
    stream.shutdown(std::net::Shutdown::Write)
}

fn date() -> String {
    OffsetDateTime::now_utc().format(&Rfc2822).unwrap_or_default().replace("+0000", "GMT")
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Not Allowed",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Unknown",
    }
}
