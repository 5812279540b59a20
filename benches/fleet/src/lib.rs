//! A fleet of nodes on a paused clock: what its agents ask of STS.
//!
//! Of the agent everything is real that decides when STS is called: index, policy, prefetch and broker, one of each
//! per node. STS is a double that counts, and can have the account's quota. Jitter comes from seeds, so that a run can be
//! repeated to the call.

mod node;
mod sts;
mod tally;

use std::sync::Arc;
use std::time::Duration;

use rolegate::policy::Policy;
use rolegate::types::Clock;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use self::node::Node;
use self::sts::Account;
pub use self::tally::{Tally, Waits};

/// What STS lets an account call `AssumeRole`, requests per second: its default quota.
pub const QUOTA: u32 = 600;

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Fleet {
    /// How many nodes; all start at once.
    pub nodes: u64,
    /// Session keys of each node, each wanted by one pod.
    pub roles: usize,
    /// How long sessions last.
    pub session: Duration,
    /// How long it goes on.
    pub lasts: Duration,
    /// STS throttles beyond so many requests per second.
    pub quota: Option<u32>,
    /// One pod in so many asks from the start on, all others find their credentials when they ask.
    pub one_asks_in: usize,
    /// All agents are started again, a tenth of them at a time.
    pub restart: Option<Restart>,
}

/// A rolling restart.
#[derive(Clone, Copy, Debug)]
pub struct Restart {
    /// When the first tenth of the nodes is restarted.
    pub at: Duration,
    /// Between one tenth and the next.
    pub every: Duration,
}

// === impl Fleet ===

impl Fleet {
    /// From one refresh of a session to the next, on average: the refresh age or half the session's life, less half of the
    /// jitter's 6 %, and the call.
    #[must_use]
    pub fn round(&self) -> Duration {
        node::REFRESH_AGE.min(self.session / 2) * 97 / 100 + sts::LATENCY
    }

    /// Whole rounds before the restart, from between the start and the first.
    #[must_use]
    pub fn rounds(&self) -> std::ops::Range<usize> {
        let (round, end) = (self.round(), self.restart.map_or(self.lasts, |restart| restart.at));
        let whole = |time: Duration| usize::try_from(time.as_secs()).unwrap_or(usize::MAX);
        let count = end.saturating_sub(round / 2).as_secs() / round.as_secs().max(1);
        whole(round / 2)..whole(round / 2 + round * u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// Plays it; what STS saw, and how long pods waited.
    ///
    /// # Errors
    /// When there is no runtime to be had.
    pub fn run(&self) -> std::io::Result<Tally> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
        Ok(runtime.block_on(self.play()))
    }

    async fn play(&self) -> Tally {
        let start = Instant::now();
        let clock = Clock::anchored(std::time::SystemTime::UNIX_EPOCH + node::FIRST_DAY);
        let account = Arc::new(Account::new(start, clock.clone(), self.quota));
        let policy = Arc::new(Policy::new(node::rules(self.session), None));
        let tasks = TaskTracker::new();
        for number in 0..self.nodes {
            let node = Node::new(number, self.roles, self.one_asks_in, &account, &policy, &clock);
            let restart = self.restart.map(|restart| {
                let tenth = u32::try_from(number * 10 / self.nodes).unwrap_or_default();
                start + restart.at + restart.every * tenth
            });
            tasks.spawn(node.live(restart, start + self.lasts));
        }
        tasks.close();
        tasks.wait().await;
        account.tally()
    }
}
