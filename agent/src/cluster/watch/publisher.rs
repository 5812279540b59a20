//! The index and its readers' end: folded and published under one lock, so that order is kept.

use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::IntGauge;
use tokio::sync::watch;

use super::metrics::Metrics;
use super::resource::Resource;
use crate::cluster::index::{Event, Index};
use crate::cluster::snapshot::Snapshot;

/// Takes events in, gives snapshots out.
#[derive(Debug)]
pub(super) struct Publisher {
    index: Mutex<Index>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    pods: IntGauge,
    namespaces: IntGauge,
}

// === impl Publisher ===

impl Publisher {
    pub(super) fn new(metrics: &Metrics, pin_roles: bool) -> (Self, watch::Receiver<Arc<Snapshot>>) {
        let (snapshots, receiver) = watch::channel(Arc::new(Snapshot::default()));
        let publisher = Self {
            index: Mutex::new(Index::with_pinned_roles(pin_roles)),
            snapshots,
            pods: metrics.of(Resource::Pods).objects.clone(),
            namespaces: metrics.of(Resource::Namespaces).objects.clone(),
        };
        (publisher, receiver)
    }

    /// Folds the event in, and publishes if readers would see a difference.
    pub(super) fn take(&self, event: Event) {
        let mut index = self.index.lock();
        if index.apply(event) {
            let snapshot = index.snapshot();
            self.pods.set(i64::try_from(snapshot.pods().len()).unwrap_or(i64::MAX));
            self.namespaces.set(i64::try_from(snapshot.namespace_count()).unwrap_or(i64::MAX));
            self.snapshots.send_replace(snapshot);
        }
    }
}
