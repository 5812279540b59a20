//! The registry of this process. Each module registers a struct of its own; only `admin` encodes.
//!
//! Conventions (prometheus.io naming practice): prefix `rolegate_`, base units, counters end in `_total`,
//! labels are closed enums: never an ARN, an address, a pod or a path.

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
};

/// Buckets for what is answered from memory, up to the hold of 900 ms: 0.1 ms doubling to 1.6 s, and the second that
/// SDKs wait.
pub const REQUEST_SECONDS: &[f64] = &[
    0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0032, 0.0064, 0.0128, 0.0256, 0.0512, 0.1024, 0.2048, 0.4096,
    0.8192, 1.0, 1.6384,
];

/// Buckets for calls over the network: 5 ms to 10 s.
pub const CALL_SECONDS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The process's own registry; never the library's global one.
#[derive(Clone, Debug)]
pub struct Registry {
    inner: prometheus::Registry,
}

// === impl Registry ===

impl Registry {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self { inner: prometheus::Registry::new() }
    }

    /// Everything registered, for the encoder.
    #[must_use]
    pub fn gather(&self) -> Vec<prometheus::proto::MetricFamily> {
        self.inner.gather()
    }

    /// A counter `rolegate_{name}`; `name` ends in `_total`.
    pub fn counter(&self, name: &str, help: &str) -> IntCounter {
        debug_assert!(name.ends_with("_total"), "{name}");
        self.register(IntCounter::with_opts(opts(name, help)))
    }

    /// A counter with labels.
    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        debug_assert!(name.ends_with("_total"), "{name}");
        self.register(IntCounterVec::new(opts(name, help), labels))
    }

    /// A gauge.
    pub fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::with_opts(opts(name, help)))
    }

    /// A gauge with labels.
    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.register(IntGaugeVec::new(opts(name, help), labels))
    }

    /// A gauge of a floating-point quantity, such as an age in seconds.
    pub fn float_gauge(&self, name: &str, help: &str) -> prometheus::Gauge {
        self.register(prometheus::Gauge::with_opts(opts(name, help)))
    }

    /// A histogram of seconds; `name` ends in `_seconds`.
    pub fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        self.register(Histogram::with_opts(histogram_opts(name, help, buckets)))
    }

    /// A histogram with labels.
    pub fn histograms(&self, name: &str, help: &str, buckets: &[f64], labels: &[&str]) -> HistogramVec {
        self.register(HistogramVec::new(histogram_opts(name, help, buckets), labels))
    }

    /// Any other collector, such as one that computes its value when scraped.
    #[expect(
        clippy::expect_used,
        reason = "names are constants: a clash is a defect that every start would show"
    )]
    pub fn collector(&self, collector: Box<dyn Collector>) {
        self.inner.register(collector).expect("metric names are unique constants");
    }

    #[expect(
        clippy::expect_used,
        reason = "names are constants: a clash is a defect that every start would show"
    )]
    fn register<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let metric = made.expect("metric names and labels are valid constants");
        self.collector(Box::new(metric.clone()));
        metric
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("rolegate_{name}"), help)
}

fn histogram_opts(name: &str, help: &str, buckets: &[f64]) -> HistogramOpts {
    HistogramOpts::new(format!("rolegate_{name}"), help).buckets(buckets.to_vec())
}
