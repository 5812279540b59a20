//! The door, byte by byte: what a pod may ask of the agent, what it is answered, and what the real IMDS sees of it.
//!
//! The real agent is asked through real rules. Rows of tables are collected, so that a failure names every row
//! that is wrong.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "door/callers.rs"]
mod callers;
#[path = "door/forwarded.rs"]
mod forwarded;
#[path = "door/grants.rs"]
mod grants;
#[path = "door/heads.rs"]
mod heads;
#[path = "door/hops.rs"]
mod hops;
#[path = "door/hostile.rs"]
mod hostile;
#[path = "door/lab.rs"]
mod lab;
#[path = "door/metadata.rs"]
mod metadata;
#[path = "door/roles.rs"]
mod roles;
#[path = "door/sts.rs"]
mod sts;
#[path = "door/targets.rs"]
mod targets;
#[path = "door/tokens.rs"]
mod tokens;
