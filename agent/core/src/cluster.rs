//! The pods of this node and the namespaces, folded and published as snapshots.

pub mod index;
pub mod snapshot;
#[cfg(test)]
pub(crate) mod testing;

pub use snapshot::{Owner, PodRecord, Snapshot};
