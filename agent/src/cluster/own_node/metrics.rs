//! What Prometheus is told of the requests about the Node.

use prometheus::{IntCounterVec, IntGauge};

use super::error::NodeError;
use crate::metrics::Registry;

/// Registered only where the Node is told anything.
#[derive(Debug)]
pub(super) struct Metrics {
    requests: IntCounterVec,
    tainted: IntGauge,
}

// === impl Metrics ===

impl Metrics {
    pub(super) fn register(registry: &Registry) -> Self {
        Self {
            requests: registry.counters(
                "node_requests_total",
                "Requests about this node's Node object: read, taint, condition; by result.",
                &["request", "result"],
            ),
            tainted: registry.gauge(
                "node_startup_taint_present",
                "1 while the startup taint was on the node when last seen.",
            ),
        }
    }

    /// A request was answered, or not.
    pub(super) fn answered(&self, request: &'static str, error: Option<&NodeError>) {
        let result = match error {
            None => "ok",
            Some(NodeError::Forbidden { .. }) => "forbidden",
            Some(NodeError::Conflict { .. }) => "conflict",
            Some(NodeError::Connect(_) | NodeError::Failed { .. }) => "failed",
        };
        self.requests.with_label_values(&[request, result]).inc();
    }

    /// Whether the taint is on the node.
    pub(super) fn tainted(&self, tainted: bool) {
        self.tainted.set(tainted.into());
    }
}
