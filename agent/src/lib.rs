//! rolegate: a per-node Kubernetes agent in front of the EC2 instance metadata service.
//!
//! The way of a request and its decisions are crate `rolegate-core`, shown here under its own names. Layers, lowest last; a
//! module imports lower layers only (`tests/tests/layers.rs` checks it for both crates together):
//! `main -> app -> {server, imds, admin, prefetch, discovery} -> {cluster::watch, identity, credentials,
//! imds::passthrough, imds::upstream, redirect, telemetry} -> {config, cni, cluster::index, cluster::snapshot,
//! imds::route, imds::token} -> {policy, args} -> {types, ready, supervisor, metrics,
//! accept}`.
#![forbid(unsafe_code)]

pub mod admin;
pub mod app;
pub mod cluster;
pub mod credentials;
pub mod discovery;
pub mod redirect;

pub use rolegate_core::{
    accept, args, cni, config, identity, imds, metrics, policy, prefetch, ready, server, supervisor,
    telemetry, types,
};
