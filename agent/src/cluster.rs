//! The pods of this node and the namespaces: watched, and what the Node is told.

mod answer;
mod backoff;
mod client;
mod kubeconfig;
pub mod own_node;
pub mod watch;

pub use rolegate_core::cluster::{Owner, PodRecord, Snapshot, index, snapshot};
