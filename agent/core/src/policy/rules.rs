//! What the operator has decided about roles: plain data, validated by `config` (which calls it `config::Policy`).

use std::time::Duration;

use crate::types::RoleArnBase;

/// Role resolution and permission.
#[derive(Clone, Debug)]
pub struct Rules {
    /// `--base-role-arn`; filled in by discovery with `--auto-discover-base-arn`.
    pub base: Option<RoleArnBase>,
    /// `--default-role`: name, path/name or ARN; filled in by discovery with `--auto-discover-default-role`.
    pub default_role: Option<String>,
    /// `--namespace-restrictions`.
    pub restrictions: Restrictions,
    /// `--namespace-restriction-format`.
    pub format: PatternFormat,
    /// `--allow-node-role`.
    pub allow_node_role: bool,
    /// Session name template, such as `{namespace}.{service-account}`. See [`super::SessionTemplate`].
    pub session_name: String,
    /// `--session-duration`, what STS is asked for.
    pub session_duration: Duration,
    /// Annotation keys.
    pub keys: AnnotationKeys,
    /// Node name, for the session-name template; empty until it is found where only `--host-ip` is given.
    pub node: String,
}

/// Which annotations are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnotationKeys {
    /// Pod: the role. `iam.amazonaws.com/role`.
    pub role: String,
    /// Pod: the external id. `iam.amazonaws.com/external-id`.
    pub external_id: String,
    /// Namespace: allowed roles. `iam.amazonaws.com/allowed-roles`.
    pub allowed_roles: String,
    /// Namespace: kiam's regular expression. `iam.amazonaws.com/permitted`.
    pub permitted: String,
    /// Namespace: default role. `iam.amazonaws.com/default-role`.
    pub default_role: String,
    /// Namespace: `deny` or `allow`. `iam.amazonaws.com/imds-v1`.
    pub imds_v1: String,
}

/// What a namespace's annotation means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restrictions {
    /// No annotation allows nothing.
    Enforce,
    /// Enforced only where the annotation exists.
    Annotated,
    /// Served, counted and logged.
    Audit,
    /// Not looked at.
    Off,
}

/// How entries of `allowed-roles` are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatternFormat {
    /// `*` within a segment, `**` across `/`.
    Glob,
    /// Anchored regular expressions.
    Regexp,
}

// === impl AnnotationKeys ===

impl Default for AnnotationKeys {
    fn default() -> Self {
        Self {
            role: "iam.amazonaws.com/role".into(),
            external_id: "iam.amazonaws.com/external-id".into(),
            allowed_roles: "iam.amazonaws.com/allowed-roles".into(),
            permitted: "iam.amazonaws.com/permitted".into(),
            default_role: "iam.amazonaws.com/default-role".into(),
            imds_v1: "iam.amazonaws.com/imds-v1".into(),
        }
    }
}
