//! How many calls leave this node, how fast, and whose turn it is.
//!
//! Three things hold a call back, all of them for the whole node: calls in flight (those younger than a second
//! fewer still: halved when STS throttles, one more with each answer), a bucket of calls, and a pause after
//! throttling.
//! Whoever waits, waits in one [`queue`]: demand before prefetch before refresh, and pod by pod. A pod that has
//! had more than its share makes do with half of the calls in flight and the upper half of the bucket. Retries
//! of what failed for want of an answer pass [`Pace::may_retry`] first, so that an outage costs one retry per
//! second and node.

mod queue;

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use self::queue::Queue;
use crate::config;
use crate::types::PodUid;

/// First pause after STS throttles; doubles up to [`THROTTLE_PAUSE_MAX`].
const THROTTLE_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause after STS throttles: its buckets refill every second (STS quota: calls per second).
const THROTTLE_PAUSE_MAX: Duration = Duration::from_secs(2);
/// A call of this age hangs: it counts among those in flight, but says nothing about throttling.
const HANGS_AFTER: Duration = Duration::from_secs(1);
/// Failures in a row, each of another key than the one before, that make an outage of the node's.
const OUTAGE_AFTER: u32 = 8;
/// One retry in this time while the outage lasts.
const OUTAGE_RETRY_EVERY: Duration = Duration::from_secs(1);

/// What a call is for; earlier ones go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    /// A pod waits for it.
    Demand,
    /// A pod is there that will ask.
    Prefetch,
    /// A session has come of age.
    Refresh,
}

/// A place in the queue: made with its cause, moved to the front when somebody waits for it.
#[derive(Debug)]
pub(super) struct Ticket {
    number: u64,
    cause: Cause,
    urgent: AtomicBool,
    /// The pod in whose line it waits.
    asker: Mutex<Option<PodUid>>,
    turn: Notify,
}

/// The limits of the node.
#[derive(Debug)]
pub(super) struct Pace {
    state: Mutex<State>,
    recovered: Notify,
    most_in_flight: usize,
    call_every: Duration,
    burst: Duration,
    /// Of the node's jitter.
    seed: u64,
}

#[derive(Debug)]
struct State {
    queue: Queue,
    tickets: u64,
    /// When the calls in flight were granted, in that order.
    in_flight: VecDeque<Instant>,
    window: usize,
    /// The bucket as a point in time: it is full when this is past, empty when `burst` ahead.
    spent_until: Instant,
    paused_until: Instant,
    pauses: u32,
    paused_at: Option<Instant>,
    outage: Outage,
}

#[derive(Debug)]
struct Outage {
    failures: u32,
    last_key: Option<u64>,
    next_retry: Instant,
}

/// The right to make one call; given back when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    pace: Arc<Pace>,
    granted: Instant,
}

enum Turn {
    Now,
    At(Instant),
    Later,
}

/// Leaves the queue however the wait ends.
struct Place<'a> {
    pace: &'a Pace,
    ticket: &'a Arc<Ticket>,
}

// === impl Cause ===

impl Cause {
    /// The label's value.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Demand => "demand",
            Self::Prefetch => "prefetch",
            Self::Refresh => "refresh",
        }
    }
}

// === impl Ticket ===

impl Ticket {
    /// What the call is for by now.
    pub(super) fn cause(&self) -> Cause {
        if self.urgent.load(Ordering::Acquire) { Cause::Demand } else { self.cause }
    }
}

// === impl Pace ===

impl Pace {
    pub(super) fn new(config: &config::Credentials, seed: u64) -> Arc<Self> {
        let now = Instant::now();
        let call_every = Duration::from_secs(1) / config.calls_per_second.max(1);
        let most_in_flight = config.calls_in_flight.max(1);
        Arc::new(Self {
            state: Mutex::new(State {
                queue: Queue::default(),
                tickets: 0,
                in_flight: VecDeque::new(),
                window: most_in_flight,
                spent_until: now,
                paused_until: now,
                pauses: 0,
                paused_at: None,
                outage: Outage { failures: 0, last_key: None, next_retry: now },
            }),
            recovered: Notify::new(),
            most_in_flight,
            call_every,
            burst: call_every * config.calls_burst.max(1),
            seed,
        })
    }

    /// A ticket for a call that is made for `asker`.
    pub(super) fn ticket(&self, cause: Cause, asker: Option<PodUid>) -> Arc<Ticket> {
        let mut state = self.state.lock();
        state.tickets += 1;
        Arc::new(Ticket {
            number: state.tickets,
            cause,
            urgent: AtomicBool::new(cause == Cause::Demand),
            asker: Mutex::new(asker),
            turn: Notify::new(),
        })
    }

    /// This pod waits for this one now.
    pub(super) fn hurry(&self, ticket: &Arc<Ticket>, asker: &PodUid) {
        ticket.urgent.store(true, Ordering::Release);
        let mut state = self.state.lock();
        state.queue.hurry(ticket, asker);
        state.wake_first();
    }

    /// Waits for the ticket's turn.
    pub(super) async fn permit(self: &Arc<Self>, ticket: &Arc<Ticket>) -> Permit {
        self.state.lock().join(ticket, Instant::now());
        let place = Place { pace: self, ticket };
        loop {
            let now = Instant::now();
            match self.turn(ticket, now) {
                Turn::Now => {
                    drop(place);
                    return Permit { pace: Arc::clone(self), granted: now };
                }
                Turn::At(when) => tokio::select! {
                    () = ticket.turn.notified() => {}
                    () = sleep_until(when) => {}
                },
                Turn::Later => ticket.turn.notified().await,
            }
        }
    }

    /// Waits until `earliest`, and then, while STS is out for the whole node, for one of the few retries.
    pub(super) async fn may_retry(&self, earliest: Instant) {
        loop {
            // Registered before the look, so that a recovery in between is not missed.
            let recovered = self.recovered.notified();
            let Some(when) = self.retry_at(earliest, Instant::now()) else { return };
            tokio::select! {
                () = recovered => return,
                () = sleep_until(when) => {}
            }
        }
    }

    /// Resolves when STS is back after an outage that a call `started` then has hung in.
    pub(super) async fn came_back(&self, started: Instant) {
        loop {
            self.recovered.notified().await;
            if started.elapsed() > HANGS_AFTER {
                return;
            }
        }
    }

    /// A call for the key `id` ended without an answer of STS.
    pub(super) fn failed(&self, id: u64) {
        let outage = &mut self.state.lock().outage;
        if outage.last_key.replace(id) != Some(id) {
            outage.failures = outage.failures.saturating_add(1);
        }
    }

    /// STS answered, and did not throttle. When that ends an outage, those who wait to retry need not.
    pub(super) fn answered(&self) {
        let mut state = self.state.lock();
        state.pauses = 0;
        state.window = (state.window + 1).min(self.most_in_flight);
        state.wake_first();
        let outage_over = state.outage.end();
        drop(state);
        if outage_over {
            self.recovered.notify_waiters();
        }
    }

    /// STS throttled the call of `permit`: everybody waits. Calls that left before the last pause say nothing new.
    pub(super) fn throttled(&self, permit: &Permit) {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.outage.end();
        if state.paused_at.is_some_and(|paused| permit.granted <= paused) {
            return;
        }
        let pause = THROTTLE_PAUSE.saturating_mul(1 << state.pauses.min(16)).min(THROTTLE_PAUSE_MAX);
        state.pauses += 1;
        state.window = (state.window / 2).max(1);
        state.paused_at = Some(now);
        state.paused_until = now + self.jitter(pause, 500, (0, u64::from(state.pauses)));
    }

    /// True if STS has throttled this node within `time`.
    pub(super) fn throttled_within(&self, time: Duration) -> bool {
        self.state.lock().paused_at.is_some_and(|paused| paused.elapsed() < time)
    }

    /// `most`, less up to `permille` thousandths of it: the same for the same `of`, another on another node.
    pub(super) fn jitter(&self, most: Duration, permille: u32, of: (u64, u64)) -> Duration {
        let mut hasher = DefaultHasher::new();
        (self.seed, of).hash(&mut hasher);
        let less = u32::try_from(hasher.finish() % (u64::from(permille) + 1)).unwrap_or(0);
        most - most * less / 1000
    }

    fn turn(&self, ticket: &Ticket, now: Instant) -> Turn {
        let mut state = self.state.lock();
        let Some(first) = state.queue.first().filter(|first| first.ticket.number == ticket.number) else {
            return Turn::Later;
        };
        let (in_flight, burst) = if first.greedy {
            (self.most_in_flight.div_ceil(2), self.burst / 2)
        } else {
            (self.most_in_flight, self.burst)
        };
        if state.in_flight.len() >= in_flight {
            return Turn::Later;
        }
        let window_at = state.window_at(now).unwrap_or(now);
        let bucket_at = (state.spent_until + self.call_every).checked_sub(burst).unwrap_or(now);
        let when = bucket_at.max(state.paused_until).max(window_at);
        if when > now {
            return Turn::At(when);
        }
        state.spent_until = state.spent_until.max(now) + self.call_every;
        state.in_flight.push_back(now);
        state.queue.take_first();
        Turn::Now
    }

    fn retry_at(&self, earliest: Instant, now: Instant) -> Option<Instant> {
        if earliest > now {
            return Some(earliest);
        }
        let outage = &mut self.state.lock().outage;
        if outage.failures < OUTAGE_AFTER {
            return None;
        }
        if outage.next_retry > now {
            return Some(outage.next_retry);
        }
        outage.next_retry = now + OUTAGE_RETRY_EVERY;
        None
    }
}

// === impl State ===

impl State {
    /// When enough of the calls in flight are done or count as hanging; `None`: now.
    fn window_at(&self, now: Instant) -> Option<Instant> {
        let last = self.in_flight.iter().rev().nth(self.window - 1)?;
        Some(*last + HANGS_AFTER).filter(|when| *when > now)
    }

    fn join(&mut self, ticket: &Arc<Ticket>, now: Instant) {
        if self.spent_until <= now {
            self.queue.rest();
        }
        self.queue.join(ticket);
    }

    fn wake_first(&self) {
        if let Some(first) = self.queue.first() {
            first.ticket.turn.notify_one();
        }
    }
}

// === impl Outage ===

impl Outage {
    /// True if there was one.
    fn end(&mut self) -> bool {
        self.last_key = None;
        std::mem::take(&mut self.failures) >= OUTAGE_AFTER
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.pace.state.lock();
        state.queue.leave(self.ticket);
        state.wake_first();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.pace.state.lock();
        if let Some(at) = state.in_flight.iter().position(|granted| *granted == self.granted) {
            state.in_flight.remove(at);
        }
        state.wake_first();
    }
}
