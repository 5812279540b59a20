//! What the Node object says of the agent (`--startup-taint`): our taint is removed and our condition is true once
//! every readiness gate is open, that is, once pods' requests are captured and answered.
//!
//! Level-triggered: the Node is read before every write, and again with every heartbeat. The taint is never put
//! back: an agent that stops leaves the node closed, not open. Nothing is written at the end either: the next agent
//! is there in seconds, and one that ended by force could not write; that nobody beats tells both.

mod api;
mod error;
mod metrics;
mod plan;
mod schedule;

use std::convert::Infallible;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::api::Api;
use self::error::NodeError;
use self::metrics::Metrics;
use self::plan::Waiting;
use self::schedule::Schedule;
use super::backoff::Backoff;
use super::client::Connector;
use crate::config::Kubernetes;
use crate::metrics::Registry;
use crate::ready::Gates;
use crate::types::Clock;

/// Keeps the taint and the condition of one Node.
#[derive(Debug)]
pub struct OwnNode {
    connector: Connector,
    /// The key of the taint.
    taint: String,
    clock: Clock,
    metrics: Metrics,
}

// === impl OwnNode ===

impl OwnNode {
    /// Prepares; nothing is asked before [`OwnNode::run`]. `taint` is the key of the taint to remove.
    #[must_use]
    pub fn new(config: Kubernetes, taint: String, clock: Clock, registry: &Registry) -> Self {
        let (connector, metrics) = (Connector::Config(config), Metrics::register(registry));
        Self { connector, taint, clock, metrics }
    }

    /// Talks through `client`, whatever is configured.
    #[must_use]
    pub fn with_client(self, client: kube::Client) -> Self {
        Self { connector: Connector::Client(client), ..self }
    }

    /// Tells the Node, as soon as its name is known, how the gates stand; every failure is retried until `shutdown`.
    pub async fn run(self, node: watch::Receiver<Option<String>>, gates: Gates, shutdown: CancellationToken) {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {}
            never = self.keep(node, gates) => match never {}
        }
    }

    async fn keep(&self, mut node: watch::Receiver<Option<String>>, gates: Gates) -> Infallible {
        let named = node.wait_for(Option::is_some).await.ok().and_then(|name| name.clone());
        // The sender is gone only when the process ends.
        let Some(name) = named else { return std::future::pending().await };
        let (mut states, mut schedule, mut backoff) = (gates.subscribe(), Schedule::new(), Backoff::new());
        loop {
            let waiting = Waiting::of(&states.borrow_and_update());
            let due = schedule.due(&waiting, Instant::now());
            if due > Instant::now() {
                // `gates` holds the sender: it never closes.
                let _ = tokio::time::timeout_at(due, states.changed()).await;
                continue;
            }
            match self.tell(&name, &waiting, &gates).await {
                Ok(told) => {
                    backoff.reset();
                    if told {
                        schedule.told(waiting, Instant::now());
                    }
                }
                Err(error) => {
                    let delay = match &error {
                        NodeError::Conflict { .. } => backoff.after_end(),
                        error => backoff.after_failure(error.retry_after()),
                    };
                    warn!(node = name, %error, ?delay, "the node is not told how the agent is; tried again");
                    schedule.failed(waiting, Instant::now() + delay);
                }
            }
        }
    }

    /// One round: reads the Node and writes what is not so. Pods wait for the taint: it goes first, and a condition
    /// that cannot be written does not keep it. False, and nothing is written, where the agent was ready and is not
    /// any more: the answer may have taken long.
    async fn tell(&self, name: &str, waiting: &Waiting, gates: &Gates) -> Result<bool, NodeError> {
        let api = Api::new(self.connector.connect().await?, name, &self.metrics);
        let node = api.read().await?;
        let tainted = node.taint_patch(&self.taint);
        self.metrics.tainted(tainted.is_some());
        if waiting.is_ready() && !gates.ready() {
            return Ok(false);
        }
        let removed = match tainted.filter(|_| waiting.is_ready()) {
            Some(patch) => self.remove_taint(&api, name, &patch).await,
            None => Ok(()),
        };
        let told = match node.condition_patch(waiting, self.clock.now()) {
            Some(patch) => api.patch_condition(&patch).await,
            None => Ok(()),
        };
        if told.is_ok() {
            debug!(node = name, ready = waiting.is_ready(), "the node is told how the agent is");
        }
        removed.and(told).map(|()| true)
    }

    async fn remove_taint(
        &self,
        api: &Api<'_>,
        name: &str,
        patch: &serde_json::Value,
    ) -> Result<(), NodeError> {
        api.patch_taints(patch).await?;
        self.metrics.tainted(false);
        info!(node = name, taint = self.taint, "startup taint removed: pods may be scheduled to the node");
        Ok(())
    }
}
