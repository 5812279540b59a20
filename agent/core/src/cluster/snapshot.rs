//! What readers see: the pods of this node and the namespaces at one instant.

mod namespaces;

use std::collections::HashMap;
use std::sync::Arc;

pub(super) use self::namespaces::Namespaces;
use crate::policy::{NamespaceFacts, PodFacts};
use crate::types::{PodIp, PodUid};

/// A pod, projected to what is needed of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRecord {
    /// What policy looks at.
    pub facts: PodFacts,
    /// All of `status.podIPs`, canonical.
    pub ips: Vec<PodIp>,
    /// `status.phase` is Succeeded or Failed: its addresses are free.
    pub terminal: bool,
    /// It has a deletionTimestamp.
    pub deleting: bool,
    /// `spec.hostNetwork`: never owns an address.
    pub host_network: bool,
    /// What the API server shows of it cannot be read: it claims its addresses, and gets nothing.
    pub unreadable: bool,
}

/// Who an address belongs to.
#[derive(Clone, Debug)]
pub enum Owner {
    /// Exactly one live pod (or exactly one without a deletionTimestamp).
    Pod(Arc<PodRecord>),
    /// Several claim it: nobody gets anything.
    Ambiguous(Vec<Arc<PodRecord>>),
    /// Only host-network pods claim it: it is the node's.
    HostNetwork,
}

/// One instant of the cluster, as far as this node is concerned. Immutable.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub(super) owners: Arc<HashMap<PodIp, Owner>>,
    pub(super) pods: Arc<HashMap<PodUid, Arc<PodRecord>>>,
    pub(super) namespaces: Arc<Namespaces>,
    pub(super) pods_listed: bool,
    pub(super) namespaces_listed: bool,
}

// === impl Snapshot ===

impl Snapshot {
    /// Who `ip` belongs to; `None`: nobody we know.
    #[must_use]
    pub fn owner(&self, ip: PodIp) -> Option<&Owner> {
        self.owners.get(&ip)
    }

    /// The pod of that UID, whatever its phase.
    #[must_use]
    pub fn pod(&self, uid: &PodUid) -> Option<&Arc<PodRecord>> {
        self.pods.get(uid)
    }

    /// All pods of the node.
    pub fn pods(&self) -> impl ExactSizeIterator<Item = &Arc<PodRecord>> {
        self.pods.values()
    }

    /// A namespace by name.
    #[must_use]
    pub fn namespace(&self, name: &str) -> Option<&Arc<NamespaceFacts>> {
        self.namespaces.get(name)
    }

    /// How many namespaces are known.
    #[must_use]
    pub fn namespace_count(&self) -> usize {
        self.namespaces.len()
    }

    /// The first list of both pods and namespaces is complete.
    #[must_use]
    pub fn synced(&self) -> bool {
        self.pods_listed && self.namespaces_listed
    }
}
