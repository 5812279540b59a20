//! Roles and who may have them.

use std::time::Duration;

use super::super::mistakes::{ConfigError, Findings, Flag, flag};
use super::super::{AnnotationKeys, Discovery, NodeSelection, PatternFormat, Policy, Restrictions, values};
use super::Profile;
use crate::args::{NamespaceArgs, RoleArgs, RunArgs};
use crate::policy::{DEFAULT_SESSION_NAME, SessionTemplate};
use crate::types::{RoleArn, RoleArnBase};

pub(super) fn discovery(found: &mut Findings, args: &RoleArgs) -> Discovery {
    let base_arn = found.boolean(flag("--auto-discover-base-arn", &args.auto_discover_base_arn), false);
    let default_role =
        found.boolean(flag("--auto-discover-default-role", &args.auto_discover_default_role), false);
    if base_arn && flag("--base-role-arn", &args.base_role_arn).value.is_some() {
        found.conflict(
            "--base-role-arn",
            "--auto-discover-base-arn",
            "each says what names are completed with",
        );
    }
    if default_role && flag("--default-role", &args.default_role).value.is_some() {
        found.conflict(
            "--default-role",
            "--auto-discover-default-role",
            "each says what the default role is",
        );
    }
    Discovery { base_arn, default_role }
}

pub(super) fn build(
    found: &mut Findings,
    args: &RunArgs,
    profile: Profile,
    node: &NodeSelection,
    session_duration: Duration,
) -> Policy {
    let roles = &args.roles;
    let base = found.parse(flag("--base-role-arn", &roles.base_role_arn), RoleArnBase::parse);
    let discovers = values_true(&roles.auto_discover_base_arn);
    if flag("--base-role-arn", &roles.base_role_arn).value.is_none() && !discovers {
        found.warn(
            "neither --base-role-arn nor --auto-discover-base-arn is given: only roles given as whole ARNs work",
        );
    }
    let allow_node_role = allow_node_role(found, roles);
    let template = flag("--session-name", &roles.session_name);
    let template = found.parse(template, |text| SessionTemplate::parse(text).map(|_| text.to_owned()));
    Policy {
        default_role: default_role(found, roles, base.as_ref()),
        base,
        restrictions: restrictions(found, &args.namespaces, profile),
        format: format(found, &args.namespaces),
        allow_node_role,
        session_name: template.unwrap_or_else(|| DEFAULT_SESSION_NAME.to_owned()),
        session_duration,
        keys: keys(found, args),
        node: match node {
            NodeSelection::Name(name) => name.clone(),
            NodeSelection::ByHostIp(_) => String::new(),
        },
    }
}

fn values_true(value: &Option<String>) -> bool {
    value.as_deref().and_then(values::boolean) == Some(true)
}

fn allow_node_role(found: &mut Findings, args: &RoleArgs) -> bool {
    let allow = found.boolean(flag("--allow-node-role", &args.allow_node_role), false);
    if values_true(&args.auto_discover_default_role) && !allow {
        found.missing(
            "--auto-discover-default-role makes the node's own role every pod's default; if that is what you want, give --allow-node-role as well",
        );
    }
    if allow {
        found.warn("--allow-node-role: pods may get the node's own role, and with it every role that trusts the node");
    }
    allow
}

/// A role, completed with the base where there is one; where it is discovered, with one that stands in for it.
fn default_role(found: &mut Findings, args: &RoleArgs, base: Option<&RoleArnBase>) -> Option<String> {
    let stand_in = RoleArnBase::of_account("aws", "000000000000").ok().filter(|_| {
        // A base that is wrong is one mistake, not two.
        values_true(&args.auto_discover_base_arn) || flag("", &args.base_role_arn).value.is_some()
    });
    let base = base.or(stand_in.as_ref());
    let role = flag("--default-role", &args.default_role);
    found.parse(role, |text| RoleArn::resolve(text, base).map(|_| text.to_owned()))
}

fn restrictions(found: &mut Findings, args: &NamespaceArgs, profile: Profile) -> Restrictions {
    let parse = |text: &str| match (text, values::boolean(text)) {
        ("enforce", _) | (_, Some(true)) => Some(Restrictions::Enforce),
        ("off", _) | (_, Some(false)) => Some(Restrictions::Off),
        ("annotated", _) => Some(Restrictions::Annotated),
        ("audit", _) => Some(Restrictions::Audit),
        _ => None,
    };
    let given = flag("--namespace-restrictions", &args.namespace_restrictions);
    let default = match profile {
        Profile::Rolegate => Restrictions::Enforce,
        Profile::Kube2iam => Restrictions::Off,
    };
    found.take(given, "enforce, annotated, audit, off, true or false", parse).unwrap_or(default)
}

fn format(found: &mut Findings, args: &NamespaceArgs) -> PatternFormat {
    let parse = |text: &str| match text {
        "glob" => Some(PatternFormat::Glob),
        "regexp" => Some(PatternFormat::Regexp),
        _ => None,
    };
    let given = flag("--namespace-restriction-format", &args.namespace_restriction_format);
    found.take(given, "glob or regexp", parse).unwrap_or(PatternFormat::Glob)
}

fn keys(found: &mut Findings, args: &RunArgs) -> AnnotationKeys {
    let (roles, namespaces) = (&args.roles, &args.namespaces);
    let default = AnnotationKeys::default();
    let keys = AnnotationKeys {
        role: key(found, flag("--iam-role-key", &roles.iam_role_key), default.role),
        external_id: key(found, flag("--iam-external-id", &roles.iam_external_id), default.external_id),
        allowed_roles: key(found, flag("--namespace-key", &namespaces.namespace_key), default.allowed_roles),
        permitted: key(
            found,
            flag("--namespace-permitted-key", &namespaces.namespace_permitted_key),
            default.permitted,
        ),
        default_role: key(
            found,
            flag("--namespace-default-role-key", &namespaces.namespace_default_role_key),
            default.default_role,
        ),
        imds_v1: default.imds_v1,
    };
    differ(found, &[("--iam-role-key", &keys.role), ("--iam-external-id", &keys.external_id)]);
    differ(
        found,
        &[
            ("the annotation iam.amazonaws.com/imds-v1", &keys.imds_v1),
            ("--namespace-key", &keys.allowed_roles),
            ("--namespace-permitted-key", &keys.permitted),
            ("--namespace-default-role-key", &keys.default_role),
        ],
    );
    keys
}

fn key(found: &mut Findings, flag: Flag<'_>, default: String) -> String {
    let allowed = "an annotation's key, such as iam.amazonaws.com/role";
    found
        .take(flag, allowed, |text| values::is_annotation_key(text).then(|| text.to_owned()))
        .unwrap_or(default)
}

/// One annotation never means two things.
fn differ(found: &mut Findings, keys: &[(&'static str, &String)]) {
    for (at, (one, key)) in keys.iter().enumerate() {
        for (other, _) in keys[at + 1..].iter().filter(|(_, other)| other == key) {
            found.mistakes.push(ConfigError::Conflict { one, other, why: "they name the same annotation" });
        }
    }
}
