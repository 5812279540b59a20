//! rolegate: a per-node Kubernetes agent in front of the EC2 instance metadata service.
//!
//! Layers, lowest last; a module imports lower layers only (`tests/tests/layers.rs` checks it):
//! `main -> app -> {server, imds, admin, prefetch, discovery} -> {cluster::watch, identity, credentials,
//! imds::passthrough, imds::upstream, redirect, telemetry} -> {config, cni, cluster::index, cluster::snapshot,
//! imds::route, imds::token} -> {policy, args} -> {types, ready, supervisor, metrics,
//! accept}`.
#![forbid(unsafe_code)]

pub mod accept;
pub mod admin;
pub mod app;
pub mod args;
pub mod cluster;
pub mod cni;

pub mod config;
pub mod credentials;
pub mod discovery;
pub mod identity;
pub mod imds;
pub mod metrics;
pub mod policy;
pub mod prefetch;
pub mod ready;
pub mod redirect;
pub mod server;
pub mod supervisor;
pub mod telemetry;
pub mod types;
