//! A real cluster of two nodes. One scenario is one test with a cluster of its own; one cluster runs at a time.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "cluster/common.rs"]
mod common;
#[path = "cluster/harness.rs"]
mod harness;
#[path = "cluster/install.rs"]
mod install;
#[path = "cluster/migration.rs"]
mod migration;
#[path = "cluster/rollout.rs"]
mod rollout;
