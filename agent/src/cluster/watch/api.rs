//! Lists and watches over HTTP: requests out, and of the answers no more than fits.
//!
//! kube's own `Api` reads answers of any size into memory, drops `Retry-After`, and takes a list for unreadable
//! if one object of it is.

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, HeaderMap, HeaderValue};
use http_body_util::BodyExt;
use kube::Client;
use kube::api::{ListParams, WatchParams};
use kube::client::Body;

use super::error::WatchError;
use super::object::{Line, List, Object};
use super::resource::Resource;
use crate::cluster::answer::{self, Refusal, SendError, Status, chain, content_type, read};

/// A page, or an event of a watch, is at most so large. One object is 3 MiB at the very most: what the API server
/// takes in a request. A page that is larger is asked for in smaller ones.
const MAX_ANSWER_BYTES: usize = 8 << 20;

/// No object has this name: a name is as RFC 1123 says, and ends with no hyphen.
const NOBODY: &str = "-";

/// The API server, as far as one resource is concerned.
pub(super) struct Api {
    client: Client,
    resource: Resource,
}

/// A page of a list.
pub(super) struct Page {
    pub(super) items: Vec<Object>,
    /// The version to watch from.
    pub(super) version: String,
    /// The token of the next page.
    pub(super) next: Option<String>,
}

/// An open watch.
pub(super) struct Events {
    body: Body,
    buffer: BytesMut,
    /// So much of the buffer has no end of a line in it.
    searched: usize,
    resource: Resource,
}

/// What a watch says.
pub(super) enum Event {
    Applied(Object),
    Deleted(Object),
    /// Up to this version there is nothing more.
    Bookmark(String),
    Error(WatchError),
}

// === impl Api ===

impl Api {
    pub(super) fn new(client: Client, resource: Resource) -> Self {
        Self { client, resource }
    }

    /// One page.
    pub(super) async fn list(&self, params: &ListParams) -> Result<Page, WatchError> {
        let failed = |text| WatchError::failed("list", self.resource, text);
        let request = kube::core::Request::new(self.resource.path());
        let request = request.list(params).map_err(|error| failed(chain(&error)))?;
        let (headers, mut body) = self.send("list", request).await?;
        let text = read(&mut body, MAX_ANSWER_BYTES).await.map_err(failed)?;
        let Some(text) = text else {
            return Err(WatchError::TooLarge { resource: self.resource, bytes: MAX_ANSWER_BYTES });
        };
        // What is not a list of the right kind must not be taken for an empty one.
        let list = serde_json::from_slice::<List<'_>>(&text).ok();
        let list = list.filter(|list| self.resource.list_kinds().contains(&list.kind.as_str()));
        let list = list.filter(|list| !list.metadata.resource_version.is_empty());
        let list = list.ok_or_else(|| failed(format!("200 without a list ({})", content_type(&headers))))?;
        Ok(Page {
            items: list.items.unwrap_or_default().into_iter().map(Object::read).collect(),
            version: list.metadata.resource_version,
            next: list.metadata.next.filter(|token| !token.is_empty()),
        })
    }

    /// The version that the API server's watch cache has come to, below which it has sent everything to watches. Costs
    /// a list without objects: none has that name.
    pub(super) async fn cached_version(&self, fields: Option<&str>) -> Result<String, WatchError> {
        let nobody = format!("metadata.name={NOBODY}");
        let selector = fields.map_or_else(|| nobody.clone(), |fields| format!("{fields},{nobody}"));
        let params = ListParams::default().fields(&selector).match_any();
        self.list(&params).await.map(|page| page.version)
    }

    /// A watch of what happens after `version`.
    pub(super) async fn watch(&self, params: &WatchParams, version: &str) -> Result<Events, WatchError> {
        let request = kube::core::Request::new(self.resource.path()).watch(params, version);
        let request = request.map_err(|error| WatchError::failed("watch", self.resource, chain(&error)))?;
        let (_, body) = self.send("watch", request).await?;
        Ok(Events { body, buffer: BytesMut::new(), searched: 0, resource: self.resource })
    }

    /// Header and body of an answer that is 200.
    async fn send(
        &self,
        verb: &'static str,
        mut request: http::Request<Vec<u8>>,
    ) -> Result<(HeaderMap, Body), WatchError> {
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static(self.resource.accept(verb)));
        answer::send(&self.client, request).await.map_err(|error| match error {
            SendError::Connection(text) => WatchError::failed(verb, self.resource, text),
            SendError::Refused(refusal) => WatchError::refused(verb, self.resource, refusal),
        })
    }
}

// === impl Events ===

impl Events {
    /// The next event; `None` when the watch is over, in order or not. Nothing is lost when it is dropped waiting.
    pub(super) async fn next(&mut self) -> Option<Result<Event, WatchError>> {
        loop {
            if let Some(line) = self.line() {
                if line.is_empty() {
                    continue;
                }
                return Some(self.event(&line));
            }
            if self.buffer.len() > MAX_ANSWER_BYTES {
                return Some(Err(WatchError::TooLarge { resource: self.resource, bytes: MAX_ANSWER_BYTES }));
            }
            match self.body.frame().await? {
                Ok(frame) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                // Half a line, if there is one, comes again.
                Err(error) => {
                    tracing::debug!(resource = %self.resource, error = chain(&error), "kubernetes watch broke");
                    return None;
                }
            }
        }
    }

    /// A whole line, without its end.
    fn line(&mut self) -> Option<Bytes> {
        let Some(found) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') else {
            self.searched = self.buffer.len();
            return None;
        };
        let mut line = self.buffer.split_to(self.searched + found + 1).freeze();
        self.searched = 0;
        line.truncate(line.trim_ascii_end().len());
        Some(line)
    }

    fn event(&self, line: &[u8]) -> Result<Event, WatchError> {
        let unreadable = || WatchError::Unreadable { resource: self.resource };
        let line = serde_json::from_slice::<Line<'_>>(line).map_err(|_| unreadable())?;
        match line.kind.as_str() {
            "ADDED" | "MODIFIED" => Ok(Event::Applied(Object::read(line.object))),
            "DELETED" => Ok(Event::Deleted(Object::read(line.object))),
            "BOOKMARK" => Object::read(line.object).version.map(Event::Bookmark).ok_or_else(unreadable),
            "ERROR" => {
                let status = serde_json::from_str::<Status>(line.object.get()).map_err(|_| unreadable())?;
                Ok(Event::Error(WatchError::refused("watch", self.resource, Refusal::of(&status, None))))
            }
            _ => Err(unreadable()),
        }
    }
}
