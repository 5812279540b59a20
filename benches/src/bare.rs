//! The yardstick: a hyper server that knows nothing and answers with bytes that it was given.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

/// What answers look like.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Their header, `Content-Length` and `Date` excepted.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body of every answer but `others`.
    pub body: Bytes,
    /// Targets of requests whose answers have other bodies.
    pub others: Vec<(String, Bytes)>,
}

// === impl Answer ===

impl Answer {
    fn body_for(&self, path: &str) -> &Bytes {
        self.others.iter().find(|(other, _)| other == path).map_or(&self.body, |(_, body)| body)
    }
}

/// Serves until the process ends.
///
/// # Errors
/// When accepting fails.
pub async fn serve(listener: TcpListener, answer: Answer) -> anyhow::Result<()> {
    let connections = TaskTracker::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let answer = answer.clone();
        connections.spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let mut response = Response::new(Full::new(answer.body_for(request.uri().path()).clone()));
                response.headers_mut().extend(answer.headers.iter().cloned());
                async { Ok::<_, Infallible>(response) }
            });
            // The header timer as in the agent: it is part of what a server must have.
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(5))
                .serve_connection(TokioIo::new(stream), service);
            // A client that hangs up is none of a yardstick's business.
            let _ = connection.await;
        });
    }
}
