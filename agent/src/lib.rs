//! rolegate: a per-node Kubernetes agent in front of the EC2 instance metadata service.
//!
//! Layers, lowest last; a module imports lower layers only (`tests/tests/layers.rs` checks it):
//! `main -> app -> {server, imds, admin, prefetch} -> {cluster::watch, identity, credentials,
//! imds::passthrough, redirect} -> {config, cluster::index, policy, imds::route, imds::token} ->
//! {types, ready, supervisor, metrics}`.
#![forbid(unsafe_code)]

pub mod cluster;
pub mod config;
pub mod credentials;
pub mod identity;
pub mod imds;
pub mod metrics;
pub mod policy;
pub mod prefetch;
pub mod ready;
pub mod supervisor;
pub mod types;
