//! One resource, listed in pages and then watched, for ever.

use std::convert::Infallible;
use std::time::Duration;

use kube::api::{ListParams, WatchParams};
use tokio::time::Instant;

use super::api::{Api, Event};
use super::error::WatchError;
use super::freshness::Freshness;
use super::metrics::{Kind, Reason, ResourceMetrics};
use super::object::Object;
use super::publisher::Publisher;
use super::resource::Resource;
use crate::cluster::backoff::{Backoff, jittered};
use crate::cluster::client::Connector;
use crate::config::AnnotationKeys;

/// A page, or the opening of a watch, takes at most so long.
pub(super) const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// The API server is asked to end each watch after so many seconds (kube's default).
const WATCH_SECONDS: u32 = 290;

/// Of the limit for silence: after so much of it the API server is asked whether there was anything to say. Where it sends
/// bookmarks they come before, after 60 to 62 s of 75; what is left is time for a list.
const QUIET_PERCENT: u32 = 90;

/// A watch that lived so long worked, even if it brought nothing.
const STEADY: Duration = Duration::from_secs(5);

/// No resync: far enough away.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// The loop of one resource.
pub(super) struct Reflector<'a> {
    pub(super) resource: Resource,
    pub(super) connector: &'a Connector,
    /// How long a list is good for; zero: for ever.
    pub(super) resync: Duration,
    pub(super) keys: &'a AnnotationKeys,
    /// Field selector.
    pub(super) fields: Option<String>,
    pub(super) stall_limit: Duration,
    pub(super) freshness: &'a Freshness,
    pub(super) publisher: &'a Publisher,
    pub(super) metrics: &'a ResourceMetrics,
}

/// Where a watch goes on from.
struct Position {
    version: String,
    /// The version is this server's own: nothing has been heard of a server before it since. One that was restored,
    /// or is another, is silent below a version that it has not come to.
    vouched: bool,
}

/// Why a list or a watch is over.
struct End {
    reason: Reason,
    error: Option<WatchError>,
    /// Watching on would miss something.
    relist: bool,
}

// === impl Reflector ===

impl Reflector<'_> {
    /// Lists and watches for ever.
    pub(super) async fn run(self) -> Infallible {
        let mut backoff = Backoff::new();
        loop {
            let end = self.list_and_watch(&mut backoff).await;
            self.pause(&end, &mut backoff).await;
        }
    }

    /// One list and the watches that continue it, until another list is needed. The client is new each
    /// time: certificates, tokens and addresses may have changed.
    async fn list_and_watch(&self, backoff: &mut Backoff) -> End {
        let listed = async {
            let api = Api::new(self.connector.connect().await?, self.resource);
            let version = self.list(&api).await?;
            Ok((api, Position { version, vouched: true }))
        };
        let (api, mut position) = match listed.await {
            Ok(listed) => listed,
            Err(error) => return End::failed(error),
        };
        let resync = self.resync;
        let relist_at = Instant::now() + if resync.is_zero() { NEVER } else { jittered(resync) };
        loop {
            let end = self.watch(&api, &mut position, relist_at, backoff).await;
            if end.relist || self.stalled_since(self.freshness.last()) {
                return end;
            }
            self.pause(&end, backoff).await;
        }
    }

    /// Every page; the version to watch from. Objects so large that a page of them is too much come in smaller
    /// pages, at last one by one.
    async fn list(&self, api: &Api) -> Result<String, WatchError> {
        let mut page = self.resource.page();
        loop {
            match self.list_by(page, api).await {
                Err(WatchError::TooLarge { .. }) if page > 1 => page = (page / 10).max(1),
                done => return done,
            }
        }
    }

    async fn list_by(&self, page: u32, api: &Api) -> Result<String, WatchError> {
        let mut params = ListParams { field_selector: self.fields.clone(), ..ListParams::default() };
        params.limit = Some(page);
        self.publisher.take(self.resource.init());
        loop {
            let page = self.answered("list", api.list(&params)).await?;
            for object in &page.items {
                self.metrics.event(Kind::Listed);
                self.take(object, self.resource.listed(object, self.keys));
            }
            params.continue_token = page.next;
            if params.continue_token.is_none() {
                self.publisher.take(self.resource.init_done());
                self.freshness.heard();
                tracing::debug!(resource = %self.resource, "listed");
                return Ok(page.version);
            }
        }
    }

    /// One watch, until it ends, fails, stalls, or a list is due.
    async fn watch(
        &self,
        api: &Api,
        position: &mut Position,
        relist_at: Instant,
        backoff: &mut Backoff,
    ) -> End {
        let mut params = WatchParams::default().timeout(WATCH_SECONDS);
        params.field_selector.clone_from(&self.fields);
        let mut events = match self.answered("watch", api.watch(&params, &position.version)).await {
            Ok(events) => events,
            Err(error) => {
                position.vouched = false;
                return End::failed(error);
            }
        };
        let opened = Instant::now();
        self.freshness.opened();
        let end = loop {
            let heard = opened.max(self.freshness.last());
            let event = tokio::select! {
                biased;
                event = events.next() => event,
                () = tokio::time::sleep_until(relist_at) => break End::of(Reason::Resync),
                () = tokio::time::sleep_until(heard + self.stall_limit) => break End::of(Reason::Stalled),
                missed = self.missed(api, position) => {
                    if missed {
                        break End::of(Reason::Stalled);
                    }
                    self.freshness.heard();
                    continue;
                }
            };
            match event {
                None => break End::of(Reason::Ended),
                Some(Err(error)) => break End::failed(error),
                Some(Ok(event)) => {
                    if let Err(error) = self.heard(event, position) {
                        break End::failed(error);
                    }
                    backoff.reset();
                }
            }
        };
        if opened.elapsed() >= STEADY {
            backoff.reset();
        }
        // It ends by itself, or its server did.
        position.vouched &= opened.elapsed().as_secs() + 1 >= u64::from(WATCH_SECONDS);
        end
    }

    /// Resolves when nothing has been heard for long: whether the watch has missed something. An API server sends no
    /// bookmark of a resource that has not changed since it started, so that silence alone tells nothing of namespaces. What it would send it has in its watch cache, and says the version of that with each list
    /// that is answered from there (`resourceVersion=0`); nothing there is newer than what was seen: there was nothing to
    /// say. An error is no answer: silence goes on.
    async fn missed(&self, api: &Api, position: &Position) -> bool {
        tokio::time::sleep_until(self.freshness.last() + self.stall_limit * QUIET_PERCENT / 100).await;
        if !position.vouched {
            return true;
        }
        match self.answered("list", api.cached_version(self.fields.as_deref())).await {
            Ok(cached) => !position.is_at_least(&cached),
            Err(error) => {
                tracing::debug!(resource = %self.resource, %error, "a silent watch is not vouched for");
                std::future::pending().await
            }
        }
    }

    /// One event of a watch.
    fn heard(&self, event: Event, position: &mut Position) -> Result<(), WatchError> {
        let (kind, object, change) = match event {
            Event::Applied(object) => {
                let change = self.resource.applied(&object, self.keys);
                (Kind::Applied, object, change)
            }
            Event::Deleted(object) => {
                let change = self.resource.deleted(&object);
                (Kind::Deleted, object, change)
            }
            Event::Bookmark(at) => {
                self.metrics.event(Kind::Bookmark);
                position.reached(at);
                self.freshness.heard();
                return Ok(());
            }
            Event::Error(error) => {
                self.metrics.event(Kind::Error);
                return Err(error);
            }
        };
        self.metrics.event(kind);
        self.take(&object, change);
        if let Some(at) = object.version {
            position.reached(at);
        }
        self.freshness.heard();
        Ok(())
    }

    /// Folds in what an object means, and reports one that cannot be read.
    fn take(&self, object: &Object, change: Option<crate::cluster::index::Event>) {
        if !object.readable || change.is_none() {
            self.metrics.event(Kind::Unreadable);
            let (namespace, name) = (&object.namespace, &object.name);
            tracing::warn!(resource = %self.resource, namespace, name, "object cannot be read");
        }
        if let Some(change) = change {
            self.publisher.take(change);
        }
    }

    /// The answer to a request, or why there is none in time.
    async fn answered<T>(
        &self,
        verb: &'static str,
        request: impl Future<Output = Result<T, WatchError>>,
    ) -> Result<T, WatchError> {
        let timeout =
            |_| WatchError::Timeout { verb, resource: self.resource, seconds: REQUEST_LIMIT.as_secs() };
        tokio::time::timeout(REQUEST_LIMIT, request).await.map_err(timeout)?
    }

    fn stalled_since(&self, last: Instant) -> bool {
        last.elapsed() >= self.stall_limit
    }

    /// Counts, logs and exposes the end, and waits as long as it asks for.
    async fn pause(&self, end: &End, backoff: &mut Backoff) {
        self.metrics.restarted(end.reason);
        let delay = match end.reason {
            Reason::Failed => backoff.after_failure(end.error.as_ref().and_then(WatchError::retry_after)),
            Reason::Ended | Reason::Gone | Reason::Stalled | Reason::Resync => backoff.after_end(),
        };
        let reason = end.reason.code();
        match &end.error {
            Some(error) => {
                self.freshness.trouble(error);
                tracing::warn!(resource = %self.resource, reason, %error, ?delay, "kubernetes watch restarts");
            }
            None => tracing::debug!(resource = %self.resource, reason, ?delay, "kubernetes watch restarts"),
        }
        tokio::time::sleep(delay).await;
    }
}

// === impl Position ===

impl Position {
    /// The watch that is open said this version.
    fn reached(&mut self, version: String) {
        *self = Self { version, vouched: true };
    }

    /// Versions are numbers of one sequence for each resource (Kubernetes 1.35 promises it, and etcd's revisions always
    /// were); one that is none tells nothing.
    fn is_at_least(&self, version: &str) -> bool {
        let numbers = (self.version.parse::<u64>(), version.parse::<u64>());
        matches!(numbers, (Ok(own), Ok(other)) if own >= other)
    }
}

// === impl End ===

impl End {
    fn of(reason: Reason) -> Self {
        let relist = match reason {
            Reason::Ended | Reason::Failed => false,
            Reason::Gone | Reason::Stalled | Reason::Resync => true,
        };
        Self { reason, error: None, relist }
    }

    fn failed(error: WatchError) -> Self {
        let gone = matches!(error, WatchError::Gone { .. });
        let end = Self::of(if gone { Reason::Gone } else { Reason::Failed });
        // Only a new list reads the token anew, and only a list gets past an event that cannot be read: it
        // would come again.
        let relist = end.relist
            || matches!(
                error,
                WatchError::Unauthorized { .. } | WatchError::Unreadable { .. } | WatchError::TooLarge { .. }
            );
        Self { error: Some(error), relist, ..end }
    }
}
