//! A real cluster of two nodes. One scenario is one test with a cluster of its own; one cluster runs at a time.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "cluster/acceptance.rs"]
mod acceptance;
#[path = "cluster/install.rs"]
mod install;
#[path = "cluster/outcomes.rs"]
mod outcomes;
