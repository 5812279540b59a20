//! How large a node and its cluster are.

/// How large the cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Pods of the node.
    pub pods: u32,
    /// Namespaces of the cluster.
    pub namespaces: u32,
}
