//! When a resource was last heard of, and what its readiness gate says for it.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::error::WatchError;
use super::resource::Resource;
use crate::ready::Gate;

/// Shared by the loop that hears, the gate and the metric.
#[derive(Debug)]
pub(super) struct Freshness {
    started: Instant,
    state: watch::Sender<State>,
}

#[derive(Clone, Debug, Default)]
struct State {
    /// Last event, bookmark or complete list.
    heard: Option<Instant>,
    trouble: Option<Trouble>,
}

#[derive(Clone, Debug)]
struct Trouble {
    text: String,
    needs_operator: bool,
}

// === impl Freshness ===

impl Freshness {
    pub(super) fn new() -> Self {
        Self { started: Instant::now(), state: watch::Sender::default() }
    }

    /// An event, a bookmark, or the end of a list.
    pub(super) fn heard(&self) {
        self.state.send_modify(|state| state.heard = Some(Instant::now()));
    }

    /// A watch is open: what was wrong before is over.
    pub(super) fn opened(&self) {
        self.state.send_if_modified(|state| state.trouble.take().is_some());
    }

    /// Something is wrong.
    pub(super) fn trouble(&self, error: &WatchError) {
        let trouble = Trouble { text: error.to_string(), needs_operator: error.needs_operator() };
        self.state.send_modify(|state| state.trouble = Some(trouble));
    }

    /// When the resource was last heard of; before that, when the process began to wait for it.
    pub(super) fn last(&self) -> Instant {
        self.state.borrow().heard.unwrap_or(self.started)
    }

    /// Keeps `gate` as the state and the clock have it, for ever.
    pub(super) async fn keep_gate(&self, gate: &Gate, resource: Resource, limit: Duration) -> Infallible {
        let mut states = self.state.subscribe();
        loop {
            let state = states.borrow_and_update().clone();
            match state.verdict(Instant::now(), resource, limit) {
                Ok(()) => gate.open(),
                Err(reason) => gate.close(reason),
            }
            // `self` holds the sender: it never closes.
            let changed = async { states.changed().await.unwrap_or(()) };
            match state.heard.map(|heard| heard + limit).filter(|stale_at| *stale_at > Instant::now()) {
                Some(stale_at) => {
                    let _ = tokio::time::timeout_at(stale_at, changed).await;
                }
                None => changed.await,
            }
        }
    }
}

// === impl State ===

impl State {
    /// Open, or why not.
    fn verdict(&self, now: Instant, resource: Resource, limit: Duration) -> Result<(), String> {
        let trouble = self.trouble.as_ref();
        let Some(heard) = self.heard else {
            return Err(trouble.map_or_else(
                || format!("the first list of {resource} is not complete"),
                |trouble| trouble.text.clone(),
            ));
        };
        let age = now.saturating_duration_since(heard);
        if age >= limit {
            let cause = trouble.map(|trouble| format!(" ({})", trouble.text)).unwrap_or_default();
            let (age, limit) = (roughly(age), limit.as_secs_f64());
            return Err(format!(
                "{resource} stale: no event and no bookmark for {age}, {limit} s are allowed{cause}"
            ));
        }
        match trouble {
            Some(trouble) if trouble.needs_operator => Err(trouble.text.clone()),
            _ => Ok(()),
        }
    }
}

/// An age that changes once a minute at most after the first two: each change of a gate is a line of the log.
fn roughly(age: Duration) -> String {
    match age.as_secs() {
        seconds @ ..120 => format!("{seconds} s"),
        seconds => format!("{} min", seconds / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ready::Gates;

    const LIMIT: Duration = Duration::from_secs(75);

    /// Runs the gate's keeper until it has nothing more to do now, and says what the gate shows.
    async fn shown(freshness: &Freshness, gates: &Gates, gate: &Gate) -> Result<(), String> {
        tokio::select! {
            biased;
            never = freshness.keep_gate(gate, Resource::Pods, LIMIT) => match never {},
            () = std::future::ready(()) => {}
        }
        gates.list()[0].state.clone().map_err(|reason| reason.into_owned())
    }

    fn forbidden(verb: &'static str) -> WatchError {
        WatchError::Forbidden { verb, resource: Resource::Pods, message: "no".into() }
    }

    fn refused() -> WatchError {
        WatchError::failed("watch", Resource::Pods, "connection refused".into())
    }

    #[tokio::test(start_paused = true)]
    async fn the_gate_opens_with_the_first_list_and_closes_when_nothing_is_heard() {
        let (freshness, gates) = (Freshness::new(), Gates::new());
        let gate = gates.add("pods", "not started");
        assert_eq!(
            shown(&freshness, &gates, &gate).await,
            Err("the first list of pods is not complete".into())
        );
        freshness.heard();
        assert_eq!(shown(&freshness, &gates, &gate).await, Ok(()));
        tokio::time::advance(LIMIT - Duration::from_millis(1)).await;
        assert_eq!(shown(&freshness, &gates, &gate).await, Ok(()));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(
            shown(&freshness, &gates, &gate).await,
            Err("pods stale: no event and no bookmark for 75 s, 75 s are allowed".into())
        );
        freshness.heard();
        assert_eq!(shown(&freshness, &gates, &gate).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_keeper_wakes_by_itself_when_the_limit_passes() {
        let (freshness, gates) = (Freshness::new(), Gates::new());
        let gate = gates.add("pods", "not started");
        freshness.heard();
        let start = Instant::now();
        let mut seen = gates.subscribe();
        let stale = seen.wait_for(|states| {
            states[0].state.as_ref().is_err_and(|reason| reason.starts_with("pods stale"))
        });
        tokio::select! {
            never = freshness.keep_gate(&gate, Resource::Pods, LIMIT) => match never {},
            stale = stale => drop(stale),
        }
        assert_eq!(start.elapsed().as_secs(), 75);
    }

    #[tokio::test(start_paused = true)]
    async fn a_missing_rule_of_rbac_closes_it_at_once_an_api_server_that_is_away_does_not() {
        let (freshness, gates) = (Freshness::new(), Gates::new());
        let gate = gates.add("pods", "not started");
        freshness.trouble(&forbidden("list"));
        let reason = shown(&freshness, &gates, &gate).await.unwrap_err();
        assert!(reason.starts_with("cannot list pods: forbidden;"), "{reason}");
        freshness.heard();
        freshness.opened();
        freshness.trouble(&refused());
        assert_eq!(shown(&freshness, &gates, &gate).await, Ok(()));
        tokio::time::advance(LIMIT).await;
        let reason = shown(&freshness, &gates, &gate).await.unwrap_err();
        assert!(reason.ends_with("(cannot watch pods: connection refused)"), "{reason}");
        tokio::time::advance(2 * LIMIT).await;
        let reason = shown(&freshness, &gates, &gate).await.unwrap_err();
        assert!(
            reason.starts_with("pods stale: no event and no bookmark for 3 min, 75 s are allowed"),
            "{reason}"
        );
        freshness.heard();
        freshness.trouble(&forbidden("watch"));
        assert!(shown(&freshness, &gates, &gate).await.is_err());
        freshness.opened();
        assert_eq!(shown(&freshness, &gates, &gate).await, Ok(()));
    }
}
