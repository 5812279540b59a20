//! The admin port: accepts, limits, serves, and ends when told to.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Admin, Scope};
use crate::accept::AcceptErrors;

/// Connections from this node itself: the kubelet's probes, a shell.
const LOCAL_CONNECTIONS: usize = 32;

/// Connections from elsewhere: Prometheus, and whoever else can reach the node. A crowd of these never
/// keeps the kubelet's probes out, which would have the agent restarted.
const REMOTE_CONNECTIONS: usize = 32;

/// Longest that a request's header may take, and that a connection may idle.
const HEADER: Duration = Duration::from_secs(5);

/// Longest life of a connection, so that one that is not read from ends as well.
const CONNECTION: Duration = Duration::from_secs(60);

/// Longest that an answer under way may take once the agent ends.
const DRAIN: Duration = Duration::from_secs(2);

/// Largest header: a probe's has some 200 bytes.
const BUFFER_BYTES: usize = 8 << 10;

/// Most header fields.
const HEADERS: usize = 32;

impl Admin {
    /// Serves until `shutdown`.
    ///
    /// # Errors
    /// None today: accept errors are waited out.
    pub async fn run(
        self: Arc<Self>,
        listener: TcpListener,
        errors: AcceptErrors,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let local = Arc::new(Semaphore::new(LOCAL_CONNECTIONS));
        let remote = Arc::new(Semaphore::new(REMOTE_CONNECTIONS));
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let permits = if is_local(&stream, peer) { &local } else { &remote };
                    match Arc::clone(permits).try_acquire_owned() {
                        Ok(permit) => {
                            connections.spawn(Arc::clone(&self).serve(
                                stream,
                                peer,
                                permit,
                                shutdown.clone(),
                            ));
                        }
                        Err(_) => self.refused.inc(),
                    }
                }
                Err(error) => errors.wait_out(&error, "metrics").await,
            }
        }
        connections.close();
        connections.wait().await;
        Ok(())
    }

    async fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        _permit: OwnedSemaphorePermit,
        shutdown: CancellationToken,
    ) {
        let service = service_fn(|request: hyper::Request<Incoming>| {
            let (parts, _) = request.into_parts();
            let answer = self.answer(&parts, peer, Scope::Full);
            async { Ok::<_, Infallible>(answer) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER)
            .max_buf_size(BUFFER_BYTES)
            .max_headers(HEADERS)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = tokio::time::timeout(CONNECTION, connection.as_mut()) => ended,
            () = shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::time::timeout(DRAIN, connection).await
            }
        };
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, %peer, "admin connection ended"),
            Err(_) => tracing::debug!(%peer, "admin connection took too long"),
        }
    }
}

/// From an address of this node: loopback, or the very address that was connected to.
fn is_local(stream: &TcpStream, peer: SocketAddr) -> bool {
    peer.ip().to_canonical().is_loopback() || stream.local_addr().is_ok_and(|local| local.ip() == peer.ip())
}
