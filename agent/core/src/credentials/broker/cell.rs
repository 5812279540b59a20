//! One key: the session held, the refusal remembered, the fetch under way, and who wants it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::pace::{Cause, Ticket};
use super::refusal::{Asker, Refusal};
use super::seat::{Flight, Seat};
use super::{BrokerError, Outcome};
use crate::credentials::source::{Session, SessionKey};
use crate::types::PodUid;

/// A session is never handed out with less than this left, or less than [`FLOOR_SHARE`] of a short one.
const FLOOR: Duration = Duration::from_secs(60);
/// Sessions shorter than ten minutes are kept until a tenth of their life is left.
const FLOOR_SHARE: u32 = 10;
/// First pause before a retry that somebody waits for; doubles up to [`WAITED_PAUSE_MAX`].
const WAITED_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause before a retry that somebody waits for.
const WAITED_PAUSE_MAX: Duration = Duration::from_secs(1);
/// First pause before a retry that nobody waits for; doubles up to [`UNWAITED_PAUSE_MAX`].
const UNWAITED_PAUSE: Duration = Duration::from_secs(5);
/// Longest pause before a retry that nobody waits for.
const UNWAITED_PAUSE_MAX: Duration = Duration::from_secs(30);

/// Everything known about one key.
#[derive(Debug)]
pub(super) struct Cell {
    pub(super) key: SessionKey,
    /// Stands for the key where only difference counts.
    pub(super) id: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    held: Option<Held>,
    refusal: Refusal,
    flight: Option<Arc<Flight>>,
    failures: u32,
    /// After a failure: when somebody who waits, and when nobody's fetch, may call again.
    retry_waited: Instant,
    retry_unwaited: Instant,
    /// Live pods that this key is for, as the last desired set had it.
    desired: Option<BTreeSet<PodUid>>,
    /// Nobody wants it: it goes as soon as no fetch is under way.
    forgotten: bool,
    asked: Instant,
}

/// A session and until when it is good.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) session: Arc<Session>,
    /// Last moment to hand it out, by the wall clock: the end that STS gave, less the floor.
    wall_end: SystemTime,
    /// The same by the clock that does not step; whichever comes first.
    end: Instant,
    received: Instant,
    refresh_at: Instant,
}

/// What a request finds.
pub(super) enum Found {
    /// A session.
    Session(Held),
    /// What STS said a while ago.
    Refused(BrokerError),
    /// A fetch under way.
    Joined(Seat),
    /// A fetch that has just been made and must be started.
    Began(Seat, Arc<Flight>),
}

/// What is to be done with a cell by the sweep.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing until something happens to it.
    Idle,
    /// Something at that time.
    At(Instant),
    /// Fetch now.
    Fetch(Cause),
    /// Nobody wants it.
    Forget,
}

// === impl Cell ===

impl Cell {
    pub(super) fn new(key: SessionKey, id: u64) -> Self {
        let now = Instant::now();
        let state = State {
            held: None,
            refusal: Refusal::default(),
            flight: None,
            failures: 0,
            retry_waited: now,
            retry_unwaited: now,
            desired: None,
            forgotten: false,
            asked: now,
        };
        Self { key, id, state: Mutex::new(state) }
    }

    /// The session, if it may be handed out.
    pub(super) fn usable(&self, wall: SystemTime) -> Option<Held> {
        self.state.lock().held.as_ref().filter(|held| held.usable(wall)).cloned()
    }

    /// The same, for somebody who asks.
    pub(super) fn hand_out(&self, wall: SystemTime) -> Option<Held> {
        let mut state = self.state.lock();
        state.asked = Instant::now();
        state.held.as_ref().filter(|held| held.usable(wall)).cloned()
    }

    /// Looks, and joins or begins a fetch, in one step.
    pub(super) fn ask(&self, asker: &Asker, wall: SystemTime, ticket: impl FnOnce() -> Arc<Ticket>) -> Found {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.asked = now;
        state.forgotten = false;
        if let Some(held) = state.held.as_ref().filter(|held| held.usable(wall)) {
            return Found::Session(held.clone());
        }
        if let Some(flight) = &state.flight {
            return Found::Joined(flight.seat(asker));
        }
        if let Some(error) = state.refusal.remembered(asker, now) {
            return Found::Refused(error);
        }
        let flight = Flight::new(ticket());
        state.flight = Some(Arc::clone(&flight));
        Found::Began(flight.seat(asker), flight)
    }

    /// Begins a fetch that nobody waits for, unless one is under way; for one of the pods that will ask.
    pub(super) fn begin(&self, ticket: impl FnOnce(Option<PodUid>) -> Arc<Ticket>) -> Option<Arc<Flight>> {
        let mut state = self.state.lock();
        if state.flight.is_some() {
            return None;
        }
        let pod = state.desired.as_ref().and_then(BTreeSet::first).cloned();
        let flight = Flight::new(ticket(pod));
        state.flight = Some(Arc::clone(&flight));
        Some(flight)
    }

    /// Takes what was fetched. One that ends before the one held is not handed out: no going backwards.
    pub(super) fn succeeded(&self, flight: &Flight, fetched: Held) {
        let mut state = self.state.lock();
        let refresh_at = fetched.refresh_at;
        let held = match state.held.take() {
            Some(old) if old.session.expiration > fetched.session.expiration => Held { refresh_at, ..old },
            _ => fetched,
        };
        let outcome = Ok(Arc::clone(&held.session));
        state.held = Some(held);
        state.answered();
        state.refusal = Refusal::default();
        state.land(flight, outcome);
    }

    /// STS said no: remembered, and said to those who wait; a session held is kept.
    pub(super) fn refused(&self, flight: &Flight, error: BrokerError, fixed: Option<Duration>) {
        let mut state = self.state.lock();
        state.refusal.remember(error.clone(), flight.take_askers(), fixed);
        state.answered();
        state.land(flight, Err(error));
    }

    /// No answer. The flight goes on while somebody waits for it, unless it is the `last`. `jitter` shortens
    /// the pauses.
    pub(super) fn failed(
        &self,
        flight: &Flight,
        error: BrokerError,
        last: bool,
        jitter: impl Fn(Duration) -> Duration,
    ) {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.failures = state.failures.saturating_add(1);
        state.retry_waited = now + jitter(doubled(WAITED_PAUSE, state.failures, WAITED_PAUSE_MAX));
        state.retry_unwaited = now + jitter(state.unwaited_pause(now));
        if last || !flight.waited() {
            state.land(flight, Err(error));
        }
    }

    /// After failures: how many, and when the next call may be made. Where nobody waits, the sweep has kept
    /// the pause already.
    pub(super) fn retry(&self, waited: bool) -> Option<(u32, Instant)> {
        let state = self.state.lock();
        let at = if waited { state.retry_waited } else { Instant::now() };
        (state.failures > 0).then_some((state.failures, at))
    }

    /// Sets who wants the key. Where they are all others than before, what is held was got for those who are
    /// gone.
    pub(super) fn want(&self, pods: &BTreeSet<PodUid>) {
        let mut state = self.state.lock();
        if state.desired.as_ref().is_some_and(|old| old.is_disjoint(pods)) {
            state.held = None;
        }
        state.refusal.retain(pods);
        state.desired = Some(pods.clone());
        state.forgotten = false;
    }

    /// Nobody wants the key any more: what is known of it is dropped. `false`: a fetch is under way, and the
    /// cell stays until it ends, so that the next who asks does not begin a second one.
    pub(super) fn forget(&self) -> bool {
        let mut state = self.state.lock();
        state.held = None;
        state.refusal = Refusal::default();
        state.desired = None;
        state.forgotten = true;
        match &state.flight {
            Some(flight) => flight.desert(),
            None => return true,
        }
        false
    }

    /// Ends a flight that waits for its turn, if its key is forgotten and nobody waits for it.
    pub(super) fn give_up(&self, flight: &Flight) -> bool {
        let mut state = self.state.lock();
        let unwanted = state.forgotten && !flight.waited();
        if unwanted {
            state.land(flight, Err(BrokerError::Unavailable { reason: "nobody wants it any more".into() }));
        }
        unwanted
    }

    /// True if the last desired set had the key.
    pub(super) fn desired(&self) -> bool {
        self.state.lock().desired.is_some()
    }

    /// What the sweep has to do: computed from the state alone. A key that no live pod is known to want is
    /// forgotten `keep_asked` after it was asked for last.
    pub(super) fn due(&self, prefetch: bool, keep_asked: Duration) -> Due {
        let now = Instant::now();
        let state = self.state.lock();
        if state.flight.is_some() {
            return Due::Idle;
        }
        let forget_at = state.asked + keep_asked;
        if state.forgotten || state.desired.is_none() && forget_at <= now {
            return Due::Forget;
        }
        let (cause, at) = match &state.held {
            Some(held) => (Cause::Refresh, held.refresh_at),
            None if state.desired.is_some() && prefetch => (Cause::Prefetch, now),
            None if state.desired.is_some() => return Due::Idle,
            None => return Due::At(forget_at),
        };
        // One reading of the clock for all of it: a second one is later, and nothing would ever be due.
        let at = at.max(state.retry_unwaited).max(state.refusal.until().unwrap_or(at));
        if at <= now { Due::Fetch(cause) } else { Due::At(at) }
    }
}

// === impl State ===

impl State {
    fn answered(&mut self) {
        self.failures = 0;
        self.retry_unwaited = Instant::now();
    }

    fn land(&mut self, flight: &Flight, outcome: Outcome) {
        if self.flight.as_ref().is_some_and(|mine| std::ptr::eq(mine.as_ref(), flight)) {
            self.flight = None;
        }
        flight.land(outcome);
    }

    /// Doubling pauses, but at least four tries in what is left of a session.
    fn unwaited_pause(&self, now: Instant) -> Duration {
        let pause = doubled(UNWAITED_PAUSE, self.failures, UNWAITED_PAUSE_MAX);
        let left = self.held.as_ref().map(|held| held.end.saturating_duration_since(now) / 4);
        left.map_or(pause, |left| pause.min(left.max(WAITED_PAUSE_MAX)))
    }
}

/// `first` doubled with each failure after the first.
fn doubled(first: Duration, failures: u32, most: Duration) -> Duration {
    first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(most)
}

// === impl Held ===

impl Held {
    /// `None`: by this node's clock it has ended already. It comes of age at `refresh_age`, or half its life if
    /// that is less, made earlier by `jitter`.
    pub(super) fn new(
        session: Arc<Session>,
        asked: Duration,
        refresh_age: Duration,
        jitter: impl FnOnce(Duration) -> Duration,
    ) -> Option<Self> {
        let now = Instant::now();
        // STS never gives longer than asked: a longer life is a wall clock that is behind.
        let life = session.expiration.duration_since(session.received).ok()?.min(asked);
        let floor = FLOOR.min(life / FLOOR_SHARE);
        let held = Self {
            wall_end: session.expiration.checked_sub(floor)?,
            end: now + life.checked_sub(floor)?,
            received: now,
            refresh_at: now + jitter(refresh_age.min(life / 2)),
            session,
        };
        (held.end > now).then_some(held)
    }

    pub(super) fn usable(&self, wall: SystemTime) -> bool {
        wall < self.wall_end && Instant::now() < self.end
    }

    pub(super) fn age(&self) -> Duration {
        self.received.elapsed()
    }

    /// Past the time of refresh by more than a call and its retry take.
    pub(super) fn stale(&self) -> bool {
        self.refresh_at.elapsed() > super::CALL_TIMEOUT * 2
    }
}
