//! A double of AWS STS that enforces what AWS enforces: signature, trust policy, the caller's permission,
//! external id, durations, names; and that fails on command.

mod answer;
mod faults;
mod parameters;
mod policy;
mod service;
mod signature;

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use nix::sys::socket::{Backlog, Shutdown, listen, shutdown};
use percent_encoding::percent_decode_str;
use time::OffsetDateTime;
use time::macros::format_description;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::answer::{Answer, Refusal};
pub use self::faults::{Fault, Faults};
use self::service::Service;

/// The account of roles that are put by name.
pub const DEFAULT_ACCOUNT: &str = "123456789012";
/// Every secret key that is issued begins so: grep for it where no secret may be.
pub const SECRET_MARK: &str = "PlantedSecretKey";
/// Every session token that is issued begins so.
pub const TOKEN_MARK: &str = "PlantedSessionToken";

/// A call that came in, whatever was answered; those that a fault swallowed are recorded too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// STS's time.
    pub time: SystemTime,
    /// `AssumeRole`, `GetCallerIdentity`, …
    pub action: String,
    /// `RoleArn`; empty where there is none.
    pub role: String,
    /// `RoleSessionName`; empty where there is none.
    pub session_name: String,
    /// `ExternalId`.
    pub external_id: Option<String>,
    /// `DurationSeconds`.
    pub duration: Option<Duration>,
    /// Who signed it (as GetCallerIdentity names them); empty if nobody did.
    pub principal: String,
    /// The region it was signed for.
    pub region: String,
    /// The session issued.
    pub access_key_id: Option<String>,
    /// The code of the error answered.
    pub error: Option<String>,
}

/// A session that was issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// Its role's ARN.
    pub role: String,
    /// Its name.
    pub session_name: String,
    /// The external id it was got with.
    pub external_id: Option<String>,
    /// When it ends.
    pub expiration: SystemTime,
    /// Its secret key.
    pub secret: String,
    /// Its token.
    pub token: String,
}

/// Access key, secret and token of a session.
pub type Keys = (String, String, String);

/// The double, running on a thread of its own until dropped.
#[derive(Debug)]
pub struct Sts {
    service: Arc<Service>,
    address: SocketAddr,
    /// The socket that is accepted from, to take it down and up again.
    listener: TcpListener,
    down: watch::Sender<bool>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

type Body = StreamBody<stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

// === impl Sts ===

impl Sts {
    /// Serves on `listener`, which may belong to another network namespace than the caller.
    ///
    /// # Errors
    /// When the listener or a thread cannot be had.
    pub fn start(listener: TcpListener) -> io::Result<Self> {
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (service, stop) = (Arc::new(Service::new()), CancellationToken::new());
        let (serving, stopping) = (Arc::clone(&service), stop.clone());
        let (kept, down) = (listener.try_clone()?, watch::Sender::new(false));
        let is_down = down.subscribe();
        let thread = std::thread::Builder::new().name("sts".into()).spawn(move || {
            runtime.block_on(stopping.run_until_cancelled(serve(listener, serving, is_down)));
        })?;
        Ok(Self { service, address, listener: kept, down, stop, thread: Some(thread) })
    }

    /// Serves on a free port of loopback.
    ///
    /// # Errors
    /// As [`Sts::start`].
    pub fn on_loopback() -> io::Result<Self> {
        Self::start(TcpListener::bind("127.0.0.1:0")?)
    }

    /// For `AWS_ENDPOINT_URL_STS`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Makes or replaces a role: a name (in [`DEFAULT_ACCOUNT`]), a path/name or an ARN; its trust policy as
    /// JSON; its MaxSessionDuration.
    ///
    /// # Errors
    /// When the policy is not JSON.
    pub fn put_role(&self, role: &str, trust: &str, max_session: Duration) -> serde_json::Result<()> {
        self.service.put_role(role, serde_json::from_str(trust)?, max_session);
        Ok(())
    }

    /// Deletes a role.
    pub fn remove_role(&self, role: &str) {
        self.service.remove_role(role);
    }

    /// Makes known who signs with this access key: a role's ARN (a session of it: calls are role chaining), a
    /// session's (`…:assumed-role/NAME/SESSION`) or a user's.
    pub fn add_principal(&self, access_key: &str, secret: &str, token: Option<&str>, arn: &str) {
        self.service.add_principal(access_key, secret, token, arn);
    }

    /// The credentials of this principal have expired.
    pub fn expire_principal(&self, access_key: &str) {
        self.service.expire_principal(access_key);
    }

    /// The policy of a principal (its role's or user's ARN) itself; without one, it may assume every role.
    ///
    /// # Errors
    /// When the policy is not JSON.
    pub fn put_permissions(&self, principal: &str, policy: &str) -> serde_json::Result<()> {
        self.service.put_permissions(principal, serde_json::from_str(policy)?);
        Ok(())
    }

    /// Has somebody else make the keys of what is granted from now on: `issuer` is given the role's ARN, the
    /// session's name and its seconds, and returns access key, secret and token (`None`: they are made here).
    pub fn issue_by(&self, issuer: impl Fn(&str, &str, u64) -> Option<Keys> + Send + Sync + 'static) {
        *self.service.issuer.0.lock() = Some(Box::new(issuer));
    }

    /// What goes wrong.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.service.faults
    }

    /// Connections are refused, and those that are open end, until `false`. Only for a listener that was bound to
    /// a port by its number.
    ///
    /// # Errors
    /// The socket does not stop or start listening.
    pub fn down(&self, down: bool) -> io::Result<()> {
        match (down, *self.down.borrow()) {
            (true, false) => shutdown(self.listener.as_raw_fd(), Shutdown::Both)?,
            (false, true) => listen(&self.listener, Backlog::new(128)?)?,
            _ => {}
        }
        self.down.send_replace(down);
        Ok(())
    }

    /// Every call so far, in the order of its arrival.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.service.calls.lock().clone()
    }

    /// How many AssumeRole calls there were.
    #[must_use]
    pub fn assume_role_calls(&self) -> usize {
        self.service.calls.lock().iter().filter(|call| call.action == "AssumeRole").count()
    }

    /// The session of an access key that was issued here.
    #[must_use]
    pub fn issued(&self, access_key_id: &str) -> Option<Issued> {
        self.service.issued.lock().get(access_key_id).cloned()
    }
}

impl Drop for Sts {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // A panic on that thread has been printed; the test fails by what it missed.
            let _ = thread.join();
        }
    }
}

// === impl Call ===

impl Call {
    fn of_form(form: &HashMap<String, String>, time: SystemTime) -> Self {
        let get = |name: &str| form.get(name).cloned();
        Self {
            time,
            action: get("Action").unwrap_or_default(),
            role: get("RoleArn").unwrap_or_default(),
            session_name: get("RoleSessionName").unwrap_or_default(),
            external_id: get("ExternalId"),
            duration: get("DurationSeconds").and_then(|text| text.parse().ok()).map(Duration::from_secs),
            principal: String::new(),
            region: String::new(),
            access_key_id: None,
            error: None,
        }
    }
}

/// Accepts while it is not down.
async fn serve(listener: TcpListener, service: Arc<Service>, mut down: watch::Receiver<bool>) {
    while down.wait_for(|down| !down).await.is_ok() {
        // Registered anew each time: a socket that was shut down is ready for ever.
        let Ok(listener) = listener.try_clone().and_then(tokio::net::TcpListener::from_std) else { return };
        let mut ending = down.clone();
        tokio::select! {
            () = accept(listener, &service, &down) => {}
            _ = ending.wait_for(|down| *down) => {}
        }
    }
}

async fn accept(listener: tokio::net::TcpListener, service: &Arc<Service>, down: &watch::Receiver<bool>) {
    let connections = TaskTracker::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let (service, mut down) = (Arc::clone(service), down.clone());
        connections.spawn(async move {
            let is_down = down.clone();
            let serve = service_fn(move |request| {
                let (service, is_down) = (Arc::clone(&service), *is_down.borrow());
                async move {
                    // What comes before this connection is cut is not answered either.
                    if is_down { Err(io::Error::other("down")) } else { respond(service, request).await }
                }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .half_close(true)
                .serve_connection(TokioIo::new(stream), serve);
            // A connection that ends badly is its client's to report.
            tokio::select! {
                _ = connection => {}
                _ = down.wait_for(|down| *down) => {}
            }
        });
    }
}

/// One request: decided, recorded, and then damaged as the faults say. An error hangs up.
async fn respond(service: Arc<Service>, request: Request<Incoming>) -> Result<Response<Body>, io::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let form = decode_form(&body);
    let role = form.get("RoleArn").and_then(|arn| arn.rsplit('/').next()).map(str::to_owned);
    let fault = service.faults.for_role(role.as_deref());
    match fault {
        None => reply(&service, &service.answer(&parts, &form, &body)),
        Some(Fault::Delay(time)) => {
            let answer = service.answer(&parts, &form, &body);
            tokio::time::sleep(time).await;
            reply(&service, &answer)
        }
        Some(Fault::Rewritten { content_type, rewrite }) => {
            let answer = service.answer(&parts, &form, &body);
            send(&service, answer.status, ("content-type", content_type), rewrite(&answer.body))
        }
        Some(Fault::HalfAnswer) => {
            let answer = service.answer(&parts, &form, &body);
            let half = answer.body[..answer.body.len() / 2].to_owned();
            send(&service, answer.status, ("content-length", &answer.body.len().to_string()), half)
        }
        Some(fault) => {
            let call = Call { error: fault.code().map(str::to_owned), ..Call::of_form(&form, service.now()) };
            service.calls.lock().push(call);
            fail(&service, fault).await
        }
    }
}

/// A fault that needs no decision.
async fn fail(service: &Service, fault: Fault) -> Result<Response<Body>, io::Error> {
    let error = |status, code, message: &str| {
        reply(service, &Refusal::new(status, code, message).answer("00000000-0000-0000-0000-000000000000"))
    };
    match fault {
        Fault::Stall | Fault::Delay(_) | Fault::HalfAnswer | Fault::Rewritten { .. } => {
            std::future::pending().await
        }
        Fault::Flood => {
            let chunk = Bytes::from(vec![b'x'; 64 * 1024]);
            head(service, 200, ("content-type", "text/xml"))
                .body(chunks((0..4_096).map(|_| chunk.clone())))
                .map_err(io::Error::other)
        }
        Fault::Hangup => Err(io::Error::other("hung up on command")),
        Fault::ServerError => error(500, "InternalFailure", "Internal failure"),
        Fault::Error { status, code, message } => error(status, code, message),
        Fault::Malformed => {
            let body = "<AssumeRoleResponse><AssumeRoleResult><Credentials>".to_owned();
            reply(service, &Answer { status: 200, body })
        }
        Fault::Redirect(to) => send(service, 302, ("location", &to), String::new()),
    }
}

fn reply(service: &Service, answer: &Answer) -> Result<Response<Body>, io::Error> {
    let length = answer.body.len().to_string();
    send(service, answer.status, ("content-length", &length), answer.body.clone())
}

fn send(
    service: &Service,
    status: u16,
    header: (&'static str, &str),
    body: String,
) -> Result<Response<Body>, io::Error> {
    head(service, status, header).body(chunks([Bytes::from(body)])).map_err(io::Error::other)
}

/// With `header`; XML unless that says otherwise.
fn head(service: &Service, status: u16, header: (&'static str, &str)) -> http::response::Builder {
    let format = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let date = OffsetDateTime::from(service.now()).format(format).unwrap_or_default();
    let head = Response::builder().status(status).header("date", date).header(header.0, header.1);
    if header.0 == "content-type" { head } else { head.header("content-type", "text/xml") }
}

fn chunks(chunks: impl IntoIterator<Item = Bytes>) -> Body {
    let frames: Vec<_> = chunks.into_iter().map(|chunk| Ok(Frame::data(chunk))).collect();
    StreamBody::new(stream::iter(frames))
}

fn decode_form(body: &[u8]) -> HashMap<String, String> {
    let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    String::from_utf8_lossy(body)
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}
