//! A real Kubernetes API server over a real etcd, with the surface of the double: pods are made with their
//! node and status, as a test says, since no kubelet runs.

mod audit;
mod processes;

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};

pub(crate) use self::processes::start_etcd;
use self::processes::{end_of, start_apiserver};
use crate::clients::cache;
use crate::http::{Connection, Response};
use crate::kube_api::Pod;
use crate::netns::{self, NetNs};
use crate::service::Service;

/// Longest that etcd and the API server may take to be ready; 5 s on an idle machine.
const PATIENCE: Duration = Duration::from_secs(90);
/// Longest that the API server may take for one request.
const TIMEOUT: Duration = Duration::from_secs(20);

const ADMIN: &str = "admin-token-of-the-harness";
const AGENT: &str = "agent-token-of-the-harness";

/// What the agent may do, and nothing else: the same verbs as in its manifest.
const RIGHTS: &str = r#"{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRole","metadata":{"name":"rolegate"},
"rules":[{"apiGroups":[""],"resources":["pods","namespaces"],"verbs":["list","watch"]}]}"#;
const BINDING: &str = r#"{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRoleBinding","metadata":{"name":"rolegate"},
"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"rolegate"},
"subjects":[{"apiGroup":"rbac.authorization.k8s.io","kind":"User","name":"rolegate"}]}"#;

/// A running etcd and API server. Dropping it ends both.
#[derive(Debug)]
pub struct RealApi {
    // Ended in this order.
    apiserver: Service,
    _etcd: Service,
    ns: Arc<NetNs>,
    address: SocketAddr,
    ca_pem: String,
    tls: Arc<ClientConfig>,
    dir: tempfile::TempDir,
}

// === impl RealApi ===

impl RealApi {
    /// Why it cannot be had here, if it cannot.
    #[must_use]
    pub fn missing() -> Option<String> {
        if !apiserver().exists() {
            return Some(format!(
                "{} is not there (make kube-binaries, which needs Go)",
                apiserver().display()
            ));
        }
        (!netns::on_path("etcd")).then(|| "`etcd` is not installed (tests/tools/setup.sh)".into())
    }

    /// Starts both in `ns`; the API server listens on `address`, etcd on the loopback.
    ///
    /// # Errors
    /// When either cannot be started or is not ready in time; the error has the end of its log.
    pub fn start(ns: &Arc<NetNs>, address: SocketAddr) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let etcd = start_etcd(ns, dir.path())?;
        let apiserver = start_apiserver(ns, dir.path(), address)?;
        let mut api = Self {
            apiserver,
            _etcd: etcd,
            ns: Arc::clone(ns),
            address,
            ca_pem: String::new(),
            tls: Arc::new(tls_config("")?),
            dir,
        };
        api.wait_until_ready()?;
        for (path, object) in [("clusterroles", RIGHTS), ("clusterrolebindings", BINDING)] {
            let path = format!("/apis/rbac.authorization.k8s.io/v1/{path}");
            api.send("POST", &path, "application/json", object)?;
        }
        Ok(api)
    }

    /// `https://address:port`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The bearer token of the agent's user.
    #[must_use]
    pub fn token(&self) -> String {
        AGENT.to_owned()
    }

    /// The bearer token of the administrator.
    #[must_use]
    pub fn admin_token(&self) -> String {
        ADMIN.to_owned()
    }

    /// A kubeconfig of the agent's user.
    #[must_use]
    pub fn kubeconfig(&self) -> String {
        self.kubeconfig_with(AGENT)
    }

    /// A kubeconfig of the administrator.
    #[must_use]
    pub fn admin_kubeconfig(&self) -> String {
        self.kubeconfig_with(ADMIN)
    }

    /// One request with that bearer token; the answer, whatever it is.
    ///
    /// # Errors
    /// When there is no connection, or no answer.
    pub fn call(&self, token: &str, method: &str, path: &str, body: &str) -> Result<Response> {
        self.request_as(token, method, path, "application/json", body)
    }

    /// One request of the administrator that must succeed; its answer.
    ///
    /// # Errors
    /// What the API server said.
    pub fn admin(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        self.send(method, path, "application/json", &body.to_string())
    }

    /// What the agent's user may do from now on, cluster-wide: resource and verbs.
    ///
    /// # Errors
    /// What the API server said.
    pub fn grant(&self, rights: &[(&str, &[&str])]) -> Result<()> {
        let rules: Vec<_> = rights
            .iter()
            .map(|(resource, verbs)| json!({"apiGroups": [""], "resources": [resource], "verbs": verbs}))
            .collect();
        let patch = json!({"rules": rules}).to_string();
        let path = "/apis/rbac.authorization.k8s.io/v1/clusterroles/rolegate";
        self.send("PATCH", path, "application/merge-patch+json", &patch).map(drop)
    }

    /// A new token of a service account.
    ///
    /// # Errors
    /// What the API server said.
    pub fn account_token(&self, namespace: &str, name: &str) -> Result<String> {
        self.token_of(namespace, name, &json!({}))
    }

    fn token_of(&self, namespace: &str, name: &str, spec: &Value) -> Result<String> {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
        let wanted = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
        let made = self.admin("POST", &path, &wanted)?;
        let token = made.pointer("/status/token").and_then(Value::as_str).context("a token")?;
        Ok(token.to_owned())
    }

    /// A kubeconfig with that bearer token.
    #[must_use]
    pub fn kubeconfig_with(&self, token: &str) -> String {
        use base64::Engine;
        let ca = base64::engine::general_purpose::STANDARD.encode(&self.ca_pem);
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {
                "server": self.url(), "certificate-authority-data": ca,
            }}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        })
        .to_string()
    }

    /// Creates a pod, or brings its annotations and status up to date; its UID.
    ///
    /// # Errors
    /// What the API server said.
    pub fn apply_pod(&self, pod: &Pod) -> Result<String> {
        let object = pod.object("", 0);
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        let annotations = object.pointer("/metadata/annotations").cloned().unwrap_or_else(|| json!({}));
        if self.request("GET", &path, "application/json", "")?.status == 404 {
            let mut new = json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": name, "annotations": annotations},
                "spec": object["spec"],
            });
            new["spec"]["terminationGracePeriodSeconds"] = json!(30);
            let collection = format!("/api/v1/namespaces/{namespace}/pods");
            self.send("POST", &collection, "application/json", &new.to_string())?;
        } else {
            let patch = json!([{"op": "add", "path": "/metadata/annotations", "value": annotations}]);
            self.send("PATCH", &path, "application/json-patch+json", &patch.to_string())?;
        }
        let mut status = json!({"status": object["status"]});
        // The class of service is the API server's to say.
        if let Some(status) = status["status"].as_object_mut() {
            status.remove("qosClass");
        }
        let status_path = format!("{path}/status");
        let kept = self.send("PATCH", &status_path, "application/merge-patch+json", &status.to_string())?;
        if object.pointer("/metadata/deletionTimestamp").is_some() {
            // Without a kubelet it stays so until it is deleted by force.
            self.send("DELETE", &path, "application/json", r#"{"gracePeriodSeconds":30}"#)?;
        }
        Ok(kept.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    /// Deletes a pod by force; false if there is none.
    ///
    /// # Errors
    /// What the API server said.
    pub fn delete_pod(&self, namespace: &str, name: &str) -> Result<bool> {
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        self.delete(&path, r#"{"gracePeriodSeconds":0}"#)
    }

    /// Creates a namespace, or replaces its annotations.
    ///
    /// # Errors
    /// What the API server said.
    pub fn apply_namespace(&self, name: &str, annotations: &[(&str, &str)]) -> Result<()> {
        let annotations: serde_json::Map<_, _> =
            annotations.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        let path = format!("/api/v1/namespaces/{name}");
        if self.request("GET", &path, "application/json", "")?.status == 404 {
            let new = json!({"apiVersion": "v1", "kind": "Namespace",
                             "metadata": {"name": name, "annotations": annotations}});
            self.send("POST", "/api/v1/namespaces", "application/json", &new.to_string())?;
        } else {
            let patch = json!([{"op": "add", "path": "/metadata/annotations", "value": annotations}]);
            self.send("PATCH", &path, "application/json-patch+json", &patch.to_string())?;
        }
        Ok(())
    }

    /// Creates a node, or replaces its taints.
    ///
    /// # Errors
    /// What the API server said.
    pub fn apply_node(&self, name: &str, taints: &Value) -> Result<()> {
        let path = format!("/api/v1/nodes/{name}");
        if self.request("GET", &path, "application/json", "")?.status == 404 {
            let new = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
                             "spec": {"taints": taints}});
            self.send("POST", "/api/v1/nodes", "application/json", &new.to_string())?;
        } else {
            let patch = json!({"spec": {"taints": taints}}).to_string();
            self.send("PATCH", &path, "application/merge-patch+json", &patch)?;
        }
        Ok(())
    }

    /// A node as it is now.
    ///
    /// # Errors
    /// What the API server said.
    pub fn node(&self, name: &str) -> Result<Value> {
        self.admin("GET", &format!("/api/v1/nodes/{name}"), &Value::Null)
    }

    /// A new token of a service account, as the kubelet of the pod's node asks for one: bound to the pod.
    ///
    /// # Errors
    /// What the API server said.
    pub fn pod_token(&self, namespace: &str, account: &str, pod: &str) -> Result<String> {
        let uid = self.admin("GET", &format!("/api/v1/namespaces/{namespace}/pods/{pod}"), &Value::Null)?;
        let bound = json!({"kind": "Pod", "apiVersion": "v1", "name": pod, "uid": uid["metadata"]["uid"]});
        self.token_of(namespace, account, &json!({"boundObjectRef": bound}))
    }

    /// One patch with that bearer token; the answer, whatever it is.
    ///
    /// # Errors
    /// When there is no connection, or no answer.
    pub fn patch(&self, token: &str, path: &str, mime: &str, patch: &Value) -> Result<Response> {
        self.request_as(token, "PATCH", path, mime, &patch.to_string())
    }

    /// Applies manifests of `deploy/` with kubectl, which there must be; what it said.
    ///
    /// # Errors
    /// What kubectl said.
    pub fn apply_manifests(&self, names: &[&str]) -> Result<String> {
        self.apply_namespace("kube-system", &[])?;
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
        let files = names.iter().map(|name| format!("--filename={}", deploy.join(name).display()));
        let args: Vec<String> =
            ["apply", "--validate=strict"].map(String::from).into_iter().chain(files).collect();
        self.kubectl(&args)
    }

    /// Runs kubectl as the administrator, to its end; its standard output.
    ///
    /// # Errors
    /// What kubectl said.
    pub fn kubectl(&self, args: &[impl AsRef<OsStr>]) -> Result<String> {
        let kubeconfig = self.dir.path().join("admin-kubeconfig");
        std::fs::write(&kubeconfig, self.admin_kubeconfig())?;
        netns::run(self.ns.command("kubectl").arg("--kubeconfig").arg(kubeconfig).args(args))
    }

    fn delete(&self, path: &str, options: &str) -> Result<bool> {
        let answer = self.request("DELETE", path, "application/json", options)?;
        match answer.status {
            200 | 202 => Ok(true),
            404 => Ok(false),
            status => bail!("DELETE {path}: {status} {}", answer.text()),
        }
    }

    /// A request that must succeed; its answer.
    fn send(&self, method: &str, path: &str, mime: &str, body: &str) -> Result<Value> {
        let answer = self.request(method, path, mime, body)?;
        ensure!(answer.status < 300, "{method} {path}: {} {}", answer.status, answer.text());
        answer.json()
    }

    fn request(&self, method: &str, path: &str, mime: &str, body: &str) -> Result<Response> {
        self.request_as(ADMIN, method, path, mime, body)
    }

    fn request_as(&self, token: &str, method: &str, path: &str, mime: &str, body: &str) -> Result<Response> {
        let call = Call { token, method, path, mime, body };
        request(&self.ns, self.address, &self.tls, &call)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let certificate = self.dir.path().join("apiserver.crt");
        let (ns, address, mut found) = (Arc::clone(&self.ns), self.address, None);
        let waited = self.apiserver.wait_until(PATIENCE, || {
            // Its certificate is made at its start.
            let Ok(pem) = std::fs::read_to_string(&certificate) else { return false };
            let Ok(tls) = tls_config(&pem) else { return false };
            let tls = Arc::new(tls);
            // It makes the namespace itself, some time after it is ready.
            let ready = ["/readyz", "/api/v1/namespaces/default"].into_iter().all(|path| {
                let call = Call { token: ADMIN, method: "GET", path, mime: "application/json", body: "" };
                request(&ns, address, &tls, &call).is_ok_and(|answer| answer.status == 200)
            });
            found = Some((pem, tls));
            ready
        });
        waited.with_context(|| end_of(&self.dir.path().join("apiserver.log")))?;
        (self.ca_pem, self.tls) = found.context("a certificate was read")?;
        Ok(())
    }
}

/// One request.
struct Call<'a> {
    token: &'a str,
    method: &'a str,
    path: &'a str,
    mime: &'a str,
    body: &'a str,
}

fn request(ns: &NetNs, address: SocketAddr, tls: &Arc<ClientConfig>, call: &Call<'_>) -> Result<Response> {
    let stream = ns.connect(address, TIMEOUT)?;
    // Else the request waits for the other side to acknowledge the end of the handshake: 40 ms.
    stream.set_nodelay(true)?;
    let session = ClientConnection::new(Arc::clone(tls), ServerName::from(address.ip()))?;
    let Call { token, method, path, mime, body } = call;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: {mime}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let mut connection = Connection::new(StreamOwned::new(session, stream));
    Ok(connection.exchange(request.as_bytes())?)
}

fn apiserver() -> PathBuf {
    cache().join("kube/kube-apiserver")
}

fn tls_config(ca_pem: &str) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
