//! Keeps one session per key: one fetch at a time, refreshed ahead of need, kept through failures.
//!
//! A fetch is a task of the broker. Requests wait for it with deadlines of their own; one that leaves
//! neither cancels nor repeats it. `moka` bounds how many keys are known and forgets; whether a session is
//! fresh is decided here.
//!
//! **Freshness.** A session is refreshed at the age of `refresh_age` or half its life, whichever comes
//! first, less up to 6 %, so that a node's keys do not refresh together and what is handed out has
//! life − `refresh_age` or more left; less up to half where STS has throttled this node within `refresh_age`. It is kept through every failure, refusals included, until 60 s (or a
//! tenth of a life under ten minutes) before the end that STS gave.
//!
//! **Refusals** are remembered for 15 s growing to 2 min (`error_ttl`: a fixed time), and forgotten at once
//! when a pod asks that was not told yet, or whose annotations were edited since.
//!
//! **Calls during an outage.** While pods ask, each key's first call goes out at once and its retries after
//! 0.1 s growing to 1 s (less up to a quarter); from eight failures of differing keys in a row on, the node
//! makes one retry per second in all, until one is answered: then everybody retries at once. Retries that
//! nobody waits for (refresh, prefetch) come after 5 s growing to 30 s per key, under the same bound. So an
//! outage costs a node one call per second, one for each key, and sixteen until it is noticed (of two keys that
//! take turns unevenly every other call counts), or, where all pods share one key, at most four calls in three
//! seconds and four; service that returns is found within about a second, and within five where the only key's
//! connection hangs.
//!
//! **Shares.** The node makes 32 calls at once and 50 in a burst, then five per second, whatever pods ask. Each
//! pod's calls wait in a line of their own, and lines take turns. A pod that has had more than eight calls since
//! the bucket was full makes do with half of both. A fetch that waits for its turn is given up when no live pod
//! wants its key and no request waits for it.

mod cell;
mod flight;
mod meter;
mod pace;
mod refusal;
mod seat;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::cell::{Cell, Due, Found, Held};
use self::meter::Meter;
use self::pace::{Cause, Pace};
use self::refusal::Asker;
use super::source::{CredentialSource, Session, SessionKey};
use crate::config;
use crate::metrics::Registry;
use crate::types::{Clock, PodUid, RoleArn};

/// Most keys known at once: the kubelet allows 110 pods by default, and a pod has one key at a time.
const KEYS_MAX: u64 = 4_096;
/// Longest call, the connection and the agent's own credentials included. STS answers in tens to hundreds of
/// milliseconds; no request waits that long, so the result is for the next one.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a role is asked for an hour only after STS said that its sessions may not be longer.
const SHORT_ROLE_MEMORY: Duration = Duration::from_secs(24 * 60 * 60);
/// Longest time between two looks at all cells, for the gauges and for wall clocks that step.
const SWEEP_EVERY: Duration = Duration::from_secs(15);
/// Shortest time between two looks.
const SWEEP_PAUSE: Duration = Duration::from_millis(5);

/// How a fetch ends.
type Outcome = Result<Arc<Session>, BrokerError>;

/// Who asks for what.
#[derive(Clone, Debug)]
pub struct Ask {
    /// What is asked for.
    pub key: SessionKey,
    /// The pod that asks.
    pub asker: PodUid,
    /// Changes when the pod's annotations do, such as a hash of them.
    pub revision: u64,
}

/// A key that live pods want.
#[derive(Clone, Debug)]
pub struct Desired {
    /// What they will ask for.
    pub key: SessionKey,
    /// The pods.
    pub pods: Vec<PodUid>,
}

/// Why there is no session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// STS refuses: the operator must mend the role's trust policy, the external id or the node's permission.
    #[error("STS refuses: {message}")]
    Unauthorized {
        /// STS's message.
        message: String,
    },
    /// STS finds the request wrong: the operator must mend the role or the configuration.
    #[error("STS rejects the request ({code}): {message}")]
    Rejected {
        /// STS's code.
        code: String,
        /// STS's message.
        message: String,
    },
    /// The deadline passed while the fetch was under way; it goes on, and the next request finds its result.
    #[error("the deadline passed before STS answered")]
    Timeout,
    /// No answer of STS, or the agent's own credentials fail.
    #[error("no session: {reason}")]
    Unavailable {
        /// What happened last.
        reason: String,
    },
}

/// A key that the broker knows, for the debug page: nothing secret.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key.
    pub key: SessionKey,
    /// The session's public part and its end, if one can be served.
    pub session: Option<(String, SystemTime)>,
    /// Live pods want it.
    pub desired: bool,
}

/// Hands out sessions; cheap to clone.
#[derive(Clone)]
pub struct Broker {
    shared: Arc<Shared>,
}

struct Shared {
    source: Arc<dyn CredentialSource>,
    config: config::Credentials,
    clock: Clock,
    tasks: TaskTracker,
    render: fn(&Session) -> Bytes,
    meter: Meter,
    cells: Cache<SessionKey, Arc<Cell>>,
    /// Held while a cell is looked up to begin a fetch in it, and while cells are forgotten: no fetch begins in
    /// one that has just been forgotten, beside that of its successor.
    looking: Mutex<()>,
    ids: AtomicU64,
    /// Roles whose sessions may last an hour at most.
    short_roles: Cache<RoleArn, ()>,
    pace: Arc<Pace>,
    changed: Notify,
    closing: CancellationToken,
}

// === impl BrokerError ===

impl BrokerError {
    /// A fixed word for metrics and the audit line.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unauthorized { .. } => "unauthorized",
            Self::Rejected { .. } => "rejected",
            Self::Timeout => "timeout",
            Self::Unavailable { .. } => "unavailable",
        }
    }
}

// === impl Broker ===

impl Broker {
    /// A broker without sessions. Fetches are spawned on `tasks`; `render` makes a session's document.
    /// Nothing is refreshed or prefetched unless [`Broker::run`] runs.
    #[must_use]
    pub fn new(
        source: Arc<dyn CredentialSource>,
        config: config::Credentials,
        clock: Clock,
        tasks: TaskTracker,
        render: fn(&Session) -> Bytes,
        registry: &Registry,
    ) -> Self {
        let seed = RandomState::new().hash_one(());
        Self::seeded(seed, source, config, clock, tasks, render, registry)
    }

    /// The same, with jitter that `seed` decides: what is simulated can be repeated.
    #[must_use]
    pub fn seeded(
        seed: u64,
        source: Arc<dyn CredentialSource>,
        config: config::Credentials,
        clock: Clock,
        tasks: TaskTracker,
        render: fn(&Session) -> Bytes,
        registry: &Registry,
    ) -> Self {
        let cells = Cache::builder()
            .max_capacity(KEYS_MAX)
            .eviction_policy(EvictionPolicy::lru())
            .eviction_listener(|_, cell: Arc<Cell>, _| {
                cell.forget();
            })
            .build();
        let short_roles = Cache::builder().max_capacity(KEYS_MAX).time_to_live(SHORT_ROLE_MEMORY).build();
        let pace = Pace::new(&config, seed);
        Self {
            shared: Arc::new(Shared {
                source,
                config,
                clock,
                tasks,
                render,
                meter: Meter::register(registry),
                cells,
                looking: Mutex::new(()),
                ids: AtomicU64::new(0),
                short_roles,
                pace,
                changed: Notify::new(),
                closing: CancellationToken::new(),
            }),
        }
    }

    /// The session of `key` if it is there and may be handed out: memory only, no waiting, nothing started.
    #[must_use]
    pub fn cached(&self, key: &SessionKey) -> Option<Arc<Session>> {
        let held = self.shared.cells.get(key)?.hand_out(self.shared.clock.now())?;
        Some(self.shared.serve(held))
    }

    /// A session for `ask`, from memory or from the fetch under way, which it begins if there is none.
    ///
    /// # Errors
    /// [`BrokerError`]; [`BrokerError::Timeout`] when `deadline` passes first.
    pub async fn get(&self, ask: &Ask, deadline: Instant) -> Result<Arc<Session>, BrokerError> {
        if let Some(session) = self.cached(&ask.key) {
            return Ok(session);
        }
        let shared = &self.shared;
        let (cell, found) = shared.look(ask);
        let mut seat = match found {
            Found::Session(held) => return Ok(shared.serve(held)),
            Found::Refused(error) => {
                shared.meter.refused_remembered.inc();
                return Err(error);
            }
            Found::Joined(seat) => {
                shared.meter.coalesced.inc();
                shared.pace.hurry(&seat.flight().ticket, &ask.asker);
                seat
            }
            Found::Began(seat, flight) => {
                shared.meter.miss.inc();
                shared.launch(cell, flight);
                seat
            }
        };
        timeout_at(deadline, seat.outcome()).await.unwrap_or_else(|_| {
            shared.meter.timeout.inc();
            Err(BrokerError::Timeout)
        })
    }

    /// Sets which keys live pods want, level-triggered: keys that fell out are forgotten, as is what was got
    /// for pods who are all gone; [`Broker::run`] fetches what is new.
    pub fn set_desired(&self, desired: Vec<Desired>) {
        let mut wanted: HashMap<SessionKey, BTreeSet<PodUid>> = HashMap::with_capacity(desired.len());
        for Desired { key, pods } in desired {
            wanted.entry(key).or_default().extend(pods);
        }
        let cells = &self.shared.cells;
        let looking = self.shared.looking.lock();
        for (key, cell) in cells {
            if cell.desired() && !wanted.contains_key(key.as_ref()) && cell.forget() {
                cells.invalidate(key.as_ref());
            }
        }
        // In the order of pods, not in that of hashes: what is new is fetched in the order in which it is heard of.
        let mut wanted: Vec<_> = wanted.into_iter().collect();
        wanted.sort_unstable_by(|(_, one), (_, other)| one.first().cmp(&other.first()));
        for (key, pods) in wanted {
            self.shared.cell(&key).want(&pods);
        }
        drop(looking);
        self.shared.changed.notify_one();
    }

    /// Refreshes, prefetches and forgets until `shutdown`. What is queued for nobody's request then ends.
    pub async fn run(self, shutdown: CancellationToken) {
        loop {
            let next = self.shared.sweep();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                () = sleep_until(next) => {}
                () = self.shared.changed.notified() => {}
            }
        }
        self.shared.closing.cancel();
    }

    /// Every key known.
    #[must_use]
    pub fn list(&self) -> Vec<Entry> {
        let wall = self.shared.clock.now();
        let entry = |(key, cell): (Arc<SessionKey>, Arc<Cell>)| Entry {
            key: key.as_ref().clone(),
            session: cell
                .usable(wall)
                .map(|held| (held.session.access_key_id.clone(), held.session.expiration)),
            desired: cell.desired(),
        };
        self.shared.cells.iter().map(entry).collect()
    }
}

// === impl Shared ===

impl Shared {
    fn serve(&self, held: Held) -> Arc<Session> {
        let counter = if held.stale() { &self.meter.stale } else { &self.meter.hit };
        counter.inc();
        held.session
    }

    /// Looks for what is asked for, and joins or begins a fetch.
    fn look(&self, ask: &Ask) -> (Arc<Cell>, Found) {
        let asker: Asker = (ask.asker.clone(), ask.revision);
        let ticket = || self.pace.ticket(Cause::Demand, Some(ask.asker.clone()));
        let looking = self.looking.lock();
        let cell = self.cell(&ask.key);
        let found = cell.ask(&asker, self.clock.now(), ticket);
        drop(looking);
        (cell, found)
    }

    fn cell(&self, key: &SessionKey) -> Arc<Cell> {
        self.cells.get_with_by_ref(key, || {
            Arc::new(Cell::new(key.clone(), self.ids.fetch_add(1, Ordering::Relaxed)))
        })
    }

    /// Looks at every cell, does what is due, and says when to look again.
    fn sweep(self: &Arc<Self>) -> Instant {
        let now = Instant::now();
        let mut next = now + SWEEP_EVERY;
        let mut held = meter::Held::default();
        let wall = self.clock.now();
        let mut due = Vec::new();
        let looking = self.looking.lock();
        for (key, cell) in &self.cells {
            if let Some(usable) = cell.usable(wall) {
                held.add(usable.session.expiration, usable.age());
            }
            match cell.due(self.config.prefetch, self.config.refresh_age + CALL_TIMEOUT) {
                Due::Idle => {}
                Due::At(when) => next = next.min(when),
                Due::Forget => self.cells.invalidate(key.as_ref()),
                Due::Fetch(cause) => due.push((cause, cell)),
            }
        }
        // In the order in which they were first heard of, not in that of hashes.
        due.sort_unstable_by_key(|(_, cell)| cell.id);
        for (cause, cell) in due {
            if let Some(flight) = cell.begin(|pod| self.pace.ticket(cause, pod)) {
                self.launch(cell, flight);
            }
        }
        drop(looking);
        self.meter.show(held);
        next.max(now + SWEEP_PAUSE)
    }
}
