//! Sessions of roles: one broker that keeps them, one source that gets them.

pub mod broker;
pub mod source;

pub use broker::{Ask, Broker, BrokerError, Desired};
pub use source::{CredentialSource, Session, SessionKey, SourceError};
