//! The index: a pure fold of what the watches say into what readers see.
//!
//! Both collections follow the same rule: between `Init` and `InitDone` the state of before stays
//! visible; `InitDone` replaces it as a whole, so whatever was deleted unseen is gone.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::snapshot::{Namespaces, Owner, PodRecord, Snapshot};
use crate::policy::NamespaceFacts;
use crate::types::{PodIp, PodUid};

/// One thing that a watch says.
#[derive(Debug)]
pub enum Event {
    /// A list of pods begins; one that was not finished is forgotten.
    PodsInit,
    /// A pod of that list.
    PodInitApply(PodRecord),
    /// The list is complete: what it did not name does not exist.
    PodsInitDone,
    /// A pod appeared or changed.
    PodApply(PodRecord),
    /// A pod is gone.
    PodDelete(PodUid),
    /// A list of namespaces begins; one that was not finished is forgotten.
    NamespacesInit,
    /// A namespace of that list.
    NamespaceInitApply(NamespaceFacts),
    /// The list is complete: what it did not name does not exist.
    NamespacesInitDone,
    /// A namespace appeared or changed.
    NamespaceApply(NamespaceFacts),
    /// A namespace is gone.
    NamespaceDelete(Arc<str>),
}

/// The state of the fold. The current [`Snapshot`] shares its maps, so that a pod's event never copies
/// the namespaces.
#[derive(Debug, Default)]
pub struct Index {
    now: Snapshot,
    /// What the list in progress has named so far.
    pods_listing: Option<Pods>,
    namespaces_listing: Option<Namespaces>,
    /// A pod keeps the role and the external id that it was first seen with (`--pin-roles`).
    pin_roles: bool,
}

type Pods = HashMap<PodUid, Arc<PodRecord>>;

// === impl Index ===

impl Index {
    /// Nothing known, nothing listed.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Nothing known; with `pin_roles` an edit of a pod's role or external id is not taken over.
    #[must_use]
    pub fn with_pinned_roles(pin_roles: bool) -> Self {
        Self { pin_roles, ..Self::default() }
    }

    /// Takes in one event; true when readers would see a difference.
    pub fn apply(&mut self, event: Event) -> bool {
        match event {
            Event::PodsInit => {
                self.pods_listing = Some(Pods::new());
                false
            }
            Event::PodInitApply(pod) => {
                let pod = self.pinned(pod);
                let known = self.now.pods.get(&pod.facts.uid);
                let pod = kept(known, pod);
                if let Some(listing) = &mut self.pods_listing {
                    insert(listing, pod);
                }
                false
            }
            Event::PodsInitDone => self.pods_listed(),
            Event::PodApply(pod) => self.apply_pod(pod),
            Event::PodDelete(uid) => self.delete_pod(&uid),
            Event::NamespacesInit => {
                self.namespaces_listing = Some(Namespaces::default());
                false
            }
            Event::NamespaceInitApply(namespace) => {
                let known = self.now.namespaces.get(&namespace.name);
                let namespace = kept(known, namespace);
                if let Some(listing) = &mut self.namespaces_listing {
                    listing.insert(namespace);
                }
                false
            }
            Event::NamespacesInitDone => self.namespaces_listed(),
            Event::NamespaceApply(namespace) => self.apply_namespace(namespace),
            Event::NamespaceDelete(name) => {
                self.now.namespaces.get(&name).is_some()
                    && Arc::make_mut(&mut self.now.namespaces).remove(&name)
            }
        }
    }

    /// What readers see now: shares everything with the index until the next change.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::new(self.now.clone())
    }

    fn pods_listed(&mut self) -> bool {
        let Some(listing) = self.pods_listing.take() else { return false };
        let changed = !self.now.pods_listed || *self.now.pods != listing;
        if changed {
            self.now.pods_listed = true;
            self.now.pods = Arc::new(listing);
            self.now.owners = Arc::new(owners(&self.now.pods));
        }
        changed
    }

    fn pinned(&self, mut pod: PodRecord) -> PodRecord {
        if let Some(known) = self.now.pods.get(&pod.facts.uid).filter(|_| self.pin_roles) {
            pod.facts.role.clone_from(&known.facts.role);
            pod.facts.external_id.clone_from(&known.facts.external_id);
        }
        pod
    }

    fn apply_pod(&mut self, pod: PodRecord) -> bool {
        let pod = self.pinned(pod);
        if self.now.pods.get(&pod.facts.uid).is_some_and(|known| **known == pod) {
            return false;
        }
        insert(Arc::make_mut(&mut self.now.pods), Arc::new(pod));
        self.now.owners = Arc::new(owners(&self.now.pods));
        true
    }

    fn delete_pod(&mut self, uid: &PodUid) -> bool {
        if !self.now.pods.contains_key(uid) {
            return false;
        }
        Arc::make_mut(&mut self.now.pods).remove(uid);
        self.now.owners = Arc::new(owners(&self.now.pods));
        true
    }

    fn namespaces_listed(&mut self) -> bool {
        let Some(listing) = self.namespaces_listing.take() else { return false };
        let changed = !self.now.namespaces_listed || !self.now.namespaces.shares_all_with(&listing);
        if changed {
            self.now.namespaces_listed = true;
            self.now.namespaces = Arc::new(listing);
        }
        changed
    }

    fn apply_namespace(&mut self, namespace: NamespaceFacts) -> bool {
        if self.now.namespaces.get(&namespace.name).is_some_and(|known| **known == namespace) {
            return false;
        }
        Arc::make_mut(&mut self.now.namespaces).insert(Arc::new(namespace));
        true
    }
}

/// Puts a pod in. Of one namespace and name there is one pod at a time: another UID under it is a pod
/// whose deletion was not seen.
fn insert(pods: &mut Pods, pod: Arc<PodRecord>) {
    let same_name = |other: &PodRecord| {
        other.facts.name == pod.facts.name && other.facts.namespace == pod.facts.namespace
    };
    if !pods.get(&pod.facts.uid).is_some_and(|known| same_name(known)) {
        pods.retain(|_, other| !same_name(other));
    }
    pods.insert(pod.facts.uid.clone(), pod);
}

/// The record that is known already when the new one says the same, so that what hangs on it (compiled
/// patterns) survives.
fn kept<T: PartialEq>(known: Option<&Arc<T>>, new: T) -> Arc<T> {
    match known {
        Some(known) if **known == new => Arc::clone(known),
        _ => Arc::new(new),
    }
}

/// Who each address belongs to. Computed anew from the pods of one node (some 250 at most).
fn owners(pods: &Pods) -> HashMap<PodIp, Owner> {
    let mut owners = HashMap::with_capacity(pods.len());
    for pod in pods.values().filter(|pod| !pod.terminal) {
        for ip in &pod.ips {
            claim(&mut owners, *ip, pod);
        }
    }
    for owner in owners.values_mut() {
        settle(owner);
    }
    owners.retain(|_, owner| !matches!(owner, Owner::Pod(pod) if pod.unreadable));
    owners
}

/// Adds a live pod's claim to an address.
fn claim(owners: &mut HashMap<PodIp, Owner>, ip: PodIp, pod: &Arc<PodRecord>) {
    let mine = || if pod.host_network { Owner::HostNetwork } else { Owner::Pod(Arc::clone(pod)) };
    match owners.entry(ip) {
        Entry::Vacant(vacant) => {
            vacant.insert(mine());
        }
        Entry::Occupied(mut occupied) if !pod.host_network => match occupied.get_mut() {
            Owner::HostNetwork => *occupied.get_mut() = mine(),
            // The address may stand twice in one pod's status.
            Owner::Pod(other) if Arc::ptr_eq(other, pod) => {}
            Owner::Pod(other) => {
                let both = vec![Arc::clone(other), Arc::clone(pod)];
                *occupied.get_mut() = Owner::Ambiguous(both);
            }
            Owner::Ambiguous(all) if all.iter().any(|other| Arc::ptr_eq(other, pod)) => {}
            Owner::Ambiguous(all) => all.push(Arc::clone(pod)),
        },
        Entry::Occupied(_) => {}
    }
}

/// Of several claimants, those that are being deleted yield to exactly one that is not.
fn settle(owner: &mut Owner) {
    let Owner::Ambiguous(all) = owner else { return };
    let mut staying = all.iter().filter(|pod| !pod.deleting);
    if let (Some(only), None) = (staying.next(), staying.next()) {
        *owner = Owner::Pod(Arc::clone(only));
    }
}

#[cfg(test)]
mod tests;
