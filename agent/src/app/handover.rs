//! One agent takes over from another without a connection lost: the new one gets the old one's listening sockets.
//!
//! Both have one state directory. The old one listens at `handover.sock` there; a new one that finds it asks, and gets the
//! descriptors (`SCM_RIGHTS`): from then on both have one accept queue. Then
//!
//! | | the old one | the new one |
//! | --- | --- | --- |
//! | until it asks | everything | opens nothing |
//! | until it is ready | answers pods | keeps the redirect, answers probes |
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
use std::sync::Arc;

use tokio::net::UnixListener;
use tracing::debug;

pub(super) use entry::{Entry, Patience};
pub(super) use stage::{Charge, Stage, Succession, Watched};
pub(super) use task::Handover;

use keeper::Owner;

/// In the state directory: where the agent that is there is asked.
const SOCKET: &str = "handover.sock";

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
    state_dir: std::path::PathBuf,
    charge: Charge,
) -> anyhow::Result<()> {
    name.set_nonblocking(true)?;
    let line = Owner::this(&state_dir).line();
    while let Some(turn) = charge.turn().await {
        let listener = UnixListener::from_std(name.try_clone()?)?;
        loop {
            let accepted = tokio::select! {
                biased;
                () = turn.over() => break,
                accepted = listener.accept() => accepted,
            };
            // A line fits into the buffer of a new connection; who does not read it has its end all the same.
            let said = accepted.and_then(|(stream, _)| stream.try_write(&line));
            if let Err(error) = said {
                debug!(%error, "somebody asked who keeps this node's redirect");
                tokio::task::yield_now().await;
            }
        }
    }
    Ok(())
}
