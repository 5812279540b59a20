//! Probes, metrics and the debug pages, on a port of their own.
//!
//! Nothing here asks AWS, IMDS or the API server: a probe that depends on them restarts agents when those are
//! slow, which is when the pods need them most.

mod listen;
mod process;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Response, StatusCode, request::Parts};
use http_body_util::Full;
use prometheus::{IntCounter, IntGaugeVec, TextEncoder};

use crate::metrics::Registry;
use crate::ready::{GateState, Gates};
use crate::telemetry::Levels;

pub use process::{REVISION, RUSTC, VERSION};

/// Answers probes, scrapes and debug requests.
pub struct Admin {
    registry: Registry,
    gates: Gates,
    health: Health,
    debug: Option<DebugPages>,
    refused: IntCounter,
    gate_open: IntGaugeVec,
}

/// What `/healthz` says, in kube2iam's words.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// `--host-ip`.
    pub host_ip: Option<IpAddr>,
    /// The instance's id, once somebody found it out; nothing waits for it.
    pub instance_id: Arc<OnceLock<String>>,
}

/// What `--debug` opens, to loopback only.
#[derive(Clone)]
pub struct DebugPages {
    /// What `/debug/store` shows; secrets are kept out by their types.
    pub store: Arc<dyn Fn() -> serde_json::Value + Send + Sync>,
    /// What `PUT /debug/log-level` changes.
    pub levels: Levels,
}

/// How much a connection may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// `/healthz`: an uncaptured connection to the credential port.
    Health,
    /// And `/metrics`: the same, where both ports were given the same number.
    HealthAndMetrics,
    /// The admin port.
    Full,
}

#[derive(Clone, Copy, Debug)]
enum Page<'a> {
    Live,
    Ready,
    Gate(&'a str),
    Health,
    Metrics,
    Store,
    LogLevel,
}

// === impl Admin ===

impl Admin {
    /// Registers `build_info` and the process's own metrics.
    #[must_use]
    pub fn new(registry: Registry, gates: Gates, health: Health) -> Self {
        process::register(&registry);
        let refused = registry.counter(
            "admin_connections_refused_total",
            "Connections to the admin port closed unread because too many were open.",
        );
        let gate_open = registry.gauges(
            "gate_open",
            "1 while the gate is open; the agent is ready when all of them are.",
            &["gate"],
        );
        Self { registry, gates, health, debug: None, refused, gate_open }
    }

    /// Opens the debug pages to loopback.
    #[must_use]
    pub fn with_debug(self, debug: DebugPages) -> Self {
        Self { debug: Some(debug), ..self }
    }

    /// The answer to one request; never waits.
    #[must_use]
    pub fn answer(&self, request: &Parts, peer: SocketAddr, scope: Scope) -> Response<Full<Bytes>> {
        let Some(page) = Page::of(request.uri.path(), scope) else {
            return text(StatusCode::NOT_FOUND, "not found\n");
        };
        let read = request.method == Method::GET || request.method == Method::HEAD;
        let write = request.method == Method::PUT && matches!(page, Page::LogLevel);
        if !read && !write {
            return not_allowed(page);
        }
        match page {
            Page::Live => text(StatusCode::OK, "ok\n"),
            Page::Ready => self.ready(has_flag(request, "verbose")),
            Page::Gate(name) => self.gate(name),
            Page::Health => self.healthz(),
            Page::Metrics => self.metrics(),
            Page::Store => self.debugging(peer, |debug| json(&(debug.store)())),
            Page::LogLevel if write => self.debugging(peer, |debug| set_level(&debug.levels, request)),
            Page::LogLevel => self.debugging(peer, |debug| show_level(&debug.levels)),
        }
    }

    fn ready(&self, verbose: bool) -> Response<Full<Bytes>> {
        let gates = self.gates.list();
        let ready = gates.iter().all(|gate| gate.state.is_ok());
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        if ready && !verbose {
            return text(status, "ok\n");
        }
        let mut page = String::new();
        for gate in &gates {
            page.push_str(&gate_line(gate));
        }
        page.push_str(if ready { "readyz check passed\n" } else { "readyz check failed\n" });
        text(status, page)
    }

    fn gate(&self, name: &str) -> Response<Full<Bytes>> {
        match self.gates.list().iter().find(|gate| gate.name == name) {
            Some(gate) if gate.state.is_ok() => text(StatusCode::OK, "ok\n"),
            Some(gate) => text(StatusCode::SERVICE_UNAVAILABLE, gate_line(gate)),
            None => text(StatusCode::NOT_FOUND, "no such gate\n"),
        }
    }

    /// 200 while the process lives: kube2iam's manifests use it as their liveness probe.
    fn healthz(&self) -> Response<Full<Bytes>> {
        json(&serde_json::json!({
            "hostIP": self.health.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
            "instanceId": self.health.instance_id.get().map_or("", String::as_str),
        }))
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        for gate in self.gates.list() {
            self.gate_open.with_label_values(&[gate.name]).set(i64::from(gate.state.is_ok()));
        }
        match TextEncoder::new().encode_to_string(&self.registry.gather()) {
            Ok(page) => typed(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", page),
            Err(error) => {
                tracing::error!(%error, "metrics cannot be encoded");
                text(StatusCode::INTERNAL_SERVER_ERROR, "metrics cannot be encoded\n")
            }
        }
    }

    fn debugging(
        &self,
        peer: SocketAddr,
        answer: impl FnOnce(&DebugPages) -> Response<Full<Bytes>>,
    ) -> Response<Full<Bytes>> {
        match &self.debug {
            None => text(StatusCode::NOT_FOUND, "not found; start with --debug\n"),
            Some(_) if !peer.ip().to_canonical().is_loopback() => {
                text(StatusCode::FORBIDDEN, "loopback only\n")
            }
            Some(debug) => answer(debug),
        }
    }
}

// === impl Page ===

impl<'a> Page<'a> {
    fn of(path: &'a str, scope: Scope) -> Option<Self> {
        let page = match path {
            "/livez" => Self::Live,
            "/readyz" => Self::Ready,
            "/healthz" => Self::Health,
            "/metrics" => Self::Metrics,
            "/debug/store" => Self::Store,
            "/debug/log-level" => Self::LogLevel,
            path => Self::Gate(path.strip_prefix("/readyz/")?),
        };
        let seen = match scope {
            Scope::Full => true,
            Scope::HealthAndMetrics => matches!(page, Self::Health | Self::Metrics),
            Scope::Health => matches!(page, Self::Health),
        };
        seen.then_some(page)
    }
}

fn gate_line(gate: &GateState) -> String {
    let mut line = String::new();
    let _ = match &gate.state {
        Ok(()) => writeln!(line, "[+]{} ok", gate.name),
        Err(reason) => writeln!(line, "[-]{} {reason}", gate.name),
    };
    line
}

fn show_level(levels: &Levels) -> Response<Full<Bytes>> {
    match levels.current() {
        Ok(level) => text(StatusCode::OK, level + "\n"),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn set_level(levels: &Levels, request: &Parts) -> Response<Full<Bytes>> {
    let wanted = request.uri.query().and_then(|query| query.strip_prefix("level=")).unwrap_or_default();
    match levels.set(wanted) {
        Ok(()) => {
            tracing::warn!(level = wanted, "log level changed");
            show_level(levels)
        }
        Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}

fn has_flag(request: &Parts, flag: &str) -> bool {
    let query = request.uri.query().unwrap_or_default();
    query.split('&').any(|part| part.split('=').next() == Some(flag))
}

fn not_allowed(page: Page<'_>) -> Response<Full<Bytes>> {
    let allowed = if matches!(page, Page::LogLevel) { "GET, HEAD, PUT" } else { "GET, HEAD" };
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

fn json(value: &serde_json::Value) -> Response<Full<Bytes>> {
    typed(StatusCode::OK, "application/json", format!("{value:#}\n"))
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", body)
}

fn typed(status: StatusCode, content: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
