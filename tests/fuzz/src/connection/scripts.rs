//! The client, STS and the real metadata service as a connection meets them: scripts that answer at once.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use rolegate::credentials::{CredentialSource, Session, SessionKey, SourceError};
use rolegate::imds::upstream::{Dial, Stream};
use rolegate::types::{Clock, RoleArn, Secret};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::{NEVER, is_on_the_default_list, is_plain};

/// What the metadata service says of an innocent path begins so.
pub(super) const METADATA_OF: &str = "metadata of ";
/// The node's token for the real metadata service.
const NODE_TOKEN: &str = "AQAENODETOKENNODETOKENNODETOKENNODETOKENNODETOKENNODETOK==";
/// What the metadata service says of everything else.
const NODE_SECRET: &str = "the-nodes-secret";
/// Every secret of a session begins so and ends with its role.
const SECRET_OF: &str = "secret-of-";
/// How often a silent client is looked at before it hangs up: longer than any answer takes here.
const SILENCE: u32 = 32;

/// A client that sends its bytes in pieces, is silent for a while, and hangs up.
pub(super) struct Client {
    pieces: VecDeque<Bytes>,
    rested: bool,
    silence: u32,
    written: Arc<Mutex<Vec<u8>>>,
}

/// The real metadata service: records what it is sent, byte for byte.
#[derive(Clone, Default)]
pub(super) struct Service(Arc<Mutex<Vec<Vec<u8>>>>);

/// One connection to it.
struct Exchange {
    service: Service,
    asked: Vec<u8>,
    answer: Option<Bytes>,
    waiting: Option<Waker>,
}

/// Gives every role a session that carries its name.
pub(super) struct Sts {
    clock: Clock,
    asked: Mutex<Vec<RoleArn>>,
}

// === impl Client ===

impl Client {
    /// A client that sends `sent` in at most `pieces` pieces, and what is written to it.
    pub(super) fn new(sent: &[u8], pieces: usize) -> (Self, Arc<Mutex<Vec<u8>>>) {
        let written = Arc::new(Mutex::default());
        let size = sent.len().div_ceil(pieces).max(1);
        let pieces = sent.chunks(size).map(Bytes::copy_from_slice).collect();
        (Self { pieces, rested: true, silence: SILENCE, written: Arc::clone(&written) }, written)
    }
}

impl AsyncRead for Client {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rested = std::mem::replace(&mut self.rested, true);
        if let Some(piece) = self.pieces.front_mut().filter(|_| rested) {
            let taken = piece.split_to(piece.len().min(buf.remaining()));
            buf.put_slice(&taken);
            if piece.is_empty() {
                self.pieces.pop_front();
                self.rested = false;
            }
            return Poll::Ready(Ok(()));
        }
        if self.pieces.is_empty() {
            match self.silence.checked_sub(1) {
                Some(left) => self.silence = left,
                None => return Poll::Ready(Ok(())),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl AsyncWrite for Client {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.written.lock().extend(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl rolegate::server::Stream for Client {
    fn limit_hops(&self, hops: u8) -> io::Result<()> {
        assert_eq!(hops, 1);
        Ok(())
    }
}

// === impl Service, Exchange ===

impl Service {
    /// Every request so far.
    pub(super) fn asked(&self) -> Vec<Vec<u8>> {
        self.0.lock().clone()
    }
}

impl Dial for Service {
    fn dial(&self) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let service = self.clone();
        Box::pin(async {
            let exchange = Exchange { service, asked: Vec::new(), answer: None, waiting: None };
            Ok(Box::new(exchange) as Box<dyn Stream>)
        })
    }
}

impl AsyncRead for Exchange {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(answer) = &mut self.answer else {
            self.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        };
        let taken = answer.split_to(answer.len().min(buf.remaining()));
        buf.put_slice(&taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Exchange {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.asked.extend(bytes);
        if self.asked.ends_with(b"\r\n\r\n") {
            let asked = std::mem::take(&mut self.asked);
            self.answer = Some(answer(&asked));
            self.service.0.lock().push(asked);
            if let Some(waiting) = self.waiting.take() {
                waiting.wake();
            }
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn answer(asked: &[u8]) -> Bytes {
    let asked = String::from_utf8_lossy(asked);
    let mut words = asked.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let body = match method {
        "PUT" => NODE_TOKEN.to_owned(),
        "GET" if !path.split('/').any(|segment| NEVER.contains(&segment)) => format!("{METADATA_OF}{path}"),
        _ => NODE_SECRET.to_owned(),
    };
    Bytes::from(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
}

/// Every request is made of constants and one allowed path, byte for byte. Returns the paths.
pub(super) fn check_upstream(asked: &[Vec<u8>], open: bool) -> Vec<String> {
    let host = "host: 169.254.169.254\r\n";
    let put = format!(
        "PUT /latest/api/token HTTP/1.1\r\n{host}x-aws-ec2-metadata-token-ttl-seconds: 21600\r\n\r\n"
    );
    let mut paths = Vec::new();
    for asked in asked {
        let text = String::from_utf8_lossy(asked);
        if asked == put.as_bytes() {
            continue;
        }
        let path = text.split(' ').nth(1).unwrap_or_default();
        let get = format!("GET {path} HTTP/1.1\r\n{host}x-aws-ec2-metadata-token: {NODE_TOKEN}\r\n\r\n");
        assert_eq!(text, get);
        assert!(is_plain(path) && (open || is_on_the_default_list(path)), "{text:?}");
        paths.push(path.to_owned());
    }
    assert!(paths.len() <= 1, "{paths:?}");
    paths
}

/// Nothing of the node's is in `written`, and every secret in it is of `own` role.
pub(super) fn check_marks(written: &[u8], own: &str) {
    let text = String::from_utf8_lossy(written);
    assert!(!text.contains(NODE_TOKEN) && !text.contains(NODE_SECRET), "{text:?}");
    assert!(text.split(SECRET_OF).skip(1).all(|rest| rest.starts_with(own)), "{text:?}");
}

// === impl Sts ===

impl Sts {
    pub(super) fn new(clock: &Clock) -> Self {
        Self { clock: clock.clone(), asked: Mutex::default() }
    }

    /// The roles that were asked for.
    pub(super) fn asked(&self) -> Vec<RoleArn> {
        self.asked.lock().clone()
    }
}

impl CredentialSource for Sts {
    fn fetch(&self, key: SessionKey) -> BoxFuture<'static, Result<Session, SourceError>> {
        let now = self.clock.now();
        let secret = || Secret::new(format!("{SECRET_OF}{}", key.role.as_str()));
        let session = Session {
            access_key_id: format!("ASIA-{}", key.role.name()),
            secret_access_key: secret(),
            token: secret(),
            expiration: now + key.duration,
            received: now,
            document: Bytes::new(),
        };
        self.asked.lock().push(key.role);
        Box::pin(async { Ok(session) })
    }
}
