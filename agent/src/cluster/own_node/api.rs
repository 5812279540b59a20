//! The three requests about one Node.

use std::time::Duration;

use http::header::{ACCEPT, CONTENT_TYPE};
use kube::Client;
use serde_json::Value;

use super::error::NodeError;
use super::metrics::Metrics;
use super::plan::Node;
use crate::cluster::answer::{SendError, read, send};

/// A request takes at most so long, its answer included.
const LIMIT: Duration = Duration::from_secs(30);

/// No object is larger: it is what the API server takes in a request.
const MAX_NODE_BYTES: usize = 3 << 20;

/// The Node, as the API server has it.
pub(super) struct Api<'a> {
    client: Client,
    path: String,
    metrics: &'a Metrics,
}

/// One request, and how it is called in errors and metrics.
struct Call<'a> {
    request: &'static str,
    verb: &'static str,
    resource: &'static str,
    /// A patch: its type and itself.
    patch: Option<(&'static str, &'a Value)>,
}

// === impl Api ===

impl<'a> Api<'a> {
    pub(super) fn new(client: Client, node: &str, metrics: &'a Metrics) -> Self {
        Self { client, path: format!("/api/v1/nodes/{node}"), metrics }
    }

    pub(super) async fn read(&self) -> Result<Node, NodeError> {
        let call = Call { request: "read", verb: "get", resource: "nodes", patch: None };
        self.answered(&call, self.path.clone()).await
    }

    /// `patch`: a JSON patch.
    pub(super) async fn patch_taints(&self, patch: &Value) -> Result<(), NodeError> {
        let patch = Some(("application/json-patch+json", patch));
        let call = Call { request: "taint", verb: "patch", resource: "nodes", patch };
        self.answered(&call, self.path.clone()).await.map(drop)
    }

    /// `patch`: a strategic merge patch.
    pub(super) async fn patch_condition(&self, patch: &Value) -> Result<(), NodeError> {
        let patch = Some(("application/strategic-merge-patch+json", patch));
        let call = Call { request: "condition", verb: "patch", resource: "nodes/status", patch };
        self.answered(&call, format!("{}/status", self.path)).await.map(drop)
    }

    async fn answered(&self, call: &Call<'_>, path: String) -> Result<Node, NodeError> {
        let late = |_| call.failed(format!("no answer within {} s", LIMIT.as_secs()));
        let answered = tokio::time::timeout(LIMIT, self.send(call, path)).await.map_err(late).flatten();
        self.metrics.answered(call.request, answered.as_ref().err());
        answered
    }

    async fn send(&self, call: &Call<'_>, path: String) -> Result<Node, NodeError> {
        let (method, mime, body) = match call.patch {
            Some((mime, patch)) => ("PATCH", mime, patch.to_string().into_bytes()),
            None => ("GET", "application/json", Vec::new()),
        };
        let request = http::Request::builder().method(method).uri(path).header(ACCEPT, "application/json");
        let request = request.header(CONTENT_TYPE, mime).body(body);
        let request = request.map_err(|error| call.failed(error.to_string()))?;
        let sent = send(&self.client, request).await;
        let (_, mut body) =
            sent.map_err(|error: SendError| NodeError::of(call.verb, call.resource, error))?;
        let text = read(&mut body, MAX_NODE_BYTES).await.map_err(|error| call.failed(error))?;
        let text = text.ok_or_else(|| call.failed(format!("larger than {MAX_NODE_BYTES} bytes")))?;
        Node::read(&text).ok_or_else(|| call.failed("200 without a Node".to_owned()))
    }
}

// === impl Call ===

impl Call<'_> {
    fn failed(&self, text: String) -> NodeError {
        NodeError::failed(self.verb, self.resource, text)
    }
}
