//! Sessions of roles: one broker that keeps them, one source that gets them.

pub mod assume_role;
pub mod broker;
pub mod source;

pub use assume_role::{AssumeRoleSource, CallerIdentity};
pub use broker::{Ask, Broker, BrokerError, Desired};
pub use source::{CredentialSource, Session, SessionKey, SourceError};
