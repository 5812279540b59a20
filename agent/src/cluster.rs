//! The pods of this node and the namespaces: watched, folded, published as snapshots.

pub mod index;
pub mod snapshot;
#[cfg(test)]
pub(crate) mod testing;
pub mod watch;

pub use snapshot::{Owner, PodRecord, Snapshot};
