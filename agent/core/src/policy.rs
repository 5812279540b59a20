//! Which role a pod may have: pure. Annotation to role, allowed roles of its namespace, one decision with its reasons.

mod allow_list;
mod denied;
mod entry;
mod facts;
mod glob;
mod node_role;
mod problem;
mod reason;
mod rules;
mod session_name;
mod text;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use self::allow_list::{Permission, Texts};
use self::entry::Scope;
use crate::types::{ExternalId, RoleArn, RoleArnError, SessionName};

#[cfg(test)]
pub(crate) use allow_list::COMPILED;
pub use allow_list::ListError;
pub use denied::{Denied, Place, Remedy};
pub use entry::EntryError;
pub use facts::{NamespaceAnnotations, NamespaceFacts, PodFacts};
pub use glob::GlobError;
pub use node_role::NodeRole;
pub use problem::NamespaceProblem;
pub use reason::{Reason, RoleSource};
pub use rules::{AnnotationKeys, PatternFormat, Restrictions, Rules};
pub use session_name::{DEFAULT_SESSION_NAME, SessionTemplate, TemplateError};

/// Decides which role a pod gets. Holds no state that a decision changes.
#[derive(Debug)]
pub struct Policy {
    rules: Rules,
    own: Option<NodeRole>,
    template: SessionTemplate,
    keys: Keys,
}

/// Annotation keys, shared with every refusal that names one.
#[derive(Debug)]
struct Keys {
    role: Arc<str>,
    external_id: Arc<str>,
    allowed_roles: Arc<str>,
    permitted: Arc<str>,
    default_role: Arc<str>,
}

/// What came out, and what it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The role, or why there is none.
    pub outcome: Result<Grant, Denied>,
    /// What the decision rests on, in the order in which it was found.
    pub reasons: Vec<Reason>,
}

/// What a pod may be given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The role to assume.
    pub role: RoleArn,
    /// The external id to assume it with.
    pub external_id: Option<ExternalId>,
    /// The name of the session.
    pub session_name: SessionName,
    /// How long a session to ask for.
    pub duration: Duration,
    /// What `enforce` would have refused, and `audit` lets through: to be counted and logged.
    pub audited: Option<Denied>,
    /// Where the role was named.
    pub from: RoleSource,
}

// === impl Policy ===

impl Policy {
    /// A policy. `own` is the node's role, as far as it is known: without it nothing can be refused for being it.
    ///
    /// A session-name template that does not parse (configuration refuses it) is the default one.
    #[must_use]
    pub fn new(rules: Rules, own: Option<NodeRole>) -> Self {
        let keys = Keys {
            role: Arc::from(rules.keys.role.as_str()),
            external_id: Arc::from(rules.keys.external_id.as_str()),
            allowed_roles: Arc::from(rules.keys.allowed_roles.as_str()),
            permitted: Arc::from(rules.keys.permitted.as_str()),
            default_role: Arc::from(rules.keys.default_role.as_str()),
        };
        let template = SessionTemplate::parse(&rules.session_name).unwrap_or_default();
        Self { rules, own, template, keys }
    }

    /// The node's own role.
    #[must_use]
    pub fn own_role(&self) -> Option<&NodeRole> {
        self.own.as_ref()
    }

    /// Which role `pod` of namespace `ns` gets. Every request asks, also where a session is cached.
    #[must_use]
    pub fn decide(&self, pod: &PodFacts, ns: &NamespaceFacts) -> Decision {
        let mut reasons = Vec::with_capacity(4);
        let outcome = self.grant(pod, ns, &mut |reason| reasons.push(reason));
        Decision { outcome, reasons }
    }

    /// The outcome of [`Self::decide`] alone, for requests, which do not look at reasons.
    ///
    /// # Errors
    /// [`Denied`], as there.
    pub fn outcome(&self, pod: &PodFacts, ns: &NamespaceFacts) -> Result<Grant, Denied> {
        self.grant(pod, ns, &mut |_| ())
    }

    /// Whether requests without a token are served in `ns`. Its annotation says `allow` or `deny`; anything else
    /// there denies, and without it `default_allow` holds.
    #[must_use]
    pub fn imds_v1_allowed(&self, ns: &NamespaceFacts, default_allow: bool) -> bool {
        ns.annotations().imds_v1.as_deref().map_or(default_allow, |value| value.trim() == "allow")
    }

    fn grant(
        &self,
        pod: &PodFacts,
        ns: &NamespaceFacts,
        note: &mut dyn FnMut(Reason),
    ) -> Result<Grant, Denied> {
        let (role, from) = self.role(pod, ns)?;
        note(Reason::RoleFrom(from));
        self.refuse_foreign_partition(pod, &role)?;
        self.refuse_own(pod, &role, note)?;
        let external_id = self.external_id(pod, &role)?;
        if external_id.is_some() {
            note(Reason::ExternalId);
        }
        let audited = self.permit(pod, ns, &role, note)?;
        let session_name = self.template.render(pod, &role, &self.rules.node);
        Ok(Grant { role, external_id, session_name, duration: self.rules.session_duration, audited, from })
    }

    /// The role that applies: the pod's annotation, and only where that is absent a default.
    /// An empty value is no role, wherever it stands: never the base ARN, never the next default.
    fn role(&self, pod: &PodFacts, ns: &NamespaceFacts) -> Result<(RoleArn, RoleSource), Denied> {
        let place = |owner: String, key: Option<&Arc<str>>, value: &Arc<str>| {
            let (namespace, key) = (Arc::clone(&pod.namespace), key.cloned());
            Box::new(Place { namespace, owner, key, value: Arc::clone(value) })
        };
        if let Some(text) = &pod.role {
            return self.resolve(text, RoleSource::Annotation, |error| Denied::MalformedRole {
                at: place(format!("pod {}", pod.name), Some(&self.keys.role), text),
                error,
            });
        }
        if let Some(text) = &ns.annotations().default_role {
            return self.resolve(text, RoleSource::NamespaceDefault, |error| Denied::MalformedDefaultRole {
                at: place("the namespace's default role".to_owned(), Some(&self.keys.default_role), text),
                error,
            });
        }
        let text = self.rules.default_role.as_deref().unwrap_or_default();
        self.resolve(text, RoleSource::Default, |error| Denied::MalformedDefaultRole {
            at: place("the agent's --default-role".to_owned(), None, &Arc::from(text)),
            error,
        })
    }

    fn resolve(
        &self,
        text: &str,
        source: RoleSource,
        malformed: impl FnOnce(RoleArnError) -> Denied,
    ) -> Result<(RoleArn, RoleSource), Denied> {
        if text.is_empty() {
            return Err(Denied::NoRole);
        }
        let role = RoleArn::resolve(text, self.rules.base.as_ref()).map_err(malformed)?;
        Ok((role, source))
    }

    fn refuse_foreign_partition(&self, pod: &PodFacts, role: &RoleArn) -> Result<(), Denied> {
        match &self.rules.base {
            Some(base) if base.partition() != role.partition() => Err(Denied::ForeignPartition {
                namespace: Arc::clone(&pod.namespace),
                role: role.clone(),
                ours: base.partition().to_owned(),
            }),
            _ => Ok(()),
        }
    }

    fn refuse_own(&self, pod: &PodFacts, role: &RoleArn, note: &mut dyn FnMut(Reason)) -> Result<(), Denied> {
        if !self.is_own(role) {
            return Ok(());
        }
        if self.rules.allow_node_role {
            note(Reason::NodeRoleAllowed);
            return Ok(());
        }
        Err(Denied::OwnRole { namespace: Arc::clone(&pod.namespace), role: role.clone() })
    }

    fn is_own(&self, role: &RoleArn) -> bool {
        self.own.as_ref().is_some_and(|own| own.is(role))
    }

    /// An empty external id is none, as for kube2iam.
    fn external_id(&self, pod: &PodFacts, role: &RoleArn) -> Result<Option<ExternalId>, Denied> {
        let Some(text) = pod.external_id.as_ref().filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        ExternalId::parse(text).map(Some).map_err(|error| Denied::MalformedExternalId {
            at: Box::new(Place {
                namespace: Arc::clone(&pod.namespace),
                owner: format!("pod {}", pod.name),
                key: Some(Arc::clone(&self.keys.external_id)),
                value: Arc::clone(text),
            }),
            error,
            role: role.clone(),
        })
    }

    /// The namespace permits `role`; or, where that is only audited, what it would have been refused for.
    fn permit(
        &self,
        pod: &PodFacts,
        ns: &NamespaceFacts,
        role: &RoleArn,
        note: &mut dyn FnMut(Reason),
    ) -> Result<Option<Denied>, Denied> {
        if self.rules.restrictions == Restrictions::Off {
            note(Reason::RestrictionsOff);
            return Ok(None);
        }
        let scope = self.scope(role);
        let remedy = |kept| self.remedy(pod, ns, role, scope, kept);
        let permitted = ns.with_permission(self.rules.format, |permission| match permission {
            Permission::Silent if self.rules.restrictions == Restrictions::Annotated => {
                Ok(Reason::NotAnnotated)
            }
            Permission::Silent => Err(Denied::NamespaceHasNoList(remedy(Some(Texts::default())))),
            Permission::Malformed { error, valid } => {
                Err(Denied::NamespaceListMalformed { remedy: remedy(valid.clone()), error: error.clone() })
            }
            Permission::List(list) => list.find(role, scope).map(Reason::Entry).ok_or_else(|| {
                let names_own_role = self.names_own_role(list.texts());
                Denied::NotInList { remedy: remedy(Some(Arc::clone(list.texts()))), names_own_role }
            }),
        });
        match permitted {
            Ok(reason) => {
                note(reason);
                Ok(None)
            }
            Err(denied) if self.rules.restrictions == Restrictions::Audit => {
                note(Reason::Audited);
                Ok(Some(denied))
            }
            Err(denied) => Err(denied),
        }
    }

    /// How `role` lies to the base: relative entries are completed with the base as roles are.
    fn scope(&self, role: &RoleArn) -> Scope {
        let Some(base) = &self.rules.base else {
            return Scope { home: false, below_base: None };
        };
        let below_base =
            role.as_str().strip_prefix(base.as_str()).map(|rest| role.path_and_name().len() - rest.len());
        let home = role.account() == base.account() && role.partition() == base.partition();
        Scope { home, below_base }
    }

    fn remedy(
        &self,
        pod: &PodFacts,
        ns: &NamespaceFacts,
        role: &RoleArn,
        scope: Scope,
        kept: Option<Texts>,
    ) -> Box<Remedy> {
        // A list would take the place of kiam's expression, and with it all that it permits.
        let NamespaceAnnotations { allowed_roles, permitted, .. } = ns.annotations();
        let by_permitted = allowed_roles.is_none() && permitted.is_some();
        let (key, kept) =
            if by_permitted { (&self.keys.permitted, None) } else { (&self.keys.allowed_roles, kept) };
        Box::new(Remedy {
            namespace: Arc::clone(&pod.namespace),
            role: role.clone(),
            relative: scope.relative(role).map(Box::from),
            key: Arc::clone(key),
            kept,
            format: self.rules.format,
        })
    }

    /// An entry is literally the node's own role.
    fn names_own_role(&self, entries: &[Box<str>]) -> bool {
        let resolve = |text: &str| RoleArn::resolve(text, self.rules.base.as_ref()).ok();
        self.own.is_some()
            && !self.rules.allow_node_role
            && entries.iter().filter_map(|text| resolve(text)).any(|role| self.is_own(&role))
    }
}
