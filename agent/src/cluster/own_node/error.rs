//! What goes wrong when the Node is told, and who can mend it.

use std::time::Duration;

use crate::cluster::answer::{Refusal, SendError};
use crate::cluster::client::ConnectError;

/// Why the Node could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum NodeError {
    /// The operator's to mend.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// 403: a rule of RBAC is missing, or a policy of the cluster forbids it. The operator's to mend.
    #[error(
        "cannot {verb} {resource}: forbidden; --startup-taint needs a ClusterRole with get and patch on nodes and \
         patch on nodes/status, as in deploy/startup-taint.yaml (API server: {message})"
    )]
    Forbidden {
        /// `get` or `patch`.
        verb: &'static str,
        /// `nodes` or `nodes/status`.
        resource: &'static str,
        /// The API server's own words.
        message: String,
    },
    /// 409, or 422 of a patch whose test failed: somebody else was faster; what there is now is read.
    #[error("cannot {verb} {resource}: changed meanwhile ({code} {message})")]
    Conflict {
        /// `patch`.
        verb: &'static str,
        /// `nodes` or `nodes/status`.
        resource: &'static str,
        /// The answer's status.
        code: u16,
        /// The API server's own words.
        message: String,
    },
    /// Any other answer that is an error, or no answer.
    #[error("cannot {verb} {resource}: {text}")]
    Failed {
        /// `get` or `patch`.
        verb: &'static str,
        /// `nodes` or `nodes/status`.
        resource: &'static str,
        /// Status and message, or the error of the connection.
        text: String,
        /// The API server asks not to be asked again before.
        retry_after: Option<Duration>,
    },
}

// === impl NodeError ===

impl NodeError {
    pub(super) fn of(verb: &'static str, resource: &'static str, error: SendError) -> Self {
        let Refusal { code, message, retry_after } = match error {
            SendError::Connection(text) => return Self::failed(verb, resource, text),
            SendError::Refused(refusal) => refusal,
        };
        match code {
            403 => Self::Forbidden { verb, resource, message },
            409 | 422 => Self::Conflict { verb, resource, code, message },
            code => Self::Failed { verb, resource, text: format!("{code} {message}"), retry_after },
        }
    }

    pub(super) fn failed(verb: &'static str, resource: &'static str, text: String) -> Self {
        Self::Failed { verb, resource, text, retry_after: None }
    }

    /// How long the API server asks to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        if let Self::Failed { retry_after, .. } = self { *retry_after } else { None }
    }
}
