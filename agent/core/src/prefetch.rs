//! From what runs on the node to what the broker should hold and the operator should know: computed anew from each
//! snapshot.

mod complaints;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::cluster::Snapshot;
use crate::credentials::{Broker, Desired, SessionKey};
use crate::policy::Policy;
use crate::types::PodUid;
use complaints::{Complaint, LINE_EVERY};

pub use complaints::Complaints;

/// Shortest time between two looks: a burst of pod events is one look.
const PAUSE: Duration = Duration::from_millis(50);

/// What one look at a snapshot finds.
#[derive(Debug, Default)]
struct Seen {
    /// Sessions, and which pods want them.
    desired: HashMap<SessionKey, Desired>,
    complaints: Vec<Complaint>,
}

/// Tells `broker` what the pods of the newest snapshot want under `policy`, and `complaints` what they cannot have,
/// until `shutdown` or the end of the snapshots.
pub async fn run(
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    policy: Option<Arc<Policy>>,
    broker: Broker,
    complaints: &mut Complaints,
    shutdown: CancellationToken,
) {
    loop {
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        let mut waiting = false;
        // Half a list must not make the broker forget.
        if snapshot.synced() {
            let seen = policy.as_ref().map_or_else(Seen::default, |policy| look(&snapshot, policy));
            broker.set_desired(seen.desired.into_values().collect());
            waiting = complaints.are(&seen.complaints);
        }
        let next = async {
            sleep(PAUSE).await;
            if waiting {
                timeout(LINE_EVERY, snapshots.changed()).await.unwrap_or(Ok(()))
            } else {
                snapshots.changed().await
            }
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            changed = next => if changed.is_err() { return },
        }
    }
}

/// Decides for every pod that may ask what it would get. One that is being deleted may ask until it is gone; one
/// whose namespace is not known yet gets nothing, and nothing is said of it.
fn look(snapshot: &Snapshot, policy: &Policy) -> Seen {
    let mut seen = Seen::default();
    let mut namespaces = HashSet::new();
    for pod in snapshot.pods().filter(|pod| !pod.terminal && !pod.host_network) {
        let Some(namespace) = snapshot.namespace(&pod.facts.namespace) else { continue };
        match policy.decide(&pod.facts, namespace).outcome {
            Ok(grant) => seen.wants(SessionKey::from(&grant), &pod.facts.uid),
            Err(denied) => seen.complaints.extend(Complaint::of_pod(&pod.facts, &denied)),
        }
        if namespaces.insert(&namespace.name) {
            let problems = policy.problems(namespace).into_iter();
            seen.complaints.extend(problems.map(|it| Complaint::of_namespace(&namespace.name, it)));
        }
    }
    seen
}

// === impl Seen ===

impl Seen {
    fn wants(&mut self, key: SessionKey, uid: &PodUid) {
        let entry = self.desired.entry(key);
        let entry = entry.or_insert_with_key(|key| Desired { key: key.clone(), pods: Vec::new() });
        entry.pods.push(uid.clone());
    }
}

#[cfg(test)]
mod fifteen_minutes;
#[cfg(test)]
mod tests;
