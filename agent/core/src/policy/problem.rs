//! What of a namespace's annotations is malformed: said of the namespace itself, whoever asks.

use super::Policy;
use super::allow_list::Permission;
use super::facts::{NamespaceAnnotations, NamespaceFacts};
use super::rules::Restrictions;
use super::text::printable;
use crate::types::RoleArn;

/// Longest message, in characters: as long as that of a refusal.
const MESSAGE_CHARS: usize = 1024;

/// Of the value, in characters.
const VALUE_CHARS: usize = 160;

/// An annotation of a namespace that does not say what it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceProblem {
    /// Which one: one of [`NamespaceProblem::ANNOTATIONS`], a bounded label.
    pub annotation: &'static str,
    /// What is wrong, what is allowed, and what holds meanwhile: printable ASCII, at most 1024 characters.
    pub message: String,
}

// === impl NamespaceProblem ===

impl NamespaceProblem {
    /// Every annotation of a namespace that is read, whatever its key.
    pub const ANNOTATIONS: [&'static str; 4] = ["allowed_roles", "permitted", "default_role", "imds_v1"];

    fn new(annotation: &'static str, key: &str, value: &str, what: &str) -> Self {
        let value = printable(value, VALUE_CHARS);
        let message = printable(&format!("annotation {key}: {value:?}: {what}"), MESSAGE_CHARS);
        Self { annotation, message }
    }
}

// === impl Policy ===

impl Policy {
    /// What is malformed in `ns`. What is fine, but allows nobody, is no problem of the namespace.
    #[must_use]
    pub fn problems(&self, ns: &NamespaceFacts) -> Vec<NamespaceProblem> {
        let found = [self.list_problem(ns), self.default_role_problem(ns), self.imds_v1_problem(ns)];
        found.into_iter().flatten().collect()
    }

    fn list_problem(&self, ns: &NamespaceFacts) -> Option<NamespaceProblem> {
        if self.rules.restrictions == Restrictions::Off {
            return None;
        }
        let error = ns.with_permission(self.rules.format, |permission| match permission {
            Permission::Malformed { error, .. } => Some(error.clone()),
            Permission::Silent | Permission::List(_) => None,
        })?;
        let NamespaceAnnotations { allowed_roles, permitted, .. } = ns.annotations();
        let problem = match (allowed_roles, permitted) {
            (Some(value), _) => NamespaceProblem::new(
                "allowed_roles",
                &self.keys.allowed_roles,
                value,
                &format!("{error}; the namespace allows nothing until it is a JSON array of roles"),
            ),
            (None, value) => NamespaceProblem::new(
                "permitted",
                &self.keys.permitted,
                value.as_deref().unwrap_or_default(),
                &format!("{error}; the namespace allows nothing until it is a regular expression"),
            ),
        };
        Some(problem)
    }

    fn default_role_problem(&self, ns: &NamespaceFacts) -> Option<NamespaceProblem> {
        let value = ns.annotations().default_role.as_deref().filter(|value| !value.is_empty())?;
        let error = RoleArn::resolve(value, self.rules.base.as_ref()).err()?;
        let what = format!("{error}; pods without a role get none");
        Some(NamespaceProblem::new("default_role", &self.keys.default_role, value, &what))
    }

    fn imds_v1_problem(&self, ns: &NamespaceFacts) -> Option<NamespaceProblem> {
        let imds_v1 = ns.annotations().imds_v1.as_deref();
        let value = imds_v1.filter(|value| !matches!(value.trim(), "allow" | "deny"))?;
        let what = "it is neither allow nor deny; requests without a token are refused";
        Some(NamespaceProblem::new("imds_v1", &self.rules.keys.imds_v1, value, what))
    }
}
