//! What can be made to go wrong with the double of STS.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// One way to fail.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The answer never comes.
    Stall,
    /// The right answer comes late.
    Delay(Duration),
    /// The connection is closed without an answer.
    Hangup,
    /// 500 `InternalFailure`.
    ServerError,
    /// An error of AWS's shape.
    Error {
        /// HTTP status.
        status: u16,
        /// AWS's code.
        code: &'static str,
        /// AWS's message.
        message: &'static str,
    },
    /// The right answer, cut in the middle.
    HalfAnswer,
    /// 200 with XML that does not close.
    Malformed,
    /// 302 to this address.
    Redirect(String),
    /// 200 with this content type, and the right answer changed so.
    Rewritten {
        /// `Content-Type`.
        content_type: &'static str,
        /// The body as it is sent.
        rewrite: fn(&str) -> String,
    },
    /// 200 with a body of 256 MiB.
    Flood,
}

/// Switches of the faults; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    every: Option<Fault>,
    of_role: HashMap<String, Fault>,
    per_second: Option<u32>,
    second: Option<(Instant, u32)>,
    session_life: Option<Duration>,
    clock_ahead_seconds: i64,
}

// === impl Fault ===

impl Fault {
    /// The code of the error it answers with.
    pub(super) fn code(&self) -> Option<&'static str> {
        match self {
            Self::ServerError => Some("InternalFailure"),
            Self::Error { code, .. } => Some(code),
            Self::Stall
            | Self::Delay(_)
            | Self::Hangup
            | Self::HalfAnswer
            | Self::Malformed
            | Self::Redirect(_)
            | Self::Rewritten { .. }
            | Self::Flood => None,
        }
    }
}

// === impl Faults ===

impl Faults {
    /// Every call fails so, or none.
    pub fn every(&self, fault: Option<Fault>) {
        self.state.lock().every = fault;
    }

    /// AssumeRole of the role of this name (last segment) fails so, or as every other.
    pub fn of_role(&self, name: &str, fault: Option<Fault>) {
        let mut state = self.state.lock();
        match fault {
            Some(fault) => state.of_role.insert(name.to_owned(), fault),
            None => state.of_role.remove(name),
        };
    }

    /// More calls than this in a second are throttled.
    pub fn throttle(&self, per_second: Option<u32>) {
        let mut state = self.state.lock();
        state.per_second = per_second;
        state.second = None;
    }

    /// Sessions end after this, whatever was asked for.
    pub fn session_life(&self, life: Option<Duration>) {
        self.state.lock().session_life = life;
    }

    /// STS's clock differs from this machine's.
    pub fn clock_ahead(&self, seconds: i64) {
        self.state.lock().clock_ahead_seconds = seconds;
    }

    /// No fault any more.
    pub fn clear(&self) {
        *self.state.lock() = State::default();
    }

    pub(super) fn for_role(&self, name: Option<&str>) -> Option<Fault> {
        let state = self.state.lock();
        name.and_then(|name| state.of_role.get(name)).or(state.every.as_ref()).cloned()
    }

    pub(super) fn throttles(&self) -> bool {
        let now = Instant::now();
        let mut state = self.state.lock();
        let Some(most) = state.per_second else { return false };
        let (since, used) = match state.second {
            Some((since, used)) if now.duration_since(since) < Duration::from_secs(1) => (since, used),
            _ => (now, 0),
        };
        state.second = Some((since, used.saturating_add(1)));
        used >= most
    }

    pub(super) fn life(&self, asked: Duration) -> Duration {
        self.state.lock().session_life.unwrap_or(asked)
    }

    pub(super) fn ahead_seconds(&self) -> i64 {
        self.state.lock().clock_ahead_seconds
    }
}
