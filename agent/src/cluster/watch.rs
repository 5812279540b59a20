//! Pods of this node and namespaces, listed and watched, folded into one published snapshot.
//!
//! The list-and-watch loop is our own, on kube's `Client`: kube's `watcher` swallows bookmarks, and without
//! them a watch that has stalled cannot be told from a quiet cluster.

mod api;
mod error;
mod freshness;
mod metrics;
mod node;
mod object;
mod project;
mod publisher;
mod reflector;
mod resource;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use project::project_namespace;

use self::freshness::Freshness;
use self::metrics::Metrics;
use self::publisher::Publisher;
use self::reflector::Reflector;
use self::resource::Resource;
use super::client::Connector;
use super::snapshot::Snapshot;
use crate::config::{AnnotationKeys, Kubernetes, NodeSelection};
use crate::metrics::Registry;
use crate::ready::Gate;

/// A watch that brings neither event nor bookmark for so long is taken for stalled. The API server
/// sends a bookmark a minute to each watch that asked for them.
const STALL_LIMIT: Duration = Duration::from_secs(75);

/// The readiness gates that the watch owns.
#[derive(Clone, Debug)]
pub struct WatchGates {
    /// Pods are listed and fresh.
    pub pods: Gate,
    /// Namespaces are listed and fresh.
    pub namespaces: Gate,
}

/// The watch of pods and namespaces: the one writer of the snapshot.
#[derive(Debug)]
pub struct Watch {
    config: Kubernetes,
    connector: Connector,
    keys: AnnotationKeys,
    gates: WatchGates,
    stall_limit: Duration,
    metrics: Metrics,
    pods: Arc<Freshness>,
    namespaces: Arc<Freshness>,
    publisher: Publisher,
    node: watch::Sender<Option<String>>,
}

// === impl Watch ===

impl Watch {
    /// Prepares the watch; nothing is asked before [`Watch::run`]. The receiver shows an empty snapshot
    /// until the first lists are complete.
    #[must_use]
    pub fn new(
        config: Kubernetes,
        keys: AnnotationKeys,
        gates: WatchGates,
        registry: &Registry,
    ) -> (Self, watch::Receiver<Arc<Snapshot>>) {
        let (pods, namespaces) = (Arc::new(Freshness::new()), Arc::new(Freshness::new()));
        let metrics = Metrics::register(registry, &pods, &namespaces);
        let (publisher, snapshots) = Publisher::new(&metrics, config.pin_roles);
        let node = match &config.node {
            NodeSelection::Name(name) => Some(name.clone()),
            NodeSelection::ByHostIp(_) => None,
        };
        let watch = Self {
            connector: Connector::Config(config.clone()),
            config,
            keys,
            gates,
            stall_limit: STALL_LIMIT,
            metrics,
            pods,
            namespaces,
            publisher,
            node: watch::Sender::new(node),
        };
        (watch, snapshots)
    }

    /// Takes a watch for stalled after `limit` instead of 75 s.
    #[must_use]
    pub fn with_stall_limit(self, limit: Duration) -> Self {
        Self { stall_limit: limit, ..self }
    }

    /// Talks through `client`, whatever is configured.
    #[must_use]
    pub fn with_client(self, client: kube::Client) -> Self {
        Self { connector: Connector::Client(client), ..self }
    }

    /// The node's name: at once where it was configured, else once it is found.
    #[must_use]
    pub fn node(&self) -> watch::Receiver<Option<String>> {
        self.node.subscribe()
    }

    /// Tells whether pods were heard of within the limit: what is known of them is true, or late by little.
    pub fn pods_fresh(&self) -> impl Fn() -> bool + Send + Sync + 'static {
        let (pods, limit) = (Arc::clone(&self.pods), self.stall_limit);
        move || pods.last().elapsed() < limit
    }

    /// Lists and watches until `shutdown`; every failure is retried for ever.
    pub async fn run(self, shutdown: CancellationToken) {
        let work = async {
            tokio::join!(
                self.watch_pods(),
                self.reflector(Resource::Namespaces, &self.namespaces, None).run(),
                self.pods.keep_gate(&self.gates.pods, Resource::Pods, self.stall_limit),
                self.namespaces.keep_gate(&self.gates.namespaces, Resource::Namespaces, self.stall_limit),
            )
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {}
            (never, ..) = work => match never {}
        }
    }

    async fn watch_pods(&self) -> Infallible {
        let node = match &self.config.node {
            NodeSelection::Name(name) => name.clone(),
            NodeSelection::ByHostIp(address) => {
                let node = node::find(&self.connector, *address, &self.pods).await;
                self.node.send_replace(Some(node.clone()));
                node
            }
        };
        let fields = format!("spec.nodeName={node}");
        self.reflector(Resource::Pods, &self.pods, Some(fields)).run().await
    }

    fn reflector<'a>(
        &'a self,
        resource: Resource,
        freshness: &'a Freshness,
        fields: Option<String>,
    ) -> Reflector<'a> {
        Reflector {
            resource,
            connector: &self.connector,
            resync: self.config.resync,
            keys: &self.keys,
            fields,
            stall_limit: self.stall_limit,
            freshness,
            publisher: &self.publisher,
            metrics: self.metrics.of(resource),
        }
    }
}
