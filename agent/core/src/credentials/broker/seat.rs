//! A fetch under way, and the requests that wait for it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::pace::Ticket;
use super::refusal::{ASKERS_MAX, Asker};
use super::{BrokerError, Outcome};

/// A fetch under way. It belongs to the broker; requests only watch it.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) ticket: Arc<Ticket>,
    outcome: watch::Sender<Option<Outcome>>,
    waiters: AtomicUsize,
    /// Told when the last one leaves, and when its key is forgotten.
    deserted: Notify,
    askers: Mutex<VecDeque<Asker>>,
}

/// A request that waits for a flight.
#[derive(Debug)]
pub(super) struct Seat {
    flight: Arc<Flight>,
    outcome: watch::Receiver<Option<Outcome>>,
}

// === impl Flight ===

impl Flight {
    pub(super) fn new(ticket: Arc<Ticket>) -> Arc<Self> {
        Arc::new(Self {
            ticket,
            outcome: watch::Sender::new(None),
            waiters: AtomicUsize::new(0),
            deserted: Notify::new(),
            askers: Mutex::new(VecDeque::new()),
        })
    }

    /// True if somebody waits for it.
    pub(super) fn waited(&self) -> bool {
        self.waiters.load(Ordering::Acquire) > 0
    }

    /// It may be that nobody wants it any more.
    pub(super) fn desert(&self) {
        self.deserted.notify_one();
    }

    /// Resolves when it may be that nobody wants it any more.
    pub(super) async fn deserted(&self) {
        self.deserted.notified().await;
    }

    /// Tells everybody how it ended.
    pub(super) fn land(&self, outcome: Outcome) {
        self.outcome.send_replace(Some(outcome));
    }

    /// Who asked so far.
    pub(super) fn take_askers(&self) -> VecDeque<Asker> {
        std::mem::take(&mut *self.askers.lock())
    }

    /// True once its outcome is known.
    pub(super) fn landed(&self) -> bool {
        self.outcome.borrow().is_some()
    }

    /// Takes a seat; under the cell's lock, so that no flight lands between the look and the seat.
    pub(super) fn seat(self: &Arc<Self>, asker: &Asker) -> Seat {
        self.waiters.fetch_add(1, Ordering::AcqRel);
        let mut askers = self.askers.lock();
        if askers.len() < ASKERS_MAX && !askers.contains(asker) {
            askers.push_back(asker.clone());
        }
        Seat { flight: Arc::clone(self), outcome: self.outcome.subscribe() }
    }
}

// === impl Seat ===

impl Seat {
    pub(super) fn flight(&self) -> &Flight {
        &self.flight
    }

    /// The flight's outcome.
    pub(super) async fn outcome(&mut self) -> Outcome {
        match self.outcome.wait_for(Option::is_some).await.map(|landed| landed.clone()) {
            Ok(Some(outcome)) => outcome,
            // The flight lives as long as the seat, and with it the sender.
            Ok(None) | Err(_) => Err(BrokerError::Unavailable { reason: "the fetch was given up".into() }),
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.flight.waiters.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.flight.desert();
        }
    }
}
