//! Who is next: demand before prefetch before refresh, and within each the pods in turn.
//!
//! Every pod has a line of its own. Its calls belong to one round each, the first to the round that is on, so
//! that a pod with a thousand calls waiting is passed by one that comes with its first. A pod that has had more
//! than [`FREE_CALLS`] since nobody waited and the bucket was full is greedy: it takes from the upper half of
//! what there is, and leaves the lower half to others.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::{Cause, Ticket};
use crate::types::PodUid;

/// Calls of one pod that are nobody's concern: it has one role at a time, and retries.
const FREE_CALLS: u32 = 8;

/// Tickets that wait, in the order of their turns.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: BTreeMap<Place, Arc<Ticket>>,
    places: HashMap<u64, Place>,
    /// The round of the call granted last.
    round: u64,
    lines: HashMap<PodUid, Line>,
}

/// Earlier ones go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    cause: Cause,
    round: u64,
    number: u64,
}

/// What a pod has had, waiting calls included.
#[derive(Clone, Copy, Debug)]
struct Line {
    next_round: u64,
    calls: u32,
}

/// Whose turn it is.
#[derive(Debug)]
pub(super) struct First<'a> {
    pub(super) ticket: &'a Arc<Ticket>,
    /// Its pod has had more than its share.
    pub(super) greedy: bool,
}

// === impl Queue ===

impl Queue {
    pub(super) fn join(&mut self, ticket: &Arc<Ticket>) {
        let round = ticket.asker.lock().as_ref().map_or(0, |asker| self.next_round(asker));
        self.place(Place { cause: ticket.cause(), round, number: ticket.number }, ticket);
    }

    /// `asker` waits for this one too: it comes no later than if `asker` had brought it. Not in the queue: it
    /// has its turn already.
    pub(super) fn hurry(&mut self, ticket: &Arc<Ticket>, asker: &PodUid) {
        let Some(&old) = self.places.get(&ticket.number) else { return };
        let own = ticket.asker.lock().as_ref() == Some(asker);
        let theirs = self.lines.get(asker).map_or(self.round, |line| line.next_round.max(self.round));
        let sooner = !own && (theirs < old.round || old.cause == Cause::Refresh);
        let round = if sooner { self.next_round(asker) } else { old.round };
        let new = Place { cause: Cause::Demand, round, ..old };
        if sooner {
            *ticket.asker.lock() = Some(asker.clone());
        }
        if new < old {
            self.waiting.remove(&old);
            self.place(new, ticket);
        }
    }

    pub(super) fn leave(&mut self, ticket: &Ticket) {
        if let Some(place) = self.places.remove(&ticket.number) {
            self.waiting.remove(&place);
        }
    }

    /// The first one leaves with its turn taken.
    pub(super) fn take_first(&mut self) {
        if let Some((place, _)) = self.waiting.pop_first() {
            self.places.remove(&place.number);
            self.round = self.round.max(place.round);
        }
    }

    pub(super) fn first(&self) -> Option<First<'_>> {
        let (_, ticket) = self.waiting.first_key_value()?;
        let asker = ticket.asker.lock();
        let line = asker.as_ref().and_then(|asker| self.lines.get(asker));
        let greedy = line.is_some_and(|line| line.calls > FREE_CALLS);
        Some(First { ticket, greedy })
    }

    /// The bucket is full: if nobody waits either, all are equal again.
    pub(super) fn rest(&mut self) {
        if self.waiting.is_empty() {
            self.lines.clear();
            self.round = 0;
        }
    }

    fn place(&mut self, place: Place, ticket: &Arc<Ticket>) {
        self.places.insert(place.number, place);
        self.waiting.insert(place, Arc::clone(ticket));
    }

    fn next_round(&mut self, asker: &PodUid) -> u64 {
        let line = Line { next_round: self.round, calls: 0 };
        let line = self.lines.entry(asker.clone()).or_insert(line);
        let round = line.next_round.max(self.round);
        *line = Line { next_round: round + 1, calls: line.calls.saturating_add(1) };
        round
    }
}
