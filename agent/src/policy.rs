//! Which role a pod may have: pure. Annotation to role, allowed roles of its namespace, one decision with its reasons.

mod facts;

pub use facts::{NamespaceFacts, PodFacts};
