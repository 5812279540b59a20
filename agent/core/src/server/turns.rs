//! Which source is answered next: each has one turn at a time, so that a burst of one is not before another's request.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures::poll;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::{Request, Response};
use tokio::sync::Mutex;
use tokio::task::yield_now;
use tokio::time::Instant;

use super::{Answer, Peer};

/// A source that was answered within this time goes behind everybody who is ready; one that asks now and then goes at once.
const RECENT: Duration = Duration::from_millis(1);

/// The turns of one source, one at a time, first come, first served: when the last one was over.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<Option<Instant>>);

/// Answers when it is its source's turn.
pub(super) struct InTurn<'a, A> {
    answer: &'a A,
    turns: &'a Turns,
}

// === impl InTurn ===

impl<'a, A> InTurn<'a, A> {
    pub(super) fn new(answer: &'a A, turns: &'a Turns) -> Self {
        Self { answer, turns }
    }
}

impl<A: Answer> Answer for InTurn<'_, A> {
    /// A turn is over when the answer is there or waits for something: what waits takes nobody's time.
    async fn answer(&self, request: Request<Incoming>, peer: Peer) -> Response<Full<Bytes>> {
        let mut answer = pin!(self.answer.answer(request, peer));
        {
            let mut last = self.turns.0.lock().await;
            if last.is_some_and(|last| last.elapsed() < RECENT) {
                yield_now().await;
            }
            let polled = poll!(answer.as_mut());
            *last = Some(Instant::now());
            if let Poll::Ready(response) = polled {
                return response;
            }
        }
        answer.await
    }
}
