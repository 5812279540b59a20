//! Metadata of the instance for pods: asked of the real service once, kept, and never asked in a herd.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::IntCounter;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::route::MetadataPath;
use super::upstream::{Answer, Text, Upstream, UpstreamError, UpstreamPath};
use crate::metrics::Registry;

/// How long an answer that may change is kept, a 404 included.
const KEEP: Duration = Duration::from_secs(5);

/// How long a failure is kept: the service throttles by not answering, so it is left alone.
const KEEP_FAILURE: Duration = Duration::from_secs(1);

/// Most answers kept. Constant ones are few; the rest is bounded by what pods make up within [`KEEP`].
const ENTRIES: usize = 512;

/// Requests in any one second for names that nobody wrote down (they match a wildcard): at some ten packets
/// each a quarter of the 1024 per second that the node has for the service and DNS together.
const MADE_UP_PER_SECOND: u32 = 25;

/// What is passed on to a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Passed {
    /// 200.
    Text(Text),
    /// 404, empty.
    NotFound,
    /// 503, empty.
    Unavailable,
}

/// The cache in front of [`Upstream`].
#[derive(Debug)]
pub struct Passthrough {
    upstream: Arc<Upstream>,
    entries: Mutex<HashMap<MetadataPath, Entry>>,
    made_up: Mutex<Allowance>,
    hits: IntCounter,
}

/// One path: whoever holds the lock asks, the others wait for what it gets.
type Entry = Arc<tokio::sync::Mutex<Option<Kept>>>;

#[derive(Clone, Debug)]
struct Kept {
    passed: Passed,
    /// `None`: for the life of the process.
    until: Option<Instant>,
}

/// Requests that may still be sent before `ends`.
#[derive(Debug)]
struct Allowance {
    left: u32,
    ends: Instant,
}

// === impl Passthrough ===

impl Passthrough {
    /// Nothing kept yet.
    #[must_use]
    pub fn new(upstream: Arc<Upstream>, registry: &Registry) -> Self {
        Self {
            upstream,
            entries: Mutex::new(HashMap::new()),
            made_up: Mutex::new(Allowance { left: 0, ends: Instant::now() }),
            hits: registry.counter(
                "upstream_cache_hits_total",
                "Requests for metadata answered without asking the real metadata service.",
            ),
        }
    }

    /// What the service says to `path`, from memory where it is known, before `deadline`.
    pub async fn get(&self, path: &MetadataPath, deadline: Instant) -> Passed {
        let Some(entry) = self.entry(path) else {
            return Passed::Unavailable;
        };
        let Ok(mut kept) = timeout_at(deadline, entry.lock()).await else {
            return Passed::Unavailable;
        };
        if let Some(kept) = kept.as_ref().filter(|kept| kept.is_fresh(Instant::now())) {
            self.hits.inc();
            return kept.passed.clone();
        }
        if !path.is_named() && timeout_at(deadline, self.allowed()).await.is_err() {
            return Passed::Unavailable;
        }
        let answer = self.upstream.get(&UpstreamPath::from(path), deadline).await;
        let fresh = Kept::new(path, answer, Instant::now());
        *kept = Some(fresh.clone());
        fresh.passed
    }

    /// Waits until a made-up name may be asked for.
    async fn allowed(&self) {
        loop {
            let taken = self.made_up.lock().take(Instant::now());
            match taken {
                Ok(()) => return,
                Err(next) => sleep_until(next).await,
            }
        }
    }

    /// The entry of `path`; `None` while too many others are in use.
    fn entry(&self, path: &MetadataPath) -> Option<Entry> {
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get(path) {
            return Some(Arc::clone(entry));
        }
        if entries.len() >= ENTRIES {
            let now = Instant::now();
            entries.retain(|_, entry| match entry.try_lock() {
                Ok(kept) => kept.as_ref().is_some_and(|kept| kept.is_fresh(now)),
                Err(_) => true,
            });
        }
        if entries.len() >= ENTRIES {
            return None;
        }
        Some(Arc::clone(entries.entry(path.clone()).or_default()))
    }
}

// === impl Kept ===

impl Kept {
    fn new(path: &MetadataPath, answer: Result<Answer, UpstreamError>, now: Instant) -> Self {
        match answer {
            Ok(Answer::Found(text)) => {
                let until = if path.is_constant() { None } else { Some(now + KEEP) };
                Self { passed: Passed::Text(text), until }
            }
            Ok(Answer::NotFound) => Self { passed: Passed::NotFound, until: Some(now + KEEP) },
            Err(error) => {
                tracing::warn!(path = path.as_str(), %error, "metadata cannot be passed through");
                Self { passed: Passed::Unavailable, until: Some(now + KEEP_FAILURE) }
            }
        }
    }

    fn is_fresh(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

// === impl Allowance ===

impl Allowance {
    /// Takes one; if none is left, says when there will be more.
    fn take(&mut self, now: Instant) -> Result<(), Instant> {
        if now >= self.ends {
            *self = Self { left: MADE_UP_PER_SECOND, ends: now + Duration::from_secs(1) };
        }
        self.left = self.left.checked_sub(1).ok_or(self.ends)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Method;

    use super::super::route::{MetadataPolicy, Route, route};
    use super::*;

    fn path(target: &str) -> MetadataPath {
        let policy = MetadataPolicy::new(&["spot/**".into()], false).unwrap();
        match route(&Method::GET, target, &policy) {
            Route::Metadata(path) => path,
            other => panic!("{target}: {other:?}"),
        }
    }

    fn text() -> Result<Answer, UpstreamError> {
        Ok(Answer::Found(Text { content_type: "text/plain", body: Bytes::from_static(b"x") }))
    }

    #[test]
    fn only_what_never_changes_is_kept_for_good() {
        let (constant, varying) =
            (path("/latest/meta-data/instance-id"), path("/latest/meta-data/spot/instance-action"));
        let now = Instant::now();
        let fresh_after =
            |path: &MetadataPath, answer, after: Duration| Kept::new(path, answer, now).is_fresh(now + after);
        let year = Duration::from_secs(365 * 24 * 3_600);
        assert!(fresh_after(&constant, text(), year));
        assert!(fresh_after(&varying, text(), KEEP / 2) && !fresh_after(&varying, text(), KEEP));
        assert!(!fresh_after(&constant, Ok(Answer::NotFound), KEEP));
        assert!(!fresh_after(&constant, Err(UpstreamError::Timeout), KEEP_FAILURE));
    }

    #[test]
    fn made_up_names_are_counted_and_named_ones_are_not() {
        assert!(path("/latest/meta-data/placement/region").is_named());
        assert!(!path("/latest/meta-data/placement/made-up").is_named());
        let now = Instant::now();
        let mut allowance = Allowance { left: 0, ends: now };
        for _ in 0..MADE_UP_PER_SECOND {
            assert_eq!(allowance.take(now), Ok(()));
        }
        let next = now + Duration::from_secs(1);
        assert_eq!(allowance.take(now), Err(next));
        assert_eq!(allowance.take(next), Ok(()));
    }

    #[tokio::test]
    async fn more_paths_than_entries_are_refused_until_some_are_stale() {
        let registry = Registry::new();
        let nowhere = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        let passthrough = Passthrough::new(Arc::new(Upstream::new(nowhere, &registry)), &registry);
        let name = |at: usize| path(&format!("/latest/meta-data/placement/p{at}"));
        let held: Vec<Entry> = (0..ENTRIES).map(|at| passthrough.entry(&name(at)).unwrap()).collect();
        let guards: Vec<_> = held.iter().map(|entry| entry.try_lock().unwrap()).collect();
        assert!(passthrough.entry(&name(ENTRIES)).is_none());
        assert!(passthrough.entry(&name(0)).is_some());
        drop(guards);
        assert!(passthrough.entry(&name(ENTRIES)).is_some());
    }
}
