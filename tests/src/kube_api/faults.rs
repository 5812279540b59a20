//! Everything that goes wrong with an API server, on demand.

use std::time::Duration;

use serde_json::Value;

use super::answers::Answer;
use super::state::{FailingLists, Resource, Shared};

/// Switches of one server. Each takes effect at once.
#[derive(Debug)]
pub struct Faults<'a> {
    shared: &'a Shared,
}

// === impl Faults ===

impl<'a> Faults<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        Self { shared }
    }

    /// The next `count` lists (or pages) of `resource` are answered with `status`.
    pub fn fail_lists(&self, resource: Resource, count: usize, status: u16) {
        self.fail_lists_after(resource, 0, count, status);
    }

    /// The same, but the next `after` lists (or pages) still work.
    pub fn fail_lists_after(&self, resource: Resource, after: usize, count: usize, status: u16) {
        self.answer_lists_after(resource, after, count, Answer::Status(status));
    }

    /// In place of the next `count` lists (or pages) of `resource`, after `after` that work, comes `answer`.
    pub fn answer_lists_after(&self, resource: Resource, after: usize, count: usize, answer: Answer) {
        let failing = FailingLists { after, count, answer: Some(answer) };
        self.shared.change(|state| state.of_mut(resource).failing_lists = failing);
    }

    /// In place of the next `count` watches of `resource` comes `answer`.
    pub fn answer_watches(&self, resource: Resource, count: usize, answer: Answer) {
        let failing = FailingLists { after: 0, count, answer: Some(answer) };
        self.shared.change(|state| state.of_mut(resource).failing_watches = failing);
    }

    /// In place of the next `count` patches of `resource` comes `answer`.
    pub fn answer_patches(&self, resource: Resource, count: usize, answer: Answer) {
        let failing = FailingLists { after: 0, count, answer: Some(answer) };
        self.shared.change(|state| state.of_mut(resource).failing_patches = failing);
    }

    /// Just before the next patch of a node takes effect, somebody else makes its taints these.
    pub fn taints_before_patch(&self, taints: Value) {
        self.shared.change(|state| state.taints_before_patch = Some(taints));
    }

    /// Open watches of `resource` bring this line.
    pub fn say(&self, resource: Resource, line: &str) {
        self.shared.change(|state| state.of_mut(resource).lines.push(line.to_owned()));
    }

    /// There is an object (`namespace/name` of a pod, `name` of a namespace) such as no API server makes.
    pub fn put(&self, resource: Resource, key: &str, object: Value) {
        self.shared.change(|state| state.apply_object(resource, key, object));
    }

    /// Another server takes over, with the same objects: connections break, versions begin at 1. As with the real
    /// one, a watch from a version that it has not come to yet brings nothing, not even bookmarks.
    pub fn restart(&self) {
        self.shared.change(|state| state.restart());
    }

    /// Answers to lists of `resource` (of nodes: to all about one) come so much later.
    pub fn delay_lists(&self, resource: Resource, delay: Duration) {
        self.shared.change(|state| state.of_mut(resource).list_delay = delay);
    }

    /// RBAC does not allow `verb` (`get`, `list`, `watch`, `patch`) on `resource`: 403.
    pub fn refuse(&self, verb: &'static str, resource: Resource) {
        self.shared.change(|state| state.refused.insert((verb, resource)));
    }

    /// RBAC allows it (again).
    pub fn allow(&self, verb: &'static str, resource: Resource) {
        self.shared.change(|state| state.refused.remove(&(verb, resource)));
    }

    /// Every open watch ends in order, as at its timeout.
    pub fn cut_watches(&self) {
        self.shared.change(|state| state.epochs.cut += 1);
    }

    /// The connection of every open watch breaks.
    pub fn break_watches(&self) {
        self.shared.change(|state| state.epochs.broken += 1);
    }

    /// Watches that are open now stay open and never bring a byte again; new ones work.
    pub fn stall_watches(&self) {
        self.shared.change(|state| state.epochs.stalled += 1);
    }

    /// While on, no watch brings a byte, new ones neither.
    pub fn stall_all_watches(&self, on: bool) {
        self.shared.change(|state| state.stall_all = on);
    }

    /// History is forgotten: open watches end with 410, older versions cannot be watched from, lists in
    /// pages cannot be continued.
    pub fn expire(&self) {
        self.shared.change(|state| {
            state.epochs.expired += 1;
            state.oldest = state.next_version();
            state.rests.clear();
        });
    }

    /// Watches of `resource` see nothing that happens from now on (lists do), until released.
    pub fn hold(&self, resource: Resource) {
        self.shared.change(|state| {
            let now = state.version;
            state.of_mut(resource).held_after.get_or_insert(now);
        });
    }

    /// Watches see what was held.
    pub fn release(&self, resource: Resource) {
        self.shared.change(|state| state.of_mut(resource).held_after = None);
    }

    /// Watches of `resource` see each change so much later.
    pub fn delay_events(&self, resource: Resource, delay: Duration) {
        self.shared.change(|state| state.of_mut(resource).event_delay = delay);
    }

    /// A bookmark to every watch that asked for them, now.
    pub fn bookmark(&self) {
        self.shared.change(|state| state.epochs.bookmark += 1);
    }

    /// A quiet watch gets a bookmark this often (20 s at first).
    pub fn bookmark_every(&self, period: Duration) {
        self.shared.change(|state| state.bookmark_every = period);
    }

    /// No watch gets a bookmark: the real one sends none of a resource that has not changed since it started.
    pub fn no_bookmarks(&self) {
        self.shared.change(|state| state.bookmarks = false);
    }

    /// While down, every connection is closed and new ones are closed at once.
    pub fn down(&self, down: bool) {
        self.shared.change(|state| state.down = down);
    }

    /// From now on another token is good.
    pub fn set_token(&self, token: &str) {
        self.shared.change(|state| token.clone_into(&mut state.token));
    }
}
