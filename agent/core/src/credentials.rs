//! Sessions of roles: one broker that keeps them, and what it wants of a source.

pub mod broker;
pub mod source;

pub use broker::{Ask, Broker, BrokerError, Desired};
pub use source::{CredentialSource, Session, SessionKey, SourceError};
