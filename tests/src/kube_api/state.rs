//! What the server knows: objects, their history, the faults that are on, the requests it got.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use super::answers::Answer;
use super::objects::{Pod, namespace, node};

/// The real one sends a bookmark a minute; a test has less time.
const BOOKMARK_EVERY: Duration = Duration::from_secs(20);

/// What the agent's manifest does not allow.
const NOT_IN_THE_MANIFEST: [(&str, Resource); 5] = [
    ("get", Resource::Nodes),
    ("list", Resource::Nodes),
    ("watch", Resource::Nodes),
    ("patch", Resource::Nodes),
    ("patch", Resource::NodeStatus),
];

/// Which resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Resource {
    /// `/api/v1/pods`.
    Pods,
    /// `/api/v1/namespaces`.
    Namespaces,
    /// `/api/v1/nodes`; as in the agent's manifest, RBAC allows nothing of it at first.
    Nodes,
    /// The status of a node: to be patched, and nothing else.
    NodeStatus,
}

/// One request, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `GET`.
    pub method: String,
    /// `/api/v1/pods`.
    pub path: String,
    /// Decoded.
    pub query: BTreeMap<String, String>,
    /// The `Accept` header.
    pub accept: String,
    /// The `Content-Type` header.
    pub content_type: String,
    /// What was sent, where that is JSON.
    pub body: Option<Value>,
    /// What it was answered with.
    pub status: u16,
    /// When it came.
    pub at: Instant,
}

/// The state, and who waits for its changes.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

/// Counters that a watch compares with what they were when it was opened (or when it last looked).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Epochs {
    pub(super) cut: u64,
    pub(super) broken: u64,
    pub(super) stalled: u64,
    pub(super) expired: u64,
    pub(super) bookmark: u64,
}

/// One change of one object.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) before: Option<Arc<Value>>,
    pub(super) after: Option<Arc<Value>>,
    pub(super) at: Instant,
}

/// The rest of a list that was given in part.
#[derive(Debug)]
pub(super) struct Rest {
    pub(super) version: u64,
    pub(super) items: Vec<Arc<Value>>,
}

/// Lists that are to fail.
#[derive(Clone, Debug, Default)]
pub(super) struct FailingLists {
    /// So many work before.
    pub(super) after: usize,
    /// So many fail then.
    pub(super) count: usize,
    /// With this.
    pub(super) answer: Option<Answer>,
}

/// One resource.
#[derive(Debug, Default)]
pub(super) struct Collection {
    pub(super) objects: BTreeMap<String, Arc<Value>>,
    pub(super) history: Vec<Change>,
    /// Changes after this version are not shown to watches.
    pub(super) held_after: Option<u64>,
    pub(super) event_delay: Duration,
    pub(super) list_delay: Duration,
    pub(super) failing_lists: FailingLists,
    pub(super) failing_watches: FailingLists,
    pub(super) failing_patches: FailingLists,
    /// Lines that watches bring, whatever happened.
    pub(super) lines: Vec<String>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) version: u64,
    /// Watches from versions before this one are too old.
    pub(super) oldest: u64,
    next_id: u64,
    pods: Collection,
    namespaces: Collection,
    nodes: Collection,
    /// Its objects are in `nodes`.
    node_status: Collection,
    /// What somebody makes of a node's taints just before the next patch of it.
    pub(super) taints_before_patch: Option<Value>,
    pub(super) rests: HashMap<String, Rest>,
    pub(super) token: String,
    pub(super) refused: HashSet<(&'static str, Resource)>,
    pub(super) epochs: Epochs,
    pub(super) stall_all: bool,
    pub(super) down: bool,
    pub(super) bookmarks: bool,
    pub(super) bookmark_every: Duration,
    pub(super) open_watches: usize,
    pub(super) requests: Vec<Request>,
    /// Connections closed (or requests refused) while down.
    pub(super) turned_away: usize,
}

// === impl Resource ===

impl Resource {
    /// Its name in paths.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Namespaces => "namespaces",
            Self::Nodes => "nodes",
            Self::NodeStatus => "nodes/status",
        }
    }

    /// Of one object.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Pods => "Pod",
            Self::Namespaces => "Namespace",
            Self::Nodes | Self::NodeStatus => "Node",
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

// === impl Request ===

impl Request {
    /// A watch of that resource.
    #[must_use]
    pub fn is_watch(&self, resource: Resource) -> bool {
        self.is_of(resource) && self.query.contains_key("watch")
    }

    /// A list (or a page of one) of that resource.
    #[must_use]
    pub fn is_list(&self, resource: Resource) -> bool {
        self.is_of(resource) && !self.query.contains_key("watch")
    }

    fn is_of(&self, resource: Resource) -> bool {
        self.path == format!("/api/v1/{resource}")
    }
}

// === impl FailingLists ===

impl FailingLists {
    /// Counts one list; what comes in its place if it is to fail.
    pub(super) fn next(&mut self) -> Option<Answer> {
        if self.after > 0 {
            self.after -= 1;
            return None;
        }
        self.count = self.count.checked_sub(1)?;
        self.answer.clone()
    }
}

// === impl Shared ===

impl Shared {
    pub(super) fn new(token: &str) -> Self {
        let state = State {
            // Version 1 is the empty cluster's: 0 means "any" to the real server.
            version: 1,
            oldest: 0,
            next_id: 0,
            pods: Collection::default(),
            namespaces: Collection::default(),
            nodes: Collection::default(),
            node_status: Collection::default(),
            taints_before_patch: None,
            rests: HashMap::new(),
            token: token.to_owned(),
            refused: HashSet::from(NOT_IN_THE_MANIFEST),
            epochs: Epochs::default(),
            stall_all: false,
            down: false,
            bookmarks: true,
            bookmark_every: BOOKMARK_EVERY,
            open_watches: 0,
            requests: Vec::new(),
            turned_away: 0,
        };
        Self { state: Mutex::new(state), changed: watch::Sender::new(0) }
    }

    /// To look at.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Changes something and wakes everybody who waits.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let made = change(&mut self.state.lock());
        self.changed.send_modify(|count| *count += 1);
        made
    }

    /// Sees that something changed.
    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

// === impl State ===

impl State {
    pub(super) fn of(&self, resource: Resource) -> &Collection {
        match resource {
            Resource::Pods => &self.pods,
            Resource::Namespaces => &self.namespaces,
            Resource::Nodes => &self.nodes,
            Resource::NodeStatus => &self.node_status,
        }
    }

    pub(super) fn of_mut(&mut self, resource: Resource) -> &mut Collection {
        match resource {
            Resource::Pods => &mut self.pods,
            Resource::Namespaces => &mut self.namespaces,
            Resource::Nodes => &mut self.nodes,
            Resource::NodeStatus => &mut self.node_status,
        }
    }

    pub(super) fn apply_pod(&mut self, pod: &Pod) -> String {
        let key = format!("{}/{}", pod.namespace, pod.name);
        let known = self.uid(Resource::Pods, &key);
        if let (Some(wanted), Some(known)) = (&pod.uid, &known)
            && wanted != known
        {
            self.delete(Resource::Pods, &key);
        }
        let uid = pod.uid.clone().or(known).unwrap_or_else(|| self.new_uid());
        let version = self.next_version();
        self.record(Resource::Pods, key, Some(pod.object(&uid, version)));
        uid
    }

    pub(super) fn apply_namespace(&mut self, name: &str, annotations: &[(&str, &str)]) {
        let uid = self.uid(Resource::Namespaces, name).unwrap_or_else(|| self.new_uid());
        let version = self.next_version();
        let object = namespace(name, &uid, version, annotations);
        self.record(Resource::Namespaces, name.to_owned(), Some(object));
    }

    pub(super) fn apply_node(&mut self, name: &str, taints: &Value) {
        let uid = self.uid(Resource::Nodes, name).unwrap_or_else(|| self.new_uid());
        let version = self.next_version();
        self.record(Resource::Nodes, name.to_owned(), Some(node(name, &uid, version, taints)));
    }

    pub(super) fn apply_object(&mut self, resource: Resource, key: &str, mut object: Value) {
        let version = self.next_version();
        if object["metadata"].is_object() {
            object["metadata"]["resourceVersion"] = version.to_string().into();
        }
        self.record(resource, key.to_owned(), Some(object));
    }

    /// The same objects on another server, whose history begins anew.
    pub(super) fn restart(&mut self) {
        (self.version, self.oldest) = (1, 0);
        self.rests.clear();
        self.pods.history.clear();
        self.namespaces.history.clear();
        self.nodes.history.clear();
        self.epochs.broken += 1;
    }

    pub(super) fn delete(&mut self, resource: Resource, key: &str) -> bool {
        if !self.of(resource).objects.contains_key(key) {
            return false;
        }
        self.next_version();
        self.record(resource, key.to_owned(), None);
        true
    }

    /// What watches have come to.
    pub(super) fn cached_version(&self, resource: Resource) -> u64 {
        let Collection { history, held_after, .. } = self.of(resource);
        let shown = |change: &&Change| held_after.is_none_or(|held| change.version <= held);
        history.iter().rev().find(shown).map_or(1, |change| change.version)
    }

    /// A number that nothing had before.
    pub(super) fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Something elsewhere in the cluster changes.
    pub(super) fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    fn new_uid(&mut self) -> String {
        format!("00000000-0000-4000-8000-{:012x}", self.new_id())
    }

    fn uid(&self, resource: Resource, key: &str) -> Option<String> {
        self.of(resource).objects.get(key)?["metadata"]["uid"].as_str().map(str::to_owned)
    }

    fn record(&mut self, resource: Resource, key: String, after: Option<Value>) {
        let (version, after) = (self.version, after.map(Arc::new));
        let collection = self.of_mut(resource);
        let before = match &after {
            Some(object) => collection.objects.insert(key, Arc::clone(object)),
            None => collection.objects.remove(&key),
        };
        collection.history.push(Change { version, before, after, at: Instant::now() });
    }
}
