//! How long to wait before the API server is asked again.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::Duration;

/// First and longest delay, before jitter (client-go's reflector has the same).
const FIRST: Duration = Duration::from_millis(800);
const LONGEST: Duration = Duration::from_secs(30);

/// Exponential, with jitter, so that the agents of a fleet do not come back together.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
    /// One restart that is nobody's fault may follow at once.
    free: bool,
}

// === impl Backoff ===

impl Backoff {
    pub(super) fn new() -> Self {
        Self { next: FIRST, free: true }
    }

    /// The other side works: begin anew.
    pub(super) fn reset(&mut self) {
        *self = Self::new();
    }

    /// The delay after a failure; not less than what the API server asks for.
    pub(super) fn after_failure(&mut self, retry_after: Option<Duration>) -> Duration {
        let delay = self.next;
        self.next = (delay * 2).min(LONGEST);
        let delay = delay.mul_f64(0.5 + random() / 2.0);
        retry_after.map_or(delay, |least| delay.max(jittered(least)))
    }

    /// The delay after an orderly end: none, unless nothing has worked since the last one.
    pub(super) fn after_end(&mut self) -> Duration {
        if std::mem::take(&mut self.free) { Duration::ZERO } else { self.after_failure(None) }
    }
}

/// `period` and up to a tenth more.
pub(super) fn jittered(period: Duration) -> Duration {
    period.mul_f64(1.0 + random() / 10.0)
}

/// Uniform in [0, 1): good enough for jitter, without a dependency.
fn random() -> f64 {
    let bits = u32::try_from(RandomState::new().hash_one(()) >> 32).unwrap_or(0);
    f64::from(bits) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_wait_longer_each_time_up_to_half_a_minute() {
        let mut backoff = Backoff::new();
        let mut expected = FIRST;
        for _ in 0..10 {
            let delay = backoff.after_failure(None);
            assert!(delay >= expected / 2 && delay <= expected, "{delay:?} of {expected:?}");
            expected = (expected * 2).min(LONGEST);
        }
        backoff.reset();
        assert!(backoff.after_failure(None) <= FIRST);
    }

    #[test]
    fn one_orderly_end_is_followed_at_once_the_next_is_not() {
        let mut backoff = Backoff::new();
        assert_eq!(backoff.after_end(), Duration::ZERO);
        assert!(backoff.after_end() >= FIRST / 2);
    }

    #[test]
    fn what_the_api_server_asks_for_is_waited_for_and_the_pace_slows_down_all_the_same() {
        let mut backoff = Backoff::new();
        for _ in 0..10 {
            let least = Duration::from_secs(40);
            let delay = backoff.after_failure(Some(least));
            assert!(delay >= least && delay <= least.mul_f64(1.1), "{delay:?}");
        }
        assert!(backoff.after_failure(Some(Duration::from_secs(1))) >= LONGEST / 2);
    }

    #[test]
    fn jitter_spreads() {
        let delays: std::collections::BTreeSet<_> =
            (0..64).map(|_| jittered(Duration::from_secs(1800))).collect();
        assert!(delays.len() > 32);
        assert!(delays.iter().all(|delay| (1800..=1980).contains(&delay.as_secs())));
    }
}
