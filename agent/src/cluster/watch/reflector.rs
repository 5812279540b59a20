//! One resource, listed in pages and then watched, for ever.

use std::convert::Infallible;
use std::marker::PhantomData;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, ResourceExt};
use tokio::time::Instant;

use super::backoff::{Backoff, jittered};
use super::client::connect;
use super::error::WatchError;
use super::freshness::Freshness;
use super::metrics::{Kind, Reason, ResourceMetrics};
use super::publisher::Publisher;
use super::resource::Watched;
use crate::config::{AnnotationKeys, Kubernetes};

/// Objects of one page: small pages keep the resident memory of the first list small (18.8 MiB instead of
/// 26 with 10,000 namespaces and pages of 500).
const PAGE: u32 = 100;

/// A page, or the opening of a watch, takes at most so long.
pub(super) const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// The API server is asked to end each watch after so many seconds (kube's default).
const WATCH_SECONDS: u32 = 290;

/// A watch that lived so long worked, even if it brought nothing.
const STEADY: Duration = Duration::from_secs(5);

/// No resync: far enough away.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// What a reflector works with.
pub(super) struct Parts<'a> {
    pub(super) config: &'a Kubernetes,
    pub(super) keys: &'a AnnotationKeys,
    /// Field selector.
    pub(super) fields: Option<String>,
    pub(super) stall_limit: Duration,
    pub(super) freshness: &'a Freshness,
    pub(super) publisher: &'a Publisher,
    pub(super) metrics: &'a ResourceMetrics,
}

/// The loop of one resource.
pub(super) struct Reflector<'a, W> {
    parts: Parts<'a>,
    resource: PhantomData<W>,
}

/// Why a list or a watch is over.
struct End {
    reason: Reason,
    error: Option<WatchError>,
    /// Watching on would miss something.
    relist: bool,
}

// === impl Reflector ===

impl<'a, W: Watched> Reflector<'a, W> {
    pub(super) fn new(parts: Parts<'a>) -> Self {
        Self { parts, resource: PhantomData }
    }

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
            let api = Api::all(connect(self.parts.config).await?);
            let version = self.list(&api).await?;
            Ok((api, version))
        };
        let (api, mut version) = match listed.await {
            Ok(listed) => listed,
            Err(error) => return End::failed(error),
        };
        let resync = self.parts.config.resync;
        let relist_at = Instant::now() + if resync.is_zero() { NEVER } else { jittered(resync) };
        loop {
            let end = self.watch(&api, &mut version, relist_at, backoff).await;
            if end.relist || self.stalled_since(self.parts.freshness.last()) {
                return end;
            }
            self.pause(&end, backoff).await;
        }
    }

    /// Every page; the version to watch from.
    async fn list(&self, api: &Api<W::Object>) -> Result<String, WatchError> {
        let mut params = ListParams { field_selector: self.parts.fields.clone(), ..ListParams::default() };
        params.limit = Some(PAGE);
        self.parts.publisher.take(W::init());
        loop {
            let page = self.answered("list", api.list(&params)).await?;
            for object in &page.items {
                self.parts.metrics.event(Kind::Listed);
                self.take(W::listed(object, self.parts.keys));
            }
            params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                self.parts.publisher.take(W::init_done());
                self.parts.freshness.heard();
                tracing::debug!(resource = %W::RESOURCE, "listed");
                return Ok(page.metadata.resource_version.unwrap_or_default());
            }
        }
    }

    /// One watch, until it ends, fails, stalls, or a list is due.
    async fn watch(
        &self,
        api: &Api<W::Object>,
        version: &mut String,
        relist_at: Instant,
        backoff: &mut Backoff,
    ) -> End {
        let mut params = WatchParams::default().timeout(WATCH_SECONDS);
        params.field_selector.clone_from(&self.parts.fields);
        let events = match self.answered("watch", api.watch(&params, version)).await {
            Ok(events) => events,
            Err(error) => return End::failed(error),
        };
        let mut events = pin!(events);
        let opened = Instant::now();
        self.parts.freshness.opened();
        let end = loop {
            let stalled_at = opened.max(self.parts.freshness.last()) + self.parts.stall_limit;
            let event = tokio::select! {
                biased;
                event = events.next() => event,
                () = tokio::time::sleep_until(relist_at) => break End::of(Reason::Resync),
                () = tokio::time::sleep_until(stalled_at) => break End::of(Reason::Stalled),
            };
            match event {
                None => break End::of(Reason::Ended),
                Some(Err(error)) => break self.broken(&error),
                Some(Ok(event)) => {
                    if let Err(error) = self.heard(event, version) {
                        break End::failed(error);
                    }
                    backoff.reset();
                }
            }
        };
        if opened.elapsed() >= STEADY {
            backoff.reset();
        }
        end
    }

    /// One event of a watch.
    fn heard(&self, event: WatchEvent<W::Object>, version: &mut String) -> Result<(), WatchError> {
        let (kind, change, at) = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                (Kind::Applied, W::applied(&object, self.parts.keys), object.resource_version())
            }
            WatchEvent::Deleted(object) => (Kind::Deleted, W::deleted(&object), object.resource_version()),
            WatchEvent::Bookmark(bookmark) => {
                self.parts.metrics.event(Kind::Bookmark);
                *version = bookmark.metadata.resource_version;
                self.parts.freshness.heard();
                return Ok(());
            }
            WatchEvent::Error(status) => {
                self.parts.metrics.event(Kind::Error);
                return Err(WatchError::of_status("watch", W::RESOURCE, &status));
            }
        };
        self.parts.metrics.event(kind);
        self.take(change);
        if let Some(at) = at {
            *version = at;
        }
        self.parts.freshness.heard();
        Ok(())
    }

    fn take(&self, event: Option<crate::cluster::index::Event>) {
        match event {
            Some(event) => self.parts.publisher.take(event),
            None => tracing::warn!(resource = %W::RESOURCE, "object without uid or name ignored"),
        }
    }

    /// A watch broke. An event that cannot be read would come again: it takes a list to get past it.
    fn broken(&self, error: &kube::Error) -> End {
        let end = End::failed(WatchError::of("watch", W::RESOURCE, error));
        End { relist: end.relist || matches!(error, kube::Error::SerdeError(_)), ..end }
    }

    /// The answer to a request, or why there is none in time.
    async fn answered<T>(
        &self,
        verb: &'static str,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, WatchError> {
        let timeout =
            |_| WatchError::Timeout { verb, resource: W::RESOURCE, seconds: REQUEST_LIMIT.as_secs() };
        let answer = tokio::time::timeout(REQUEST_LIMIT, request).await.map_err(timeout)?;
        answer.map_err(|error| WatchError::of(verb, W::RESOURCE, &error))
    }

    fn stalled_since(&self, last: Instant) -> bool {
        last.elapsed() >= self.parts.stall_limit
    }

    /// Counts, logs and exposes the end, and waits as long as it asks for.
    async fn pause(&self, end: &End, backoff: &mut Backoff) {
        self.parts.metrics.restarted(end.reason);
        let delay = match end.reason {
            Reason::Failed => backoff.after_failure(),
            Reason::Ended | Reason::Gone | Reason::Stalled | Reason::Resync => backoff.after_end(),
        };
        let reason = end.reason.code();
        match &end.error {
            Some(error) => {
                self.parts.freshness.trouble(error);
                tracing::warn!(resource = %W::RESOURCE, reason, %error, ?delay, "kubernetes watch restarts");
            }
            None => tracing::debug!(resource = %W::RESOURCE, reason, ?delay, "kubernetes watch restarts"),
        }
        tokio::time::sleep(delay).await;
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
        // Only a new list reads the token anew.
        let relist = end.relist || matches!(error, WatchError::Unauthorized { .. });
        Self { error: Some(error), relist, ..end }
    }
}
