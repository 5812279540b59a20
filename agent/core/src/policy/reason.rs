//! What a decision rests on, as data: `explain` and the audit line print it.

use std::fmt;

/// Where the role was named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RoleSource {
    /// The pod's annotation.
    Annotation,
    /// The namespace's default role.
    NamespaceDefault,
    /// `--default-role`.
    Default,
}

/// One step of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The role was named here.
    RoleFrom(RoleSource),
    /// It is the node's own, and `--allow-node-role` is given.
    NodeRoleAllowed,
    /// It is assumed with an external id.
    ExternalId,
    /// `--namespace-restrictions=off`.
    RestrictionsOff,
    /// `--namespace-restrictions=annotated`, and the namespace has no list.
    NotAnnotated,
    /// This entry of the namespace's list (counted from 0) permits it.
    Entry(usize),
    /// The namespace does not permit it, and `--namespace-restrictions=audit` lets it through.
    Audited,
}

// === impl RoleSource ===

impl RoleSource {
    /// A bounded label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Annotation => "annotation",
            Self::NamespaceDefault => "namespace_default",
            Self::Default => "default",
        }
    }
}

// === impl Reason ===

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RoleFrom(RoleSource::Annotation) => f.write_str("the pod's annotation names the role"),
            Self::RoleFrom(RoleSource::NamespaceDefault) => {
                f.write_str("the pod names no role; its namespace's default role applies")
            }
            Self::RoleFrom(RoleSource::Default) => {
                f.write_str("neither pod nor namespace names a role; --default-role applies")
            }
            Self::NodeRoleAllowed => {
                f.write_str("the role is the node's own, and --allow-node-role is given")
            }
            Self::ExternalId => f.write_str("the pod's external id goes with it"),
            Self::RestrictionsOff => f.write_str("namespace restrictions are off"),
            Self::NotAnnotated => f.write_str("the namespace has no list, and only lists are enforced"),
            Self::Entry(at) => write!(f, "entry {} of the namespace's list permits it", at + 1),
            Self::Audited => {
                f.write_str("the namespace does not permit it, and restrictions are only audited")
            }
        }
    }
}
