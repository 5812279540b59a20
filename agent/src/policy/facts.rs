//! What a decision is made from: a pod and its namespace as far as policy is concerned.

use std::sync::Arc;

use crate::types::PodUid;

/// A pod, projected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFacts {
    /// `metadata.uid`.
    pub uid: PodUid,
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `spec.serviceAccountName` (`default` where absent).
    pub service_account: Arc<str>,
    /// The role annotation, as written.
    pub role: Option<Arc<str>>,
    /// The external-id annotation, as written.
    pub external_id: Option<Arc<str>>,
}

/// A namespace, projected. Its patterns are compiled on first use and only once.
#[derive(Debug)]
pub struct NamespaceFacts {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `allowed-roles`, as written.
    pub allowed_roles: Option<Arc<str>>,
    /// kiam's `permitted`, as written.
    pub permitted: Option<Arc<str>>,
    /// `default-role`, as written.
    pub default_role: Option<Arc<str>>,
    /// `imds-v1`, as written.
    pub imds_v1: Option<Arc<str>>,
}
