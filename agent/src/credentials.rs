//! Sessions of roles, and STS as their source.

pub mod assume_role;

pub use assume_role::{AssumeRoleSource, CallerIdentity};
pub use rolegate_core::credentials::{
    Ask, Broker, BrokerError, CredentialSource, Desired, Session, SessionKey, SourceError, broker, source,
};
