//! The server with what answers in it, whole.
//!
//! hyper's and tokio's code is made where a server is run, and as that crate is built: here, where everything is built to
//! be fast.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::request::Parts;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::handler::Door;
use crate::accept::AcceptErrors;
use crate::config;
use crate::metrics::Registry;
use crate::server::{Answer, Listeners, Peer, Queue, Server};

type Pages = dyn Fn(&Parts, SocketAddr) -> Response<Full<Bytes>> + Send + Sync;

/// What connections get that no rule brought here: probes, and nothing that is a pod's.
pub struct Uncaptured(Box<Pages>);

/// The accept loops of pods' requests.
pub struct Entrance(Server<Door, Uncaptured>);

// === impl Uncaptured ===

impl Uncaptured {
    /// Pages that need nothing but a request's head, and who asks.
    pub fn new(pages: impl Fn(&Parts, SocketAddr) -> Response<Full<Bytes>> + Send + Sync + 'static) -> Self {
        Self(Box::new(pages))
    }
}

impl Answer for Uncaptured {
    async fn answer(&self, request: Request<Incoming>, peer: Peer) -> Response<Full<Bytes>> {
        let (head, _) = request.into_parts();
        (self.0)(&head, peer.socket)
    }
}

// === impl Entrance ===

impl Entrance {
    /// As [`Server::new`].
    #[must_use]
    pub fn new(
        config: &config::Server,
        hold: Duration,
        descriptors: usize,
        (door, uncaptured): (Door, Uncaptured),
        tracker: TaskTracker,
        registry: &Registry,
    ) -> Self {
        let (door, uncaptured) = (Arc::new(door), Arc::new(uncaptured));
        Self(Server::new(config, hold, descriptors, door, uncaptured, tracker, registry))
    }

    /// As [`Server::run`].
    ///
    /// # Errors
    /// Those of [`Server::run`].
    pub fn run(
        self,
        listeners: Listeners,
        errors: AcceptErrors,
        queue: watch::Receiver<Queue>,
        shutdown: CancellationToken,
    ) -> BoxFuture<'static, anyhow::Result<()>> {
        // Behind a pointer, it is made here.
        Box::pin(self.0.run(listeners, errors, queue, shutdown))
    }
}
