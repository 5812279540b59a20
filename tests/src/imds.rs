//! A double of the EC2 instance metadata service that records whatever reaches it.
//!
//! It reads targets as generously as any server might (escapes decoded until none is left, case folded, dot
//! segments and path parameters resolved): a path that slips past the agent finds the secrets here.

mod config;
mod content;
mod http;

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use nix::sys::socket::{Backlog, Shutdown, listen, setsockopt, shutdown, sockopt};
use parking_lot::{Condvar, Mutex};
use tokio::time::Instant;

pub use self::config::{ImdsConfig, Tokens};
use self::content::Content;
use self::http::{Answer, Head};

/// Every credential of the node contains this.
pub const NODE_MARKER: &str = "NODE-ROLE";

/// The user data contains this.
pub const USER_DATA_MARKER: &str = "USER-DATA-SECRET";

/// Every token that is issued begins with this.
pub const TOKEN_MARKER: &str = "REAL-IMDS-TOKEN";

/// How long a connection may take to send its request.
const READ: Duration = Duration::from_secs(10);

/// One request, as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// Who sent it.
    pub peer: SocketAddr,
    /// `GET`, `PUT`, …
    pub method: String,
    /// The raw target.
    pub target: String,
    /// Names and values in their order.
    pub headers: Vec<(String, String)>,
    /// When it had been read.
    pub at: Instant,
}

/// A running double; it ends when dropped.
pub struct Imds {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

/// What can be made to go wrong.
pub struct Faults<'a>(&'a Shared);

struct Shared {
    listener: TcpListener,
    config: ImdsConfig,
    content: Mutex<Content>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    requests: Vec<Request>,
    tokens: HashMap<String, Instant>,
    issued: u64,
    delay: Duration,
    holding: bool,
    released: bool,
    status: Option<u16>,
    raw: Option<&'static [u8]>,
    down: bool,
    ended: bool,
}

// === impl Request ===

impl Request {
    /// The values of the header `name`.
    #[must_use]
    pub fn header(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| &**value)
            .collect()
    }

    /// Whether it asks, in whatever spelling, for credentials, the profile or the user data.
    #[must_use]
    pub fn is_sensitive(&self) -> bool {
        content::segments(&self.target)
            .iter()
            .any(|segment| matches!(&**segment, "iam" | "identity-credentials" | "user-data"))
    }
}

// === impl Imds ===

impl Imds {
    /// Serves on `listener`, which belongs to the network namespace that it was bound in.
    ///
    /// # Errors
    /// The listener has no address, or no thread can be started.
    pub fn start(listener: TcpListener, config: ImdsConfig) -> anyhow::Result<Self> {
        let address = listener.local_addr().context("address of the IMDS double")?;
        let content = Mutex::new(Content::new(&config));
        let shared = Arc::new(Shared {
            listener,
            config,
            content,
            state: Mutex::new(State::default()),
            changed: Condvar::new(),
        });
        let accepting = Arc::clone(&shared);
        let accepting = std::thread::Builder::new()
            .name("imds-double".into())
            .spawn(move || accepting.accept())
            .context("thread of the IMDS double")?;
        Ok(Self { address, shared, accepting: Some(accepting) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Everything that reached it so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.shared.state.lock().requests.clone()
    }

    /// Those that ask for `iam/`, `identity-credentials/` or `user-data`. The agent's own are among them.
    #[must_use]
    pub fn sensitive_requests(&self) -> Vec<Request> {
        self.requests().into_iter().filter(Request::is_sensitive).collect()
    }

    /// Blocks until `enough` of what reached it, or says after `within` what there is.
    ///
    /// # Errors
    /// It was not enough in time.
    pub fn wait(&self, within: Duration, enough: impl Fn(&[Request]) -> bool) -> anyhow::Result<()> {
        let mut state = self.shared.state.lock();
        let deadline = Instant::now() + within;
        while !enough(&state.requests) {
            let left = deadline.saturating_duration_since(Instant::now());
            if self.shared.changed.wait_for(&mut state, left).timed_out() && !enough(&state.requests) {
                anyhow::bail!("the IMDS double has only seen {:?}", state.requests);
            }
        }
        Ok(())
    }

    /// What can be made to go wrong.
    #[must_use]
    pub fn faults(&self) -> Faults<'_> {
        Faults(&self.shared)
    }
}

impl Drop for Imds {
    fn drop(&mut self) {
        self.shared.change(|state| state.ended = true);
        // Wakes the accepting thread; it fails only where the listener is down already.
        let _ = shutdown(self.shared.listener.as_raw_fd(), Shutdown::Both);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

// === impl Faults ===

impl Faults<'_> {
    /// Every answer waits this long.
    pub fn delay(&self, delay: Duration) {
        self.0.change(|state| state.delay = delay);
    }

    /// Answers to what comes while this is on wait for [`Faults::release`].
    pub fn hold(&self, holding: bool) {
        self.0.change(|state| state.holding = holding);
    }

    /// What was held is answered.
    pub fn release(&self) {
        self.0.change(|state| state.released = true);
    }

    /// Every answer has this status, until `None`.
    pub fn status(&self, status: Option<u16>) {
        self.0.change(|state| state.status = status);
    }

    /// Every answer is these bytes, until `None`.
    pub fn raw(&self, answer: Option<&'static [u8]>) {
        self.0.change(|state| state.raw = answer);
    }

    /// The instance's role has new credentials: access key, secret and token.
    pub fn renew(&self, (access_key_id, secret_access_key, session_token): (&str, &str, &str)) {
        let config = ImdsConfig {
            access_key_id: access_key_id.into(),
            secret_access_key: secret_access_key.into(),
            session_token: session_token.into(),
            ..self.0.config.clone()
        };
        *self.0.content.lock() = Content::new(&config);
    }

    /// All tokens issued so far are forgotten.
    pub fn forget_tokens(&self) {
        self.0.change(|state| state.tokens.clear());
    }

    /// Connections are refused, until `false`. Only for a listener that was bound to a port by its number.
    ///
    /// # Errors
    /// The socket does not stop or start listening.
    pub fn down(&self, down: bool) -> io::Result<()> {
        let was = self.0.state.lock().down;
        if was == down {
            return Ok(());
        }
        if down {
            self.0.change(|state| state.down = true);
            shutdown(self.0.listener.as_raw_fd(), Shutdown::Both)?;
        } else {
            listen(&self.0.listener, Backlog::new(128)?)?;
            self.0.change(|state| state.down = false);
        }
        Ok(())
    }
}

// === impl Shared ===

impl Shared {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock());
        self.changed.notify_all();
    }

    fn accept(self: Arc<Self>) {
        loop {
            match self.listener.accept() {
                Ok((stream, peer)) => {
                    let shared = Arc::clone(&self);
                    let serve = move || drop(shared.serve(stream, peer));
                    // Without a thread the connection is dropped, as by a service that is overrun.
                    drop(std::thread::Builder::new().name("imds-double".into()).spawn(serve));
                }
                Err(_) => {
                    let mut state = self.state.lock();
                    self.changed.wait_while(&mut state, |state| state.down && !state.ended);
                }
            }
            if self.state.lock().ended {
                return;
            }
        }
    }

    fn serve(&self, mut stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
        stream.set_read_timeout(Some(READ))?;
        let head = http::read(&mut stream)?;
        let (delay, status, raw, held) = {
            let mut state = self.state.lock();
            state.requests.push(Request {
                peer,
                method: head.method.clone(),
                target: head.target.clone(),
                headers: head.headers.clone(),
                at: Instant::now(),
            });
            (state.delay, state.status, state.raw, state.holding)
        };
        self.changed.notify_all();
        if held {
            self.changed.wait_while(&mut self.state.lock(), |state| !state.released && !state.ended);
        }
        std::thread::sleep(delay);
        if let Some(raw) = raw {
            return stream.write_all(raw);
        }
        let answer = match status {
            Some(status) => Answer::empty(status),
            None => self.answer(&head),
        };
        if head.method == "PUT" {
            limit_hops(&stream, self.config.hop_limit)?;
        }
        http::write(&mut stream, &answer, head.method == "HEAD")
    }

    fn answer(&self, head: &Head) -> Answer {
        let segments = content::segments(&head.target);
        let names: Vec<&str> = segments.iter().map(String::as_str).collect();
        if names.get(1..) == Some(&["api", "token"]) && self.config.tokens != Tokens::Unsupported {
            return self.token(head);
        }
        if !matches!(&*head.method, "GET" | "HEAD") {
            return Answer::empty(if self.config.tokens == Tokens::Unsupported { 403 } else { 405 });
        }
        let left = match head.header("x-aws-ec2-metadata-token") {
            Some(_) if head.header("x-forwarded-for").is_some() => return Answer::empty(403),
            Some(token) if self.config.tokens != Tokens::Unsupported => match self.seconds_left(token) {
                Some(left) => Some(left),
                None => return Answer::empty(401),
            },
            None if self.config.tokens == Tokens::Required => return Answer::empty(401),
            _ => None,
        };
        let content = self.content.lock();
        match content.get(names.get(1..).unwrap_or_default(), names.is_empty()) {
            Some(body) => Answer::text(body, left),
            None => Answer::not_found(),
        }
    }

    fn token(&self, head: &Head) -> Answer {
        if head.method != "PUT" {
            return Answer::empty(405);
        }
        if head.target != "/latest/api/token" || head.header("x-forwarded-for").is_some() {
            return Answer::empty(403);
        }
        let ttl = head.header("x-aws-ec2-metadata-token-ttl-seconds").and_then(|ttl| ttl.parse::<u64>().ok());
        let Some(ttl) = ttl.filter(|ttl| (1..=21_600).contains(ttl)) else {
            return Answer::empty(400);
        };
        let mut state = self.state.lock();
        state.issued += 1;
        let token = format!("{:_<54}==", format!("{TOKEN_MARKER}-{}", state.issued));
        state.tokens.insert(token.clone(), Instant::now() + Duration::from_secs(ttl));
        Answer::text(token, Some(ttl))
    }

    fn seconds_left(&self, token: &str) -> Option<u64> {
        let expires = *self.state.lock().tokens.get(token)?;
        let left = expires.checked_duration_since(Instant::now())?.as_secs();
        (left > 0).then_some(left)
    }
}

/// Sets what the next packets may live for.
fn limit_hops(stream: &TcpStream, hops: u8) -> io::Result<()> {
    if stream.local_addr()?.is_ipv4() {
        setsockopt(stream, sockopt::Ipv4Ttl, &i32::from(hops))?;
    } else {
        setsockopt(stream, sockopt::Ipv6Ttl, &i32::from(hops))?;
    }
    Ok(())
}
