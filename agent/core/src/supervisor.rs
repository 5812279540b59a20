//! Named tasks: each has an owner, an end, and takes the process down with its name when it ends early.

use std::any::Any;
use std::future::Future;

use futures::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// Why a task ended before it was asked to.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TaskFailure {
    /// It returned while it should have run for ever.
    #[error("task {0} ended on its own")]
    Ended(&'static str),
    /// It returned an error.
    #[error("task {0} failed: {1}")]
    Failed(&'static str, String),
    /// It panicked.
    #[error("task {0} panicked: {1}")]
    Panicked(&'static str, String),
}

/// Owner of the process's named tasks.
pub struct Supervisor {
    shutdown: CancellationToken,
    tracker: TaskTracker,
    ends: FuturesUnordered<tokio::task::JoinHandle<Option<TaskFailure>>>,
}

// === impl Supervisor ===

impl Supervisor {
    /// No tasks yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            shutdown: CancellationToken::new(),
            tracker: TaskTracker::new(),
            ends: FuturesUnordered::new(),
        }
    }

    /// Cancelled when the process is to end: tasks watch it.
    #[must_use]
    pub fn shutdown(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Where connections and fetches are spawned: many, short, awaited together at the end.
    #[must_use]
    pub fn tracker(&self) -> TaskTracker {
        self.tracker.clone()
    }

    /// Starts a task that runs until shutdown. Ending earlier, an error or a panic is a failure.
    pub fn spawn<F>(&mut self, name: &'static str, run: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let shutdown = self.shutdown.clone();
        let span = tracing::info_span!("task", task = name);
        let watched = async move {
            let end = std::panic::AssertUnwindSafe(run).catch_unwind().await;
            match end {
                Ok(Ok(())) if shutdown.is_cancelled() => None,
                Ok(Ok(())) => Some(TaskFailure::Ended(name)),
                Ok(Err(error)) => Some(TaskFailure::Failed(name, format!("{error:#}"))),
                Err(panic) => Some(TaskFailure::Panicked(name, panic_text(panic.as_ref()))),
            }
        };
        self.ends.push(self.tracker.spawn(watched.instrument(span)));
    }

    /// Waits for the first failure of a task; pending while all run.
    pub async fn failed(&mut self) -> TaskFailure {
        while let Some(end) = self.ends.next().await {
            if let Ok(Some(failure)) = end {
                return failure;
            }
        }
        std::future::pending().await
    }

    /// Asks every task to end and waits for all of them, tracked connections and fetches included.
    pub async fn drain(&mut self) {
        self.shutdown.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

impl Default for Supervisor {
    fn default() -> Self {
        Self::new()
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_is_named() {
        let mut supervisor = Supervisor::new();
        supervisor.spawn("steady", std::future::pending());
        supervisor.spawn("fickle", async { Ok(()) });
        assert_eq!(supervisor.failed().await, TaskFailure::Ended("fickle"));
    }

    #[tokio::test]
    async fn a_panic_is_a_failure_with_its_text() {
        let mut supervisor = Supervisor::new();
        supervisor.spawn("clumsy", async { panic!("dropped it") });
        assert_eq!(supervisor.failed().await, TaskFailure::Panicked("clumsy", "dropped it".into()));
    }

    #[tokio::test]
    async fn drain_waits_for_tasks_that_watch_the_token() {
        let mut supervisor = Supervisor::new();
        let token = supervisor.shutdown();
        supervisor.spawn("watcher", async move {
            token.cancelled().await;
            Ok(())
        });
        supervisor.drain().await;
    }
}
