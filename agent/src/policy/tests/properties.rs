//! What holds for any input.

use proptest::prelude::*;

use super::*;

const ELSEWHERE: &str = "arn:aws:iam::999999999999:role/";

fn policy(format: PatternFormat, restrictions: Restrictions) -> Policy {
    let mut made = rules(restrictions);
    made.format = format;
    Policy::new(made, Some(node_role()))
}

fn formats() -> impl Strategy<Value = PatternFormat> {
    prop_oneof![Just(PatternFormat::Glob), Just(PatternFormat::Regexp)]
}

fn modes() -> impl Strategy<Value = Restrictions> {
    prop_oneof![
        Just(Restrictions::Enforce),
        Just(Restrictions::Annotated),
        Just(Restrictions::Audit),
        Just(Restrictions::Off),
    ]
}

/// Entries made of what patterns are made of.
fn entry() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("arn:aws:iam::".to_owned()),
        Just("123456789012".to_owned()),
        Just(":role/".to_owned()),
        Just(".*".to_owned()),
        Just("**".to_owned()),
        Just("|".to_owned()),
        Just("(?:".to_owned()),
        Just(")".to_owned()),
        Just("^".to_owned()),
        Just("$".to_owned()),
        Just(r"\d{12}".to_owned()),
        Just("[0-9:]*".to_owned()),
        "[a-z0-9:/*?.]{0,4}",
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

/// Any text: hostile characters, long runs, things like annotations.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        entry(),
        r#"\["[ -~]{0,40}"(,"[a-z*/]{0,9}")?\]"#,
        ("[\\PC\\x00-\\x1f]", 0usize..66_000).prop_map(|(piece, times)| piece.repeat(times)),
    ]
}

proptest! {
    #[test]
    fn no_list_allows_an_account_that_is_not_literally_in_it(
        entries in prop::collection::vec(entry(), 0..4), format in formats(), name in "[a-z/]{0,6}x",
    ) {
        let list = serde_json::to_string(&entries).unwrap();
        prop_assume!(!list.contains("999999999999"));
        let arn = format!("{ELSEWHERE}{name}");
        let (allowed, permitted) = (listing(&list), with(NamespaceAnnotations {
            permitted: entries.first().map(|entry| Arc::from(entry.as_str())), ..Default::default()
        }));
        for ns in [&allowed, &permitted] {
            prop_assert_ne!(code(&policy(format, Restrictions::Enforce), &arn, ns), "granted");
        }
    }

    #[test]
    fn annotations_of_one_namespace_never_change_anothers_decision(
        list in text(), permitted in text(), role in "[a-z]{1,3}", entries in prop::collection::vec("[a-z*]{1,3}", 0..4),
    ) {
        let policy = policy(PatternFormat::Glob, Restrictions::Enforce);
        let mine = listing(&serde_json::to_string(&entries).unwrap());
        let before = policy.decide(&pod(Some(&role)), &mine);
        let other = NamespaceFacts::new("other", NamespaceAnnotations {
            allowed_roles: Some(Arc::from(list.as_str())),
            permitted: Some(Arc::from(permitted.as_str())),
            ..Default::default()
        });
        let mut theirs = pod(Some(&role));
        theirs.namespace = Arc::from("other");
        let _ = policy.decide(&theirs, &other);
        prop_assert_eq!(policy.decide(&pod(Some(&role)), &mine), before);
    }

    #[test]
    fn decide_never_panics_and_its_messages_are_printable_and_short(
        role in prop::option::of(text()), external_id in prop::option::of(text()), names in text(),
        list in prop::option::of(text()), permitted in prop::option::of(text()),
        default_role in prop::option::of(text()), format in formats(), mode in modes(),
    ) {
        let arc = |text: Option<String>| text.map(|text| Arc::<str>::from(text.as_str()));
        let mut asking = pod(None);
        asking.role = arc(role);
        asking.external_id = arc(external_id);
        asking.namespace = Arc::from(names.as_str());
        asking.name = Arc::from(names.as_str());
        asking.service_account = Arc::from(names.as_str());
        let ns = NamespaceFacts::new(names.as_str(), NamespaceAnnotations {
            allowed_roles: arc(list), permitted: arc(permitted), default_role: arc(default_role), imds_v1: None,
        });
        let policy = policy(format, mode);
        let decision = policy.decide(&asking, &ns);
        prop_assert_eq!(&policy.decide(&asking, &ns), &decision, "remembered answers are the same");
        let denied = match decision.outcome {
            Ok(grant) => grant.audited,
            Err(denied) => Some(denied),
        };
        if let Some(denied) = denied {
            let message = denied.message();
            prop_assert!(message.len() <= 1024, "{}", message.len());
            prop_assert!(message.bytes().all(|b| b == b' ' || b.is_ascii_graphic()));
            prop_assert!(Denied::CODES.contains(&denied.code()));
        }
    }

    #[test]
    fn every_grant_is_the_role_that_was_asked_for(
        role in prop_oneof!["[a-z/]{1,9}", "(123456789012|999999999999):role/[a-z/]{0,5}[a-z]"],
        list in prop_oneof![Just(r#"["**","arn:aws:iam::999999999999:role/**"]"#.to_owned()), text()],
        format in formats(), mode in modes(),
    ) {
        let role = if role.contains(':') { format!("arn:aws:iam::{role}") } else { role };
        let policy = policy(format, mode);
        if let Ok(grant) = policy.decide(&pod(Some(&role)), &listing(&list)).outcome {
            let base = RoleArnBase::parse(BASE).unwrap();
            prop_assert_eq!(grant.role, RoleArn::resolve(&role, Some(&base)).unwrap());
            prop_assert_eq!(grant.from, RoleSource::Annotation);
        }
    }

    #[test]
    fn command_of_any_refusal_of_a_list_lifts_it(
        role in "[a-z/*?.+]{0,8}[a-z]", list in prop::option::of(text()), format in formats(),
    ) {
        let ns = with(NamespaceAnnotations {
            allowed_roles: list.map(|list| Arc::from(list.as_str())), ..Default::default()
        });
        let policy = policy(format, Restrictions::Enforce);
        let outcome = policy.decide(&pod(Some(&role)), &ns).outcome;
        if let Err(Denied::NamespaceHasNoList(remedy) | Denied::NamespaceListMalformed { remedy, .. }
            | Denied::NotInList { remedy, .. }) = outcome
        {
            let Some(command) = remedy.command() else {
                return Ok(());
            };
            let word = command.strip_prefix("kubectl annotate namespace default 'iam.amazonaws.com/allowed-roles=")
                .and_then(|rest| rest.strip_suffix("' --overwrite")).unwrap().replace(r"'\''", "'");
            prop_assert_eq!(code(&policy, &role, &listing(&word)), "granted", "{}", word);
        }
    }
}
