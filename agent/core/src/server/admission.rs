//! Who is served next: a place per source address and one of the node, so that one pod cannot take another's.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use super::turns::Turns;
use crate::types::PodIp;

/// Connections of one source that may wait for a place. Beyond it they are closed at once: a flood of 2,000 connections a
/// second held for 0.9 s would otherwise keep 1,800 descriptors.
const MOST_WAITING: usize = 512;

/// Connections of all sources that may wait for a place, beside those that are served.
const MOST_WAITING_IN_ALL: usize = 1024;

/// Descriptors that are not connections of pods: the watches, STS, the log, rules being read, probes.
const OTHER_DESCRIPTORS: usize = 256;

/// Places, per source and in all.
#[derive(Debug)]
pub(super) struct Admission {
    sources: Mutex<Sources>,
    per_source: usize,
    /// Connections that may be open at once, waiting ones included.
    most_open: usize,
    all: Semaphore,
    hold: Duration,
}

#[derive(Debug, Default)]
struct Sources {
    of: HashMap<PodIp, Source>,
    open: usize,
}

#[derive(Debug)]
struct Source {
    room: Arc<Room>,
    /// Connections that hold or await a place: the entry goes with the last.
    connections: usize,
}

/// What the connections of one source share.
#[derive(Debug)]
struct Room {
    places: Semaphore,
    turns: Turns,
}

/// A connection that was accepted and has a source; leaving it makes room.
#[derive(Debug)]
pub(super) struct Entered {
    admission: Arc<Admission>,
    ip: PodIp,
    room: Arc<Room>,
}

/// A connection that is being served.
#[derive(Debug)]
pub(super) struct Served<'a> {
    _place: SemaphorePermit<'a>,
    _of_all: SemaphorePermit<'a>,
}

/// Which limit a connection waited for in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    /// That of its source.
    Source,
    /// That of the node.
    Node,
}

// === impl Limit ===

impl Limit {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Node => "node",
        }
    }
}

// === impl Admission ===

impl Admission {
    /// `descriptors`: how many files the process may have open.
    pub(super) fn new(per_source: usize, all: usize, descriptors: usize, hold: Duration) -> Self {
        let most_open = (all + MOST_WAITING_IN_ALL).min(descriptors.saturating_sub(OTHER_DESCRIPTORS).max(1));
        let all = Semaphore::new(all.min(most_open));
        Self { sources: Mutex::default(), per_source, most_open, all, hold }
    }

    /// `None`: this source has too many already. Besides a fixed bound no source may have more than are left
    /// free: however many are greedy, some room stays for those who come with a few.
    pub(super) fn enter(self: &Arc<Self>, ip: PodIp) -> Option<Entered> {
        let mut sources = self.sources.lock();
        let free = self.most_open.saturating_sub(sources.open);
        let open = sources.of.get(&ip).map_or(0, |source| source.connections);
        if open >= (self.per_source + MOST_WAITING).min(free) {
            return None;
        }
        sources.open += 1;
        let source = sources.of.entry(ip).or_insert_with(|| {
            let room = Room { places: Semaphore::new(self.per_source), turns: Turns::default() };
            Source { room: Arc::new(room), connections: 0 }
        });
        source.connections += 1;
        Some(Entered { admission: Arc::clone(self), ip, room: Arc::clone(&source.room) })
    }

    fn leave(&self, ip: PodIp) {
        let mut sources = self.sources.lock();
        sources.open -= 1;
        if let Entry::Occupied(mut entry) = sources.of.entry(ip) {
            entry.get_mut().connections -= 1;
            if entry.get().connections == 0 {
                entry.remove();
            }
        }
    }
}

// === impl Entered ===

impl Entered {
    /// The turns of its source.
    pub(super) fn turns(&self) -> &Turns {
        &self.room.turns
    }

    /// Waits for both places, together at most as long as a request is held. The source's place comes first, so that a crowd
    /// of one source queues before its own door and not before the node's.
    pub(super) async fn served(&self) -> Result<Served<'_>, Limit> {
        let deadline = Instant::now() + self.admission.hold;
        let place = take(&self.room.places, deadline).await.ok_or(Limit::Source)?;
        let of_all = take(&self.admission.all, deadline).await.ok_or(Limit::Node)?;
        Ok(Served { _place: place, _of_all: of_all })
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.admission.leave(self.ip);
    }
}

async fn take(places: &Semaphore, deadline: Instant) -> Option<SemaphorePermit<'_>> {
    if let Ok(permit) = places.try_acquire() {
        return Some(permit);
    }
    timeout_at(deadline, places.acquire()).await.ok()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DESCRIPTORS: usize = 65_536;
    const HOLD: Duration = Duration::from_millis(900);

    fn ip(last: u8) -> PodIp {
        PodIp::new([10, 1, 0, last].into())
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_over_its_limit_waits_and_is_turned_away_while_others_are_served() {
        let admission = Arc::new(Admission::new(2, 10, DESCRIPTORS, HOLD));
        let entered = [admission.enter(ip(1)).unwrap(), admission.enter(ip(1)).unwrap()];
        let mut held = Vec::new();
        for entered in &entered {
            held.push(entered.served().await.unwrap());
        }
        let start = tokio::time::Instant::now();
        assert_eq!(admission.enter(ip(1)).unwrap().served().await.unwrap_err(), Limit::Source);
        assert_eq!(start.elapsed(), HOLD);
        assert!(admission.enter(ip(2)).unwrap().served().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_connection_is_served_when_a_place_is_left() {
        let admission = Arc::new(Admission::new(1, 10, DESCRIPTORS, HOLD));
        let (first, second) = (admission.enter(ip(1)).unwrap(), admission.enter(ip(1)).unwrap());
        let first = first.served().await.unwrap();
        let (served, ()) = tokio::join!(second.served(), async { drop(first) });
        assert!(served.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn the_waits_for_both_places_are_one_wait() {
        let admission = Arc::new(Admission::new(1, 1, DESCRIPTORS, HOLD));
        let other = admission.enter(ip(1)).unwrap();
        let other = other.served().await.unwrap();
        let first = admission.enter(ip(2)).unwrap();
        let second = admission.enter(ip(2)).unwrap();
        let start = Instant::now();
        // The first holds its source's place while it waits for the node's, and leaves both after the hold.
        let (first, second) = tokio::join!(first.served(), second.served());
        assert_eq!(first.unwrap_err(), Limit::Node);
        assert!(second.is_err());
        assert_eq!(start.elapsed(), HOLD);
        drop(other);
    }

    #[tokio::test(start_paused = true)]
    async fn the_node_limit_holds_over_all_sources() {
        let admission = Arc::new(Admission::new(2, 2, DESCRIPTORS, HOLD));
        let (a, b) = (admission.enter(ip(1)).unwrap(), admission.enter(ip(2)).unwrap());
        let _both = (a.served().await.unwrap(), b.served().await.unwrap());
        assert_eq!(admission.enter(ip(3)).unwrap().served().await.unwrap_err(), Limit::Node);
    }

    #[tokio::test]
    async fn nothing_is_kept_of_a_source_that_left() {
        let admission = Arc::new(Admission::new(1, 1, DESCRIPTORS, HOLD));
        drop(admission.enter(ip(1)).unwrap().served().await.unwrap());
        drop(admission.enter(ip(2)));
        assert!(admission.sources.lock().of.is_empty());
    }

    #[tokio::test]
    async fn few_descriptors_are_never_all_taken_by_the_greedy() {
        let admission = Arc::new(Admission::new(128, 4096, OTHER_DESCRIPTORS + 90, HOLD));
        let mut held = Vec::new();
        for greedy in [1, 2] {
            while let Some(entered) = admission.enter(ip(greedy)) {
                held.push(entered);
            }
        }
        assert!(held.len() <= 70, "{}", held.len());
        for modest in 10..15 {
            held.push(admission.enter(ip(modest)).unwrap());
        }
    }

    #[tokio::test]
    async fn a_flood_beyond_the_waiting_room_is_closed_at_once() {
        let admission = Arc::new(Admission::new(1, 1, DESCRIPTORS, HOLD));
        let held: Vec<_> = (0..=MOST_WAITING).map(|_| admission.enter(ip(1)).unwrap()).collect();
        assert!(admission.enter(ip(1)).is_none());
        drop(held);
        assert!(admission.enter(ip(1)).is_some());
    }
}
