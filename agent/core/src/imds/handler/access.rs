//! The access log: one line a request, at its end.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http::request::Parts;
use http_body_util::Full;
use tracing::info;

use crate::identity::Caller;
use crate::server::Peer;
use crate::types::write_digits;

/// [`Route::NotFound`](super::Route::NotFound)'s label.
const NOT_FOUND: &str = "not_found";
/// Most of a path that is written.
const PATH_CHARS: usize = 128;

/// What the line says besides the status.
pub(super) struct Seen {
    /// What was asked for.
    pub(super) route: &'static str,
    /// Who asked, once that is known.
    pub(super) caller: Option<Caller>,
    /// Without a token.
    pub(super) v1: bool,
}

/// One line a request, at its end. The path is the client's bytes: it is written, cut and escaped, only where nothing is
/// there, so that an operator sees what to allow.
pub(super) fn line(
    head: &Parts,
    peer: Peer,
    seen: &Seen,
    response: &Response<Full<Bytes>>,
    reason: Option<&'static str>,
    took: Duration,
) {
    let pod = seen.caller.as_ref().map(|caller| &caller.pod.facts);
    info!(
        target: "rolegate::access",
        method = head.method.as_str(),
        route = seen.route,
        status = response.status().as_u16(),
        reason,
        path = (seen.route == NOT_FOUND).then(|| shown_path(head)),
        peer = %Source(peer),
        pod = pod.map(|pod| &*pod.name),
        namespace = pod.map(|pod| &*pod.namespace),
        imds_version = if seen.v1 { 1 } else { 2 },
        duration_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        "request"
    );
}

/// The socket's address, as it is.
struct Source(Peer);

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Peer { socket, ip, .. } = self.0;
        if !socket.is_ipv4() {
            return socket.fmt(f);
        }
        // Of u16::MAX.
        let mut port = [b'0'; 5];
        write_digits(&mut port, u32::from(socket.port()));
        let port = std::str::from_utf8(&port).unwrap_or_default().trim_start_matches('0');
        ip.fmt(f)?;
        f.write_str(":")?;
        f.write_str(if port.is_empty() { "0" } else { port })
    }
}

fn shown_path(head: &Parts) -> String {
    head.uri.path().chars().take(PATH_CHARS).flat_map(char::escape_default).collect()
}
