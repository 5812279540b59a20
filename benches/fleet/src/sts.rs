//! STS as an account sees it: every call is counted, and throttled beyond the quota.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use rolegate::credentials::{CredentialSource, Session, SessionKey, SourceError};
use rolegate::types::{Clock, Secret};
use tokio::time::{Instant, sleep};

use super::tally::Tally;

/// What STS takes for an answer.
pub(super) const LATENCY: Duration = Duration::from_millis(150);

/// One account, of all nodes.
pub(super) struct Account {
    start: Instant,
    clock: Clock,
    state: Mutex<State>,
}

/// The account as a node calls it.
pub(super) struct Sts {
    pub(super) account: Arc<Account>,
    /// Which of its sessions are the first of their keys.
    pub(super) served: Mutex<std::collections::HashSet<SessionKey>>,
}

struct State {
    tally: Tally,
    quota: Option<Bucket>,
}

/// A second's worth of calls, refilled evenly. A throttled call takes nothing.
struct Bucket {
    per_second: f64,
    tokens: f64,
    at: Instant,
}

// === impl Account ===

impl Account {
    pub(super) fn new(start: Instant, clock: Clock, quota: Option<u32>) -> Self {
        let bucket = |quota| Bucket { per_second: f64::from(quota), tokens: f64::from(quota), at: start };
        let state = State { tally: Tally::default(), quota: quota.map(bucket) };
        Self { start, clock, state: Mutex::new(state) }
    }

    /// A pod has waited so long for its first credentials.
    pub(super) fn waited(&self, since: Instant) {
        self.state.lock().tally.asked.push(since.elapsed());
    }

    pub(super) fn tally(&self) -> Tally {
        std::mem::take(&mut self.state.lock().tally)
    }

    /// Whether the call gets a session.
    fn called(&self) -> bool {
        let now = Instant::now();
        let mut state = self.state.lock();
        let granted = state.quota.as_mut().is_none_or(|bucket| bucket.take(now));
        state.tally.called(now - self.start, granted);
        granted
    }
}

// === impl Bucket ===

impl Bucket {
    fn take(&mut self, now: Instant) -> bool {
        let refilled = self.tokens + (now - self.at).as_secs_f64() * self.per_second;
        self.tokens = refilled.min(self.per_second);
        self.at = now;
        let granted = self.tokens >= 1.0;
        if granted {
            self.tokens -= 1.0;
        }
        granted
    }
}

// === impl Sts ===

impl Sts {
    pub(super) fn new(account: &Arc<Account>) -> Self {
        Self { account: Arc::clone(account), served: Mutex::default() }
    }
}

impl CredentialSource for Sts {
    fn fetch(&self, key: SessionKey) -> BoxFuture<'static, Result<Session, SourceError>> {
        let granted = self.account.called();
        if granted && self.served.lock().insert(key.clone()) {
            let mut state = self.account.state.lock();
            state.tally.served.push(self.account.start.elapsed() + LATENCY);
        }
        let clock = self.account.clock.clone();
        Box::pin(async move {
            sleep(LATENCY).await;
            if !granted {
                return Err(SourceError::Throttled);
            }
            let now = clock.now();
            Ok(Session {
                access_key_id: String::new(),
                secret_access_key: Secret::new(String::new()),
                token: Secret::new(String::new()),
                expiration: now + key.duration,
                received: now,
                document: Bytes::new(),
            })
        })
    }
}
