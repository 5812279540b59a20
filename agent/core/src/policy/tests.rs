//! The decisions, row by row; [`properties`] says what holds for any input.

mod patterns;
mod properties;

use super::*;
use crate::types::{PodUid, RoleArnBase};

const BASE: &str = "arn:aws:iam::123456789012:role/";

fn rules(restrictions: Restrictions) -> Rules {
    Rules {
        base: Some(RoleArnBase::parse(BASE).unwrap()),
        default_role: None,
        restrictions,
        format: PatternFormat::Glob,
        allow_node_role: false,
        session_name: DEFAULT_SESSION_NAME.to_owned(),
        session_duration: Duration::from_secs(3600),
        keys: AnnotationKeys::default(),
        node: "node-1".to_owned(),
    }
}

fn node_role() -> NodeRole {
    NodeRole::new(Some("123456789012"), ["corp-node"])
}

fn enforce() -> Policy {
    Policy::new(rules(Restrictions::Enforce), Some(node_role()))
}

fn pod(role: Option<&str>) -> PodFacts {
    PodFacts {
        uid: PodUid::new("7b1f"),
        namespace: Arc::from("default"),
        name: Arc::from("aws-cli"),
        service_account: Arc::from("builder"),
        role: role.map(Arc::from),
        external_id: None,
    }
}

fn with(annotations: NamespaceAnnotations) -> NamespaceFacts {
    NamespaceFacts::new("default", annotations)
}

fn listing(allowed_roles: &str) -> NamespaceFacts {
    with(NamespaceAnnotations { allowed_roles: Some(Arc::from(allowed_roles)), ..Default::default() })
}

fn silent() -> NamespaceFacts {
    with(NamespaceAnnotations::default())
}

fn code(policy: &Policy, role: &str, ns: &NamespaceFacts) -> &'static str {
    policy.decide(&pod(Some(role)), ns).outcome.map_or_else(|denied| denied.code(), |_| "granted")
}

#[test]
fn grant_carries_everything_that_goes_into_the_request() {
    let mut asking = pod(Some("MyPodRole"));
    asking.external_id = Some(Arc::from("tenant-1"));
    let decision = enforce().decide(&asking, &listing(r#"["Other","MyPodRole"]"#));
    let grant = decision.outcome.unwrap();
    assert_eq!(grant.role.as_str(), "arn:aws:iam::123456789012:role/MyPodRole");
    assert_eq!(grant.external_id.unwrap().as_str(), "tenant-1");
    assert_eq!(grant.session_name.as_str(), "default.builder");
    assert_eq!(grant.duration, Duration::from_secs(3600));
    assert_eq!((grant.audited, grant.from), (None, RoleSource::Annotation));
    assert_eq!(
        decision.reasons,
        [Reason::RoleFrom(RoleSource::Annotation), Reason::ExternalId, Reason::Entry(1)]
    );
}

#[test]
fn namespace_without_the_annotation_allows_nothing_and_the_message_says_how() {
    let denied = enforce().decide(&pod(Some("MyPodRole")), &silent()).outcome.unwrap_err();
    assert_eq!(denied.code(), "namespace_has_no_list");
    assert_eq!(denied.listed_name(), Some("MyPodRole"));
    assert_eq!(
        denied.message(),
        "role arn:aws:iam::123456789012:role/MyPodRole is not allowed: namespace default has no annotation \
         iam.amazonaws.com/allowed-roles; to allow it: kubectl annotate namespace default \
         'iam.amazonaws.com/allowed-roles=[\"MyPodRole\"]' --overwrite"
    );
}

#[test]
fn command_of_a_refusal_keeps_the_valid_entries_and_lifts_it() {
    for (list, kept) in [
        (r#"["Other","team-*"]"#, r#"["Other","team-*","MyPodRole"]"#),
        (r#"["Other",5,"",{}]"#, r#"["Other","MyPodRole"]"#),
        (r#""MyPodRole""#, r#"["MyPodRole"]"#),
        ("MyPodRole", r#"["MyPodRole"]"#),
    ] {
        let denied = enforce().decide(&pod(Some("MyPodRole")), &listing(list)).outcome.unwrap_err();
        let message = denied.message();
        let command = format!("'iam.amazonaws.com/allowed-roles={kept}' --overwrite");
        assert!(message.ends_with(&command), "{message}");
        assert_eq!(code(&enforce(), "MyPodRole", &listing(kept)), "granted");
    }
}

#[test]
fn command_of_a_refusal_cannot_be_used_to_run_another() {
    let role = "arn:aws:iam::123456789012:role/';$(id)/*/x";
    let ns = listing(r#"["'; id #"]"#);
    let Err(Denied::NotInList { remedy, .. }) = enforce().decide(&pod(Some(role)), &ns).outcome else {
        panic!("refused");
    };
    assert_eq!(
        remedy.command().unwrap(),
        r#"kubectl annotate namespace default 'iam.amazonaws.com/allowed-roles=["'\''; id #","'\'';$(id)/\\*/x"]' --overwrite"#
    );
}

#[test]
fn refusal_never_offers_a_command_that_would_take_something_away() {
    let many = serde_json::to_string(&vec!["x"; 256]).unwrap();
    let long = serde_json::to_string(&vec!["a-longer-role-name"; 60]).unwrap();
    let too_many = serde_json::to_string(&vec!["x"; 300]).unwrap();
    let permitted = with(NamespaceAnnotations { permitted: Some(Arc::from(".*/app")), ..Default::default() });
    for ns in [listing(&many), listing(&long), listing(&too_many), permitted] {
        let message = enforce().decide(&pod(Some("MyPodRole")), &ns).outcome.unwrap_err().message();
        assert!(!message.contains("kubectl") && message.contains("change the annotation"), "{message}");
    }
}

#[test]
fn list_as_a_block_scalar_allows_what_it_names_and_nothing_else() {
    let ns = listing("[\"arn:aws:iam::123456789012:role/MyPodRole\"]\n");
    assert_eq!(code(&enforce(), "MyPodRole", &ns), "granted");
    assert_eq!(code(&enforce(), "OtherRole", &ns), "not_in_list");
}

#[test]
fn every_mode_of_restrictions_does_what_its_name_says() {
    let malformed = listing("no json");
    for (mode, on_silent, on_other, on_malformed) in [
        (Restrictions::Enforce, "namespace_has_no_list", "not_in_list", "namespace_list_malformed"),
        (Restrictions::Annotated, "granted", "not_in_list", "namespace_list_malformed"),
        (Restrictions::Audit, "granted", "granted", "granted"),
        (Restrictions::Off, "granted", "granted", "granted"),
    ] {
        let policy = Policy::new(rules(mode), Some(node_role()));
        assert_eq!(code(&policy, "MyPodRole", &silent()), on_silent, "{mode:?}");
        assert_eq!(code(&policy, "MyPodRole", &listing(r#"["Other"]"#)), on_other, "{mode:?}");
        assert_eq!(code(&policy, "MyPodRole", &malformed), on_malformed, "{mode:?}");
        assert_eq!(code(&policy, "Other", &listing(r#"["Other"]"#)), "granted", "{mode:?}");
        assert_eq!(code(&policy, "corp-node", &listing(r#"["corp-node"]"#)), "own_role", "{mode:?}");
    }
}

#[test]
fn audit_says_what_enforce_would_have_refused() {
    let policy = Policy::new(rules(Restrictions::Audit), None);
    let refused = enforce().decide(&pod(Some("MyPodRole")), &silent()).outcome.unwrap_err();
    let decision = policy.decide(&pod(Some("MyPodRole")), &silent());
    assert_eq!(decision.outcome.unwrap().audited, Some(refused));
    assert_eq!(decision.reasons.last(), Some(&Reason::Audited));
    let allowed = policy.decide(&pod(Some("MyPodRole")), &listing(r#"["MyPodRole"]"#));
    assert_eq!(allowed.outcome.unwrap().audited, None);
}

/// P30: in a pod's annotation, whatever its path and case.
#[test]
fn nodes_own_role_is_refused_by_every_name_it_has() {
    let everything = listing(r#"["**"]"#);
    for role in ["corp-node", "kops/corp-node", "arn:aws:iam::123456789012:role/kops/corp-node", "CORP-NODE"]
    {
        assert_eq!(code(&enforce(), role, &everything), "own_role", "{role}");
    }
    for role in ["kops-custom-node-role", "corp-node-2", "corp-node/x"] {
        assert_eq!(code(&enforce(), role, &everything), "granted", "{role}");
    }
    let elsewhere = listing(r#"["arn:aws:iam::999999999999:role/corp-node"]"#);
    assert_eq!(code(&enforce(), "arn:aws:iam::999999999999:role/corp-node", &elsewhere), "granted");
}

/// P30: in a list.
#[test]
fn list_that_names_the_nodes_own_role_permits_nothing_by_it_and_says_so() {
    let ns = listing(r#"["arn:aws:iam::123456789012:role/kops/corp-node"]"#);
    let other = enforce().decide(&pod(Some("OtherRole")), &ns).outcome.unwrap_err();
    assert!(other.message().contains("the node's own role, which it names, is never allowed"), "{other:?}");
    let own = enforce().decide(&pod(Some("kops/corp-node")), &ns).outcome.unwrap_err();
    assert!(own.message().contains("the node's own role, which is never allowed"), "{own:?}");
    let beside = listing(r#"["arn:aws:iam::123456789012:role/kops/corp-node","MyPodRole"]"#);
    assert_eq!(code(&enforce(), "MyPodRole", &beside), "granted");
}

/// P30: as a default.
#[test]
fn nodes_own_role_is_refused_as_a_default_and_granted_only_with_the_flag() {
    let ns = with(NamespaceAnnotations {
        allowed_roles: Some(Arc::from(r#"["*"]"#)),
        default_role: Some(Arc::from("corp-node")),
        ..Default::default()
    });
    assert_eq!(enforce().decide(&pod(None), &ns).outcome.unwrap_err().code(), "own_role");
    let mut allowing = rules(Restrictions::Enforce);
    allowing.allow_node_role = true;
    let decision = Policy::new(allowing, Some(node_role())).decide(&pod(None), &ns);
    assert!(decision.outcome.is_ok());
    assert!(decision.reasons.contains(&Reason::NodeRoleAllowed));
}

/// K2: nothing is nothing, also where a base ARN could be put before it.
#[test]
fn empty_annotation_is_no_role_and_neither_base_nor_default() {
    let mut defaulting = rules(Restrictions::Off);
    defaulting.default_role = Some("Fallback".to_owned());
    let policy = Policy::new(defaulting, None);
    assert_eq!(code(&policy, "", &silent()), "no_role");
    assert_eq!(code(&enforce(), "", &listing(r#"["**"]"#)), "no_role");
    assert_eq!(enforce().decide(&pod(None), &silent()).outcome, Err(Denied::NoRole));
    assert_eq!(Denied::NoRole.listed_name(), None);
}

/// P29: a default role is held against the list as an annotation is.
#[test]
fn defaults_apply_to_absent_annotations_only_and_are_subject_to_the_list() {
    let mut defaulting = rules(Restrictions::Enforce);
    defaulting.default_role = Some("Fallback".to_owned());
    let policy = Policy::new(defaulting, None);
    let of_namespace = with(NamespaceAnnotations {
        allowed_roles: Some(Arc::from(r#"["TeamDefault"]"#)),
        default_role: Some(Arc::from("TeamDefault")),
        ..Default::default()
    });
    let grant = policy.decide(&pod(None), &of_namespace).outcome.unwrap();
    assert_eq!((grant.role.name(), grant.from), ("TeamDefault", RoleSource::NamespaceDefault));
    let grant = policy.decide(&pod(None), &listing(r#"["Fallback"]"#)).outcome.unwrap();
    assert_eq!((grant.role.name(), grant.from), ("Fallback", RoleSource::Default));
    let refused = |ns: &NamespaceFacts| policy.decide(&pod(None), ns).outcome.unwrap_err().code();
    assert_eq!(refused(&silent()), "namespace_has_no_list");
    assert_eq!(refused(&listing(r#"["Other"]"#)), "not_in_list");
    assert_eq!(code(&policy, "Fallback", &listing(r#"["Other"]"#)), "not_in_list");
}

#[test]
fn malformed_values_are_refused_by_name_and_harm_nobody_else() {
    let everything = listing(r#"["**"]"#);
    for role in ["arn:", "arn:x", "arn:aws:iam:1:role/x", "x/", "a b", "rôle", "a\0b", "a:b", "\u{202e}x"] {
        assert_eq!(code(&enforce(), role, &everything), "malformed_role", "{role:?}");
    }
    assert_eq!(code(&enforce(), &"a".repeat(65_536), &everything), "malformed_role");
    let denied = enforce().decide(&pod(Some("a\nb")), &everything).outcome.unwrap_err();
    assert_eq!(denied.listed_name(), Some("malformed-role"));
    assert!(
        denied.message().starts_with(
            r#"namespace default, pod aws-cli, annotation iam.amazonaws.com/role: "a\\nb" is not a role: "#
        ),
        "{}",
        denied.message()
    );
    let mut asking = pod(Some("MyPodRole"));
    asking.external_id = Some(Arc::from("a b"));
    let denied = enforce().decide(&asking, &everything).outcome.unwrap_err();
    assert_eq!(denied.code(), "malformed_external_id");
    let ns = with(NamespaceAnnotations { default_role: Some(Arc::from("a b")), ..Default::default() });
    assert_eq!(enforce().decide(&pod(None), &ns).outcome.unwrap_err().code(), "malformed_default_role");
    assert_eq!(code(&enforce(), "arn:aws-cn:iam::123456789012:role/x", &everything), "foreign_partition");
}

#[test]
fn bare_name_without_a_base_is_malformed_and_a_whole_arn_needs_its_account_in_the_list() {
    let mut bare = rules(Restrictions::Enforce);
    bare.base = None;
    let policy = Policy::new(bare, None);
    assert_eq!(code(&policy, "MyPodRole", &listing(r#"["**"]"#)), "malformed_role");
    let arn = "arn:aws:iam::123456789012:role/MyPodRole";
    assert_eq!(code(&policy, arn, &listing(r#"["**"]"#)), "not_in_list");
    assert_eq!(code(&policy, arn, &listing(&format!(r#"["{arn}"]"#))), "granted");
}

#[test]
fn imds_v1_follows_the_namespace_and_anything_unknown_there_denies() {
    let policy = enforce();
    for (value, default_allow, expected) in [
        (None, true, true),
        (None, false, false),
        (Some("allow"), false, true),
        (Some("deny"), true, false),
        (Some("allow\n"), false, true),
        (Some("Allow"), true, false),
        (Some(""), true, false),
        (Some("true"), true, false),
    ] {
        let ns = with(NamespaceAnnotations { imds_v1: value.map(Arc::from), ..Default::default() });
        assert_eq!(policy.imds_v1_allowed(&ns, default_allow), expected, "{value:?}");
    }
}

#[test]
fn codes_are_complete_and_differ() {
    let mut codes = Denied::CODES.to_vec();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes.len(), Denied::CODES.len());
    assert!(codes.contains(&Denied::NoRole.code()));
}
