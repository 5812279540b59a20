//! What the broker counts.

use std::time::{Duration, SystemTime};

use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge};

use super::pace::Cause;
use crate::credentials::source::SourceError;
use crate::metrics::{CALL_SECONDS, Registry};

/// What [`result_of`] may say.
const RESULTS: [&str; 7] =
    ["success", "unauthorized", "rejected", "throttled", "own_credentials", "mismatched", "unavailable"];

/// Counters and gauges of the broker.
#[derive(Clone, Debug)]
pub(super) struct Meter {
    /// Served a session that is not due for refresh.
    pub(super) hit: IntCounter,
    /// Served a session whose refresh is overdue: STS fails.
    pub(super) stale: IntCounter,
    /// Waited for a call that was on its way.
    pub(super) coalesced: IntCounter,
    /// Started a call.
    pub(super) miss: IntCounter,
    /// Told what STS had said before.
    pub(super) refused_remembered: IntCounter,
    /// Left before the call ended.
    pub(super) timeout: IntCounter,
    in_flight: IntGauge,
    call_seconds: Histogram,
    calls: IntCounterVec,
    sessions: IntGauge,
    earliest_expiry: Gauge,
    oldest_age: Gauge,
}

/// A call under way, until dropped.
pub(super) struct InFlight<'a>(&'a IntGauge);

/// What the gauges show.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    /// Sessions that can be served.
    pub(super) sessions: i64,
    /// When the first of them ends.
    pub(super) earliest_expiry: Option<SystemTime>,
    /// Age of the oldest.
    pub(super) oldest_age: Duration,
}

// === impl Held ===

impl Held {
    pub(super) fn add(&mut self, expiration: SystemTime, age: Duration) {
        self.sessions += 1;
        self.earliest_expiry = Some(self.earliest_expiry.map_or(expiration, |first| first.min(expiration)));
        self.oldest_age = self.oldest_age.max(age);
    }
}

// === impl Meter ===

impl Meter {
    pub(super) fn register(registry: &Registry) -> Self {
        let requests = registry.counters(
            "credentials_requests_total",
            "Requests for a session, by how they were met",
            &["result"],
        );
        let of = |result| requests.with_label_values(&[result]);
        let calls = registry.counters(
            "sts_calls_total",
            "Calls to STS, by result and by what they were for",
            &["result", "cause"],
        );
        // From zero on: the rate of a counter that appears with its first event misses that event.
        for result in RESULTS {
            for cause in [Cause::Demand, Cause::Prefetch, Cause::Refresh] {
                calls.with_label_values(&[result, cause.label()]);
            }
        }
        Self {
            hit: of("hit"),
            stale: of("stale"),
            coalesced: of("coalesced"),
            miss: of("miss"),
            refused_remembered: of("refused_remembered"),
            timeout: of("timeout"),
            in_flight: registry.gauge("sts_calls_in_flight", "Calls to STS under way"),
            call_seconds: registry.histogram(
                "sts_call_duration_seconds",
                "Time of calls to STS",
                CALL_SECONDS,
            ),
            calls,
            sessions: registry.gauge("credentials_sessions", "Sessions that can be served"),
            earliest_expiry: registry.float_gauge(
                "credentials_earliest_expiry_timestamp_seconds",
                "When the first of the sessions ends (0: there is none)",
            ),
            oldest_age: registry
                .float_gauge("credentials_oldest_session_age_seconds", "Age of the oldest session"),
        }
    }

    pub(super) fn call_begins(&self) -> InFlight<'_> {
        self.in_flight.inc();
        InFlight(&self.in_flight)
    }

    pub(super) fn call_ended(&self, cause: Cause, took: Duration, error: Option<&SourceError>) {
        self.call_seconds.observe(took.as_secs_f64());
        self.calls.with_label_values(&[result_of(error), cause.label()]).inc();
    }

    pub(super) fn show(&self, held: Held) {
        self.sessions.set(held.sessions);
        let since_epoch =
            held.earliest_expiry.and_then(|end| end.duration_since(SystemTime::UNIX_EPOCH).ok());
        self.earliest_expiry.set(since_epoch.unwrap_or_default().as_secs_f64());
        self.oldest_age.set(held.oldest_age.as_secs_f64());
    }
}

fn result_of(error: Option<&SourceError>) -> &'static str {
    match error {
        None => "success",
        Some(SourceError::Unauthorized { .. }) => "unauthorized",
        Some(SourceError::Rejected { .. }) => "rejected",
        Some(SourceError::Throttled) => "throttled",
        Some(SourceError::OwnCredentials { .. }) => "own_credentials",
        Some(SourceError::Mismatched { .. }) => "mismatched",
        Some(SourceError::Unavailable { .. }) => "unavailable",
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}
