//! Pods of this node and namespaces, listed and watched.

mod project;

pub use project::project_namespace;
