//! What was counted, by the second.

use std::ops::Range;
use std::time::Duration;

/// Calls that STS saw, and how long was waited for first sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Calls in each second, throttled ones included.
    calls: Vec<u64>,
    throttled: Vec<u64>,
    /// When each session key had its first session.
    pub(super) served: Vec<Duration>,
    /// How long each pod waited that asked from the start on.
    pub(super) asked: Vec<Duration>,
}

/// How long it took, of many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waits {
    /// How many.
    pub count: usize,
    /// Half of them no longer.
    pub p50: Duration,
    /// All but one in a hundred.
    pub p99: Duration,
    /// The last.
    pub last: Duration,
}

// === impl Tally ===

impl Tally {
    pub(super) fn called(&mut self, since_start: Duration, granted: bool) {
        let second = usize::try_from(since_start.as_secs()).unwrap_or(usize::MAX);
        for (counts, this) in [(&mut self.calls, true), (&mut self.throttled, !granted)] {
            counts.resize(counts.len().max(second + 1), 0);
            counts[second] += u64::from(this);
        }
    }

    /// All calls.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.calls.iter().sum()
    }

    /// Those that were throttled, in these seconds.
    #[must_use]
    pub fn throttled(&self, seconds: Range<usize>) -> u64 {
        self.throttled.iter().take(seconds.end).skip(seconds.start).sum()
    }

    /// Calls per second on average, in these seconds.
    #[must_use]
    pub fn mean(&self, seconds: Range<usize>) -> f64 {
        let length = u32::try_from(seconds.len()).unwrap_or(u32::MAX);
        let calls: u64 = self.calls.iter().take(seconds.end).skip(seconds.start).sum();
        as_float(calls) / f64::from(length.max(1))
    }

    /// Most calls per second within `window` seconds in a row of these.
    #[must_use]
    pub fn peak(&self, window: usize, seconds: Range<usize>) -> f64 {
        let counts = self.calls.get(seconds.start.min(self.calls.len())..seconds.end.min(self.calls.len()));
        let counts = counts.unwrap_or_default();
        let window = window.max(1);
        let most = counts.windows(window.min(counts.len().max(1))).map(|them| them.iter().sum()).max();
        as_float(most.unwrap_or(0)) / as_float(window as u64)
    }

    /// When session keys had their first sessions.
    #[must_use]
    pub fn served(&self) -> Option<Waits> {
        Waits::of(&self.served)
    }

    /// How long pods waited that asked from the start on.
    #[must_use]
    pub fn asked(&self) -> Option<Waits> {
        Waits::of(&self.asked)
    }
}

// === impl Waits ===

impl Waits {
    fn of(waits: &[Duration]) -> Option<Self> {
        let mut waits = waits.to_vec();
        waits.sort_unstable();
        let at = |hundredths: usize| waits.get((waits.len() * hundredths).div_ceil(100).saturating_sub(1));
        Some(Self { count: waits.len(), p50: *at(50)?, p99: *at(99)?, last: *at(100)? })
    }
}

/// Exact: counts here are far below 2^53.
fn as_float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peaks_and_means_are_of_the_seconds_asked_for() {
        let mut tally = Tally::default();
        for (second, calls) in [(0, 6), (1, 2), (3, 4), (10, 1)] {
            for n in 0..calls {
                tally.called(Duration::from_secs(second), n == 0);
            }
        }
        assert_eq!((tally.calls(), tally.throttled(0..2), tally.throttled(0..11)), (13, 6, 9));
        assert_eq!((tally.mean(0..4), tally.peak(1, 0..11), tally.peak(2, 0..11)), (3.0, 6.0, 4.0));
        assert_eq!((tally.peak(1, 1..11), tally.peak(2, 4..9), tally.peak(1, 20..30)), (4.0, 0.0, 0.0));
    }
}
