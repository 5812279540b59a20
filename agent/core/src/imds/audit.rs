//! The audit trail: one line for each session handed to a pod, one a minute for each pod and reason of refusal.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::credentials::Session;
use crate::identity::Caller;
use crate::policy::Grant;
use crate::types::{PodUid, Utc};

/// A pod that asks in a loop is written once in this time, with the number of times.
const LINE_EVERY: Duration = Duration::from_secs(60);
/// Keys remembered; beyond it the memory starts anew, which costs lines and nothing else.
const MOST_REMEMBERED: usize = 4096;

/// Writes the lines; remembers which of them need not be written again yet.
#[derive(Debug, Default)]
pub(super) struct Audit {
    refused: Repeats<(PodUid, &'static str)>,
    v1: Repeats<Arc<str>>,
}

/// What was written of late, by what it was about.
#[derive(Debug)]
struct Repeats<K>(Mutex<HashMap<K, Written>>);

#[derive(Debug)]
struct Written {
    at: Instant,
    since: u64,
}

// === impl Audit ===

impl Audit {
    /// A session of the pod's role was handed to it. No secret is written.
    #[expect(clippy::unused_self, reason = "the trail is one object: a later sink needs it")]
    pub(super) fn issued(&self, caller: &Caller, grant: &Grant, session: &Session, v1: bool) {
        let pod = &caller.pod.facts;
        info!(
            target: "rolegate::audit",
            pod = %pod.name,
            namespace = %pod.namespace,
            uid = %pod.uid,
            service_account = %pod.service_account,
            peer = %caller.ip,
            role_arn = %grant.role,
            session = %grant.session_name,
            access_key_id = %session.access_key_id,
            expiration = %Utc::new(session.expiration),
            imds_version = if v1 { 1 } else { 2 },
            would_deny = grant.audited.as_ref().map(|denied| denied.code()),
            // With the command that would allow it.
            detail = grant.audited.as_ref().map(|denied| denied.message()),
            "issued"
        );
    }

    /// The pod was refused. `detail` is for the operator: what STS said, or the command that would lift it.
    pub(super) fn refused(&self, caller: &Caller, role: Option<&str>, reason: &'static str, detail: &str) {
        let pod = &caller.pod.facts;
        let Some(repeats) = self.refused.due((pod.uid.clone(), reason)) else { return };
        warn!(
            target: "rolegate::audit",
            pod = %pod.name,
            namespace = %pod.namespace,
            uid = %pod.uid,
            service_account = %pod.service_account,
            peer = %caller.ip,
            role_arn = role,
            reason,
            detail,
            repeats,
            "refused"
        );
    }

    /// A request without a token was served: counted per namespace, for those who want to require tokens.
    pub(super) fn v1_used(&self, namespace: &Arc<str>) {
        if let Some(repeats) = self.v1.due(Arc::clone(namespace)) {
            info!(target: "rolegate::audit", namespace = %namespace, repeats, "request without a token (IMDSv1) served");
        }
    }
}

// === impl Repeats ===

impl<K: Eq + Hash> Repeats<K> {
    /// `Some(times not written since the last line)` when a line is due.
    fn due(&self, key: K) -> Option<u64> {
        let now = Instant::now();
        let mut written = self.0.lock();
        if written.len() >= MOST_REMEMBERED {
            written.clear();
        }
        match written.entry(key) {
            Entry::Occupied(mut entry) if now.duration_since(entry.get().at) < LINE_EVERY => {
                entry.get_mut().since += 1;
                None
            }
            Entry::Occupied(mut entry) => Some(entry.insert(Written { at: now, since: 0 }).since),
            Entry::Vacant(entry) => {
                entry.insert(Written { at: now, since: 0 });
                Some(0)
            }
        }
    }
}

impl<K> Default for Repeats<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_written_once_a_minute_with_the_number_left_out() {
        let refused = Repeats::default();
        let (a, b) = (PodUid::new("a"), PodUid::new("b"));
        let due = |pod: &PodUid, reason| refused.due((pod.clone(), reason));
        assert_eq!(due(&a, "no_list"), Some(0));
        assert_eq!(due(&a, "no_list"), None);
        assert_eq!(due(&a, "no_list"), None);
        assert_eq!(due(&a, "own_role"), Some(0));
        assert_eq!(due(&b, "no_list"), Some(0));
        tokio::time::advance(LINE_EVERY).await;
        assert_eq!(due(&a, "no_list"), Some(2));
        assert_eq!(due(&a, "no_list"), None);
    }
}
