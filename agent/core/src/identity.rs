//! Who is asking: a peer address becomes a pod and its namespace, both of one snapshot.
//!
//! An address that nobody is known to have yet is waited for: a container's first request is often
//! faster than the kubelet's status update. There is no polling and no default for the unknown.
//!
//! What the node sees behind the address must be what it saw there before under the pod's UID ([`Witnesses`]).

mod cni_results;
mod shared;
mod witness;
mod witnesses;

use std::collections::HashSet;
use std::sync::Arc;

use prometheus::IntCounter;
use rolegate_iptables::arrival::Arrival;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::cluster::{Owner, PodRecord, Snapshot};
use crate::metrics::Registry;
use crate::policy::NamespaceFacts;
use crate::types::{PodIp, PodUid};
pub use shared::{Neighbours, Standing, Standings};
use witness::Doubt;
pub use witnesses::Witnesses;

/// A pod that asks, and its namespace, as they were at one instant.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The address it asked from.
    pub ip: PodIp,
    /// Where its connection came in, if that is known.
    pub arrival: Option<Arrival>,
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
    /// Where the connection came in is not known, or what is behind the address is not.
    #[error("it cannot be told what is behind the address")]
    Unseen,
    /// The connection came in by another interface than the node routes the address by.
    #[error("the connection did not come in where the address is")]
    WrongInterface,
    /// Another interface or card is behind the address than was under this pod's UID.
    #[error("something else is behind the address than was under this pod's UID")]
    WitnessChanged,
    /// The API server is not heard, and what is behind the address was not seen while it was.
    #[error("the API server is not heard, and the address was not seen before")]
    Stale,
}

/// Resolves addresses.
#[derive(Clone, Debug)]
pub struct Identity {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    node_addresses: watch::Receiver<Arc<HashSet<PodIp>>>,
    neighbours: Neighbours,
    witnesses: Option<Arc<Witnesses>>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Metrics {
    held_answered: IntCounter,
    held_expired: IntCounter,
    held_refused: IntCounter,
    unwitnessed: IntCounter,
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
    pub const ALL: [Self; 12] = [
        Self::NotSynced,
        Self::UnknownAddress,
        Self::NamespaceUnknown,
        Self::NodeAddress,
        Self::HostNetwork,
        Self::Ambiguous,
        Self::SharedL2,
        Self::Unpinned,
        Self::Unseen,
        Self::WrongInterface,
        Self::WitnessChanged,
        Self::Stale,
    ];

    /// The address is a pod's, and whoever asks from it is not believed to be that pod.
    #[must_use]
    pub const fn is_doubt(self) -> bool {
        matches!(
            self,
            Self::SharedL2
                | Self::Unpinned
                | Self::Unseen
                | Self::WrongInterface
                | Self::WitnessChanged
                | Self::Stale
        )
    }

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
            Self::Unseen => "unseen",
            Self::WrongInterface => "wrong_interface",
            Self::WitnessChanged => "witness_changed",
            Self::Stale => "stale",
        }
    }
}

impl From<Doubt> for Unidentified {
    fn from(doubt: Doubt) -> Self {
        match doubt {
            Doubt::Unseen => Self::Unseen,
            Doubt::WrongInterface => Self::WrongInterface,
            Doubt::Changed => Self::WitnessChanged,
            Doubt::Stale => Self::Stale,
        }
    }
}

// === impl Identity ===

impl Identity {
    /// Resolves against what `snapshots` shows; `node_addresses` are never a pod's. Addresses are believed: see
    /// [`Identity::with_witnesses`].
    #[must_use]
    pub fn new(
        snapshots: watch::Receiver<Arc<Snapshot>>,
        node_addresses: watch::Receiver<Arc<HashSet<PodIp>>>,
        registry: &Registry,
    ) -> Self {
        let (neighbours, metrics) = (Neighbours::trusted(), Arc::new(Metrics::register(registry)));
        Self { snapshots, node_addresses, neighbours, witnesses: None, metrics }
    }

    /// The same, with addresses of shared interfaces believed only as `neighbours` says.
    #[must_use]
    pub fn among(self, neighbours: Neighbours) -> Self {
        Self { neighbours, ..self }
    }

    /// Believes an address only where what is behind it is what was.
    #[must_use]
    pub fn with_witnesses(self, witnesses: Arc<Witnesses>) -> Self {
        Self { witnesses: Some(witnesses), ..self }
    }

    /// The pod that `ip` belongs to, for a connection that came in as `arrival` says. One that is not known
    /// yet is waited for until `deadline`, and so is one that is not what it was: a later snapshot may say why.
    ///
    /// # Errors
    /// [`Unidentified`]: at once where waiting cannot help, else at the deadline.
    pub async fn identify(
        &self,
        ip: PodIp,
        arrival: Option<Arrival>,
        deadline: Instant,
    ) -> Result<Caller, Unidentified> {
        let outcome = match self.find(ip, arrival, &self.snapshot(), deadline).await {
            Look::Found(caller) => return Ok(caller),
            Look::Refused(reason) => Err(reason),
            Look::NotYet(_) => self.hold(ip, arrival, deadline).await,
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

    /// Whether behind a caller's address is still what was: asked after every wait, as well, and answered by `deadline`.
    ///
    /// # Errors
    /// [`Unidentified`]: it is not.
    pub async fn attest(&self, caller: &Caller, deadline: Instant) -> Result<(), Unidentified> {
        let attested = match self.neighbours.doubt(caller.ip) {
            Some(doubt) => Err(doubt),
            None => self.attested(caller, deadline).await.map_err(Unidentified::from),
        };
        attested.inspect_err(|reason| self.metrics.refused(*reason).inc())
    }

    async fn attested(&self, caller: &Caller, deadline: Instant) -> Result<(), Doubt> {
        let Some(witnesses) = &self.witnesses else { return Ok(()) };
        let attested = witnesses.attest(caller, self.neighbours.port(caller.ip), || self.snapshot());
        tokio::time::timeout_at(deadline, attested).await.unwrap_or(Err(Doubt::Unseen))
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshots.borrow())
    }

    /// Waits for a snapshot that knows the address.
    async fn hold(
        &self,
        ip: PodIp,
        arrival: Option<Arrival>,
        deadline: Instant,
    ) -> Result<Caller, Unidentified> {
        // Subscribed before the look: what is published in between is seen as a change.
        let (mut snapshots, mut neighbours) = (self.snapshots.clone(), self.neighbours.clone());
        loop {
            neighbours.mark_seen();
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            let reason = match self.find(ip, arrival, &snapshot, deadline).await {
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

    /// A look that believes no address whose witness says otherwise.
    async fn find(
        &self,
        ip: PodIp,
        arrival: Option<Arrival>,
        snapshot: &Arc<Snapshot>,
        deadline: Instant,
    ) -> Look {
        let caller = match self.look(ip, snapshot) {
            Look::Found(caller) => Caller { arrival, ..caller },
            other => return other,
        };
        match self.neighbours.doubt(ip) {
            Some(shared @ Unidentified::SharedL2) => return Look::Refused(shared),
            Some(doubt) => return Look::NotYet(doubt),
            None => {}
        }
        if self.witnesses.is_none() {
            self.metrics.unwitnessed.inc();
        }
        match self.attested(&caller, deadline).await {
            Ok(()) => Look::Found(caller),
            Err(doubt @ (Doubt::Unseen | Doubt::WrongInterface)) => Look::Refused(doubt.into()),
            Err(doubt @ (Doubt::Changed | Doubt::Stale)) => Look::NotYet(doubt.into()),
        }
    }

    fn look(&self, ip: PodIp, snapshot: &Arc<Snapshot>) -> Look {
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
            arrival: None,
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
            unwitnessed: registry.counter(
                "identity_unwitnessed_total",
                "Requests whose address was believed although others than the agent bring them (--redirect=none).",
            ),
            refused: Unidentified::ALL.map(|reason| refused.with_label_values(&[reason.code()])),
        }
    }

    fn refused(&self, reason: Unidentified) -> &IntCounter {
        &self.refused[reason as usize]
    }
}

#[cfg(test)]
mod tests;
