//! When the Node is told next.

use std::time::Duration;

use tokio::time::Instant;

use super::plan::{HEARTBEAT, Waiting};
use crate::cluster::backoff::jittered;

/// What is over within this time is not told: rules that somebody removes are back within 1 s, those of legacy tables
/// within 5 s, and counted.
const SETTLE: Duration = Duration::from_secs(10);

/// What was told, and when to tell again.
#[derive(Debug)]
pub(super) struct Schedule {
    told: Option<Waiting>,
    heartbeat_at: Instant,
    /// Since when the agent is not ready, and was not told to be so.
    unlike_since: Option<Instant>,
    /// What could not be told, and when it may be tried again.
    failed: Option<(Waiting, Instant)>,
}

// === impl Schedule ===

impl Schedule {
    pub(super) fn new() -> Self {
        Self { told: None, heartbeat_at: Instant::now(), unlike_since: None, failed: None }
    }

    /// When this is to be told, if it stays so. That the agent is ready: at once.
    pub(super) fn due(&mut self, waiting: &Waiting, now: Instant) -> Instant {
        let due = if self.told.as_ref().is_some_and(|told| told.is_like(waiting)) {
            self.unlike_since = None;
            self.heartbeat_at
        } else if waiting.is_ready() {
            self.unlike_since = None;
            now
        } else {
            *self.unlike_since.get_or_insert(now) + SETTLE
        };
        match &self.failed {
            // That it has become ready meanwhile is worth another try at once.
            Some((tried, not_before)) if tried.is_ready() == waiting.is_ready() => due.max(*not_before),
            _ => due,
        }
    }

    /// The Node says so now.
    pub(super) fn told(&mut self, waiting: Waiting, now: Instant) {
        self.told = Some(waiting);
        self.heartbeat_at = now + jittered(HEARTBEAT);
        (self.unlike_since, self.failed) = (None, None);
    }

    /// It could not be told.
    pub(super) fn failed(&mut self, waiting: Waiting, not_before: Instant) {
        self.failed = Some((waiting, not_before));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ready::GateState;

    fn waiting(gates: &[&'static str]) -> Waiting {
        let closed = |name: &&'static str| GateState { name, state: Err("closed".into()) };
        Waiting::of(&gates.iter().map(closed).collect::<Vec<_>>())
    }

    #[tokio::test(start_paused = true)]
    async fn readiness_is_told_at_once_and_its_loss_when_it_lasts() {
        let (mut schedule, start) = (Schedule::new(), Instant::now());
        assert_eq!(schedule.due(&waiting(&["pods"]), start), start + SETTLE);
        let second = start + Duration::from_secs(1);
        assert_eq!(schedule.due(&waiting(&[]), second), second);
        assert_eq!(schedule.due(&waiting(&["pods"]), second), second + SETTLE, "lost before it was told");
        schedule.told(waiting(&[]), start);
        let heartbeat = schedule.due(&waiting(&[]), start);
        assert!(heartbeat >= start + HEARTBEAT && heartbeat <= start + HEARTBEAT.mul_f64(1.1));

        let lost = start + Duration::from_secs(20);
        assert_eq!(schedule.due(&waiting(&["redirect"]), lost), lost + SETTLE);
        let other = lost + Duration::from_secs(3);
        assert_eq!(schedule.due(&waiting(&["redirect", "pods"]), other), lost + SETTLE, "still not ready");
        assert_eq!(schedule.due(&waiting(&[]), other), heartbeat, "mended in time");
        assert_eq!(schedule.due(&waiting(&["redirect"]), other), other + SETTLE, "a new loss");
    }

    #[tokio::test(start_paused = true)]
    async fn failure_is_waited_out_unless_the_agent_becomes_ready() {
        let (mut schedule, start) = (Schedule::new(), Instant::now());
        let later = start + Duration::from_secs(60);
        schedule.due(&waiting(&["pods"]), start);
        schedule.failed(waiting(&["pods"]), later);
        assert_eq!(schedule.due(&waiting(&["pods", "identity"]), start), later);
        assert_eq!(schedule.due(&waiting(&[]), start), start);
        schedule.failed(waiting(&[]), later);
        assert_eq!(schedule.due(&waiting(&[]), start), later);
    }
}
