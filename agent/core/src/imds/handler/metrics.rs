//! What the door counts: closed sets of routes, statuses and reasons.

use std::sync::OnceLock;
use std::time::Duration;

use http::StatusCode;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec};

use crate::identity::Unidentified;
use crate::metrics::{REQUEST_SECONDS, Registry};
use crate::policy::Denied;

/// Reasons of refusals beside those of [`Unidentified`]. Source: `Refusal::reason`.
const REFUSED: [&str; 16] = [
    "host",
    "forwarded",
    "method",
    "token_ttl",
    "token_path",
    "token_missing",
    "token_invalid",
    "not_found",
    "no_role",
    "other_role",
    "not_ready",
    "moved",
    "timeout",
    "unavailable",
    "upstream",
    "panic",
];

/// What STS says no with. Source: `BrokerError::code`.
const STS_DENIED: [&str; 2] = ["unauthorized", "rejected"];

#[derive(Debug)]
pub(super) struct Metrics {
    often: [Often; 3],
    requests: IntCounterVec,
    seconds: HistogramVec,
    refused: IntCounterVec,
    denied: IntCounterVec,
    would_deny: IntCounterVec,
    pub(super) issued: IntCounter,
    pub(super) v1: IntCounter,
}

/// What nearly all requests ask for, so that their counters are looked up once: from the first of them on, since what is
/// never asked for is not on the page.
#[derive(Debug)]
struct Often {
    route: &'static str,
    ok: OnceLock<IntCounter>,
    seconds: OnceLock<Histogram>,
}

// === impl Metrics ===

impl Metrics {
    pub(super) fn register(registry: &Registry) -> Self {
        let made = Self {
            often: ["document", "token", "role_list"].map(Often::new),
            requests: registry.counters(
                "requests_total",
                "Requests of pods, by what was asked for and the status.",
                &["route", "status"],
            ),
            seconds: registry.histograms(
                "request_duration_seconds",
                "Time from a request's header to its answer, by what was asked for.",
                REQUEST_SECONDS,
                &["route"],
            ),
            refused: registry.counters(
                "requests_refused_total",
                "Requests answered with an error status, by reason.",
                &["reason"],
            ),
            denied: registry.counters(
                "credentials_denied_total",
                "Documents that say why a pod gets no credentials, by reason.",
                &["reason"],
            ),
            would_deny: registry.counters(
                "credentials_would_deny_total",
                "Sessions handed out under --namespace-restrictions=audit that enforce would have denied, by reason.",
                &["reason"],
            ),
            issued: registry.counter("credentials_issued_total", "Documents with credentials handed to pods."),
            v1: registry.counter("imds_v1_requests_total", "Requests served without a token (IMDSv1)."),
        };
        made.begin_at_zero();
        made
    }

    fn begin_at_zero(&self) {
        for route in ["role_list", "document"] {
            for status in [StatusCode::OK, StatusCode::INTERNAL_SERVER_ERROR] {
                self.requests.with_label_values(&[route, status.as_str()]);
            }
        }
        for reason in REFUSED.into_iter().chain(Unidentified::ALL.map(Unidentified::code)) {
            self.refused.with_label_values(&[reason]);
        }
        // The rate of a counter that appears with its first event misses that event: few pods ask more than three times.
        for reason in denials() {
            self.denied.with_label_values(&[reason]);
        }
    }

    pub(super) fn answered(&self, route: &str, status: StatusCode, refusal: Option<&str>, took: Duration) {
        match self.often.iter().find(|often| often.route == route && status == StatusCode::OK) {
            Some(often) => often.answered(self, took),
            None => {
                self.requests.with_label_values(&[route, status.as_str()]).inc();
                self.seconds.with_label_values(&[route]).observe(took.as_secs_f64());
            }
        }
        if let Some(reason) = refusal {
            debug_assert!(
                REFUSED.contains(&reason) || Unidentified::ALL.iter().any(|why| why.code() == reason),
                "{reason}"
            );
            self.refused.with_label_values(&[reason]).inc();
        }
    }

    pub(super) fn denied(&self, reason: &str) {
        debug_assert!(denials().any(|known| known == reason), "{reason}");
        self.denied.with_label_values(&[reason]).inc();
    }

    pub(super) fn would_deny(&self, denied: &Denied) {
        self.would_deny.with_label_values(&[denied.code()]).inc();
    }
}

/// Reasons of documents without credentials. A pod without a role has no document.
fn denials() -> impl Iterator<Item = &'static str> {
    let of_policy = Denied::CODES.into_iter().filter(|code| *code != Denied::NoRole.code());
    of_policy.chain(STS_DENIED)
}

// === impl Often ===

impl Often {
    fn new(route: &'static str) -> Self {
        Self { route, ok: OnceLock::new(), seconds: OnceLock::new() }
    }

    fn answered(&self, of: &Metrics, took: Duration) {
        let ok = || of.requests.with_label_values(&[self.route, StatusCode::OK.as_str()]);
        self.ok.get_or_init(ok).inc();
        self.seconds.get_or_init(|| of.seconds.with_label_values(&[self.route])).observe(took.as_secs_f64());
    }
}
