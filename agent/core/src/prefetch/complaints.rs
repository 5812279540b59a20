//! Tells the operator of annotations that cannot be obeyed: when they are seen, not only when a pod asks.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use prometheus::IntGaugeVec;
use tokio::time::Instant;
use tracing::warn;

use crate::metrics::Registry;
use crate::policy::{Denied, NamespaceProblem, PodFacts};
use crate::types::PodUid;

/// Of one pod (or namespace) and one reason, whatever its annotation is edited to: a line in this time at most.
pub(super) const LINE_EVERY: Duration = Duration::from_secs(60);

/// One annotation that cannot be obeyed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Complaint {
    pub(super) about: About,
    /// A bounded label.
    pub(super) reason: &'static str,
    /// For the operator: printable and short.
    pub(super) detail: String,
}

/// Whose annotation it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum About {
    Pod { uid: PodUid, namespace: Arc<str>, name: Arc<str> },
    Namespace(Arc<str>),
}

/// How many there are, and what of them has been written.
#[derive(Debug)]
pub struct Complaints {
    pods: IntGaugeVec,
    namespaces: IntGaugeVec,
    written: HashMap<(About, &'static str), Written>,
}

#[derive(Clone, Copy, Debug)]
struct Written {
    at: Instant,
    /// Of the detail.
    hash: u64,
}

// === impl Complaint ===

impl Complaint {
    /// The pod is refused its role; one without a role has nothing to complain of.
    pub(super) fn of_pod(pod: &PodFacts, denied: &Denied) -> Option<Self> {
        if *denied == Denied::NoRole {
            return None;
        }
        let about = About::Pod {
            uid: pod.uid.clone(),
            namespace: Arc::clone(&pod.namespace),
            name: Arc::clone(&pod.name),
        };
        Some(Self { about, reason: denied.code(), detail: denied.message() })
    }

    pub(super) fn of_namespace(name: &Arc<str>, problem: NamespaceProblem) -> Self {
        let about = About::Namespace(Arc::clone(name));
        Self { about, reason: problem.annotation, detail: problem.message }
    }

    fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.detail.hash(&mut hasher);
        hasher.finish()
    }

    fn write(&self) {
        match &self.about {
            About::Pod { uid, namespace, name } => warn!(
                pod = %name,
                namespace = %namespace,
                uid = %uid,
                reason = self.reason,
                detail = self.detail,
                "pod is refused its role"
            ),
            About::Namespace(namespace) => warn!(
                namespace = %namespace,
                annotation = self.reason,
                detail = self.detail,
                "annotation of the namespace is malformed"
            ),
        }
    }
}

// === impl Complaints ===

impl Complaints {
    /// None yet; every reason has its series from the start.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        let pods = registry.gauges(
            "pods_refused",
            "Pods of this node that are refused their role, whether or not they have asked, by reason.",
            &["reason"],
        );
        let namespaces = registry.gauges(
            "namespace_annotations_malformed",
            "Namespaces with pods on this node whose annotation is malformed, by annotation.",
            &["annotation"],
        );
        let complaints = Self { pods, namespaces, written: HashMap::new() };
        complaints.count(&[]);
        complaints
    }

    /// All complaints there are now: counts them, and writes those not yet written. True when one has to wait for
    /// its minute.
    pub(super) fn are(&mut self, now: &[Complaint]) -> bool {
        self.count(now);
        let mut waiting = false;
        for complaint in now {
            match self.due(complaint) {
                Due::Now => complaint.write(),
                Due::Later => waiting = true,
                Due::Never => {}
            }
        }
        let current: HashSet<_> = now.iter().map(|complaint| (&complaint.about, complaint.reason)).collect();
        self.written.retain(|(about, reason), written| {
            written.at.elapsed() < LINE_EVERY || current.contains(&(about, *reason))
        });
        waiting
    }

    fn count(&self, now: &[Complaint]) {
        let with = |reason: &str, of_pod: bool| {
            let alike = now
                .iter()
                .filter(|it| it.reason == reason && matches!(it.about, About::Pod { .. }) == of_pod);
            i64::try_from(alike.count()).unwrap_or(i64::MAX)
        };
        for reason in Denied::CODES.into_iter().filter(|code| *code != Denied::NoRole.code()) {
            self.pods.with_label_values(&[reason]).set(with(reason, true));
        }
        for annotation in NamespaceProblem::ANNOTATIONS {
            self.namespaces.with_label_values(&[annotation]).set(with(annotation, false));
        }
    }

    fn due(&mut self, complaint: &Complaint) -> Due {
        let now = Written { at: Instant::now(), hash: complaint.hash() };
        let key = (complaint.about.clone(), complaint.reason);
        match self.written.get_mut(&key) {
            Some(before) if before.hash == now.hash => Due::Never,
            Some(before) if now.at.duration_since(before.at) < LINE_EVERY => Due::Later,
            _ => {
                self.written.insert(key, now);
                Due::Now
            }
        }
    }
}

/// Whether a complaint is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Now,
    Later,
    /// It has been.
    Never,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(uid: &str, reason: &'static str, detail: &str) -> Complaint {
        let about = About::Pod { uid: PodUid::new(uid), namespace: "default".into(), name: "a".into() };
        Complaint { about, reason, detail: detail.to_owned() }
    }

    fn gauge(complaints: &Complaints, reason: &str) -> i64 {
        complaints.pods.with_label_values(&[reason]).get()
    }

    #[tokio::test(start_paused = true)]
    async fn a_complaint_is_written_once_and_another_value_of_it_once_a_minute() {
        let mut complaints = Complaints::new(&Registry::new());
        let (a, b) = (complaint("1", "malformed_role", "a"), complaint("1", "malformed_role", "b"));
        assert_eq!(complaints.due(&a), Due::Now);
        assert_eq!(complaints.due(&a), Due::Never);
        assert_eq!(complaints.due(&b), Due::Later);
        assert_eq!(complaints.due(&complaint("2", "malformed_role", "a")), Due::Now);
        assert_eq!(complaints.due(&complaint("1", "own_role", "a")), Due::Now);
        assert!(complaints.are(std::slice::from_ref(&b)), "it waits");
        tokio::time::advance(LINE_EVERY).await;
        assert_eq!(complaints.due(&b), Due::Now);
        tokio::time::advance(LINE_EVERY * 60).await;
        assert!(!complaints.are(std::slice::from_ref(&b)));
        assert_eq!(complaints.due(&b), Due::Never, "as long as it lasts");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_mended_is_counted_no_more_and_forgotten_a_minute_later() {
        let mut complaints = Complaints::new(&Registry::new());
        let both = [complaint("1", "malformed_role", "a"), complaint("2", "malformed_role", "a")];
        complaints.are(&both);
        assert_eq!((gauge(&complaints, "malformed_role"), complaints.written.len()), (2, 2));
        complaints.are(&both[..1]);
        // An annotation that goes to and fro is not written each time.
        assert_eq!((gauge(&complaints, "malformed_role"), complaints.written.len()), (1, 2));
        assert_eq!(complaints.due(&both[1]), Due::Never);
        tokio::time::advance(LINE_EVERY).await;
        complaints.are(&[]);
        assert_eq!((gauge(&complaints, "malformed_role"), complaints.written.len()), (0, 0));
    }

    /// K27: whatever annotations say, the number of series is the number of reasons.
    #[tokio::test(start_paused = true)]
    async fn ten_thousand_values_leave_the_number_of_series_unchanged() {
        let registry = Registry::new();
        let mut complaints = Complaints::new(&registry);
        let series = || registry.gather().iter().map(|family| family.get_metric().len()).sum::<usize>();
        let before = series();
        let many: Vec<_> =
            (0..10_000).map(|n| complaint(&n.to_string(), "malformed_role", &n.to_string())).collect();
        complaints.are(&many);
        assert_eq!((series(), gauge(&complaints, "malformed_role")), (before, 10_000));
        assert_eq!(before, Denied::CODES.len() - 1 + NamespaceProblem::ANNOTATIONS.len());
    }
}
