//! The listener that pods reach: accept, admit fairly, see where the connection was headed, serve one request, close.

mod admission;
mod connection;
mod destination;
mod listeners;
mod queue;
mod rest;
mod turns;

#[cfg(test)]
mod panics;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use prometheus::{IntCounter, IntCounterVec, IntGauge};
use rolegate_iptables::arrival::Arrival;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::accept::AcceptErrors;
use crate::config;
use crate::metrics::Registry;
use crate::types::PodIp;
use admission::Admission;
pub use connection::{HopLimit, Stream};
use connection::{HopLimited, Hops};
pub use destination::Destination;
pub use listeners::Listeners;
pub use queue::{Pool, Queue};
use turns::InTurn;

/// No connection lives longer than 5 s without a complete header: this from when it is served, and at most 900 ms before.
/// The slowest client's own limit is 5 s (PROTOCOL.md section 7).
const HEADER_TIMEOUT: Duration = Duration::from_millis(4_100);
/// No connection lives longer at all: waiting for a place, header, a held answer and a slow reader together.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// What hyper may buffer of one connection; IMDS requests are a few hundred bytes. hyper allows no less, and 4,096
/// connections with twice as much would not fit into the 128 MiB that the manifest gives.
const CONNECTION_BUFFER_BYTES: usize = 8 * 1024;
/// An SDK sends about ten; hyper answers 431 beyond this.
const MOST_HEADERS: usize = 64;
/// After the signal to end, the time for requests to be read that are on their way: hyper, told to shut down, closes at
/// once a connection that it has read nothing from.
const UNREAD_GRACE: Duration = Duration::from_millis(250);

/// A connection as its request's answerer sees it.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Where it comes from, as the socket has it.
    pub socket: SocketAddr,
    /// The same, canonical.
    pub ip: PodIp,
    /// Where it was headed before any redirect.
    pub destination: Destination,
    /// Where it came in, if it was captured and the kernel tells.
    pub arrival: Option<Arrival>,
}

/// What answers requests. One for captured connections, one for all others.
pub trait Answer: Send + Sync {
    /// Answers one request.
    fn answer(
        &self,
        request: Request<Incoming>,
        peer: Peer,
    ) -> impl Future<Output = Response<Full<Bytes>>> + Send;
}

/// What is counted here.
#[derive(Debug)]
struct Metrics {
    captured: IntCounter,
    elsewhere: IntCounter,
    open: IntGauge,
    turned_away: IntCounterVec,
    panics: IntCounter,
}

/// The accept loops.
pub struct Server<D, U> {
    shared: Arc<Shared<D, U>>,
    tracker: TaskTracker,
}

/// What all connections have in common.
struct Shared<D, U> {
    door: Arc<D>,
    uncaptured: Arc<U>,
    admission: Arc<Admission>,
    metrics: Metrics,
    drain: Duration,
}

// === impl Metrics ===

impl Metrics {
    fn register(registry: &Registry) -> Self {
        let accepted = registry.counters(
            "connections_total",
            "Connections accepted, by whether they were captured on their way to the IMDS.",
            &["destination"],
        );
        let accepted = |destination: Destination| accepted.with_label_values(&[destination.label()]);
        Self {
            captured: accepted(Destination::Imds),
            elsewhere: accepted(Destination::Elsewhere),
            open: registry.gauge("connections_open", "Connections open now, waiting ones included."),
            turned_away: registry.counters(
                "connections_turned_away_total",
                "Connections closed unread because their source, or the node, had too many.",
                &["limit"],
            ),
            panics: registry.counter("panics_total", "Requests that ended in a panic; always a defect."),
        }
    }

    fn accepted(&self, destination: Destination) -> &IntCounter {
        match destination {
            Destination::Imds => &self.captured,
            Destination::Elsewhere => &self.elsewhere,
        }
    }
}

// === impl Server ===

impl<D: Answer + 'static, U: Answer + 'static> Server<D, U> {
    /// `door` answers captured connections, `uncaptured` every other one. `hold` is how long a connection over
    /// its source's limit waits for a place, `descriptors` how many files the process may have open.
    #[must_use]
    pub fn new(
        config: &config::Server,
        hold: Duration,
        descriptors: usize,
        door: Arc<D>,
        uncaptured: Arc<U>,
        tracker: TaskTracker,
        registry: &Registry,
    ) -> Self {
        let admission = Admission::new(config.connections_per_pod, config.connections, descriptors, hold);
        let shared = Shared {
            door,
            uncaptured,
            admission: Arc::new(admission),
            metrics: Metrics::register(registry),
            drain: config.drain,
        };
        Self { shared: Arc::new(shared), tracker }
    }

    /// Accepts until `shutdown` what is this process's to take, then lets started requests end.
    ///
    /// # Errors
    /// When the runtime does not take a socket.
    pub async fn run(
        self,
        listeners: Listeners,
        errors: AcceptErrors,
        queue: watch::Receiver<Queue>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        for listener in &listeners.0 {
            Arrival::expect_at(listener);
        }
        let listeners = listeners.0.into_iter().map(TcpListener::from_std).collect::<io::Result<Vec<_>>>()?;
        let loops = listeners
            .into_iter()
            .map(|listener| self.accept_loop(listener, &errors, queue.clone(), shutdown.clone()));
        futures::future::join_all(loops).await;
        Ok(())
    }

    async fn accept_loop(
        &self,
        listener: TcpListener,
        errors: &AcceptErrors,
        mut queue: watch::Receiver<Queue>,
        shutdown: CancellationToken,
    ) {
        let mut ended = pin!(shutdown.cancelled());
        'queue: loop {
            let left = *queue.borrow_and_update() == Queue::Left;
            // Waits begin once for many connections.
            let mut changed = pin!(queue.changed().fuse());
            loop {
                let accepted = tokio::select! {
                    biased;
                    () = ended.as_mut() => break 'queue,
                    Ok(()) = changed.as_mut() => break,
                    accepted = listener.accept(), if !left => accepted,
                };
                match accepted {
                    Ok((stream, socket)) => self.start(stream, socket, shutdown.clone()),
                    Err(error) => errors.wait_out(&error, "imds").await,
                }
            }
        }
        if *queue.borrow() != Queue::Own {
            return;
        }
        // What the kernel has connected before the end has been asked for before it.
        rest::take(listener, |stream, socket| self.start(stream, socket, shutdown.clone())).await;
    }

    fn start(&self, stream: TcpStream, socket: SocketAddr, shutdown: CancellationToken) {
        // Where that is not known, nothing is.
        let at = stream.local_addr();
        let destination = at.as_ref().map_or(Destination::Elsewhere, |at| Destination::of(&stream, *at));
        let arrival = match (destination, at) {
            (Destination::Imds, Ok(at)) => Arrival::of(&stream, at).ok(),
            _ => None,
        };
        let peer = Peer { socket, ip: PodIp::new(socket.ip()), destination, arrival };
        let metrics = &self.shared.metrics;
        metrics.accepted(peer.destination).inc();
        let Some(place) = self.shared.admission.enter(peer.ip) else {
            metrics.turned_away.with_label_values(&["waiting"]).inc();
            return;
        };
        let shared = Arc::clone(&self.shared);
        self.tracker.spawn(async move {
            let metrics = &shared.metrics;
            metrics.open.inc();
            let open = Decrement(metrics);
            let deadline = Instant::now() + CONNECTION_TIMEOUT;
            match place.served().await {
                Ok(served) => {
                    let door = InTurn::new(&*shared.door, place.turns());
                    let uncaptured = InTurn::new(&*shared.uncaptured, place.turns());
                    serve(stream, peer, &door, &uncaptured, deadline, &shutdown, shared.drain).await;
                    drop(served);
                }
                Err(limit) => metrics.turned_away.with_label_values(&[limit.label()]).inc(),
            }
            drop(open);
        });
    }
}

/// Takes one from the gauge when the connection's task ends, however it ends.
struct Decrement<'a>(&'a Metrics);

impl Drop for Decrement<'_> {
    fn drop(&mut self) {
        self.0.open.dec();
        if std::thread::panicking() {
            self.0.panics.inc();
        }
    }
}

/// Serves one connection: reads at most one request, answers it and closes, at `deadline` whatever there is. After
/// `shutdown` a request that has begun has `drain` to end.
pub async fn serve<S: Stream, D: Answer, U: Answer>(
    stream: S,
    peer: Peer,
    door: &D,
    uncaptured: &U,
    deadline: Instant,
    shutdown: &CancellationToken,
    drain: Duration,
) {
    let (hops, has_request) = (Hops::default(), AtomicBool::new(false));
    let service = service_fn(|request: Request<Incoming>| {
        has_request.store(true, Ordering::Relaxed);
        async {
            let response = match peer.destination {
                Destination::Imds => door.answer(request, peer).await,
                Destination::Elsewhere => uncaptured.answer(request, peer).await,
            };
            hops.follow(&response);
            Ok::<_, Infallible>(response)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .max_buf_size(CONNECTION_BUFFER_BYTES)
        .max_headers(MOST_HEADERS)
        // The real service closes after every answer (PROTOCOL.md 2.1): one connection, one request.
        .keep_alive(false)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(HopLimited::new(stream, &hops)), service);
    let mut connection = pin!(connection);
    let ending = async {
        shutdown.cancelled().await;
        tokio::time::sleep(UNREAD_GRACE).await;
    };
    // One timer for two limits: few requests live to see the first of them.
    let mut late = pin!(async {
        sleep_until(deadline.min(Instant::now() + HEADER_TIMEOUT)).await;
        if has_request.load(Ordering::Relaxed) {
            sleep_until(deadline).await;
        }
        debug!(peer = %peer.socket, "a connection took too long");
    });
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = late.as_mut() => return,
        () = ending => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                biased;
                ended = connection => ended,
                () = late => return,
                () = tokio::time::sleep(drain) => return,
            }
        }
    };
    if let Err(error) = ended {
        debug!(%error, peer = %peer.socket, "a connection ended early");
    }
}

#[cfg(test)]
mod tests;
