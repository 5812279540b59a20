//! rolegate: the way of a request, and every decision on it.
//!
//! What a request passes from its connection to its answer, with what it needs to know: the snapshot of the cluster, whose
//! address it comes from, what the namespace allows, the session. Everything here is built to be fast (`opt-level = 3`);
//! crate `rolegate`, which fills it with what the node, Kubernetes and AWS say, is built to be small.
//!
//! Layers: see crate `rolegate`; `tests/tests/layers.rs` checks those of both together.
#![forbid(unsafe_code)]

pub mod accept;
pub mod args;
pub mod cluster;
pub mod cni;
pub mod config;
pub mod credentials;
pub mod identity;
pub mod imds;
pub mod metrics;
pub mod policy;
pub mod prefetch;
pub mod ready;
pub mod server;
pub mod supervisor;
pub mod telemetry;
pub mod types;
