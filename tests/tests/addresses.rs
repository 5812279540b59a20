//! Whose an address is: reused at once, claimed by several pods, in every order and spelling, or nobody's in particular.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "addresses/claims.rs"]
mod claims;
#[path = "addresses/reuse.rs"]
mod reuse;
#[path = "addresses/scene.rs"]
mod scene;
