//! Answers connections that no rule brought here: probes, and nothing that is a pod's.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;

use crate::admin::{Admin, Scope};
use crate::server::{Answer, Peer};

/// The admin pages, as far as this port may show them.
pub(super) struct Uncaptured {
    admin: Arc<Admin>,
    scope: Scope,
}

// === impl Uncaptured ===

impl Uncaptured {
    pub(super) fn new(admin: Arc<Admin>, scope: Scope) -> Self {
        Self { admin, scope }
    }
}

impl Answer for Uncaptured {
    async fn answer(&self, request: Request<Incoming>, peer: Peer) -> Response<Full<Bytes>> {
        let (head, _) = request.into_parts();
        self.admin.answer(&head, peer.socket, self.scope)
    }
}
