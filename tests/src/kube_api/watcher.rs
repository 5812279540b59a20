//! One open watch: what it sends next, and when.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::objects::{partial, status};
use super::server::Selector;
use super::state::{Epochs, Resource, Shared, State};

/// So long before its timeout the real server sends a watch its last bookmark.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);

/// What a watch request asked for.
pub(super) struct Wanted {
    pub(super) resource: Resource,
    pub(super) selector: Selector,
    pub(super) metadata_only: bool,
    pub(super) bookmarks: bool,
    pub(super) from: u64,
    pub(super) deadline: Instant,
}

/// An open watch.
pub(super) struct Watcher {
    shared: Arc<Shared>,
    changed: watch::Receiver<u64>,
    wanted: Wanted,
    /// Everything up to this version was sent.
    position: u64,
    opened: Epochs,
    /// So many of the lines that tests say were brought, or came before.
    lines: usize,
    last_sent: Instant,
    ended: bool,
}

/// What the history has for a watch.
enum Next {
    Event(Value),
    /// Everything was shown.
    Nothing,
    /// There is more, which must not be shown yet (or before then).
    Later(Option<Instant>),
}

/// What to do next.
enum Step {
    Send(Value),
    Say(String),
    SendLast(Value),
    End,
    Break,
    Wait(Instant),
}

// === impl Watcher ===

impl Watcher {
    pub(super) fn open(shared: Arc<Shared>, wanted: Wanted) -> Self {
        let changed = shared.subscribe();
        let (opened, lines) = shared.change(|state| {
            state.open_watches += 1;
            (state.epochs, state.of(wanted.resource).lines.len())
        });
        let position = wanted.from;
        Self { shared, changed, wanted, position, opened, lines, last_sent: Instant::now(), ended: false }
    }

    /// The next line; `None` at the end; an error breaks the connection.
    pub(super) async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            self.changed.mark_unchanged();
            let shared = Arc::clone(&self.shared);
            let step = if self.ended { Step::End } else { self.step(&shared.state(), Instant::now()) };
            match step {
                Step::Send(event) => return Some(Ok(self.line(&event))),
                Step::Say(line) => return Some(Ok(Bytes::from(line + "\n"))),
                Step::SendLast(event) => {
                    self.ended = true;
                    return Some(Ok(self.line(&event)));
                }
                Step::End => return None,
                Step::Break => {
                    self.ended = true;
                    return Some(Err(io::Error::from(io::ErrorKind::ConnectionReset)));
                }
                Step::Wait(until) => {
                    // The sender lives in `self.shared`: it never closes.
                    let _ = tokio::time::timeout_at(until, self.changed.changed()).await;
                }
            }
        }
    }

    fn line(&mut self, event: &Value) -> Bytes {
        self.last_sent = Instant::now();
        Bytes::from(format!("{event}\n"))
    }

    fn step(&mut self, state: &State, now: Instant) -> Step {
        if state.down || state.epochs.broken > self.opened.broken {
            return Step::Break;
        }
        if state.epochs.cut > self.opened.cut {
            return Step::End;
        }
        if state.stall_all || state.epochs.stalled > self.opened.stalled {
            // Not even the timeout ends it: an hour is longer than any test.
            return Step::Wait(now + Duration::from_secs(3600));
        }
        if state.epochs.expired > self.opened.expired || self.position < state.oldest {
            return Step::SendLast(gone());
        }
        if now >= self.wanted.deadline {
            return Step::End;
        }
        if let Some(line) = state.of(self.wanted.resource).lines.get(self.lines) {
            self.lines += 1;
            return Step::Say(line.clone());
        }
        match self.next_change(state, now) {
            Next::Event(event) => Step::Send(event),
            Next::Nothing => {
                self.position = self.position.max(state.version);
                self.bookmark(state, now, self.wanted.deadline)
            }
            // Bookmarks go on meanwhile, and do not pass what was not shown.
            Next::Later(due) => {
                let due = due.unwrap_or(self.wanted.deadline);
                self.bookmark(state, now, due.min(self.wanted.deadline))
            }
        }
    }

    fn next_change(&mut self, state: &State, now: Instant) -> Next {
        let collection = state.of(self.wanted.resource);
        let start = collection.history.partition_point(|change| change.version <= self.position);
        for change in &collection.history[start..] {
            if collection.held_after.is_some_and(|held| change.version > held) {
                return Next::Later(None);
            }
            let due = change.at + collection.event_delay;
            if due > now {
                return Next::Later(Some(due));
            }
            self.position = change.version;
            let selected = |object: &Option<Arc<Value>>| {
                object.clone().filter(|object| self.wanted.selector.matches(object))
            };
            let (kind, object) = match (selected(&change.before), selected(&change.after)) {
                (None, None) => continue,
                (None, Some(object)) => ("ADDED", object),
                (Some(_), Some(object)) => ("MODIFIED", object),
                // A deleted object is shown as it was, at the version of its deletion.
                (Some(object), None) => ("DELETED", object),
            };
            let mut object = if self.wanted.metadata_only { partial(&object) } else { (*object).clone() };
            object["metadata"]["resourceVersion"] = json!(change.version.to_string());
            return Next::Event(json!({"type": kind, "object": object}));
        }
        Next::Nothing
    }

    /// Shortly before its end a watch gets a last bookmark; it may have had it.
    fn last_bookmark(&self) -> Instant {
        let last = self.wanted.deadline - LAST_BOOKMARK;
        if self.last_sent >= last { self.wanted.deadline } else { last }
    }

    /// A bookmark at the position if one is due, else a wait until then or `wake`.
    fn bookmark(&mut self, state: &State, now: Instant, wake: Instant) -> Step {
        // Nothing below the version that was asked for is ever shown, bookmarks neither.
        if !self.wanted.bookmarks || !state.bookmarks || self.wanted.from > state.version {
            return Step::Wait(wake);
        }
        let asked = state.epochs.bookmark > self.opened.bookmark;
        let due = (self.last_sent + state.bookmark_every).min(self.last_bookmark());
        if !asked && due > now {
            return Step::Wait(due.min(wake));
        }
        self.opened.bookmark = state.epochs.bookmark;
        let (version, kind) = if self.wanted.metadata_only {
            ("meta.k8s.io/v1", "PartialObjectMetadata")
        } else {
            ("v1", self.wanted.resource.kind())
        };
        Step::Send(json!({"type": "BOOKMARK", "object": {
            "apiVersion": version,
            "kind": kind,
            "metadata": {"resourceVersion": self.position.to_string(), "creationTimestamp": null},
        }}))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.change(|state| state.open_watches -= 1);
    }
}

fn gone() -> Value {
    json!({"type": "ERROR", "object": status(410, "Expired", "too old resource version")})
}
