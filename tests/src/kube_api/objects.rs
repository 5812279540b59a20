//! Pods in a few words, and the JSON that the API server shows of objects.

use serde_json::{Map, Value, json};

/// A pod to be: running, on no node, without address, until told otherwise.
#[derive(Clone, Debug)]
pub struct Pod {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: Option<String>,
    node: Option<String>,
    ips: Vec<String>,
    annotations: Map<String, Value>,
    phase: String,
    service_account: String,
    host_network: bool,
    deleting: bool,
}

// === impl Pod ===

impl Pod {
    /// A pod of that namespace and name.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: None,
            node: None,
            ips: Vec::new(),
            annotations: Map::new(),
            phase: "Running".to_owned(),
            service_account: "default".to_owned(),
            host_network: false,
            deleting: false,
        }
    }

    /// With that UID, instead of one that the server makes up.
    #[must_use]
    pub fn uid(mut self, uid: &str) -> Self {
        self.uid = Some(uid.to_owned());
        self
    }

    /// On that node.
    #[must_use]
    pub fn node(mut self, node: &str) -> Self {
        self.node = Some(node.to_owned());
        self
    }

    /// With that address, after those it has already.
    #[must_use]
    pub fn ip(mut self, ip: &str) -> Self {
        self.ips.push(ip.to_owned());
        self
    }

    /// With that annotation.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.into());
        self
    }

    /// With the annotation `iam.amazonaws.com/role`.
    #[must_use]
    pub fn role(self, role: &str) -> Self {
        self.annotation("iam.amazonaws.com/role", role)
    }

    /// In that phase.
    #[must_use]
    pub fn phase(mut self, phase: &str) -> Self {
        self.phase = phase.to_owned();
        self
    }

    /// Of that service account.
    #[must_use]
    pub fn service_account(mut self, name: &str) -> Self {
        self.service_account = name.to_owned();
        self
    }

    /// In the node's network namespace, or not.
    #[must_use]
    pub fn host_network(mut self, host_network: bool) -> Self {
        self.host_network = host_network;
        self
    }

    /// With a deletionTimestamp.
    #[must_use]
    pub fn deleting(mut self) -> Self {
        self.deleting = true;
        self
    }

    /// The object, as `kubectl get -o json` would show it.
    pub(crate) fn object(&self, uid: &str, version: u64) -> Value {
        let mut metadata = metadata(&self.name, uid, version, &self.annotations);
        metadata["namespace"] = json!(self.namespace);
        if self.deleting {
            metadata["deletionTimestamp"] = json!("2026-01-01T00:10:00Z");
            metadata["deletionGracePeriodSeconds"] = json!(30);
        }
        let mut spec = json!({
            "containers": [{"name": "main", "image": "registry.example/app:1", "resources": {}}],
            "serviceAccountName": self.service_account,
            "restartPolicy": "Always",
        });
        if let Some(node) = &self.node {
            spec["nodeName"] = json!(node);
        }
        if self.host_network {
            spec["hostNetwork"] = json!(true);
        }
        let mut status = json!({"phase": self.phase, "qosClass": "BestEffort"});
        if let Some(first) = self.ips.first() {
            status["podIP"] = json!(first);
            status["podIPs"] = self.ips.iter().map(|ip| json!({"ip": ip})).collect();
        }
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status})
    }
}

/// A namespace as the API server shows it.
pub(super) fn namespace(name: &str, uid: &str, version: u64, annotations: &[(&str, &str)]) -> Value {
    let annotations =
        annotations.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect::<Map<_, _>>();
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": metadata(name, uid, version, &annotations),
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    })
}

/// A node as the API server shows it, with the conditions that its kubelet sets.
pub(super) fn node(name: &str, uid: &str, version: u64, taints: &Value) -> Value {
    let time = "2026-01-01T00:00:00Z";
    let condition = |kind: &str, status: &str, reason: &str| {
        json!({"type": kind, "status": status, "reason": reason, "message": "as the kubelet says",
               "lastHeartbeatTime": time, "lastTransitionTime": time})
    };
    let mut spec =
        json!({"podCIDR": "100.96.1.0/24", "providerID": "aws:///eu-central-1a/i-0123456789abcdef0"});
    if taints.as_array().is_some_and(|taints| !taints.is_empty()) {
        spec["taints"] = taints.clone();
    }
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": metadata(name, uid, version, &Map::new()),
        "spec": spec,
        "status": {
            "capacity": {"cpu": "2", "pods": "110"},
            "conditions": [
                condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
                condition("Ready", "True", "KubeletReady"),
            ],
        },
    })
}

fn metadata(name: &str, uid: &str, version: u64, annotations: &Map<String, Value>) -> Value {
    let mut metadata = json!({
        "name": name,
        "uid": uid,
        "resourceVersion": version.to_string(),
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "managedFields": [{"manager": "kubelet", "operation": "Update", "apiVersion": "v1",
                           "fieldsType": "FieldsV1", "fieldsV1": {"f:status": {}}}],
    });
    if !annotations.is_empty() {
        metadata["annotations"] = Value::Object(annotations.clone());
    }
    metadata
}

/// What is left of an object for a client that asked for its metadata.
pub(super) fn partial(object: &Value) -> Value {
    json!({
        "apiVersion": "meta.k8s.io/v1",
        "kind": "PartialObjectMetadata",
        "metadata": object["metadata"],
    })
}

/// An error, as the API server words it.
pub(super) fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
}
