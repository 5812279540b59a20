//! What a session is, what it is asked for with, and how getting one fails.

use std::fmt;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::policy::Grant;
use crate::types::{ExternalId, RoleArn, Secret, SessionName};

/// Everything that goes into the request for a session. Two requests that differ in anything never share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SessionKey {
    /// The role to assume.
    pub role: RoleArn,
    /// `ExternalId`.
    pub external_id: Option<ExternalId>,
    /// `RoleSessionName`.
    pub session_name: SessionName,
    /// `DurationSeconds` asked for first.
    pub duration: Duration,
}

/// What STS gave.
#[derive(Clone)]
pub struct Session {
    /// Public part.
    pub access_key_id: String,
    /// Secret part.
    pub secret_access_key: Secret,
    /// Session token.
    pub token: Secret,
    /// When STS says it ends: never altered.
    pub expiration: SystemTime,
    /// When it was received.
    pub received: SystemTime,
    /// The IMDS document, rendered once by the function that the broker was given; empty until then.
    pub document: Bytes,
}

/// How getting a session fails. Classified by STS's code, never by its HTTP status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// STS refuses this very key (`AccessDenied`): trust policy, external id, permission.
    #[error("STS refuses: {message}")]
    Unauthorized {
        /// STS's message, for the audit line and the operator; never a secret.
        message: String,
    },
    /// STS finds the request wrong for good (`MalformedPolicyDocument`, `PackedPolicyTooLarge`, `RegionDisabledException`, `ValidationError`).
    #[error("STS rejects the request ({code}): {message}")]
    Rejected {
        /// STS's code.
        code: String,
        /// STS's message.
        message: String,
    },
    /// STS throttles.
    #[error("STS throttles")]
    Throttled,
    /// The agent's own credentials or clock are at fault.
    #[error("the agent's own credentials are not accepted ({code})")]
    OwnCredentials {
        /// STS's code, or what could not be loaded.
        code: String,
    },
    /// STS answered with a session of somebody else: nobody gets it.
    #[error("STS answered with a session of {arn}, which was not asked for")]
    Mismatched {
        /// Whose it is.
        arn: String,
    },
    /// No answer, half an answer, 5xx.
    #[error("STS is unavailable: {reason}")]
    Unavailable {
        /// What happened; no body, no header.
        reason: String,
    },
}

/// Where sessions come from.
pub trait CredentialSource: Send + Sync + 'static {
    /// Gets a session for `key`. Owned by the broker, never by a request.
    fn fetch(&self, key: SessionKey) -> BoxFuture<'static, Result<Session, SourceError>>;
}

// === impl Session ===

impl fmt::Debug for Session {
    /// The public part: the document holds the secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("access_key_id", &self.access_key_id)
            .field("expiration", &self.expiration)
            .field("received", &self.received)
            .finish_non_exhaustive()
    }
}

// === impl SessionKey ===

impl From<&Grant> for SessionKey {
    fn from(grant: &Grant) -> Self {
        Self {
            role: grant.role.clone(),
            external_id: grant.external_id.clone(),
            session_name: grant.session_name.clone(),
            duration: grant.duration,
        }
    }
}
