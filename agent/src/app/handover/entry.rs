//! How an agent comes in: takes the sockets of the one that is there, or waits until nobody is.

use std::fs::DirBuilder;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::Uid;
use tokio::runtime::Runtime;
use tokio::time::Instant;
use tracing::{info, warn};

use super::descriptors;
use super::keeper::{self, Owner};
use super::message::{LONGEST_BYTES, Message, PROTOCOL};
use super::{Predecessor, SOCKET};
use crate::admin::VERSION;
use crate::app::guard;
use crate::app::process::Signals;
use crate::server::Pool;

/// What holds a name or a port may be an agent that ends: Kubernetes gives a pod 30 s for that.
const PATIENCE: Duration = Duration::from_secs(45);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// After an answer that is none, or a refusal: both sides log it.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// The agent that is there first lets what it is writing be written; a busy `iptables` takes seconds.
const ANSWER: Duration = Duration::from_secs(10);

/// Why this agent does not start.
#[derive(Debug, thiserror::Error)]
pub(in crate::app) enum EntryError {
    /// Another agent of this node, which cannot hand over: the operator has to end one, or to give both one directory.
    #[error(
        "another rolegate ({version}, process {pid}) keeps the redirect of this node, with the state directory {theirs}; \
         this one has {ours}: only agents with one state directory take over from each other"
    )]
    Another {
        /// Of the other's program.
        version: String,
        /// As the other sees itself.
        pid: u32,
        /// The other's directory.
        theirs: String,
        /// This one's.
        ours: String,
    },
    /// What was in the way still is.
    #[error("{0}; it was waited for in vain")]
    InTheWay(String),
    /// Told to end.
    #[error("{signal} while waiting: {waited_for}")]
    Told {
        /// The signal.
        signal: &'static str,
        /// What it still waited for.
        waited_for: String,
    },
    /// Waiting takes a few descriptors.
    #[error("cannot wait")]
    Wait(#[source] io::Error),
    /// The keeper's name cannot be had, for a reason that waiting does not mend.
    #[error("the abstract socket @{}", keeper::NAME)]
    Name(#[source] io::Error),
}

/// What an agent comes in with.
pub(in crate::app) struct Entry {
    pub(in crate::app) keeper: UnixListener,
    /// Listeners of the agent that was there; a clone of each is listened at, and the rest is closed with this.
    pub(in crate::app) left: Pool,
    pub(in crate::app) predecessor: Option<Predecessor>,
    pub(in crate::app) patience: Patience,
}

/// Waits for what is in the way, and says for what. The node is guarded meanwhile.
pub(in crate::app) struct Patience {
    /// Of the guards' rules.
    preference: u32,
    said: String,
    begun: Option<Waiting>,
}

/// On the one thread that there is.
struct Waiting {
    until: Instant,
    runtime: Runtime,
    signals: Signals,
}

// === impl Patience ===

impl Patience {
    fn new(preference: u32) -> Self {
        Self { preference, said: String::new(), begun: None }
    }

    /// Waits a moment, or is at its end.
    pub(in crate::app) fn wait(&mut self, for_what: &str) -> Result<(), EntryError> {
        if self.said != for_what {
            info!(seconds = PATIENCE.as_secs(), "waiting: {for_what}");
            for_what.clone_into(&mut self.said);
        }
        let waiting = match &mut self.begun {
            Some(waiting) => waiting,
            None => self.begun.insert(Waiting::begin(self.preference).map_err(EntryError::Wait)?),
        };
        if Instant::now() > waiting.until {
            return Err(EntryError::InTheWay(for_what.to_owned()));
        }
        let signal = waiting.runtime.block_on(async {
            tokio::select! {
                name = waiting.signals.next() => Some(name),
                () = tokio::time::sleep(LOOK_EVERY) => None,
            }
        });
        signal.map_or(Ok(()), |signal| Err(EntryError::Told { signal, waited_for: for_what.to_owned() }))
    }
}

// === impl Waiting ===

impl Waiting {
    fn begin(preference: u32) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // The first process of a container ignores a signal that nothing waits for.
        let signals = runtime.block_on(async { Signals::new() })?;
        runtime.block_on(guard::put_up(preference));
        Ok(Self { until: Instant::now() + PATIENCE, runtime, signals })
    }
}

// === impl Entry ===

impl Entry {
    /// Takes over from the agent that is there, if there is one. `wants` is where this one would listen, `preference`
    /// that of its guards.
    pub(in crate::app) fn new(
        state_dir: &Path,
        wants: &[SocketAddr],
        preference: u32,
    ) -> Result<Self, EntryError> {
        // Without one nobody can take over from this agent; the owner of the token's key says so.
        let _ = DirBuilder::new().recursive(true).mode(0o700).create(state_dir);
        let this = Owner::this(state_dir);
        let mut patience = Patience::new(preference);
        loop {
            match ask(state_dir, wants) {
                Ok((keeper, left, predecessor)) => {
                    return Ok(Self { keeper, left, predecessor: Some(predecessor), patience });
                }
                Err(error) if is_nobody(&error) => {}
                Err(error) => {
                    warn!(%error, "the agent that is there does not hand over");
                    std::thread::sleep(ASK_AGAIN);
                }
            }
            match keeper::claim() {
                Ok(keeper) => return Ok(Self { keeper, left: Pool::default(), predecessor: None, patience }),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(EntryError::Name(error)),
            }
            let Some(owner) = keeper::owner() else {
                patience.wait(&format!(
                    "another rolegate keeps the redirect of this node and does not answer at the abstract socket @{}",
                    keeper::NAME
                ))?;
                continue;
            };
            if !owner.shares_with(&this) {
                return Err(EntryError::Another {
                    version: owner.version,
                    pid: owner.pid,
                    theirs: owner.directory,
                    ours: this.directory,
                });
            }
            patience.wait(&format!(
                "another rolegate ({}, process {}) keeps the redirect of this node and does not hand over yet",
                owner.version, owner.pid
            ))?;
        }
    }
}

/// There is no socket, or nobody listens at it.
fn is_nobody(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset
    )
}

fn ask(state_dir: &Path, wants: &[SocketAddr]) -> io::Result<(UnixListener, Pool, Predecessor)> {
    let mut stream = UnixStream::connect(state_dir.join(SOCKET))?;
    if getsockopt(&stream, sockopt::PeerCredentials)?.uid() != Uid::effective().as_raw() {
        return Err(invalid("the socket in the state directory is another user's"));
    }
    stream.set_read_timeout(Some(ANSWER))?;
    let ask = Message::Ask { protocol: PROTOCOL, version: VERSION.to_owned(), wants: wants.to_vec() };
    stream.write_all(&ask.encode())?;
    let (message, mut descriptors) = answer(&stream)?;
    let (version, listeners) = match message {
        Message::Give { version, listeners } => (version, listeners),
        Message::Refuse { reason } => return Err(invalid(&reason)),
        Message::Ask { .. } | Message::Ready { .. } | Message::PassedOn => {
            return Err(invalid("the answer is none"));
        }
    };
    if descriptors.len() != listeners.len() + 1 {
        return Err(invalid("not all descriptors arrived"));
    }
    let rest = descriptors.split_off(1);
    let Some(keeper) = descriptors.pop() else { return Err(invalid("no descriptors arrived")) };
    let keeper = UnixListener::from(keeper);
    if keeper.local_addr()?.as_abstract_name() != Some(keeper::NAME.as_bytes()) {
        return Err(invalid("the keeper's socket did not arrive"));
    }
    // What was said is not believed where it can be looked up.
    let left = rest.into_iter().map(TcpListener::from).collect::<Pool>();
    let given = left.addresses();
    info!(version, ?given, "the sockets of the agent that is there are taken over");
    stream.set_read_timeout(None)?;
    Ok((keeper, left, Predecessor { stream, version, given }))
}

/// One line, and what came with it.
fn answer(stream: &UnixStream) -> io::Result<(Message, Vec<OwnedFd>)> {
    let (mut line, mut all) = (Vec::new(), Vec::new());
    let mut bytes = [0; LONGEST_BYTES];
    while line.last() != Some(&b'\n') {
        let (length, descriptors) = descriptors::receive(stream, &mut bytes)?;
        all.extend(descriptors);
        if length == 0 || line.len() + length > LONGEST_BYTES {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        line.extend_from_slice(&bytes[..length]);
    }
    let message = Message::decode(&line).map_err(|error| invalid(&error.to_string()))?;
    Ok((message, all))
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.to_owned())
}
