//! From API objects to the few fields that are kept of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::object::Object;
use crate::cluster::snapshot::PodRecord;
use crate::config::AnnotationKeys;
use crate::policy::{NamespaceAnnotations, NamespaceFacts, PodFacts};
use crate::types::PodUid;

/// A pod, projected; `None` where the API server left out what no pod is without (UID, namespace, name). One
/// that cannot be read in full is still there, with the addresses it claims.
pub(super) fn project_pod(pod: &Object, keys: &AnnotationKeys) -> Option<PodRecord> {
    let named = |name: &Option<String>| match name.as_deref() {
        None if !pod.readable => Some(Arc::from("")),
        name => name.map(Arc::from),
    };
    let of_pod = |key: &str| annotation(pod.annotations.as_ref(), key, PodFacts::ANNOTATION_BYTES);
    let service_account = pod.service_account.as_deref().filter(|name| !name.is_empty());
    let facts = PodFacts {
        uid: PodUid::new(pod.uid.as_deref()?),
        namespace: named(&pod.namespace)?,
        name: named(&pod.name)?,
        service_account: service_account.unwrap_or("default").into(),
        role: of_pod(&keys.role),
        external_id: of_pod(&keys.external_id),
    };
    let mut ips: Vec<_> = pod.ips.iter().filter_map(|ip| ip.parse().ok()).collect();
    ips.sort_unstable();
    ips.dedup();
    Some(PodRecord {
        facts,
        ips,
        terminal: matches!(pod.phase.as_deref(), Some("Succeeded" | "Failed")),
        deleting: pod.deleting,
        host_network: pod.host_network == Some(true),
        unreadable: !pod.readable,
    })
}

/// A namespace, projected: the one place that makes [`NamespaceFacts`].
#[must_use]
pub fn project_namespace(
    name: &str,
    annotations: Option<&BTreeMap<String, String>>,
    keys: &AnnotationKeys,
) -> NamespaceFacts {
    let of_namespace = |key: &str| annotation(annotations, key, NamespaceAnnotations::BYTES);
    let annotations = NamespaceAnnotations {
        allowed_roles: of_namespace(&keys.allowed_roles),
        permitted: of_namespace(&keys.permitted),
        default_role: of_namespace(&keys.default_role),
        imds_v1: of_namespace(&keys.imds_v1),
    };
    NamespaceFacts::new(name, annotations)
}

/// The value, or so much of one that is too long that it stays too long: 250 pods may not hold 64 MiB of it.
fn annotation(
    annotations: Option<&BTreeMap<String, String>>,
    key: &str,
    most_bytes: usize,
) -> Option<Arc<str>> {
    let value = annotations?.get(key)?;
    Some(Arc::from(&value[..value.ceil_char_boundary(most_bytes)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(pod: serde_json::Value) -> Option<PodRecord> {
        let pod = Object::read(serde_json::from_str(&pod.to_string()).unwrap());
        project_pod(&pod, &AnnotationKeys::default())
    }

    #[test]
    fn a_pod_is_cut_down_to_its_facts_and_canonical_addresses() {
        let pod = project(serde_json::json!({
            "metadata": {
                "uid": "u1", "namespace": "default", "name": "a", "managedFields": [{"manager": "kubelet"}],
                "annotations": {"iam.amazonaws.com/role": "reader", "iam.amazonaws.com/external-id": "x1", "other": "y"},
                "deletionTimestamp": "2026-01-01T00:00:00Z"
            },
            "spec": {"containers": [], "serviceAccountName": "robot"},
            "status": {"phase": "Running", "podIP": "10.1.0.11",
                       "podIPs": [{"ip": "::ffff:10.1.0.11"}, {"ip": "fd00::11"}]}
        }))
        .unwrap();
        assert_eq!(pod.ips, ["10.1.0.11".parse().unwrap(), "fd00::11".parse().unwrap()]);
        assert_eq!(pod.facts.role.as_deref(), Some("reader"));
        assert_eq!(pod.facts.external_id.as_deref(), Some("x1"));
        assert_eq!(&*pod.facts.service_account, "robot");
        assert!(pod.deleting && !pod.terminal && !pod.host_network);
    }

    #[test]
    fn phases_and_host_network_are_seen_and_absent_fields_have_their_defaults() {
        let meta = serde_json::json!({"uid": "u1", "namespace": "default", "name": "a"});
        for (phase, terminal) in
            [("Pending", false), ("Running", false), ("Succeeded", true), ("Failed", true)]
        {
            let pod = project(serde_json::json!({"metadata": meta, "status": {"phase": phase}})).unwrap();
            assert_eq!(pod.terminal, terminal, "{phase}");
        }
        let pod =
            project(serde_json::json!({"metadata": meta, "spec": {"containers": [], "hostNetwork": true}}))
                .unwrap();
        assert!(pod.host_network && pod.ips.is_empty());
        assert_eq!(&*pod.facts.service_account, "default");
    }

    #[test]
    fn a_pod_that_cannot_be_read_claims_its_addresses_and_says_nothing_else() {
        let pod = project(serde_json::json!({
            "metadata": {"uid": "u1", "namespace": "default", "name": "a",
                         "annotations": {"iam.amazonaws.com/role": "reader", "other": 5}},
            "status": {"phase": "Running", "podIP": "10.1.0.11"}
        }))
        .unwrap();
        assert!(pod.unreadable);
        assert_eq!((pod.ips, pod.facts.role), (vec!["10.1.0.11".parse().unwrap()], None));
    }

    #[test]
    fn what_is_too_long_is_kept_just_too_long() {
        let keys = AnnotationKeys::default();
        let pod = |value: &str| {
            let annotations =
                serde_json::json!({"iam.amazonaws.com/role": value, "iam.amazonaws.com/external-id": value});
            let meta = serde_json::json!({"uid": "u1", "namespace": "default", "name": "a", "annotations": annotations});
            project(serde_json::json!({"metadata": meta})).unwrap().facts
        };
        let longest = "a".repeat(2_048);
        assert_eq!(pod(&longest).role.as_deref(), Some(&*longest));
        for (value, bytes) in [("a".repeat(256 << 10), 2_049), ("é".repeat(64 << 10), 2_050)] {
            let facts = pod(&value);
            for kept in [facts.role.unwrap(), facts.external_id.unwrap()] {
                assert_eq!((kept.len(), value.starts_with(&*kept)), (bytes, true));
            }
            let annotations = BTreeMap::from([(keys.allowed_roles.clone(), value)]);
            let namespace = project_namespace("default", Some(&annotations), &keys);
            let list = namespace.annotations().allowed_roles.as_ref().unwrap();
            assert!((65_537..65_539).contains(&list.len()), "{}", list.len());
        }
    }

    #[test]
    fn a_pod_without_uid_is_none() {
        assert_eq!(project(serde_json::json!({"metadata": {"namespace": "default", "name": "a"}})), None);
    }
}
