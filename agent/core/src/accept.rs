//! When accepting fails: counted, said once in a while and waited out, so that no accept loop ends or spins.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use parking_lot::Mutex;
use prometheus::IntCounterVec;
use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::metrics::Registry;

/// After an error that is not the connection's own fault (EMFILE, ENOBUFS): the time for others to end.
const PAUSE: Duration = Duration::from_millis(50);
/// A node without descriptors fails twenty times a second and listener: it is written once in this time.
const WARNING_EVERY: Duration = Duration::from_secs(10);

/// What all accept loops of the process share: one shortage is one trouble, whoever meets it.
#[derive(Clone, Debug)]
pub struct AcceptErrors {
    counts: IntCounterVec,
    warned: Arc<Mutex<Option<Instant>>>,
}

// === impl AcceptErrors ===

impl AcceptErrors {
    /// Nothing has failed yet.
    #[must_use]
    pub fn register(registry: &Registry) -> Self {
        let counts = registry.counters("accept_errors_total", "Failed accepts, by cause.", &["cause"]);
        Self { counts, warned: Arc::default() }
    }

    /// Returns when the loop may accept again.
    pub async fn wait_out(&self, error: &io::Error, listener: &'static str) {
        let cause = match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EMFILE | Errno::ENFILE) => "descriptors",
            Some(Errno::ENOBUFS | Errno::ENOMEM) => "memory",
            // The peer was gone before we came: nothing is wrong here, and nothing is to be waited for.
            Some(Errno::ECONNABORTED | Errno::EPROTO | Errno::EINTR) => "aborted",
            _ => "other",
        };
        self.counts.with_label_values(&[cause]).inc();
        if cause == "aborted" {
            return;
        }
        if self.warning_is_due() {
            warn!(%error, cause, listener, "connections cannot be accepted");
        }
        sleep(PAUSE).await;
    }

    fn warning_is_due(&self) -> bool {
        let mut warned = self.warned.lock();
        let due = warned.is_none_or(|at| at.elapsed() >= WARNING_EVERY);
        if due {
            *warned = Some(Instant::now());
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// P39: descriptors or memory that run out make an accept loop wait, not spin, and are said once in ten seconds.
    #[tokio::test(start_paused = true)]
    async fn a_shortage_is_waited_out_and_said_once_whichever_loop_meets_it() {
        let errors = AcceptErrors::register(&Registry::new());
        let (start, mut warnings) = (Instant::now(), 0);
        for errno in [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::ENOBUFS].repeat(100) {
            let before = *errors.warned.lock();
            errors.clone().wait_out(&errno.into(), "imds").await;
            warnings += usize::from(*errors.warned.lock() != before);
        }
        assert_eq!(start.elapsed(), 400 * PAUSE);
        // 20 seconds: at their beginning, after ten, and none after that.
        assert_eq!(warnings, 2);
        assert_eq!(errors.counts.with_label_values(&["descriptors"]).get(), 200);
        assert_eq!(errors.counts.with_label_values(&["memory"]).get(), 200);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_is_gone_costs_the_next_one_nothing() {
        let errors = AcceptErrors::register(&Registry::new());
        let start = Instant::now();
        for errno in [Errno::ECONNABORTED, Errno::EPROTO, Errno::EINTR] {
            errors.wait_out(&errno.into(), "imds").await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!(*errors.warned.lock(), None);
    }
}
