//! Where this agent stands between the one before it and the one after it, and what it therefore does.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::server::Queue;

/// Each in the order of an agent's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The one before it answers pods yet.
    Following,
    /// It does everything; the one before it may be there.
    Leading {
        /// And has the same sockets.
        shared: bool,
    },
    /// It answers pods; the one after it does the rest, and is not ready.
    Giving,
    /// The one after it does everything.
    Relieved {
        /// With the same sockets: they are the other's now.
        shared: bool,
    },
}

/// What every task that needs to know looks at. One task sets it.
pub(in crate::app) struct Stage {
    role: watch::Sender<Role>,
    queue: watch::Sender<Queue>,
    period: watch::Sender<Option<CancellationToken>>,
    at_work: TaskTracker,
    shutdown: CancellationToken,
}

/// For what only one agent of a node may do: keep the redirect, answer probes, tell the Node how it is.
#[derive(Clone)]
pub(in crate::app) struct Charge {
    period: watch::Receiver<Option<CancellationToken>>,
    at_work: TaskTracker,
    shutdown: CancellationToken,
}

/// From the beginning of a time in charge to its end. To be dropped when nothing is done any more.
pub(in crate::app) struct Turn {
    over: CancellationToken,
    _at_work: TaskTrackerToken,
}

/// How the wait for the agent after this one ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::app) enum Succession {
    /// There is none that would have to be waited for.
    Settled,
    /// It was not ready in time.
    Late,
}

// === impl Role ===

impl Role {
    fn in_charge(self) -> bool {
        matches!(self, Self::Following | Self::Leading { .. })
    }

    fn queue(self) -> Queue {
        match self {
            Self::Following | Self::Relieved { shared: true } => Queue::Left,
            Self::Leading { shared: true } | Self::Giving => Queue::Shared,
            Self::Leading { shared: false } | Self::Relieved { shared: false } => Queue::Own,
        }
    }
}

// === impl Stage ===

impl Stage {
    /// `follows` another agent that answers pods on the same sockets, or is in charge of everything.
    pub(in crate::app) fn new(follows: bool, shutdown: CancellationToken) -> Self {
        let role = if follows { Role::Following } else { Role::Leading { shared: false } };
        let at_work = TaskTracker::new();
        at_work.close();
        Self {
            role: watch::Sender::new(role),
            queue: watch::Sender::new(role.queue()),
            period: watch::Sender::new(Some(shutdown.child_token())),
            at_work,
            shutdown,
        }
    }

    /// For the server.
    pub(in crate::app) fn queue(&self) -> watch::Receiver<Queue> {
        self.queue.subscribe()
    }

    /// For a task that is one agent's alone.
    pub(in crate::app) fn charge(&self) -> Charge {
        Charge {
            period: self.period.subscribe(),
            at_work: self.at_work.clone(),
            shutdown: self.shutdown.clone(),
        }
    }

    /// For [`settled`].
    pub(in crate::app) fn watch(&self) -> Watched {
        Watched(self.role.subscribe())
    }

    /// Nobody else may be doing what is one agent's alone when this says that it does.
    pub(super) fn set(&self, role: Role) {
        self.queue.send_if_modified(|queue| std::mem::replace(queue, role.queue()) != role.queue());
        self.role.send_replace(role);
        self.period.send_if_modified(|period| match (role.in_charge(), period.take()) {
            (true, Some(running)) => {
                *period = Some(running);
                false
            }
            (true, None) => {
                *period = Some(self.shutdown.child_token());
                true
            }
            (false, Some(running)) => {
                running.cancel();
                true
            }
            (false, None) => false,
        });
    }

    /// Waits until nothing is done any more that is one agent's alone.
    pub(super) async fn idle(&self) {
        self.at_work.wait().await;
    }
}

/// Where the agent stands, for the end of the process.
pub(in crate::app) struct Watched(watch::Receiver<Role>);

// === impl Watched ===

impl Watched {
    /// Returns when no agent has the sockets that is not ready yet, but not later than `limit`.
    pub(in crate::app) async fn settled(&mut self, limit: Duration) -> Succession {
        let settled = self.0.wait_for(|role| *role != Role::Giving);
        match tokio::time::timeout(limit, settled).await {
            Ok(_) => Succession::Settled,
            Err(_) => Succession::Late,
        }
    }

    /// An agent has the sockets and is not ready yet.
    pub(in crate::app) fn is_giving(&self) -> bool {
        *self.0.borrow() == Role::Giving
    }
}

// === impl Charge ===

impl Charge {
    /// Waits until this agent is in charge. Nothing: the process ends.
    pub(in crate::app) async fn turn(&self) -> Option<Turn> {
        let mut period = self.period.clone();
        let over = tokio::select! {
            biased;
            () = self.shutdown.cancelled() => return None,
            period = period.wait_for(Option::is_some) => period.ok()?.clone()?,
        };
        Some(Turn { over, _at_work: self.at_work.token() })
    }
}

// === impl Turn ===

impl Turn {
    /// Cancelled when the other agent is to be in charge, or the process ends.
    pub(in crate::app) fn token(&self) -> CancellationToken {
        self.over.clone()
    }

    /// Waits for that.
    pub(in crate::app) async fn over(&self) {
        self.over.cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(follows: bool) -> (Stage, CancellationToken) {
        let shutdown = CancellationToken::new();
        (Stage::new(follows, shutdown.clone()), shutdown)
    }

    #[test]
    fn who_takes_connections_and_who_is_in_charge() {
        for (role, queue, in_charge) in [
            (Role::Following, Queue::Left, true),
            (Role::Leading { shared: false }, Queue::Own, true),
            (Role::Leading { shared: true }, Queue::Shared, true),
            (Role::Giving, Queue::Shared, false),
            (Role::Relieved { shared: true }, Queue::Left, false),
            (Role::Relieved { shared: false }, Queue::Own, false),
        ] {
            assert_eq!((role.queue(), role.in_charge()), (queue, in_charge), "{role:?}");
        }
    }

    #[tokio::test]
    async fn what_is_one_agents_alone_has_stopped_before_another_begins_and_begins_again_after_it() {
        let (stage, shutdown) = stage(false);
        let charge = stage.charge();
        let turn = charge.turn().await.unwrap();
        stage.set(Role::Giving);
        turn.over().await;
        assert!(futures::FutureExt::now_or_never(stage.idle()).is_none(), "it still works");
        assert!(futures::FutureExt::now_or_never(charge.turn()).is_none(), "the other is in charge");
        drop(turn);
        stage.idle().await;
        stage.set(Role::Leading { shared: false });
        assert!(!charge.turn().await.unwrap().token().is_cancelled());
        shutdown.cancel();
        assert!(charge.turn().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn only_one_that_is_not_ready_is_waited_for_and_not_for_ever() {
        let (stage, _shutdown) = stage(false);
        let mut watched = stage.watch();
        assert_eq!(watched.settled(Duration::ZERO).await, Succession::Settled);
        stage.set(Role::Giving);
        assert!(watched.is_giving());
        assert_eq!(watched.settled(Duration::from_secs(15)).await, Succession::Late);
        stage.set(Role::Relieved { shared: true });
        assert_eq!(watched.settled(Duration::from_secs(15)).await, Succession::Settled);
    }
}
