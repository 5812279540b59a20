//! From what runs on the node to what the broker should hold: computed anew from each snapshot.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::cluster::Snapshot;
use crate::cluster::snapshot::PodRecord;
use crate::credentials::{Broker, Desired, SessionKey};
use crate::policy::NamespaceFacts;

/// Shortest time between two looks: a burst of pod events is one look.
const PAUSE: Duration = Duration::from_millis(50);

/// Tells `broker` what the pods of the newest snapshot want, until `shutdown` or the end of the snapshots.
/// `key_of` is the decision that a request of the pod would get; `None`: no session.
pub async fn run(
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    key_of: impl Fn(&PodRecord, &NamespaceFacts) -> Option<SessionKey>,
    broker: Broker,
    shutdown: CancellationToken,
) {
    loop {
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        // Half a list must not make the broker forget.
        if snapshot.synced() {
            let pods = snapshot.pods().map(|pod| {
                let namespace = snapshot.namespace(&pod.facts.namespace);
                (pod.as_ref(), namespace.map(Arc::as_ref))
            });
            broker.set_desired(desired(pods, &key_of));
        }
        let next = async {
            sleep(PAUSE).await;
            snapshots.changed().await
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            changed = next => if changed.is_err() { return },
        }
    }
}

/// Pods that may ask, by the key they would ask for. One that is being deleted may ask until it is gone; one
/// whose namespace is not known yet gets nothing.
fn desired<'a>(
    pods: impl Iterator<Item = (&'a PodRecord, Option<&'a NamespaceFacts>)>,
    key_of: impl Fn(&PodRecord, &NamespaceFacts) -> Option<SessionKey>,
) -> Vec<Desired> {
    let mut wanted: HashMap<SessionKey, Desired> = HashMap::new();
    for (pod, namespace) in pods.filter(|(pod, _)| !pod.terminal && !pod.host_network) {
        let Some(key) = namespace.and_then(|namespace| key_of(pod, namespace)) else { continue };
        let entry =
            wanted.entry(key).or_insert_with_key(|key| Desired { key: key.clone(), pods: Vec::new() });
        entry.pods.push(pod.facts.uid.clone());
    }
    wanted.into_values().collect()
}

#[cfg(test)]
mod fifteen_minutes;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::NamespaceAnnotations;
    use crate::policy::PodFacts;
    use crate::types::{PodUid, RoleArn, SessionName};

    fn pod(uid: &str, role: Option<&str>) -> PodRecord {
        let facts = PodFacts {
            uid: PodUid::new(uid),
            namespace: "default".into(),
            name: uid.into(),
            service_account: "default".into(),
            role: role.map(Arc::from),
            external_id: None,
        };
        PodRecord {
            facts,
            ips: Vec::new(),
            terminal: false,
            deleting: false,
            host_network: false,
            unreadable: false,
        }
    }

    fn key_of(pod: &PodRecord, namespace: &NamespaceFacts) -> Option<SessionKey> {
        let role =
            pod.facts.role.as_deref().filter(|role| namespace.allowed_roles.as_deref() != Some(role))?;
        Some(SessionKey {
            role: RoleArn::parse(&format!("arn:aws:iam::123456789012:role/{role}")).unwrap(),
            external_id: None,
            session_name: SessionName::parse("default.default").unwrap(),
            duration: Duration::from_secs(3_600),
        })
    }

    fn namespace() -> NamespaceFacts {
        let annotations = NamespaceAnnotations {
            allowed_roles: Some("forbidden".into()),
            ..NamespaceAnnotations::default()
        };
        NamespaceFacts::new("default", annotations)
    }

    #[test]
    fn pods_that_may_ask_are_grouped_by_what_they_would_get() {
        let namespace = namespace();
        let pods = [
            pod("a", Some("MyPodRole")),
            PodRecord { deleting: true, ..pod("b", Some("MyPodRole")) },
            pod("c", Some("OtherRole")),
            PodRecord { terminal: true, ..pod("done", Some("MyPodRole")) },
            PodRecord { host_network: true, ..pod("host", Some("MyPodRole")) },
            pod("plain", None),
            pod("refused", Some("forbidden")),
        ];
        let lost = pod("lost", Some("MyPodRole"));
        let with_namespace = pods.iter().map(|pod| (pod, Some(&namespace)));
        let mut found: Vec<_> = desired(with_namespace.chain([(&lost, None)]), key_of)
            .into_iter()
            .map(|Desired { key, pods }| (key.role.name().to_owned(), pods))
            .collect();
        found.sort();
        let uids = |all: &[&str]| all.iter().map(|uid| PodUid::new(uid)).collect::<Vec<_>>();
        assert_eq!(
            found,
            [("MyPodRole".to_owned(), uids(&["a", "b"])), ("OtherRole".to_owned(), uids(&["c"]))]
        );
    }
}
