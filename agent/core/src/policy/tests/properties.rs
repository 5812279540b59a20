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
    /// P31: whatever entries are made of.
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

    /// P29: the role is the annotation's, normalised, in every mode.
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

    /// P29: a role is granted where an entry describes the whole of it, by another reading of what entries mean, and
    /// nowhere else; a default role as one from the annotation.
    #[test]
    fn grants_are_what_a_reference_reading_of_the_list_permits(
        entries in prop::collection::vec("(arn:aws:iam::(123456789012|999999999999):role/)?[ab/*]{1,5}", 0..4),
        expressions in prop::collection::vec("(arn:aws:iam::(123456789012|999999999999):role/)?[ab.|]{1,5}", 0..4),
        role in "(arn:aws:iam::(123456789012|999999999999):role/)?([ab]{1,2}/)?[ab]{1,3}", by_default in any::<bool>(),
    ) {
        let base = RoleArnBase::parse(BASE).unwrap();
        let arn = RoleArn::resolve(&role, Some(&base)).unwrap();
        for (format, list) in [(PatternFormat::Glob, &entries), (PatternFormat::Regexp, &expressions)] {
            let text = serde_json::to_string(list).unwrap();
            let ns = with(NamespaceAnnotations {
                allowed_roles: Some(Arc::from(text.as_str())),
                default_role: by_default.then(|| Arc::from(role.as_str())),
                ..Default::default()
            });
            let asking = pod(Some(role.as_str()).filter(|_| !by_default));
            let outcome = policy(format, Restrictions::Enforce).decide(&asking, &ns).outcome;
            let expected = list.iter().any(|entry| describes(entry, format, &arn));
            match outcome {
                Ok(grant) => prop_assert!(expected && grant.role == arn, "{} on {}", text, arn),
                Err(denied) => prop_assert!(!expected && denied.code() == "not_in_list", "{} on {}: {:?}", text, arn, denied),
            }
        }
    }

    /// P30: under any name and path, as annotation or default, whatever the list says and the mode is.
    #[test]
    fn nodes_own_role_is_never_granted(
        path in "([a-z]{1,4}/){0,2}", capitals in prop::collection::vec(any::<bool>(), 9), whole in any::<bool>(),
        by_default in any::<bool>(), format in formats(), mode in modes(),
    ) {
        let name: String = "corp-node".chars().zip(capitals)
            .map(|(c, capital)| if capital { c.to_ascii_uppercase() } else { c }).collect();
        let role = if whole { format!("{BASE}{path}{name}") } else { format!("{path}{name}") };
        let everything = serde_json::to_string(&[role.as_str(), &format!("{BASE}{path}{name}")]).unwrap();
        let ns = with(NamespaceAnnotations {
            allowed_roles: Some(Arc::from(everything.as_str())),
            default_role: by_default.then(|| Arc::from(role.as_str())),
            ..Default::default()
        });
        let asking = pod(Some(role.as_str()).filter(|_| !by_default));
        let outcome = policy(format, mode).decide(&asking, &ns).outcome;
        prop_assert!(matches!(outcome, Err(Denied::OwnRole { .. })), "{:?}", outcome);
    }

    #[test]
    fn problems_of_a_namespace_are_what_its_pods_are_refused_for_in_short_printable_words(
        list in prop::option::of(text()), permitted in prop::option::of(text()),
        default_role in prop::option::of(text()), imds_v1 in prop::option::of(text()), format in formats(),
    ) {
        let arc = |text: Option<String>| text.map(|text| Arc::<str>::from(text.as_str()));
        let ns = with(NamespaceAnnotations {
            allowed_roles: arc(list), permitted: arc(permitted), default_role: arc(default_role), imds_v1: arc(imds_v1),
        });
        let policy = policy(format, Restrictions::Enforce);
        let problems = policy.problems(&ns);
        let has = |annotations: &[&str]| problems.iter().any(|it| annotations.contains(&it.annotation));
        for problem in &problems {
            prop_assert!(NamespaceProblem::ANNOTATIONS.contains(&problem.annotation));
            prop_assert!(problem.message.len() <= 1024);
            prop_assert!(problem.message.bytes().all(|b| b == b' ' || b.is_ascii_graphic()));
        }
        prop_assert_eq!(has(&["allowed_roles", "permitted"]), code(&policy, "x", &ns) == "namespace_list_malformed");
        let by_default = policy.decide(&pod(None), &ns).outcome.map_or_else(|denied| denied.code(), |_| "granted");
        prop_assert_eq!(has(&["default_role"]), by_default == "malformed_default_role");
        if has(&["imds_v1"]) {
            prop_assert!(!policy.imds_v1_allowed(&ns, true));
        }
    }
}

/// Whether an entry describes a role: everything written out as one expression over the whole ARN.
fn describes(entry: &str, format: PatternFormat, role: &RoleArn) -> bool {
    let (prefix, rest) = entry
        .rsplit_once(':')
        .map_or(("", entry), |(account, resource)| (account, resource.strip_prefix("role/").unwrap()));
    let account = if prefix.is_empty() { "arn:aws:iam::123456789012" } else { prefix };
    let rest = if prefix.is_empty() && format == PatternFormat::Glob {
        rest.strip_prefix('/').unwrap_or(rest)
    } else {
        rest
    };
    let expression = match format {
        PatternFormat::Glob => {
            let deep = rest.replace("**", "\u{1}");
            let deep = std::iter::successors(Some(deep), |text| {
                let shorter = text.replace("\u{1}*", "\u{1}").replace("\u{1}\u{1}", "\u{1}");
                (shorter != *text).then_some(shorter)
            });
            deep.last().unwrap().replace('*', "[^/]*").replace('\u{1}', ".*")
        }
        PatternFormat::Regexp => rest.to_owned(),
    };
    // An alternative stands for the rest of the whole, as it is written.
    let whole = match format {
        PatternFormat::Regexp if !prefix.is_empty() => format!("^(?:{account}:role/{expression})$"),
        _ => format!("^{account}:role/(?:{expression})$"),
    };
    let allowed_account = role.account() == "123456789012" || entry.contains(role.account());
    allowed_account && regex::Regex::new(&whole).unwrap().is_match(role.as_str())
}
