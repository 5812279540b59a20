//! Every way a request is refused, and the one place that says with which status (PROTOCOL.md 1.5).
#![deny(clippy::wildcard_enum_match_arm)]

use http::StatusCode;

use crate::credentials::BrokerError;
use crate::identity::Unidentified;

/// Why a request gets no body. Refusals that are told to the pod in a document are not here: they are answers.
#[derive(Clone, Debug)]
pub(super) enum Refusal {
    /// Host not allow-listed, or given twice.
    Host,
    /// `X-Forwarded-For` on a PUT, or beside a token.
    Forwarded,
    /// PUT for a token without a lifetime of 1 to 21600 s.
    TokenTtl,
    /// PUT on a token path that is not exactly `/latest/api/token`.
    TokenPath,
    /// Another method than PUT on the token path.
    TokenMethod,
    /// Another method than GET or HEAD elsewhere.
    Method,
    /// No token where one is required.
    TokenMissing,
    /// A token that is expired, garbled, foreign or given twice.
    TokenInvalid,
    /// No such resource here, or one that is kept from pods.
    NotFound,
    /// The caller is not known well enough to answer.
    Unidentified(Unidentified),
    /// The node's own identity is not known yet: nothing can be decided.
    NotReady,
    /// The pod has no role.
    NoRole,
    /// The role in the path is not the pod's.
    OtherRole,
    /// The address changed hands, or the pod's role changed, while STS answered.
    Moved,
    /// No session in time.
    Credentials(BrokerError),
    /// The real IMDS does not answer.
    Upstream,
    /// A defect of ours: it is counted and written as an answer that is never sent.
    Panic,
}

// === impl Refusal ===

impl Refusal {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Host | Self::Forwarded | Self::TokenPath => StatusCode::FORBIDDEN,
            Self::TokenTtl => StatusCode::BAD_REQUEST,
            Self::TokenMethod | Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::TokenMissing | Self::TokenInvalid => StatusCode::UNAUTHORIZED,
            Self::NotFound | Self::NoRole | Self::OtherRole => StatusCode::NOT_FOUND,
            Self::Unidentified(_) | Self::NotReady | Self::Moved | Self::Credentials(_) | Self::Panic => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            Self::Upstream => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// A closed word for metrics and logs.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Forwarded => "forwarded",
            Self::TokenTtl => "token_ttl",
            Self::TokenPath => "token_path",
            Self::TokenMethod | Self::Method => "method",
            Self::TokenMissing => "token_missing",
            Self::TokenInvalid => "token_invalid",
            Self::NotFound => "not_found",
            Self::Unidentified(why) => why.code(),
            Self::NotReady => "not_ready",
            Self::NoRole => "no_role",
            Self::OtherRole => "other_role",
            Self::Moved => "moved",
            Self::Credentials(why) => why.code(),
            Self::Upstream => "upstream",
            Self::Panic => "panic",
        }
    }

    /// The `Allow` header of a 405.
    pub(super) fn allow(&self) -> Option<&'static str> {
        match self {
            Self::TokenMethod => Some("OPTIONS, PUT"),
            Self::Method => Some("GET, HEAD"),
            Self::Host
            | Self::Forwarded
            | Self::TokenTtl
            | Self::TokenPath
            | Self::TokenMissing
            | Self::TokenInvalid
            | Self::NotFound
            | Self::Unidentified(_)
            | Self::NotReady
            | Self::NoRole
            | Self::OtherRole
            | Self::Moved
            | Self::Credentials(_)
            | Self::Upstream
            | Self::Panic => None,
        }
    }
}
