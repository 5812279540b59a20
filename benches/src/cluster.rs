//! A node as large as they come, in a cluster as large as they come: 250 pods, 10,000 namespaces.
#![expect(clippy::unwrap_used, reason = "constants")]

use std::sync::Arc;

use rolegate::cluster::PodRecord;
use rolegate::cluster::index::{Event, Index};
use rolegate::policy::{NamespaceAnnotations, NamespaceFacts, PodFacts};
use rolegate::types::PodUid;

/// Pods on the node.
pub const PODS: usize = 250;
/// Namespaces in the cluster.
pub const NAMESPACES: usize = 10_000;

/// Pod `n`, at 100.96.0.`n`, in a namespace of its own, with the annotation `role`.
#[must_use]
pub fn pod(n: usize, role: &str) -> PodRecord {
    PodRecord {
        facts: PodFacts {
            uid: PodUid::new(&format!("0e1f77a2-5a5c-4d7c-9f0e-{n:012}")),
            namespace: namespace_name(n),
            name: format!("worker-6d5f7c8b9-{n:05}").into(),
            service_account: "default".into(),
            role: Some(role.into()),
            external_id: None,
        },
        ips: vec![format!("100.96.0.{n}").parse().unwrap(), format!("fd00:64::{n:x}").parse().unwrap()],
        terminal: false,
        deleting: false,
        host_network: false,
        unreadable: false,
    }
}

/// Namespace `n` with this `allowed-roles`.
#[must_use]
pub fn namespace(n: usize, allowed_roles: &str) -> NamespaceFacts {
    let annotations =
        NamespaceAnnotations { allowed_roles: Some(allowed_roles.into()), ..NamespaceAnnotations::default() };
    NamespaceFacts::new(namespace_name(n), annotations)
}

fn namespace_name(n: usize) -> Arc<str> {
    format!("team-{n}").into()
}

/// All of them, listed.
#[must_use]
pub fn index(allowed_roles: &str) -> Index {
    let mut index = Index::new();
    index.apply(Event::PodsInit);
    for n in 0..PODS {
        index.apply(Event::PodInitApply(pod(n, "MyPodRole")));
    }
    index.apply(Event::PodsInitDone);
    index.apply(Event::NamespacesInit);
    for n in 0..NAMESPACES {
        index.apply(Event::NamespaceInitApply(namespace(n, allowed_roles)));
    }
    index.apply(Event::NamespacesInitDone);
    index
}
