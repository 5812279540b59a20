//! Pods and namespaces as large as a real API server sends them, managed fields and all.

use std::net::Ipv4Addr;

use rolegate_tests::world::NODE;
use serde_json::{Value, json};

/// Session keys that the pods have between them: of each a role and a service account.
pub const KEYS: u32 = 25;
/// One namespace in so many has `allowed-roles`; pods are in these.
const ANNOTATED: u32 = 10;
/// When everything here was made.
const TIME: &str = "2026-01-01T00:00:00Z";

/// The role of a session key.
#[must_use]
pub fn role(key: u32) -> String {
    format!("MyPodRole-{key}")
}

/// The name of namespace `n`.
#[must_use]
pub fn namespace_name(n: u32) -> String {
    format!("team-{n}")
}

/// The namespace of the pods of a session key, where there are so many namespaces.
#[must_use]
pub fn namespace_of(key: u32, namespaces: u32) -> String {
    namespace_name(key * ANNOTATED % namespaces.max(1))
}

/// A namespace as the API server shows it: some 1.3 KiB.
#[must_use]
pub fn namespace(n: u32) -> Value {
    let name = namespace_name(n);
    let mut annotations = json!({
        "argocd.argoproj.io/tracking-id": format!("tenants:/Namespace:default/{name}"),
        "example.com/contact": format!("{name}@example.com"),
        "example.com/description": "Made by the platform's pipeline; ask its owners before you change anything here.",
    });
    if n.is_multiple_of(ANNOTATED) {
        annotations["iam.amazonaws.com/allowed-roles"] = json!(format!(r#"["MyPodRole-*","{name}/*"]"#));
    }
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": name,
            "uid": format!("5f0c1c7e-6c0e-4b58-9a53-{n:012x}"),
            "resourceVersion": "1",
            "creationTimestamp": TIME,
            "labels": {
                "kubernetes.io/metadata.name": name,
                "example.com/cost-center": format!("cc-{}", n % 97),
                "example.com/environment": "production",
                "pod-security.kubernetes.io/enforce": "baseline",
                "pod-security.kubernetes.io/enforce-version": "latest",
            },
            "annotations": annotations,
            "managedFields": [managed("argocd-controller", json!({"f:metadata": {
                "f:annotations": {".": {}, "f:argocd.argoproj.io/tracking-id": {}, "f:example.com/contact": {},
                                  "f:example.com/description": {}, "f:iam.amazonaws.com/allowed-roles": {}},
                "f:labels": {".": {}, "f:example.com/cost-center": {}, "f:example.com/environment": {},
                             "f:kubernetes.io/metadata.name": {}, "f:pod-security.kubernetes.io/enforce": {},
                             "f:pod-security.kubernetes.io/enforce-version": {}},
            }}))],
        },
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    })
}

/// Namespace and name of pod `n`, where there are so many namespaces.
#[must_use]
pub fn pod_name_of(n: u32, namespaces: u32) -> (String, String) {
    (namespace_of(n % KEYS, namespaces), pod_name(n))
}

/// A running pod of the node as the API server shows it: some 7 KiB.
#[must_use]
pub fn pod(n: u32, namespaces: u32) -> Value {
    let [_, _, high, low] = n.to_be_bytes();
    let ip = Ipv4Addr::new(100, 97, high, low).to_string();
    let key = n % KEYS;
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name(n),
            "generateName": "worker-6d5f7c8b9-",
            "namespace": namespace_of(key, namespaces),
            "uid": format!("0e1f77a2-5a5c-4d7c-9f0e-{n:012x}"),
            "resourceVersion": "1",
            "creationTimestamp": TIME,
            "labels": {"app.kubernetes.io/name": "worker", "app.kubernetes.io/instance": format!("worker-{key}"),
                       "pod-template-hash": "6d5f7c8b9", "example.com/cost-center": "cc-7"},
            "annotations": {"iam.amazonaws.com/role": role(key), "prometheus.io/scrape": "true",
                            "prometheus.io/port": "8080",
                            "checksum/config": "5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "worker-6d5f7c8b9",
                                 "uid": "9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d", "controller": true,
                                 "blockOwnerDeletion": true}],
            "managedFields": [
                managed("kube-controller-manager", owned_by_controller()),
                managed("kubelet", owned_by_kubelet()),
            ],
        },
        "spec": spec(key),
        "status": status(&ip),
    })
}

fn pod_name(n: u32) -> String {
    format!("worker-6d5f7c8b9-{n:05}")
}

fn spec(key: u32) -> Value {
    let env: Vec<Value> = (0..12)
        .map(|n| json!({"name": format!("SETTING_{n}"), "value": format!("https://service-{n}.example.com/api")}))
        .collect();
    let container = |name: &str, port: u16| {
        json!({
            "name": name,
            "image": format!("registry.example.com/platform/{name}:2026.1.{port}"),
            "imagePullPolicy": "IfNotPresent",
            "env": env,
            "ports": [{"name": "http", "containerPort": port, "protocol": "TCP"}],
            "resources": {"limits": {"memory": "512Mi"}, "requests": {"cpu": "250m", "memory": "512Mi"}},
            "livenessProbe": probe("/livez"),
            "readinessProbe": probe("/readyz"),
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
                                "readOnlyRootFilesystem": true, "runAsNonRoot": true},
            "terminationMessagePath": "/dev/termination-log",
            "terminationMessagePolicy": "File",
            "volumeMounts": [
                {"name": "config", "mountPath": "/etc/worker", "readOnly": true},
                {"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true},
            ],
        })
    };
    json!({
        "containers": [container("worker", 8080), container("proxy", 9090)],
        "dnsPolicy": "ClusterFirst",
        "enableServiceLinks": true,
        "nodeName": NODE,
        "preemptionPolicy": "PreemptLowerPriority",
        "priority": 0,
        "restartPolicy": "Always",
        "schedulerName": "default-scheduler",
        "securityContext": {"fsGroup": 65532, "runAsUser": 65532},
        "serviceAccount": format!("worker-{key}"),
        "serviceAccountName": format!("worker-{key}"),
        "terminationGracePeriodSeconds": 30,
        "tolerations": [
            {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
            {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
        ],
        "volumes": [
            {"name": "config", "configMap": {"name": "worker", "defaultMode": 420}},
            {"name": "token", "projected": {"defaultMode": 420, "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            ]}},
        ],
    })
}

fn probe(path: &str) -> Value {
    json!({"httpGet": {"path": path, "port": "http", "scheme": "HTTP"}, "initialDelaySeconds": 5,
           "periodSeconds": 10, "timeoutSeconds": 1, "successThreshold": 1, "failureThreshold": 3})
}

fn status(ip: &str) -> Value {
    let conditions: Vec<Value> = [
        "PodReadyToStartContainers",
        "Initialized",
        "Ready",
        "ContainersReady",
        "PodScheduled",
    ]
    .into_iter()
    .map(|kind| json!({"type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": TIME}))
    .collect();
    let container = |name: &str| {
        let digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        json!({
            "name": name, "ready": true, "started": true, "restartCount": 0, "lastState": {},
            "state": {"running": {"startedAt": TIME}},
            "image": format!("registry.example.com/platform/{name}:2026.1.1"),
            "imageID": format!("registry.example.com/platform/{name}@sha256:{digest}"),
            "containerID": format!("containerd://{digest}"),
        })
    };
    json!({
        "phase": "Running", "qosClass": "Burstable", "startTime": TIME,
        "hostIP": "10.0.0.10", "hostIPs": [{"ip": "10.0.0.10"}], "podIP": ip, "podIPs": [{"ip": ip}],
        "conditions": conditions, "containerStatuses": [container("worker"), container("proxy")],
    })
}

fn managed(manager: &str, fields: Value) -> Value {
    json!({"manager": manager, "operation": "Update", "apiVersion": "v1", "time": TIME,
           "fieldsType": "FieldsV1", "fieldsV1": fields})
}

fn owned_by_controller() -> Value {
    let probe = json!({".": {}, "f:failureThreshold": {}, "f:httpGet": {".": {}, "f:path": {}, "f:port": {}, "f:scheme": {}},
                       "f:initialDelaySeconds": {}, "f:periodSeconds": {}, "f:successThreshold": {}, "f:timeoutSeconds": {}});
    let env: serde_json::Map<String, Value> = (0..12)
        .map(|n| (format!("k:{{\"name\":\"SETTING_{n}\"}}"), json!({".": {}, "f:name": {}, "f:value": {}})))
        .collect();
    let container = json!({
        ".": {}, "f:env": env, "f:image": {}, "f:imagePullPolicy": {}, "f:livenessProbe": probe, "f:name": {},
        "f:ports": {".": {}, "k:{\"containerPort\":8080,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}, "f:name": {}}},
        "f:readinessProbe": probe, "f:resources": {".": {}, "f:limits": {".": {}, "f:memory": {}},
                                                  "f:requests": {".": {}, "f:cpu": {}, "f:memory": {}}},
        "f:securityContext": {".": {}, "f:allowPrivilegeEscalation": {}, "f:readOnlyRootFilesystem": {}},
        "f:volumeMounts": {".": {}, "k:{\"mountPath\":\"/etc/worker\"}": {".": {}, "f:mountPath": {}, "f:name": {}}},
    });
    json!({
        "f:metadata": {"f:annotations": {".": {}, "f:iam.amazonaws.com/role": {}, "f:prometheus.io/scrape": {}},
                       "f:generateName": {}, "f:labels": {".": {}, "f:app.kubernetes.io/name": {}, "f:pod-template-hash": {}},
                       "f:ownerReferences": {".": {}, "k:{\"uid\":\"9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d\"}": {}}},
        "f:spec": {"f:containers": {"k:{\"name\":\"worker\"}": container, "k:{\"name\":\"proxy\"}": container},
                   "f:dnsPolicy": {}, "f:restartPolicy": {}, "f:schedulerName": {}, "f:securityContext": {},
                   "f:serviceAccount": {}, "f:serviceAccountName": {}, "f:volumes": {}},
    })
}

fn owned_by_kubelet() -> Value {
    let condition =
        json!({".": {}, "f:lastProbeTime": {}, "f:lastTransitionTime": {}, "f:status": {}, "f:type": {}});
    json!({"f:status": {
        "f:conditions": {"k:{\"type\":\"ContainersReady\"}": condition, "k:{\"type\":\"Initialized\"}": condition,
                         "k:{\"type\":\"Ready\"}": condition},
        "f:containerStatuses": {}, "f:hostIP": {}, "f:hostIPs": {}, "f:phase": {}, "f:podIP": {},
        "f:podIPs": {".": {}, "k:{\"ip\":\"100.97.0.1\"}": {".": {}, "f:ip": {}}}, "f:startTime": {},
    }})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_as_large_as_those_of_a_real_cluster() {
        let pod = pod(7, 10_000).to_string().len();
        assert!((6_000..12_000).contains(&pod), "{pod}");
        let namespace = namespace(7).to_string().len();
        assert!((1_000..2_000).contains(&namespace), "{namespace}");
    }

    #[test]
    fn pods_are_in_namespaces_that_allow_their_roles() {
        for (n, namespaces) in [(0, 10), (24, 10), (249, 1_000), (999, 10_000)] {
            let number: u32 =
                namespace_of(n % KEYS, namespaces).trim_start_matches("team-").parse().unwrap_or(1);
            assert!(number < namespaces && number.is_multiple_of(ANNOTATED), "{n} {namespaces}");
        }
    }
}
