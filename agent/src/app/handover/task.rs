//! The life of an agent between two others: it follows one, leads, gives to another one, and leads again if that one ends.

use std::fs::{self, Permissions};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::Uid;
use prometheus::IntCounterVec;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::link::Link;
use super::message::{Message, PROTOCOL};
use super::stage::{Role, Stage};
use super::{Predecessor, SOCKET};
use crate::admin::VERSION;
use crate::metrics::Registry;
use crate::ready::Gates;

/// An agent that takes over asks at once.
const QUESTION: Duration = Duration::from_secs(2);

/// What this agent can give, and how it came in itself.
pub(in crate::app) struct Handover {
    pub(in crate::app) state_dir: PathBuf,
    pub(in crate::app) keeper: Arc<StdUnixListener>,
    /// Clones of all that is listened at; the app's addresses among them.
    pub(in crate::app) listeners: Vec<TcpListener>,
    pub(in crate::app) app: Vec<SocketAddr>,
    pub(in crate::app) predecessor: Option<Predecessor>,
}

/// The task's.
struct Running {
    handover: Handover,
    stage: Stage,
    outcomes: IntCounterVec,
    shutdown: CancellationToken,
    /// The agent before this one, while its process is there and might come back.
    before: Option<Link>,
    /// It has the same sockets.
    before_shares: bool,
}

// === impl Handover ===

impl Handover {
    /// The agent before this one answers pods on the same sockets.
    pub(in crate::app) fn follows(&self) -> bool {
        self.predecessor.as_ref().is_some_and(|before| before.shares(&self.app))
    }

    /// Runs until `shutdown`.
    ///
    /// # Errors
    /// None today; the type is that of every named task.
    pub(in crate::app) async fn run(
        mut self,
        stage: Stage,
        gates: Gates,
        registry: Registry,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let outcomes = registry.counters(
            "handovers_total",
            "Hand-overs between two agents of this node, by the side of this one.",
            &["side", "outcome"],
        );
        let predecessor = self.predecessor.take();
        let mut running = Running {
            handover: self,
            stage,
            outcomes,
            shutdown: shutdown.clone(),
            before: None,
            before_shares: false,
        };
        let work = async {
            if let Some(predecessor) = predecessor {
                running.follow(predecessor, &gates).await;
            }
            loop {
                running.lead().await;
            }
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => Ok(()),
            () = work => Ok(()),
        }
    }
}

// === impl Running ===

impl Running {
    fn count(&self, side: &str, outcome: &str) {
        self.outcomes.with_label_values(&[side, outcome]).inc();
    }

    /// The agent before this one answers pods until this one can.
    async fn follow(&mut self, predecessor: Predecessor, gates: &Gates) {
        let Predecessor { stream, version, given } = predecessor;
        let Ok(mut link) = Link::from_std(stream) else {
            return self.stage.set(Role::Leading { shared: false });
        };
        self.before_shares = self.handover.follows_at(&given);
        let alone = tokio::select! {
            biased;
            () = link.end() => true,
            () = gates.wait() => false,
        };
        if alone {
            warn!(version, "the agent before this one ended before this one was ready");
            self.count("new", "alone");
            return self.stage.set(Role::Leading { shared: false });
        }
        // First take what comes, then let the other one stop.
        self.stage.set(Role::Leading { shared: self.before_shares });
        let ours: Vec<_> = self.handover.listeners.iter().filter_map(|it| it.local_addr().ok()).collect();
        let listeners = given.into_iter().filter(|address| ours.contains(address)).collect();
        if link.send(&Message::Ready { listeners }, &[]).await.is_ok() {
            info!(version, "taken over: the agent before this one is relieved");
            self.before = Some(link);
        }
        self.count("new", "completed");
    }

    /// In charge, until another agent has asked for the sockets and ended.
    async fn lead(&mut self) {
        let listener = match listen(&self.handover.state_dir) {
            Ok(listener) => Some(listener),
            Err(error) => {
                warn!(%error, "no agent can take over from this one: the socket in the state directory cannot be had");
                None
            }
        };
        loop {
            let asking = tokio::select! {
                biased;
                () = end(&mut self.before) => {
                    self.before = None;
                    self.stage.set(Role::Leading { shared: false });
                    continue;
                }
                asking = accept(listener.as_ref()) => asking,
            };
            let mut link = match asking {
                Ok(stream) => Link::new(stream),
                Err(error) => {
                    warn!(%error, "nobody can be heard who wants to take over");
                    tokio::time::sleep(QUESTION).await;
                    continue;
                }
            };
            if let Some(question) = self.asked(&mut link).await {
                // While it gives it is not to be asked: whoever comes now waits for its successor.
                drop(listener);
                return self.give(link, &question).await;
            }
        }
    }

    /// Reads the question. Nothing: it is none, and has its answer.
    async fn asked(&self, link: &mut Link) -> Option<(String, Vec<SocketAddr>)> {
        if link.peer_uid().ok() != Some(Uid::effective().as_raw()) {
            warn!("a process of another user wants to take over");
            self.count("old", "refused");
            return None;
        }
        let reason = match tokio::time::timeout(QUESTION, link.next()).await {
            Ok(Ok(Some(Message::Ask { protocol: PROTOCOL, version, wants }))) => {
                return Some((version, wants));
            }
            Ok(Ok(Some(Message::Ask { protocol, version, .. }))) => format!(
                "rolegate {VERSION} hands over by protocol {PROTOCOL}, and {version} takes over by {protocol}"
            ),
            Ok(Ok(None)) | Err(_) => return None,
            Ok(Ok(Some(_)) | Err(_)) => format!("rolegate {VERSION} was not asked for its sockets"),
        };
        warn!(reason, "not handed over");
        self.count("old", "refused");
        let _ = link.send(&Message::Refuse { reason }, &[]).await;
        None
    }

    /// Gives the sockets, and comes back in charge when the other one has ended.
    async fn give(&mut self, mut link: Link, (version, wants): &(String, Vec<SocketAddr>)) {
        // From here on a signal to end waits for the other one.
        self.stage.set(Role::Giving);
        info!(version, "another agent takes over: its sockets are given to it");
        let given = tokio::select! {
            biased;
            () = link.end() => false,
            () = self.stage.idle() => self.send_all(&link, wants).await,
        };
        if given && self.until_its_end(&mut link, version).await {
            // A third one leads: this one is not needed any more.
            std::future::pending::<()>().await;
        }
        warn!(version, "the agent that was to take over ended: this one goes on");
        self.count("old", "resumed");
        self.stage.set(Role::Leading { shared: self.before.is_some() && self.before_shares });
    }

    async fn send_all(&self, link: &Link, wants: &[SocketAddr]) -> bool {
        // The server may have begun to close what would be given.
        if self.shutdown.is_cancelled() {
            return false;
        }
        let wanted = self.handover.listeners.iter().filter_map(|listener| {
            let address = listener.local_addr().ok()?;
            wants.contains(&address).then_some((address, listener.as_fd()))
        });
        let (listeners, mut descriptors): (Vec<_>, Vec<_>) = wanted.unzip();
        descriptors.insert(0, self.handover.keeper.as_fd());
        let give = Message::Give { version: VERSION.to_owned(), listeners };
        match link.send(&give, &descriptors).await {
            Ok(()) => true,
            Err(error) => {
                warn!(%error, "the sockets could not be given");
                false
            }
        }
    }

    /// Until the other one's process ends, or a third one has taken over from it: returns whether it is that.
    async fn until_its_end(&mut self, link: &mut Link, version: &str) -> bool {
        loop {
            let message = tokio::select! {
                biased;
                () = end(&mut self.before) => {
                    self.before = None;
                    continue;
                }
                message = link.next() => message,
            };
            match message {
                Ok(Some(Message::Ready { listeners })) => {
                    // Before anything of this one can end: then there would be two in charge.
                    if let Some(before) = self.before.take() {
                        let _ = before.send(&Message::PassedOn, &[]).await;
                    }
                    let shared = self.handover.follows_at(&listeners);
                    self.stage.set(Role::Relieved { shared });
                    info!(version, "relieved: another agent serves this node; this one waits for its end");
                    self.count("old", "relieved");
                }
                Ok(Some(Message::PassedOn)) => return true,
                // What a later version says more is no end.
                Ok(Some(Message::Ask { .. } | Message::Give { .. } | Message::Refuse { .. })) => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
                Ok(None) | Err(_) => return false,
            }
        }
    }
}

impl Handover {
    /// One of these is the app's.
    fn follows_at(&self, addresses: &[SocketAddr]) -> bool {
        self.app.iter().any(|address| addresses.contains(address))
    }
}

/// Listens in the state directory, for processes of this user alone. What an ended agent left there is replaced.
fn listen(state_dir: &Path) -> io::Result<UnixListener> {
    let (at, beside) = (state_dir.join(SOCKET), state_dir.join(format!("{SOCKET}.new")));
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&beside)?;
    fs::set_permissions(&beside, Permissions::from_mode(0o600))?;
    fs::rename(&beside, &at)?;
    Ok(listener)
}

async fn accept(listener: Option<&UnixListener>) -> io::Result<UnixStream> {
    match listener {
        Some(listener) => Ok(listener.accept().await?.0),
        None => std::future::pending().await,
    }
}

async fn end(link: &mut Option<Link>) {
    match link {
        Some(link) => link.end().await,
        None => std::future::pending().await,
    }
}
