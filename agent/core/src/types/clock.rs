//! Wall time, from one place, so that tests can pause it.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// Where wall time comes from: the system, or an anchor that follows tokio's (pausable) clock.
#[derive(Clone, Debug)]
pub struct Clock(Kind);

#[derive(Clone, Debug)]
enum Kind {
    System,
    Anchored { wall: SystemTime, instant: Instant },
}

// === impl Clock ===

impl Clock {
    /// The system's clock: steps when NTP steps it.
    #[must_use]
    pub fn system() -> Self {
        Self(Kind::System)
    }

    /// A clock that shows `wall` now and advances with [`tokio::time`], which tests pause.
    #[must_use]
    pub fn anchored(wall: SystemTime) -> Self {
        Self(Kind::Anchored { wall, instant: Instant::now() })
    }

    /// The wall time.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        match &self.0 {
            #[allow(clippy::disallowed_methods, reason = "the one place that reads the system's clock")]
            Kind::System => SystemTime::now(),
            Kind::Anchored { wall, instant } => *wall + instant.elapsed(),
        }
    }

    /// Whole seconds since the Unix epoch (0 before it).
    #[must_use]
    pub fn unix_seconds(&self) -> u64 {
        self.now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn anchored_clock_follows_paused_time() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let clock = Clock::anchored(start);
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert_eq!(clock.now(), start + Duration::from_secs(3_600));
        assert_eq!(clock.unix_seconds(), 4_600);
    }
}
