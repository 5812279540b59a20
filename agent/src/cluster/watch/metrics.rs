//! What Prometheus is told of the watches.

use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, IntCounter, IntGauge, Opts};

use super::freshness::Freshness;
use super::resource::Resource;
use crate::metrics::Registry;

/// Both resources' metrics.
#[derive(Debug)]
pub(super) struct Metrics {
    pods: ResourceMetrics,
    namespaces: ResourceMetrics,
}

/// One resource's.
#[derive(Debug)]
pub(super) struct ResourceMetrics {
    pub(super) objects: IntGauge,
    restarts: [IntCounter; Reason::ALL.len()],
    events: [IntCounter; Kind::ALL.len()],
}

/// Why a watch was begun anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// The other side ended it, in order.
    Ended,
    /// It broke, could not be opened, or the list failed.
    Failed,
    /// 410: the version is forgotten.
    Gone,
    /// Nothing was heard for too long.
    Stalled,
    /// `--cache-resync-period`.
    Resync,
}

/// What was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An object of a list.
    Listed,
    /// An object that is new or changed.
    Applied,
    /// An object that is gone.
    Deleted,
    /// A bookmark.
    Bookmark,
    /// An error inside a watch.
    Error,
    /// An object, listed or applied, that cannot be read in full; counted there as well.
    Unreadable,
}

/// Ages, computed when scraped.
struct Ages {
    gauge: GaugeVec,
    pods: Arc<Freshness>,
    namespaces: Arc<Freshness>,
}

// === impl Metrics ===

impl Metrics {
    pub(super) fn register(registry: &Registry, pods: &Arc<Freshness>, namespaces: &Arc<Freshness>) -> Self {
        let objects = registry.gauges(
            "kubernetes_objects",
            "Objects known: pods of this node, namespaces.",
            &["resource"],
        );
        let restarts = registry.counters(
            "kubernetes_watch_restarts_total",
            "Lists and watches begun anew: ended by the API server, failed, gone (410), stalled, resync.",
            &["resource", "reason"],
        );
        let events = registry.counters(
            "kubernetes_events_total",
            "What the API server sent: listed, applied, deleted, bookmark, error, unreadable.",
            &["resource", "kind"],
        );
        registry.collector(Box::new(Ages::new(pods, namespaces)));
        let of = |resource: Resource| ResourceMetrics {
            objects: objects.with_label_values(&[resource.name()]),
            restarts: Reason::ALL.map(|reason| restarts.with_label_values(&[resource.name(), reason.code()])),
            events: Kind::ALL.map(|kind| events.with_label_values(&[resource.name(), kind.code()])),
        };
        Self { pods: of(Resource::Pods), namespaces: of(Resource::Namespaces) }
    }

    pub(super) fn of(&self, resource: Resource) -> &ResourceMetrics {
        match resource {
            Resource::Pods => &self.pods,
            Resource::Namespaces => &self.namespaces,
        }
    }
}

// === impl ResourceMetrics ===

impl ResourceMetrics {
    pub(super) fn restarted(&self, reason: Reason) {
        self.restarts[reason as usize].inc();
    }

    pub(super) fn event(&self, kind: Kind) {
        self.events[kind as usize].inc();
    }
}

// === impl Reason ===

impl Reason {
    const ALL: [Self; 5] = [Self::Ended, Self::Failed, Self::Gone, Self::Stalled, Self::Resync];

    pub(super) const fn code(self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::Failed => "failed",
            Self::Gone => "gone",
            Self::Stalled => "stalled",
            Self::Resync => "resync",
        }
    }
}

// === impl Kind ===

impl Kind {
    const ALL: [Self; 6] =
        [Self::Listed, Self::Applied, Self::Deleted, Self::Bookmark, Self::Error, Self::Unreadable];

    const fn code(self) -> &'static str {
        match self {
            Self::Listed => "listed",
            Self::Applied => "applied",
            Self::Deleted => "deleted",
            Self::Bookmark => "bookmark",
            Self::Error => "error",
            Self::Unreadable => "unreadable",
        }
    }
}

// === impl Ages ===

impl Ages {
    #[expect(clippy::expect_used, reason = "name and labels are valid constants")]
    fn new(pods: &Arc<Freshness>, namespaces: &Arc<Freshness>) -> Self {
        let gauge = GaugeVec::new(
            Opts::new(
                "rolegate_kubernetes_last_event_age_seconds",
                "Seconds since the last event, bookmark or list; before the first list, since the start.",
            ),
            &["resource"],
        )
        .expect("metric names and labels are valid constants");
        Self { gauge, pods: Arc::clone(pods), namespaces: Arc::clone(namespaces) }
    }
}

impl Collector for Ages {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for (resource, freshness) in [(Resource::Pods, &self.pods), (Resource::Namespaces, &self.namespaces)]
        {
            self.gauge.with_label_values(&[resource.name()]).set(freshness.last().elapsed().as_secs_f64());
        }
        self.gauge.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_and_kind_has_its_own_counter() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index, "{}", reason.code());
        }
        for (index, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index, "{}", kind.code());
        }
    }
}
