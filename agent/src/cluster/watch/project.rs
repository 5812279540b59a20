//! From API objects to the few fields that are kept of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::cluster::snapshot::PodRecord;
use crate::config::AnnotationKeys;
use crate::policy::{NamespaceFacts, PodFacts};
use crate::types::PodUid;

/// A pod, projected; `None` where the API server left out what no pod is without (UID, namespace, name).
pub(super) fn project_pod(pod: &Pod, keys: &AnnotationKeys) -> Option<PodRecord> {
    let (meta, spec, status) = (&pod.metadata, pod.spec.as_ref(), pod.status.as_ref());
    let facts = PodFacts {
        uid: PodUid::new(meta.uid.as_deref()?),
        namespace: Arc::from(meta.namespace.as_deref()?),
        name: Arc::from(meta.name.as_deref()?),
        service_account: spec
            .and_then(|spec| spec.service_account_name.as_deref())
            .filter(|name| !name.is_empty())
            .unwrap_or("default")
            .into(),
        role: annotation(meta.annotations.as_ref(), &keys.role),
        external_id: annotation(meta.annotations.as_ref(), &keys.external_id),
    };
    // `podIPs` holds `podIP` as well where the API server fills it in (dual stack is GA since 1.23).
    let mut ips: Vec<_> = status
        .and_then(|status| status.pod_ips.as_ref())
        .into_iter()
        .flatten()
        .map(|ip| ip.ip.as_str())
        .chain(status.and_then(|status| status.pod_ip.as_deref()))
        .filter_map(|ip| ip.parse().ok())
        .collect();
    ips.sort_unstable();
    ips.dedup();
    Some(PodRecord {
        facts,
        ips,
        terminal: matches!(status.and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed")),
        deleting: meta.deletion_timestamp.is_some(),
        host_network: spec.and_then(|spec| spec.host_network) == Some(true),
    })
}

/// A namespace, projected: the one place that makes [`NamespaceFacts`].
#[must_use]
pub fn project_namespace(
    name: &str,
    annotations: Option<&BTreeMap<String, String>>,
    keys: &AnnotationKeys,
) -> NamespaceFacts {
    NamespaceFacts {
        name: Arc::from(name),
        allowed_roles: annotation(annotations, &keys.allowed_roles),
        permitted: annotation(annotations, &keys.permitted),
        default_role: annotation(annotations, &keys.default_role),
        imds_v1: annotation(annotations, &keys.imds_v1),
    }
}

fn annotation(annotations: Option<&BTreeMap<String, String>>, key: &str) -> Option<Arc<str>> {
    annotations?.get(key).map(|value| Arc::from(value.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(pod: serde_json::Value) -> Option<PodRecord> {
        project_pod(&serde_json::from_value(pod).unwrap(), &AnnotationKeys::default())
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
    fn a_pod_without_uid_is_none() {
        assert_eq!(project(serde_json::json!({"metadata": {"namespace": "default", "name": "a"}})), None);
    }
}
