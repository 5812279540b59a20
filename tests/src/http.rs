//! A small HTTP/1.1 client for pods: exact bytes out, status, headers and body back.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::netns::NetNs;
use crate::topology::imds_v4;

/// Longest that a test waits for an answer: far beyond any deadline of the agent.
const TIMEOUT: Duration = Duration::from_secs(10);

const ROLES: &str = "/latest/meta-data/iam/security-credentials/";

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Headers in their order, names as sent.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// Talks to one address from one namespace, a new connection for each request.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    ns: &'a NetNs,
    to: SocketAddr,
}

/// One connection, kept open; `S` is TCP, or TLS over it.
#[derive(Debug)]
pub struct Connection<S = TcpStream> {
    stream: BufReader<S>,
}

/// Whether nobody listened. Reset instead of refused: an agent that is killed while it starts iptables leaves a child that
/// has its listening sockets until it is executed.
#[must_use]
pub fn nobody_listens(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset)
}

// === impl Response ===

impl Response {
    /// The first header of this name, whatever its case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When it is not JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("{} {:?}", self.status, self.text()))
    }
}

// === impl Client ===

impl<'a> Client<'a> {
    /// A client in `ns` for `to`.
    #[must_use]
    pub fn new(ns: &'a NetNs, to: SocketAddr) -> Self {
        Self { ns, to }
    }

    /// A client in `ns` for IMDS over IPv4.
    #[must_use]
    pub fn imds(ns: &'a NetNs) -> Self {
        Self::new(ns, imds_v4())
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// As `connect(2)`.
    pub fn connect(&self) -> io::Result<Connection> {
        Ok(Connection::new(self.ns.connect(self.to, TIMEOUT)?))
    }

    /// Sends exactly these bytes and reads one answer.
    ///
    /// # Errors
    /// When there is no connection, or no answer.
    pub fn raw(&self, request: &[u8]) -> io::Result<Response> {
        self.connect()?.exchange(request)
    }

    /// A request with the usual `Host` and these headers.
    ///
    /// # Errors
    /// When there is no connection, or no answer.
    pub fn request(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> io::Result<Response> {
        self.raw(&self.bytes(method, target, headers))
    }

    /// What [`Client::request`] sends.
    #[must_use]
    pub fn bytes(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> Vec<u8> {
        let host = match self.to.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        let mut request = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        request.into_bytes()
    }

    /// `GET` without a token, as IMDSv1 clients do it.
    ///
    /// # Errors
    /// When there is no connection, or no answer.
    pub fn get(&self, path: &str) -> io::Result<Response> {
        self.request("GET", path, &[])
    }

    /// `GET` with a token.
    ///
    /// # Errors
    /// When there is no connection, or no answer.
    pub fn get_v2(&self, path: &str, token: &str) -> io::Result<Response> {
        self.request("GET", path, &[("X-aws-ec2-metadata-token", token)])
    }

    /// Asks for a token.
    ///
    /// # Errors
    /// When there is no connection, no answer, or the answer is not 200.
    pub fn imds_token(&self, ttl_seconds: u32) -> Result<String> {
        let ttl = ttl_seconds.to_string();
        let answer = self.request(
            "PUT",
            "/latest/api/token",
            &[("X-aws-ec2-metadata-token-ttl-seconds", &ttl), ("Content-Length", "0")],
        )?;
        ensure!(answer.status == 200, "PUT token: {} {:?}", answer.status, answer.text());
        Ok(answer.text())
    }

    /// The list of roles.
    ///
    /// # Errors
    /// When there is no connection, or no answer.
    pub fn role_list(&self, token: &str) -> io::Result<Response> {
        self.get_v2(ROLES, token)
    }

    /// The document of a role.
    ///
    /// # Errors
    /// When there is no connection, or no answer.
    pub fn document(&self, role: &str, token: &str) -> io::Result<Response> {
        self.get_v2(&format!("{ROLES}{role}"), token)
    }

    /// What an SDK does: token, list, document; the document as JSON.
    ///
    /// # Errors
    /// When any of the three is not 200.
    pub fn credentials(&self) -> Result<serde_json::Value> {
        let token = self.imds_token(21_600)?;
        let list = self.role_list(&token)?;
        ensure!(list.status == 200, "role list: {} {:?}", list.status, list.text());
        let document = self.document(list.text().trim(), &token)?;
        ensure!(document.status == 200, "document: {} {:?}", document.status, document.text());
        document.json()
    }
}

// === impl Connection ===

impl<S: Read + Write> Connection<S> {
    /// Speaks HTTP over an open stream.
    pub fn new(stream: S) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    /// Sends these bytes and reads one answer.
    ///
    /// # Errors
    /// When the connection ends before a whole answer.
    pub fn exchange(&mut self, request: &[u8]) -> io::Result<Response> {
        self.send(request)?;
        self.read(request.starts_with(b"HEAD "))
    }

    /// Sends these bytes.
    ///
    /// # Errors
    /// As `write(2)`.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Reads one answer; that to a `HEAD` has no body whatever its length says.
    ///
    /// # Errors
    /// When the connection ends before a whole answer.
    pub fn read(&mut self, head_only: bool) -> io::Result<Response> {
        let status = self.line()?;
        let status = status
            .strip_prefix("HTTP/1.")
            .and_then(|rest| rest.get(2..5))
            .and_then(|code| code.parse().ok())
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("status line {status:?}")))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').unwrap_or((&line, ""));
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        let mut response = Response { status, headers, body: Vec::new() };
        if !head_only && !matches!(status, 204 | 304) {
            response.body = self.body(&response)?;
        }
        Ok(response)
    }

    /// Whether the peer closes the connection (or resets it) before it sends anything more.
    ///
    /// # Errors
    /// When nothing happens for ten seconds.
    pub fn is_closed(&mut self) -> io::Result<bool> {
        match self.stream.fill_buf() {
            Ok(bytes) => Ok(bytes.is_empty()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn body(&mut self, response: &Response) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        if response.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            loop {
                let size = self.line()?;
                let size = u64::from_str_radix(size.trim(), 16)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                (&mut self.stream).take(size).read_to_end(&mut body)?;
                self.line()?;
                if size == 0 {
                    return Ok(body);
                }
            }
        }
        match response.header("content-length").map(str::parse::<u64>) {
            Some(Ok(length)) => {
                let read = (&mut self.stream).take(length).read_to_end(&mut body)?;
                if u64::try_from(read).ok() != Some(length) {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            Some(Err(error)) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            None => {
                self.stream.read_to_end(&mut body)?;
            }
        }
        Ok(body)
    }

    /// A line without its end; the end of the stream is an error.
    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(String::from_utf8_lossy(&line).into_owned())
    }
}
