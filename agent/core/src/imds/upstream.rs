//! The agent as a client of the real metadata service: IMDSv2, one cached token, few connections.
//!
//! Requests are made of constants: a path that [`super::route`] made or one of our own, the service's name
//! and the agent's token. Proxies of the environment are never used for a link-local address.

use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{CONTENT_TYPE, HOST, HeaderName};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use prometheus::IntCounter;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use super::route::MetadataPath;
use crate::metrics::Registry;

/// Longest time to connect: the service is one hop away, or it drops what is over its rate.
const CONNECT: Duration = Duration::from_secs(1);

/// Longest time for one exchange, connecting included.
const EXCHANGE: Duration = Duration::from_secs(2);

/// Connections at once. The service limits them per instance, and node DNS shares its packet budget.
const CONNECTIONS: usize = 4;

/// Longest body read, in bytes. Source: aws-c-auth's limit for the same answers.
const LONGEST_BODY: usize = 64 * 1024;

/// Longest token taken, in bytes; the real one has 56.
const LONGEST_TOKEN: usize = 1024;

/// Seconds asked for: the most there is.
const TOKEN_TTL: HeaderValue = HeaderValue::from_static("21600");

/// A token is renewed at this age: five minutes before its end.
const TOKEN_RENEW: Duration = Duration::from_secs(21_600 - 300);

/// How long a service without IMDSv2 is not asked for a token again.
const TOKENLESS: Duration = Duration::from_secs(300);

const TOKEN_PATH: UpstreamPath = UpstreamPath(Cow::Borrowed("/latest/api/token"));
const TOKEN: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token");
const TOKEN_TTL_SECONDS: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds");

/// A path that may be asked of the real service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamPath(Cow<'static, str>);

/// What the service says to a GET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 200.
    Found(Text),
    /// 404.
    NotFound,
}

/// A text of the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// `text/plain` or `application/json`.
    pub content_type: &'static str,
    /// UTF-8.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// The service did not answer in time.
    #[error("the metadata service did not answer in time")]
    Timeout,
    /// The connection failed or what came over it is not HTTP.
    #[error("the connection to the metadata service failed: {0}")]
    Connection(String),
    /// Neither 200 nor 404.
    #[error("the metadata service answered {0}")]
    Status(u16),
    /// The body is too long, or not text.
    #[error("the metadata service answered with something that is not a short text")]
    NotText,
}

/// How a connection to the service is opened.
pub trait Dial: Send + Sync + 'static {
    /// A new connection.
    fn dial(&self) -> BoxFuture<'static, io::Result<Box<dyn Stream>>>;
}

/// A connection to the service.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

/// Dials over TCP.
struct Tcp(SocketAddr);

/// The client.
pub struct Upstream {
    dial: Box<dyn Dial>,
    host: HeaderValue,
    access: Mutex<Access>,
    connections: Semaphore,
    metrics: Metrics,
}

/// What is known about getting in.
#[derive(Clone, PartialEq, Eq)]
enum Access {
    Unknown,
    Token { value: HeaderValue, renew: Instant },
    Tokenless { until: Instant },
}

/// One answer, read whole.
struct Reply {
    status: StatusCode,
    content_type: &'static str,
    body: Bytes,
}

/// Counters, resolved once.
struct Metrics {
    ok: IntCounter,
    not_found: IntCounter,
    refused: IntCounter,
    failed: IntCounter,
    timeout: IntCounter,
}

// === impl Stream, Dial ===

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Dial for Tcp {
    fn dial(&self) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let connecting = TcpStream::connect(self.0);
        Box::pin(async { Ok(Box::new(connecting.await?) as Box<dyn Stream>) })
    }
}

// === impl UpstreamPath ===

impl UpstreamPath {
    /// The node's instance profile.
    pub const IAM_INFO: Self = Self::constant("/latest/meta-data/iam/info");
    /// The name of the node's role.
    pub const ROLE_LIST: Self = Self::constant("/latest/meta-data/iam/security-credentials/");
    /// The region.
    pub const REGION: Self = Self::constant("/latest/meta-data/placement/region");
    /// The availability zone, which begins with the region.
    pub const ZONE: Self = Self::constant("/latest/meta-data/placement/availability-zone");
    /// The instance's id.
    pub const INSTANCE_ID: Self = Self::constant("/latest/meta-data/instance-id");
    /// The identity document, which has the region.
    pub const IDENTITY: Self = Self::constant("/latest/dynamic/instance-identity/document");

    const fn constant(path: &'static str) -> Self {
        Self(Cow::Borrowed(path))
    }
}

impl From<&MetadataPath> for UpstreamPath {
    fn from(path: &MetadataPath) -> Self {
        Self(Cow::Owned(path.as_str().to_owned()))
    }
}

impl fmt::Display for UpstreamPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Upstream ===

impl Upstream {
    /// A client of the service at `address`. Nothing is sent yet.
    #[must_use]
    pub fn new(address: SocketAddr, registry: &Registry) -> Self {
        Self::dialling(Box::new(Tcp(address)), address, registry)
    }

    /// A client of the service at `address`, which `dial` reaches.
    #[must_use]
    pub fn dialling(dial: Box<dyn Dial>, address: SocketAddr, registry: &Registry) -> Self {
        Self {
            dial,
            host: host(address),
            access: Mutex::new(Access::Unknown),
            connections: Semaphore::new(CONNECTIONS),
            metrics: Metrics::register(registry),
        }
    }

    /// GETs `path`, with a token where the service has them, before `deadline`.
    ///
    /// # Errors
    /// [`UpstreamError`]: there is no answer, or none that may be passed on.
    pub async fn get(&self, path: &UpstreamPath, deadline: Instant) -> Result<Answer, UpstreamError> {
        timeout_at(deadline, self.get_in_time(path)).await.unwrap_or(Err(UpstreamError::Timeout))
    }

    async fn get_in_time(&self, path: &UpstreamPath) -> Result<Answer, UpstreamError> {
        let closed = |_| UpstreamError::Connection("closed".to_owned());
        let _permit = self.connections.acquire().await.map_err(closed)?;
        let access = self.access().await?;
        let mut reply = self.read(path, &access).await?;
        if reply.status == StatusCode::UNAUTHORIZED {
            self.forget(&access).await;
            let access = self.access().await?;
            reply = self.read(path, &access).await?;
        }
        match reply.status {
            StatusCode::OK if std::str::from_utf8(&reply.body).is_ok() => {
                Ok(Answer::Found(Text { content_type: reply.content_type, body: reply.body }))
            }
            StatusCode::OK => Err(UpstreamError::NotText),
            StatusCode::NOT_FOUND => Ok(Answer::NotFound),
            status => Err(UpstreamError::Status(status.as_u16())),
        }
    }

    async fn read(&self, path: &UpstreamPath, access: &Access) -> Result<Reply, UpstreamError> {
        match access {
            Access::Token { value, .. } => {
                self.exchange(Method::GET, path, Some((TOKEN, value.clone()))).await
            }
            Access::Tokenless { .. } | Access::Unknown => self.exchange(Method::GET, path, None).await,
        }
    }

    /// The way in, found out first where it is not known. Whoever holds the lock asks for all.
    async fn access(&self) -> Result<Access, UpstreamError> {
        let mut access = self.access.lock().await;
        let good_until = match &*access {
            Access::Unknown => None,
            Access::Token { renew, .. } => Some(*renew),
            Access::Tokenless { until } => Some(*until),
        };
        if good_until.is_none_or(|until| until <= Instant::now()) {
            *access = self.new_access().await?;
        }
        Ok(access.clone())
    }

    async fn new_access(&self) -> Result<Access, UpstreamError> {
        let asked = Instant::now();
        let reply = self.exchange(Method::PUT, &TOKEN_PATH, Some((TOKEN_TTL_SECONDS, TOKEN_TTL))).await?;
        match reply.status {
            StatusCode::OK if reply.body.len() <= LONGEST_TOKEN => {
                let mut value =
                    HeaderValue::from_maybe_shared(reply.body).map_err(|_| UpstreamError::NotText)?;
                value.set_sensitive(true);
                Ok(Access::Token { value, renew: asked + TOKEN_RENEW })
            }
            StatusCode::OK => Err(UpstreamError::NotText),
            // These three, and no failure, say that the service has no IMDSv2.
            StatusCode::FORBIDDEN | StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
                Ok(Access::Tokenless { until: asked + TOKENLESS })
            }
            status => Err(UpstreamError::Status(status.as_u16())),
        }
    }

    /// Drops `used`, unless somebody has replaced it meanwhile.
    async fn forget(&self, used: &Access) {
        let mut access = self.access.lock().await;
        if *access == *used {
            *access = Access::Unknown;
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &UpstreamPath,
        header: Option<(HeaderName, HeaderValue)>,
    ) -> Result<Reply, UpstreamError> {
        let mut request = Request::builder().method(method).uri(&*path.0).header(HOST, self.host.clone());
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let request = request.body(Empty::new()).map_err(|error| connection(&error))?;
        let reply = timeout(EXCHANGE, self.talk(request)).await.unwrap_or(Err(UpstreamError::Timeout));
        self.metrics.count(&reply);
        reply
    }

    async fn talk(&self, request: Request<Empty<Bytes>>) -> Result<Reply, UpstreamError> {
        let stream = timeout(CONNECT, self.dial.dial())
            .await
            .map_err(|_| UpstreamError::Timeout)?
            .map_err(|error| connection(&error))?;
        let (mut sender, wire) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| connection(&error))?;
        let reply = async {
            let response = sender.send_request(request).await.map_err(|error| connection(&error))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, LONGEST_BODY).collect().await;
            let body = body.map_err(|_| UpstreamError::NotText)?.to_bytes();
            Ok(Reply {
                status: head.status,
                content_type: content_type(head.headers.get(CONTENT_TYPE)),
                body,
            })
        };
        // The connection works for the reply; its own end says nothing that the reply does not.
        let wire = async {
            let _ = wire.await;
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            biased;
            reply = reply => reply,
            never = wire => match never {},
        }
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("host", &self.host).finish_non_exhaustive()
    }
}

// === impl Metrics ===

impl Metrics {
    fn register(registry: &Registry) -> Self {
        let requests = registry.counters(
            "upstream_requests_total",
            "Requests to the real metadata service, tokens included, by how they ended.",
            &["result"],
        );
        let with = |result| requests.with_label_values(&[result]);
        Self {
            ok: with("ok"),
            not_found: with("not_found"),
            refused: with("refused"),
            failed: with("failed"),
            timeout: with("timeout"),
        }
    }

    fn count(&self, reply: &Result<Reply, UpstreamError>) {
        let counter = match reply.as_ref().map(|reply| reply.status.as_u16()) {
            Ok(200) => &self.ok,
            Ok(404) => &self.not_found,
            Ok(401 | 403 | 405) => &self.refused,
            Ok(_) => &self.failed,
            Err(UpstreamError::Timeout) => &self.timeout,
            Err(UpstreamError::Connection(_) | UpstreamError::Status(_) | UpstreamError::NotText) => {
                &self.failed
            }
        };
        counter.inc();
    }
}

fn connection(error: &dyn std::error::Error) -> UpstreamError {
    UpstreamError::Connection(error.to_string())
}

/// Only what metadata is; anything else is called plain text.
fn content_type(value: Option<&HeaderValue>) -> &'static str {
    let essence = value.map_or(&b""[..], |value| value.as_bytes()).split(|byte| *byte == b';').next();
    match essence.map(<[u8]>::trim_ascii) {
        Some(b"application/json") => "application/json",
        _ => "text/plain",
    }
}

/// `Host` of an address: without the port where it is 80.
fn host(address: SocketAddr) -> HeaderValue {
    let text = address.to_string();
    let text = text.strip_suffix(":80").unwrap_or(&text);
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("169.254.169.254"))
}
