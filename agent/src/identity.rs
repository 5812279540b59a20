//! Who is asking: a peer address becomes a pod and its namespace, both of one snapshot.
//!
//! An address that nobody is known to have yet is waited for: a container's first request is often
//! faster than the kubelet's status update. There is no polling and no default for the unknown.

use std::collections::HashSet;
use std::sync::Arc;

use prometheus::IntCounter;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::cluster::{Owner, PodRecord, Snapshot};
use crate::metrics::Registry;
use crate::policy::NamespaceFacts;
use crate::types::{PodIp, PodUid};

mod shared;

pub use shared::{Neighbours, Standing, Standings};

/// A pod that asks, and its namespace, as they were at one instant.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The address it asked from.
    pub ip: PodIp,
    /// The one pod that the address belongs to.
    pub pod: Arc<PodRecord>,
    /// That pod's namespace.
    pub namespace: Arc<NamespaceFacts>,
    /// The snapshot that both are from.
    pub snapshot: Arc<Snapshot>,
}

/// Why an address is nobody that may be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unidentified {
    /// The first lists of pods and namespaces were not complete in time.
    #[error("the pods and namespaces of the cluster are not known yet")]
    NotSynced,
    /// No pod of this node had that address in time.
    #[error("no pod of this node has this address")]
    UnknownAddress,
    /// The pod is known, its namespace was not in time.
    #[error("the pod's namespace is not known yet")]
    NamespaceUnknown,
    /// The address is the node's own.
    #[error("the address is the node's own")]
    NodeAddress,
    /// Only host-network pods have that address.
    #[error("the address belongs to host-network pods")]
    HostNetwork,
    /// Several live pods claim it.
    #[error("several live pods claim the address")]
    Ambiguous,
    /// Its interface is shared with other pods.
    #[error(
        "the address is on an interface that several pods share, where any of them can forge it (--shared-l2)"
    )]
    SharedL2,
    /// It is on a bridge, and no port was pinned to it in time.
    #[error("no port of the bridge is pinned to the address (--shared-l2)")]
    Unpinned,
}

/// Resolves addresses.
#[derive(Clone, Debug)]
pub struct Identity {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    node_addresses: watch::Receiver<Arc<HashSet<PodIp>>>,
    neighbours: Neighbours,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Metrics {
    held_answered: IntCounter,
    held_expired: IntCounter,
    held_refused: IntCounter,
    refused: [IntCounter; Unidentified::ALL.len()],
}

/// What one look at a snapshot says.
enum Look {
    Found(Caller),
    /// Nothing will change it for this request.
    Refused(Unidentified),
    /// A later snapshot may know better.
    NotYet(Unidentified),
}

// === impl Unidentified ===

impl Unidentified {
    /// Every reason.
    pub const ALL: [Self; 8] = [
        Self::NotSynced,
        Self::UnknownAddress,
        Self::NamespaceUnknown,
        Self::NodeAddress,
        Self::HostNetwork,
        Self::Ambiguous,
        Self::SharedL2,
        Self::Unpinned,
    ];

    /// The reason as metrics and logs call it.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::NotSynced => "not_synced",
            Self::UnknownAddress => "unknown_address",
            Self::NamespaceUnknown => "namespace_unknown",
            Self::NodeAddress => "node_address",
            Self::HostNetwork => "host_network",
            Self::Ambiguous => "ambiguous",
            Self::SharedL2 => "shared_l2",
            Self::Unpinned => "unpinned",
        }
    }
}

// === impl Identity ===

impl Identity {
    /// Resolves against what `snapshots` shows; `node_addresses` are never a pod's.
    #[must_use]
    pub fn new(
        snapshots: watch::Receiver<Arc<Snapshot>>,
        node_addresses: watch::Receiver<Arc<HashSet<PodIp>>>,
        registry: &Registry,
    ) -> Self {
        let (neighbours, metrics) = (Neighbours::trusted(), Arc::new(Metrics::register(registry)));
        Self { snapshots, node_addresses, neighbours, metrics }
    }

    /// The same, with addresses of shared interfaces believed only as `neighbours` says.
    #[must_use]
    pub fn among(self, neighbours: Neighbours) -> Self {
        Self { neighbours, ..self }
    }

    /// The pod that `ip` belongs to. One that is not known yet is waited for until `deadline`.
    ///
    /// # Errors
    /// [`Unidentified`]: at once where waiting cannot help, else at the deadline.
    pub async fn identify(&self, ip: PodIp, deadline: Instant) -> Result<Caller, Unidentified> {
        let outcome = match self.look(ip, &self.snapshot()) {
            Look::Found(caller) => return Ok(caller),
            Look::Refused(reason) => Err(reason),
            Look::NotYet(_) => self.hold(ip, deadline).await,
        };
        outcome.inspect_err(|reason| self.metrics.refused(*reason).inc())
    }

    /// The pod that `ip` belongs to, if that is known now: nothing waits and nothing is counted.
    #[must_use]
    pub fn look_up(&self, ip: PodIp) -> Option<Caller> {
        match self.look(ip, &self.snapshot()) {
            Look::Found(caller) => Some(caller),
            Look::Refused(_) | Look::NotYet(_) => None,
        }
    }

    /// The caller as it is now, if `ip` still belongs to the pod `uid`: asked after every wait, because
    /// an address may have moved on meanwhile.
    #[must_use]
    pub fn still_owner(&self, ip: PodIp, uid: &PodUid) -> Option<Caller> {
        self.look_up(ip).filter(|caller| caller.pod.facts.uid == *uid)
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshots.borrow())
    }

    /// Waits for a snapshot that knows the address.
    async fn hold(&self, ip: PodIp, deadline: Instant) -> Result<Caller, Unidentified> {
        // Subscribed before the look: what is published in between is seen as a change.
        let (mut snapshots, mut neighbours) = (self.snapshots.clone(), self.neighbours.clone());
        loop {
            neighbours.mark_seen();
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            let reason = match self.look(ip, &snapshot) {
                Look::Found(caller) => {
                    self.metrics.held_answered.inc();
                    return Ok(caller);
                }
                Look::Refused(reason) => {
                    self.metrics.held_refused.inc();
                    return Err(reason);
                }
                Look::NotYet(reason) => reason,
            };
            let changed = async {
                tokio::select! {
                    changed = snapshots.changed() => changed,
                    () = neighbours.changed() => Ok(()),
                }
            };
            let Ok(Ok(())) = tokio::time::timeout_at(deadline, changed).await else {
                self.metrics.held_expired.inc();
                return Err(reason);
            };
        }
    }

    /// Whose `ip` is by the snapshot alone, be it believed or not: for the trail of refusals.
    #[must_use]
    pub fn said_to_be(&self, ip: PodIp) -> Option<Caller> {
        match self.owner(ip, &self.snapshot()) {
            Look::Found(caller) => Some(caller),
            Look::Refused(_) | Look::NotYet(_) => None,
        }
    }

    fn look(&self, ip: PodIp, snapshot: &Arc<Snapshot>) -> Look {
        let owner = self.owner(ip, snapshot);
        if !matches!(owner, Look::Found(_)) {
            return owner;
        }
        match self.neighbours.doubt(ip) {
            Some(shared @ Unidentified::SharedL2) => Look::Refused(shared),
            Some(doubt) => Look::NotYet(doubt),
            None => owner,
        }
    }

    fn owner(&self, ip: PodIp, snapshot: &Arc<Snapshot>) -> Look {
        if self.node_addresses.borrow().contains(&ip) {
            return Look::Refused(Unidentified::NodeAddress);
        }
        let unknown = |reason| Look::NotYet(if snapshot.synced() { reason } else { Unidentified::NotSynced });
        let pod = match snapshot.owner(ip) {
            Some(Owner::Pod(pod)) => pod,
            Some(Owner::Ambiguous(_)) => return Look::Refused(Unidentified::Ambiguous),
            Some(Owner::HostNetwork) => return Look::Refused(Unidentified::HostNetwork),
            None => return unknown(Unidentified::UnknownAddress),
        };
        let Some(namespace) = snapshot.namespace(&pod.facts.namespace) else {
            return unknown(Unidentified::NamespaceUnknown);
        };
        Look::Found(Caller {
            ip,
            pod: Arc::clone(pod),
            namespace: Arc::clone(namespace),
            snapshot: Arc::clone(snapshot),
        })
    }
}

// === impl Metrics ===

impl Metrics {
    fn register(registry: &Registry) -> Self {
        let held = registry.counters(
            "identity_held_total",
            "Requests of addresses not known yet that were held: answered, expired, refused.",
            &["outcome"],
        );
        let refused = registry.counters(
            "identity_refused_total",
            "Requests whose address is nobody that may be served, by reason.",
            &["reason"],
        );
        Self {
            held_answered: held.with_label_values(&["answered"]),
            held_expired: held.with_label_values(&["expired"]),
            held_refused: held.with_label_values(&["refused"]),
            refused: Unidentified::ALL.map(|reason| refused.with_label_values(&[reason.code()])),
        }
    }

    fn refused(&self, reason: Unidentified) -> &IntCounter {
        &self.refused[reason as usize]
    }
}

#[cfg(test)]
mod tests;
