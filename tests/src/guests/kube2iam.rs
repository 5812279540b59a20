//! A double of kube2iam as a DaemonSet: its manifest, with a program of ours in the place of its image.

use serde_json::{Value, json};

use super::{HostPython, REGION};
use crate::nodes::TOOLS;

/// What it does on a node and on the wire.
const PROGRAM: &str = include_str!("kube2iam.py");

/// Its namespace, as in its README.
pub const NAMESPACE: &str = "kube-system";
/// Its name.
pub const NAME: &str = "kube2iam";

/// Where Debian says which `iptables` is meant.
const ALTERNATIVES: &str = "/etc/alternatives";

/// The manifest of kube2iam's README for a cluster with RBAC, for any image: service account, rights and DaemonSet.
/// `interface` is what the pods are behind: `cbr0`, `cali+`.
#[must_use]
pub fn manifest(image: &str, interface: &str) -> Value {
    let labels = json!({"name": NAME});
    list(&json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {"app": NAME}},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "serviceAccountName": NAME,
                    "hostNetwork": true,
                    "containers": [{
                        "name": NAME,
                        "image": image,
                        "imagePullPolicy": "IfNotPresent",
                        "args": [
                            "--auto-discover-base-arn",
                            format!("--host-interface={interface}"),
                            "--host-ip=$(HOST_IP)",
                            "--iptables=true",
                        ],
                        "env": [field("HOST_IP", "status.podIP")],
                        "ports": [{"containerPort": 8181, "hostPort": 8181, "name": "http"}],
                        "securityContext": {"privileged": true},
                    }],
                },
            },
        },
    }))
}

/// What kube2iam's chart makes with `host.iptables`, `rbac.create` and `updateStrategy: RollingUpdate`: the node named,
/// probes, and a hook that deletes the rule whenever a pod ends.
#[must_use]
pub fn of_chart(image: &str, interface: &str) -> Value {
    let labels = json!({"app.kubernetes.io/name": NAME, "app.kubernetes.io/instance": NAME});
    let probe = |delay: u8| {
        json!({
            "httpGet": {"path": "/healthz", "port": 8181, "scheme": "HTTP"},
            "initialDelaySeconds": delay, "periodSeconds": 5, "timeoutSeconds": 1, "failureThreshold": 3,
        })
    };
    let hook = "eval `iptables-save | grep 169.254.169.254 | sed s/-A/'iptables -t nat -D'/g`";
    list(&json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": labels},
        "spec": {
            "selector": {"matchLabels": labels},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "serviceAccountName": NAME,
                    "hostNetwork": true,
                    "containers": [{
                        "name": NAME,
                        "image": image,
                        "imagePullPolicy": "IfNotPresent",
                        "args": [
                            format!("--host-interface={interface}"),
                            "--node=$(NODE_NAME)",
                            "--host-ip=$(HOST_IP)",
                            "--iptables=true",
                            "--auto-discover-base-arn",
                            "--app-port=8181",
                            "--metrics-port=8181",
                        ],
                        "env": [field("HOST_IP", "status.podIP"), field("NODE_NAME", "spec.nodeName")],
                        "ports": [{"containerPort": 8181, "name": "http"}],
                        "livenessProbe": probe(30),
                        "readinessProbe": probe(0),
                        "lifecycle": {"preStop": {"exec": {"command": ["/bin/sh", "-c", hook]}}},
                        "securityContext": {"privileged": true},
                    }],
                },
            },
        },
    }))
}

/// The manifest for the nodes of one kind alone, as a DaemonSet with a name of its own.
pub fn for_nodes(manifest: &mut Value, name: &str, selector: &Value) {
    let daemonset = &mut manifest["items"][3];
    daemonset["metadata"]["name"] = json!(name);
    daemonset["spec"]["selector"]["matchLabels"]["name"] = json!(name);
    daemonset["spec"]["template"]["metadata"]["labels"]["name"] = json!(name);
    daemonset["spec"]["template"]["spec"]["nodeSelector"] = selector.clone();
}

/// Puts the double into a manifest: the program in the place of the image's, and what it needs of the node. `sts` is
/// where STS is.
pub fn as_double(manifest: &mut Value, sts: &str) {
    let python = HostPython::find();
    let pod = &mut manifest["items"][3]["spec"]["template"]["spec"];
    pod["volumes"] =
        with(python.volumes(), json!({"name": "alternatives", "hostPath": {"path": ALTERNATIVES}}));
    let container = &mut pod["containers"][0];
    container["image"] = json!(TOOLS);
    container["imagePullPolicy"] = json!("Never");
    container["command"] = json!([python.program(), "-c", PROGRAM]);
    container["volumeMounts"] =
        with(python.mounts(), json!({"name": "alternatives", "mountPath": ALTERNATIVES}));
    if let Some(env) = container["env"].as_array_mut() {
        env.push(json!({"name": "AWS_ENDPOINT_URL_STS", "value": sts}));
        env.push(json!({"name": "AWS_DEFAULT_REGION", "value": REGION}));
        // For the hook of the chart, which calls the node's iptables by name.
        env.push(json!({"name": "PATH", "value": "/bin:/usr/sbin"}));
    }
}

fn with(list: Value, one_more: Value) -> Value {
    let mut list = match list {
        Value::Array(list) => list,
        _ => Vec::new(),
    };
    list.push(one_more);
    list.into()
}

fn field(name: &str, path: &str) -> Value {
    json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}})
}

/// With its service account and its rights.
fn list(daemonset: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": NAME, "namespace": NAMESPACE}},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": NAME},
            "rules": [{"apiGroups": [""], "resources": ["namespaces", "pods"], "verbs": ["get", "watch", "list"]}],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": NAME},
            "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}],
            "roleRef": {"kind": "ClusterRole", "name": NAME, "apiGroup": "rbac.authorization.k8s.io"},
        },
        daemonset,
    ]})
}
