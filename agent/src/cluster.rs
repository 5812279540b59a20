//! The pods of this node and the namespaces: watched, folded, published as snapshots.

pub mod index;
pub mod snapshot;

pub use snapshot::{Owner, Snapshot};
