//! Requests to a node's door as bytes over an in-memory connection.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use rolegate::metrics::Registry;
use rolegate::server::{Answer, Destination, Peer};
use rolegate::types::PodIp;
use rolegate_benches::node::Node;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::runtime::Runtime;
use tokio_util::task::TaskTracker;

/// Of one answer, generously.
const ANSWER_BYTES: usize = 8 << 10;

/// HTTP connections in memory, whose servers live on the same thread.
pub(crate) struct Exchange {
    runtime: Runtime,
    /// A new connection's client side; the server side runs on the runtime.
    connect: Box<dyn Fn() -> DuplexStream>,
    answer: Vec<u8>,
}

// === impl Exchange ===

impl Exchange {
    /// The door of `node`, open to the pod at `ip`.
    pub(crate) fn of(node: &Node, ip: PodIp) -> Self {
        let runtime = runtime();
        let (broker, _) = runtime.block_on(node.broker(ip));
        // Its own: a door registers what it counts.
        let door = Arc::new(node.door(broker, &Registry::new()));
        let peer =
            Peer { socket: (ip.addr(), 40_000).into(), ip, destination: Destination::Imds, arrival: None };
        Self::new(runtime, move |request| {
            let door = Arc::clone(&door);
            async move { door.answer(request, peer).await }
        })
    }

    /// Connections that `answer` answers, one request each. hyper is set up as in the agent.
    pub(crate) fn new<F>(
        runtime: Runtime,
        answer: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        let (answer, handle) = (Arc::new(answer), runtime.handle().clone());
        let connect = Box::new(move || {
            let (client, server) = tokio::io::duplex(64 << 10);
            let answer = Arc::clone(&answer);
            let service = service_fn(move |request| {
                let answered = answer(request);
                async { Ok::<_, Infallible>(answered.await) }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(5)).keep_alive(false);
            TaskTracker::new().spawn_on(http.serve_connection(TokioIo::new(server), service), &handle);
            client
        });
        Self { runtime, connect, answer: Vec::with_capacity(ANSWER_BYTES) }
    }

    /// Sends `request` over a connection of its own and reads its answer to the end: a 200. How long it is.
    pub(crate) fn ask(&mut self, request: &[u8]) -> usize {
        let Self { runtime, connect, answer } = self;
        answer.clear();
        runtime.block_on(async {
            let mut client = connect();
            client.write_all(request).await.unwrap();
            client.read_to_end(answer).await.unwrap();
        });
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(answer));
        answer.len()
    }

    /// The body of the last answer.
    pub(crate) fn body(&self) -> Bytes {
        let head = self.answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        Bytes::copy_from_slice(&self.answer[head + 4..])
    }
}

/// One thread: its wakes cost no system call.
pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
