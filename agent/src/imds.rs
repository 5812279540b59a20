//! The IMDS door: routes, tokens, documents, passthrough.

pub mod document;
pub mod passthrough;
pub mod route;
pub mod token;
pub mod upstream;
