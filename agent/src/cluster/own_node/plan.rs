//! What has to be written to a Node as it stands: pure.

use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The condition is renewed, and the Node looked at, this often (as the kubelet does with its own).
pub(super) const HEARTBEAT: Duration = Duration::from_secs(300);
use crate::ready::GateState;

/// The type of our condition.
const CONDITION: &str = "rolegate/Ready";

/// The gates of what is known of pods and roles. With these alone closed, requests are captured and refused; with
/// any other they may not be captured.
const ANSWERING: [&str; 3] = ["pods", "namespaces", "identity"];

/// So much of a message is written.
const MAX_MESSAGE_CHARS: usize = 1024;

/// What counts of a Node. Everything else is skipped unread.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Node {
    kind: String,
    spec: Spec,
    status: Status,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Spec {
    /// As they are: a patch names them whole.
    taints: Option<Vec<Value>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    conditions: Option<Vec<Condition>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: String,
    message: String,
    last_heartbeat_time: Option<String>,
    last_transition_time: Option<String>,
}

/// The closed gates: what the agent waits for.
#[derive(Clone, Debug, Default)]
pub(super) struct Waiting {
    gates: Vec<&'static str>,
    /// With their reasons.
    text: String,
}

// === impl Waiting ===

impl Waiting {
    pub(super) fn of(states: &[GateState]) -> Self {
        let closed =
            || states.iter().filter_map(|gate| gate.state.as_ref().err().map(|why| (gate.name, why)));
        let text: Vec<String> = closed().map(|(name, why)| format!("{name}: {why}")).collect();
        Self { gates: closed().map(|(name, _)| name).collect(), text: text.join("; ") }
    }

    /// Nothing is waited for.
    pub(super) fn is_ready(&self) -> bool {
        self.gates.is_empty()
    }

    /// For the same gates, for whatever reasons: some reasons count minutes.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.gates == other.gates
    }

    fn status(&self) -> &'static str {
        if self.is_ready() { "True" } else { "False" }
    }

    fn reason(&self) -> &'static str {
        if self.is_ready() {
            "Ready"
        } else if self.gates.iter().all(|gate| ANSWERING.contains(gate)) {
            "NotAnswering"
        } else {
            "NotIntercepting"
        }
    }

    fn message(&self) -> String {
        if self.is_ready() {
            return "pods' requests to the instance metadata service are captured and answered".to_owned();
        }
        format!("waits for {}", self.text).chars().take(MAX_MESSAGE_CHARS).collect()
    }
}

// === impl Node ===

impl Node {
    /// What the API server answered; `None` if that is no Node.
    pub(super) fn read(text: &[u8]) -> Option<Self> {
        serde_json::from_slice::<Self>(text).ok().filter(|node| node.kind == "Node")
    }

    /// A JSON patch that removes the taints of that key, whatever their value and effect, if the taints are still
    /// what they were; `None` where there is none.
    pub(super) fn taint_patch(&self, key: &str) -> Option<Value> {
        let taints = self.spec.taints.as_ref()?;
        let others: Vec<&Value> = taints.iter().filter(|taint| taint["key"] != key).collect();
        if others.len() == taints.len() {
            return None;
        }
        let change = if others.is_empty() {
            json!({"op": "remove", "path": "/spec/taints"})
        } else {
            json!({"op": "replace", "path": "/spec/taints", "value": others})
        };
        Some(json!([{"op": "test", "path": "/spec/taints", "value": taints}, change]))
    }

    /// A strategic merge patch of the status, where conditions are merged by their type; `None` where the Node says
    /// so already, and said it not long ago.
    pub(super) fn condition_patch(&self, waiting: &Waiting, now: SystemTime) -> Option<Value> {
        let (status, reason, message) = (waiting.status(), waiting.reason(), waiting.message());
        let conditions = self.status.conditions.as_deref().unwrap_or_default();
        let known = conditions.iter().find(|condition| condition.kind == CONDITION);
        let same = known.filter(|known| known.status == status);
        let said = same.is_some_and(|known| known.reason == reason && known.message == message);
        if said && same.is_some_and(|known| known.is_younger_than(HEARTBEAT / 2, now)) {
            return None;
        }
        let now = rfc3339(now);
        let since = same.and_then(|known| known.last_transition_time.as_ref()).unwrap_or(&now);
        Some(json!({"status": {"conditions": [{
            "type": CONDITION,
            "status": status,
            "reason": reason,
            "message": message,
            "lastHeartbeatTime": now,
            "lastTransitionTime": since,
        }]}}))
    }
}

// === impl Condition ===

impl Condition {
    fn is_younger_than(&self, age: Duration, now: SystemTime) -> bool {
        let beat = self.last_heartbeat_time.as_deref();
        let beat = beat.and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok()).map(SystemTime::from);
        // One that lies ahead is none: a clock was wrong.
        beat.and_then(|beat| now.duration_since(beat).ok()).is_some_and(|past| past < age)
    }
}

/// In whole seconds, as the API server keeps times.
fn rfc3339(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at).truncate_to_second();
    at.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests;
