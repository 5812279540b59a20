//! One agent takes over from another without a connection lost: the new one gets the old one's listening sockets.
//!
//! Both have one state directory. The old one listens at `handover.sock` there; a new one that finds it asks, and gets the
//! descriptors (`SCM_RIGHTS`): from then on both have one accept queue. Then
//!
//! | | the old one | the new one |
//! | --- | --- | --- |
//! | until it asks | everything | opens nothing |
//! | until it is ready | answers pods | keeps the redirect, answers probes, speaks for the node |
//! | from then on | ends what it has begun, and waits for its own end | everything |
//!
//! Whoever ends first: the connection between both breaks, and the other one does everything. The old one never ends by
//! itself, since what runs it would start it again.

mod descriptors;
mod entry;
mod keeper;
mod link;
mod message;
mod stage;
mod task;

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tracing::{debug, info, warn};

pub(super) use entry::{Entry, Patience};
pub(super) use stage::{Charge, Stage};
pub(super) use task::Handover;

use super::process::Signals;
use keeper::Owner;
use stage::{Succession, Watched};

/// In the state directory: where the agent that is there is asked.
const SOCKET: &str = "handover.sock";

/// Longest that one which is to end goes on for the sake of one that is not ready. Kubernetes gives a pod 30 s, of which
/// the drain takes ten.
const SUCCESSOR: Duration = Duration::from_secs(15);
/// After an error, which may be want of descriptors: the time for others to end.
const PAUSE: Duration = Duration::from_millis(50);

/// The agent that was there first.
pub(super) struct Predecessor {
    stream: UnixStream,
    version: String,
    /// What it has given.
    given: Vec<SocketAddr>,
}

// === impl Predecessor ===

impl Predecessor {
    /// It takes connections from one of these as well.
    pub(super) fn shares(&self, addresses: &[SocketAddr]) -> bool {
        self.given.iter().any(|address| addresses.contains(address))
    }
}

/// Says who keeps the node, as long as it is this agent.
pub(super) async fn keep(
    name: Arc<std::os::unix::net::UnixListener>,
    state_dir: PathBuf,
    charge: Charge,
) -> anyhow::Result<()> {
    name.set_nonblocking(true)?;
    let line = Owner::this(&state_dir).line();
    while let Some(turn) = charge.turn().await {
        let listener = UnixListener::from_std(name.try_clone()?)?;
        loop {
            let said = tokio::select! {
                biased;
                () = turn.over() => break,
                said = say(&listener, &line) => said,
            };
            if let Err(error) = said {
                debug!(%error, "somebody asked in vain who keeps this node's redirect");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    Ok(())
}

/// To the next one who asks. A line fits into the buffer of a new connection: nobody is waited for.
async fn say(listener: &UnixListener, line: &[u8]) -> std::io::Result<()> {
    let (stream, _) = listener.accept().await?;
    stream.writable().await?;
    stream.try_write(line).map(drop)
}

/// To be called at `signal`, before anything ends: an agent that has the sockets and is not ready yet would let pods wait
/// in vain, and gets some time to be.
pub(super) async fn wait_for_successor(
    succession: &mut Watched,
    signals: &mut Signals,
    signal: &'static str,
) {
    if !succession.is_giving() {
        return;
    }
    info!(signal, seconds = SUCCESSOR.as_secs(), "ending: the agent that takes over is not ready yet");
    tokio::select! {
        outcome = succession.settled(SUCCESSOR) => if outcome == Succession::Late {
            warn!("the agent that takes over is still not ready: pods wait for it");
        },
        name = signals.next() => warn!(signal = name, "not waited for: second signal"),
    }
}
