//! The IMDS door: routes, tokens, documents, passthrough, and the handler that a request goes through.

mod audit;
pub mod document;
pub mod entrance;
mod error;
pub mod handler;
pub mod passthrough;
pub mod route;
pub mod token;
pub mod upstream;
