//! Which addresses are believed on interfaces that several pods share.
//!
//! On a bridge a pod that may send raw frames can wear its neighbour's address. Who keeps the pins says of each address
//! where it stands; nothing is asked of the kernel here.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{Notify, watch};

use super::Unidentified;
use crate::types::PodIp;

/// Where an address stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its pod has an interface of its own, or neighbours are trusted.
    Believed,
    /// It is on a bridge, and the port of this index is pinned to it.
    Pinned(u32),
    /// It is on a bridge, and no port is pinned to it.
    Unpinned,
    /// Its interface is shared, and that is refused or cannot be pinned.
    Shared,
}

/// Where all of them stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standings {
    /// Whatever is not in `of`: believed where neighbours are trusted, else not known yet.
    pub others_believed: bool,
    /// Addresses of pods of this node.
    pub of: HashMap<PodIp, Standing>,
}

/// What is published of it, and a way to say that it is not enough.
#[derive(Clone, Debug)]
pub struct Neighbours {
    standings: watch::Receiver<Arc<Standings>>,
    wanted: Arc<Notify>,
}

// === impl Standing ===

impl Standing {
    /// Its pod may be served.
    #[must_use]
    pub fn is_believed(self) -> bool {
        matches!(self, Self::Believed | Self::Pinned(_))
    }
}

// === impl Neighbours ===

impl Neighbours {
    /// What is published; `wanted` is told when an address is asked for that is not believed: it may be since.
    #[must_use]
    pub fn new(standings: watch::Receiver<Arc<Standings>>, wanted: Arc<Notify>) -> Self {
        Self { standings, wanted }
    }

    /// Every address is believed: each pod has an interface of its own.
    #[must_use]
    pub fn trusted() -> Self {
        let all = Standings { others_believed: true, ..Standings::default() };
        // A channel whose sender is gone keeps its value.
        Self { standings: watch::channel(Arc::new(all)).1, wanted: Arc::default() }
    }

    /// Why the address is not believed, if it is not.
    pub(super) fn doubt(&self, ip: PodIp) -> Option<Unidentified> {
        let standings = self.standings.borrow();
        let doubt = match standings.of.get(&ip) {
            Some(Standing::Believed | Standing::Pinned(_)) => None,
            None if standings.others_believed => None,
            Some(Standing::Unpinned) | None => Some(Unidentified::Unpinned),
            Some(Standing::Shared) => Some(Unidentified::SharedL2),
        };
        if doubt.is_some() {
            self.wanted.notify_one();
        }
        doubt
    }

    /// The index of the bridge port that is pinned to the address, if it is on a bridge.
    pub(super) fn port(&self, ip: PodIp) -> Option<u32> {
        match self.standings.borrow().of.get(&ip) {
            Some(Standing::Pinned(port)) => Some(*port),
            _ => None,
        }
    }

    /// Waits until something else is published.
    pub(super) async fn changed(&mut self) {
        if self.standings.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// What is published next is a change.
    pub(super) fn mark_seen(&mut self) {
        self.standings.mark_unchanged();
    }
}
