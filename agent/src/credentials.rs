//! Sessions of roles: one broker that keeps them, one source that gets them.

pub mod source;

pub use source::{CredentialSource, Session, SessionKey, SourceError};
