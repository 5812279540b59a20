//! The pods of this node and the namespaces: watched, folded, published as snapshots; and what the Node is told.

mod answer;
mod backoff;
mod client;
pub mod index;
pub mod own_node;
pub mod snapshot;
#[cfg(test)]
pub(crate) mod testing;
pub mod watch;

pub use snapshot::{Owner, PodRecord, Snapshot};
