//! Connections, authentication, routing, lists.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answers::Answer;
use super::nodes;
use super::objects::{partial, status};
use super::state::{Request, Resource, Rest, Shared, State};
use super::watcher::{Wanted, Watcher};

/// The body of an answer.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// What new connections are accepted with.
pub(super) type Tls = Arc<Mutex<Arc<ServerConfig>>>;

/// `a=b,c!=d` on the fields that the real server indexes.
#[derive(Clone, Debug, Default)]
pub(super) struct Selector(Vec<(String, bool, String)>);

/// Everything that can fail before the thread starts; what it returns is the thread's body.
pub(super) fn prepare(
    listener: TcpListener,
    tls: Tls,
    shared: Arc<Shared>,
    shutdown: CancellationToken,
) -> anyhow::Result<impl FnOnce() + Send + 'static> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = {
        let _entered = runtime.enter();
        tokio::net::TcpListener::from_std(listener)?
    };
    Ok(move || runtime.block_on(accept(listener, tls, shared, shutdown)))
}

async fn accept(
    listener: tokio::net::TcpListener,
    tls: Tls,
    shared: Arc<Shared>,
    shutdown: CancellationToken,
) {
    let connections = TaskTracker::new();
    while let Some(accepted) = shutdown.run_until_cancelled(listener.accept()).await {
        let Ok((socket, _)) = accepted else {
            // Out of descriptors, most likely: let some close.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        // As Go's servers do: an event is two small writes, and the second would wait for an acknowledgement.
        let _ = socket.set_nodelay(true);
        let acceptor = TlsAcceptor::from(Arc::clone(&tls.lock()));
        let (shared, shutdown) = (Arc::clone(&shared), shutdown.clone());
        if shared.state().down {
            shared.change(|state| state.turned_away += 1);
        }
        connections.spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = until_down(&shared) => {}
                () = serve(socket, acceptor, Arc::clone(&shared)) => {}
            }
        });
    }
    connections.close();
    connections.wait().await;
}

async fn until_down(shared: &Shared) {
    let mut changed = shared.subscribe();
    loop {
        changed.mark_unchanged();
        if shared.state().down {
            return;
        }
        // The sender lives in `shared`: it never closes.
        let _ = changed.changed().await;
    }
}

async fn serve(socket: tokio::net::TcpStream, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    // A client that does not trust us, or left: its own affair.
    let Ok(tls) = acceptor.accept(socket).await else { return };
    let service = service_fn(move |request: http::Request<Incoming>| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(answer(&shared, request).await) }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tls), service).await;
}

/// The answer to one request.
pub(super) async fn answer<B>(shared: &Arc<Shared>, request: http::Request<B>) -> Response<Body>
where
    B: hyper::body::Body<Data = Bytes>,
{
    let (request, body) = request.into_parts();
    // Of somebody who left in the middle: as if it were empty.
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let header = |name| request.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut record = Request {
        method: request.method.to_string(),
        path: request.uri.path().to_owned(),
        query: query(request.uri.query().unwrap_or_default()),
        accept: header(ACCEPT).to_owned(),
        content_type: header(CONTENT_TYPE).to_owned(),
        body: serde_json::from_slice(&body).ok(),
        status: 0,
        at: Instant::now(),
    };
    let response = match route(shared, &record, header(AUTHORIZATION)).await {
        Ok(response) => response,
        Err(refusal) => refused(&refusal),
    };
    record.status = response.status().as_u16();
    shared.change(|state| state.requests.push(record));
    response
}

/// The answer; an error is a `Status` object.
async fn route(
    shared: &Arc<Shared>,
    request: &Request,
    authorization: &str,
) -> Result<Response<Body>, Value> {
    if authorization.strip_prefix("Bearer ") != Some(&shared.state().token) {
        return Err(status(401, "Unauthorized", "Unauthorized"));
    }
    if let Some(node) = request.path.strip_prefix("/api/v1/nodes/") {
        return nodes::answer(shared, request, node).await;
    }
    if request.method != "GET" {
        return Err(status(405, "MethodNotAllowed", "the server does not allow this method"));
    }
    let resource = [Resource::Pods, Resource::Namespaces, Resource::Nodes]
        .into_iter()
        .find(|resource| request.path == format!("/api/v1/{resource}"))
        .ok_or_else(|| status(404, "NotFound", "the server could not find the requested resource"))?;
    let watch = matches!(request.query.get("watch").map(String::as_str), Some("true" | "1"));
    let verb = if watch { "watch" } else { "list" };
    allowed(shared, verb, resource)?;
    let selector = Selector::parse(request.query.get("fieldSelector").map_or("", String::as_str))?;
    let metadata_only = request.accept.contains("as=PartialObjectMetadata");
    let failing = shared.change(|state| {
        let collection = state.of_mut(resource);
        if watch { collection.failing_watches.next() } else { collection.failing_lists.next() }
    });
    if watch {
        if let Some(answer) = failing {
            return other(answer, &json!({}));
        }
        let wanted = wanted(request, resource, selector, metadata_only)?;
        return Ok(watching(Watcher::open(Arc::clone(shared), wanted)));
    }
    let delay = shared.state().of(resource).list_delay;
    tokio::time::sleep(delay).await;
    let list = shared.change(|state| list(state, request, resource, &selector, metadata_only))?;
    match failing {
        Some(answer) => other(answer, &list),
        None => Ok(json_response(StatusCode::OK, &list)),
    }
}

/// 403 where RBAC does not allow it.
pub(super) fn allowed(shared: &Shared, verb: &'static str, resource: Resource) -> Result<(), Value> {
    if !shared.state().refused.contains(&(verb, resource)) {
        return Ok(());
    }
    let message = format!(
        "{resource} is forbidden: User \"system:serviceaccount:kube-system:rolegate\" cannot {verb} resource \
         \"{resource}\" in API group \"\" at the cluster scope"
    );
    Err(status(403, "Forbidden", &message))
}

fn wanted(
    request: &Request,
    resource: Resource,
    selector: Selector,
    metadata_only: bool,
) -> Result<Wanted, Value> {
    let from = request.query.get("resourceVersion").map_or("0", String::as_str);
    let from =
        from.parse().map_err(|_| status(400, "BadRequest", &format!("invalid resource version {from:?}")))?;
    let seconds = request.query.get("timeoutSeconds").and_then(|text| text.parse().ok()).unwrap_or(1800);
    Ok(Wanted {
        resource,
        selector,
        metadata_only,
        bookmarks: request.query.get("allowWatchBookmarks").is_some_and(|value| value == "true"),
        from,
        deadline: Instant::now() + Duration::from_secs(seconds),
    })
}

fn list(
    state: &mut State,
    request: &Request,
    resource: Resource,
    selector: &Selector,
    metadata_only: bool,
) -> Result<Value, Value> {
    let Rest { version, mut items } = match request.query.get("continue") {
        Some(token) => state
            .rests
            .remove(token)
            .ok_or_else(|| status(410, "Expired", "The provided continue parameter is too old"))?,
        None => {
            let objects = state.of(resource).objects.values();
            let items = objects.filter(|object| selector.matches(object)).cloned().collect();
            // "Any" is answered from the watch cache, which moves with its resource alone.
            let cached = request.query.get("resourceVersion").is_some_and(|version| version == "0");
            let version = if cached { state.cached_version(resource) } else { state.version };
            Rest { version, items }
        }
    };
    let limit = request.query.get("limit").and_then(|text| text.parse().ok()).filter(|limit| *limit > 0);
    let rest = items.split_off(limit.unwrap_or(items.len()).min(items.len()));
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if !rest.is_empty() {
        let token = format!("page-{}", state.new_id());
        metadata["remainingItemCount"] = json!(rest.len());
        metadata["continue"] = json!(token);
        state.rests.insert(token, Rest { version, items: rest });
    }
    let (api_version, kind) = if metadata_only {
        ("meta.k8s.io/v1", "PartialObjectMetadataList".to_owned())
    } else {
        ("v1", format!("{}List", resource.kind()))
    };
    let items: Vec<Value> =
        items.iter().map(|object| if metadata_only { partial(object) } else { (**object).clone() }).collect();
    Ok(json!({"apiVersion": api_version, "kind": kind, "metadata": metadata, "items": items}))
}

fn watching(watcher: Watcher) -> Response<Body> {
    let lines = stream::unfold(watcher, |mut watcher| async move {
        let line = watcher.next().await?;
        Some((line.map(Frame::data), watcher))
    });
    streaming(lines)
}

/// What comes in place of `list`.
pub(super) fn other(answer: Answer, list: &Value) -> Result<Response<Body>, Value> {
    let text = list.to_string();
    match answer {
        Answer::Status(code) => Err(status(code, "InternalError", "this request was told to fail")),
        Answer::Page { status, content_type, retry_after, body } => {
            let body = Full::new(Bytes::from(body)).map_err(|never| match never {});
            let mut response = Response::new(body.boxed_unsync());
            *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
            if let Some(seconds) = retry_after {
                headers.insert(RETRY_AFTER, seconds.into());
            }
            Ok(response)
        }
        Answer::Cut => {
            let half = Bytes::copy_from_slice(&text.as_bytes()[..text.len() / 2]);
            let cut = io::Error::from(io::ErrorKind::ConnectionReset);
            Ok(streaming(stream::iter([Ok(Frame::data(half)), Err(cut)])))
        }
        Answer::Trickle(pause) => {
            let pieces: Vec<Bytes> = text.as_bytes().chunks(8).map(Bytes::copy_from_slice).collect();
            Ok(streaming(stream::unfold(pieces.into_iter(), move |mut pieces| async move {
                let piece = pieces.next()?;
                tokio::time::sleep(pause).await;
                Some((Ok(Frame::data(piece)), pieces))
            })))
        }
    }
}

fn streaming(
    frames: impl futures::Stream<Item = io::Result<Frame<Bytes>>> + Send + 'static,
) -> Response<Body> {
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

fn refused(refusal: &Value) -> Response<Body> {
    let code = refusal["code"].as_u64().and_then(|code| u16::try_from(code).ok());
    let code = code.and_then(|code| StatusCode::from_u16(code).ok());
    json_response(code.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), refusal)
}

pub(super) fn json_response(code: StatusCode, value: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(value.to_string())).map_err(|never| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

fn query(text: &str) -> BTreeMap<String, String> {
    let decode = |text: &str| {
        let text = text.replace('+', " ");
        percent_encoding::percent_decode_str(&text).decode_utf8_lossy().into_owned()
    };
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        })
        .collect()
}

// === impl Selector ===

impl Selector {
    fn parse(text: &str) -> Result<Self, Value> {
        let terms = text.split(',').filter(|term| !term.is_empty()).map(|term| {
            let (key, equal, value) = match (term.split_once("!="), term.split_once('=')) {
                (Some((key, value)), _) => (key, false, value),
                (None, Some((key, value))) => (key, true, value.trim_start_matches('=')),
                (None, None) => ("", true, ""),
            };
            let known =
                ["metadata.name", "metadata.namespace", "spec.nodeName", "status.podIP", "status.phase"];
            if known.contains(&key) {
                Ok((key.to_owned(), equal, value.to_owned()))
            } else {
                Err(status(400, "BadRequest", &format!("field label not supported: {term}")))
            }
        });
        terms.collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|(key, equal, value)| {
            let found = key.split('.').fold(object, |object, key| &object[key]);
            (found.as_str().unwrap_or_default() == value) == *equal
        })
    }
}
