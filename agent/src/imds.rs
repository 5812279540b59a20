//! The IMDS door: routes, tokens, documents, passthrough.
