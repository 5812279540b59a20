//! A source of sessions that is known later than those who ask it: its region comes from the node.

use std::sync::{Arc, OnceLock};

use futures::FutureExt;
use futures::future::{BoxFuture, ready};

use crate::credentials::{CredentialSource, Session, SessionKey, SourceError};

/// Unavailable until it is set.
#[derive(Clone, Default)]
pub(super) struct LateSource {
    source: Arc<OnceLock<Arc<dyn CredentialSource>>>,
}

// === impl LateSource ===

impl LateSource {
    /// The first one stays.
    pub(super) fn set(&self, source: Arc<dyn CredentialSource>) {
        let _ = self.source.set(source);
    }
}

impl CredentialSource for LateSource {
    fn fetch(&self, key: SessionKey) -> BoxFuture<'static, Result<Session, SourceError>> {
        match self.source.get() {
            Some(source) => source.fetch(key),
            None => {
                let reason = "the region of STS is not known yet".to_owned();
                ready(Err(SourceError::Unavailable { reason })).boxed()
            }
        }
    }
}
