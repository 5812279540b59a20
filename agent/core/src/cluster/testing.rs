//! Records for tests, in as few words as possible.

use std::sync::Arc;

use super::snapshot::PodRecord;
use crate::policy::{NamespaceAnnotations, NamespaceFacts, PodFacts};
use crate::types::PodUid;

/// A running pod of namespace `default`, with these addresses.
pub(crate) fn mk_pod(uid: &str, name: &str, ips: &[&str]) -> PodRecord {
    PodRecord {
        facts: PodFacts {
            uid: PodUid::new(uid),
            namespace: Arc::from("default"),
            name: Arc::from(name),
            service_account: Arc::from("default"),
            role: Some(Arc::from("reader")),
            external_id: None,
        },
        ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        terminal: false,
        deleting: false,
        host_network: false,
        unreadable: false,
    }
}

/// A namespace whose `allowed-roles` annotation is as given.
pub(crate) fn mk_namespace(name: &str, allowed_roles: Option<&str>) -> NamespaceFacts {
    let annotations = NamespaceAnnotations {
        allowed_roles: allowed_roles.map(Arc::from),
        ..NamespaceAnnotations::default()
    };
    NamespaceFacts::new(name, annotations)
}
