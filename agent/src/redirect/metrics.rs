//! What the redirect counts.

use prometheus::{IntCounter, IntCounterVec, IntGauge};
use rolegate_iptables::guard::GuardDrift;
use rolegate_iptables::iptables::Drift;

use crate::metrics::Registry;

/// The cause of a repair of capture `route`.
pub(super) const ROUTE_CHANGED: &str = "route_changed";

/// The cause of a repair of bridge ports' pins.
pub(super) const PINS_CHANGED: &str = "pins_changed";

/// Counters and gauges of the redirect.
pub(super) struct Metrics {
    /// By [`Drift::as_str`] and [`GuardDrift::as_str`].
    pub(super) repairs: IntCounterVec,
    pub(super) present: IntGauge,
    pub(super) guards: IntGauge,
    pub(super) errors: IntCounter,
    pub(super) conntrack_deleted: IntCounter,
}

// === impl Metrics ===

impl Metrics {
    pub(super) fn register(registry: &Registry) -> Self {
        let repairs = registry.counters(
            "redirect_repairs_total",
            "Times that redirect or guards differed from what they should be and were mended, by what was wrong.",
            &["cause"],
        );
        let (rules, guards) = (Drift::ALL.map(Drift::as_str), GuardDrift::ALL.map(GuardDrift::as_str));
        for cause in rules.into_iter().chain(guards).chain([ROUTE_CHANGED, PINS_CHANGED]) {
            repairs.with_label_values(&[cause]);
        }
        Self {
            repairs,
            present: registry
                .gauge("redirect_rule_present", "1 while the redirect rules are as they should be, else 0."),
            guards: registry.gauge("guards_present", "1 while both guards are as they should be, else 0."),
            errors: registry.counter(
                "redirect_errors_total",
                "Failures to read or write redirect, guards or what they need.",
            ),
            conntrack_deleted: registry.counter(
                "conntrack_deleted_total",
                "Tracked connections to the metadata service, older than the rules, that were forgotten.",
            ),
        }
    }
}
