//! What goes wrong between the agent and the API server, and who can mend it.

use std::net::IpAddr;
use std::time::Duration;

use super::resource::Resource;
use crate::cluster::answer::Refusal;
use crate::cluster::client::ConnectError;

/// Why a list or a watch did not work.
#[derive(Debug, thiserror::Error)]
pub(super) enum WatchError {
    /// The operator's to mend.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// 403: a rule of RBAC is missing. The operator's to mend.
    #[error(
        "cannot {verb} {resource}: forbidden; the agent's service account needs a ClusterRole with list and \
         watch on {resource} (API server: {message})"
    )]
    Forbidden {
        /// `list` or `watch`.
        verb: &'static str,
        /// `pods` or `namespaces`.
        resource: Resource,
        /// The API server's own words.
        message: String,
    },
    /// 401: the token is not (or no longer) good.
    #[error("cannot {verb} {resource}: unauthorized; is the token valid for this API server?")]
    Unauthorized {
        /// `list` or `watch`.
        verb: &'static str,
        /// `pods` or `namespaces`.
        resource: Resource,
    },
    /// 410: the version that was asked for is forgotten; a new list is needed.
    #[error("cannot {verb} {resource}: the resource version is too old")]
    Gone {
        /// `list` or `watch`.
        verb: &'static str,
        /// `pods` or `namespaces`.
        resource: Resource,
    },
    /// Any other answer that is an error, or no answer.
    #[error("cannot {verb} {resource}: {text}")]
    Failed {
        /// `list` or `watch`.
        verb: &'static str,
        /// `pods` or `namespaces`.
        resource: Resource,
        /// Status and message, or the error of the connection.
        text: String,
        /// The API server asks not to be asked again before.
        retry_after: Option<Duration>,
    },
    /// More than is ever taken at once.
    #[error("an answer about {resource} is larger than {bytes} bytes")]
    TooLarge {
        /// `pods` or `namespaces`.
        resource: Resource,
        /// The limit.
        bytes: usize,
    },
    /// A line of a watch that is no event.
    #[error("a watch of {resource} brought what is no event")]
    Unreadable {
        /// `pods` or `namespaces`.
        resource: Resource,
    },
    /// No answer in time.
    #[error("cannot {verb} {resource}: no answer within {seconds} s")]
    Timeout {
        /// `list` or `watch`.
        verb: &'static str,
        /// `pods` or `namespaces`.
        resource: Resource,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The node cannot be found by the host's address.
    #[error(
        "no live pod has the address {0} (--host-ip), so the node's name cannot be found; set --node from \
         spec.nodeName"
    )]
    NodeNotFound(IpAddr),
    /// The host's address is claimed on several nodes.
    #[error("pods with the address {0} (--host-ip) are on several nodes: {1}; set --node from spec.nodeName")]
    NodeAmbiguous(IpAddr, String),
}

// === impl WatchError ===

impl WatchError {
    /// Something that time may mend.
    pub(super) fn failed(verb: &'static str, resource: Resource, text: String) -> Self {
        Self::Failed { verb, resource, text, retry_after: None }
    }

    /// Sorts what the API server said by who has to act.
    pub(super) fn refused(verb: &'static str, resource: Resource, refusal: Refusal) -> Self {
        let Refusal { code, message, retry_after } = refusal;
        match code {
            401 => Self::Unauthorized { verb, resource },
            403 => Self::Forbidden { verb, resource, message },
            410 => Self::Gone { verb, resource },
            code => Self::Failed { verb, resource, text: format!("{code} {message}"), retry_after },
        }
    }

    /// How long the API server asks to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        if let Self::Failed { retry_after, .. } = self { *retry_after } else { None }
    }

    /// Time does not mend it: readiness says so even while what is known is fresh.
    pub(super) fn needs_operator(&self) -> bool {
        match self {
            Self::Connect(_)
            | Self::Forbidden { .. }
            | Self::Unauthorized { .. }
            | Self::NodeNotFound(_)
            | Self::NodeAmbiguous(..) => true,
            Self::Gone { .. }
            | Self::Failed { .. }
            | Self::TooLarge { .. }
            | Self::Unreadable { .. }
            | Self::Timeout { .. } => false,
        }
    }
}
