//! What a decision is made from: a pod and its namespace as far as policy is concerned.

use std::sync::{Arc, OnceLock};

use super::allow_list::Permission;
use super::rules::PatternFormat;
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

/// The annotations of a namespace that policy reads, as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceAnnotations {
    /// `allowed-roles`.
    pub allowed_roles: Option<Arc<str>>,
    /// kiam's `permitted`.
    pub permitted: Option<Arc<str>>,
    /// `default-role`.
    pub default_role: Option<Arc<str>>,
    /// `imds-v1`.
    pub imds_v1: Option<Arc<str>>,
}

/// A namespace, projected. Its patterns are compiled on first use and only once, so share it (`Arc`), keep it
/// as long as the annotations stay the same, and make a new one when they change. Of ten thousand namespaces
/// most have none of these annotations, and most others no pod on this node: such a one is little more than its name.
#[derive(Debug)]
pub struct NamespaceFacts {
    /// `metadata.name`.
    pub name: Arc<str>,
    annotated: Option<Box<Annotated>>,
}

#[derive(Debug)]
struct Annotated {
    annotations: NamespaceAnnotations,
    compiled: OnceLock<Box<(PatternFormat, Permission)>>,
}

// === impl PodFacts ===

impl PodFacts {
    /// Bytes of an annotation that are worth keeping: one more than the longest that can be valid has. The API server
    /// takes 256 KiB from each pod.
    pub const ANNOTATION_BYTES: usize = 2_049;
}

// === impl NamespaceAnnotations ===

impl NamespaceAnnotations {
    /// As [`PodFacts::ANNOTATION_BYTES`], of a namespace.
    pub const BYTES: usize = super::allow_list::LONGEST_BYTES + 1;

    const NONE: Self = Self { allowed_roles: None, permitted: None, default_role: None, imds_v1: None };
}

// === impl NamespaceFacts ===

impl NamespaceFacts {
    /// A namespace with those annotations; nothing is compiled yet.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>, annotations: NamespaceAnnotations) -> Self {
        let annotated = (annotations != NamespaceAnnotations::NONE)
            .then(|| Box::new(Annotated { annotations, compiled: OnceLock::new() }));
        Self { name: name.into(), annotated }
    }

    /// What policy reads of it.
    #[must_use]
    pub fn annotations(&self) -> &NamespaceAnnotations {
        static NONE: NamespaceAnnotations = NamespaceAnnotations::NONE;
        self.annotated.as_ref().map_or(&NONE, |annotated| &annotated.annotations)
    }

    /// Calls `look` with what the annotations permit, compiled at the first call.
    pub(super) fn with_permission<T>(&self, format: PatternFormat, look: impl FnOnce(&Permission) -> T) -> T {
        let Some(Annotated { annotations, compiled }) = self.annotated.as_deref() else {
            return look(&Permission::Silent);
        };
        let compile = || {
            let NamespaceAnnotations { allowed_roles, permitted, .. } = annotations;
            Permission::compile(allowed_roles.as_deref(), permitted.as_deref(), format)
        };
        let (compiled_as, permission) = &**compiled.get_or_init(|| Box::new((format, compile())));
        if *compiled_as == format {
            look(permission)
        } else {
            // Two policies that read entries differently: one process never has them.
            look(&compile())
        }
    }
}

impl PartialEq for NamespaceFacts {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.annotations() == other.annotations()
    }
}

impl Eq for NamespaceFacts {}
