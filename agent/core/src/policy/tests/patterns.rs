//! Pattern, ARN, expected: everything that peers have let through, and what must work.

use super::*;

const HOME: &str = "arn:aws:iam::123456789012:role/";
const ELSEWHERE: &str = "arn:aws:iam::999999999999:role/";

fn policy(format: PatternFormat, base: &str) -> Policy {
    let mut with_format = rules(Restrictions::Enforce);
    with_format.format = format;
    with_format.base = Some(RoleArnBase::parse(base).unwrap());
    Policy::new(with_format, None)
}

fn check(format: PatternFormat, base: &str, rows: &[(&[&str], &str, bool)]) {
    for (entries, arn, expected) in rows {
        let list = serde_json::to_string(entries).unwrap();
        let granted = code(&policy(format, base), arn, &listing(&list)) == "granted";
        assert_eq!(granted, *expected, "{list} on {arn}");
    }
}

/// K5, P31: `*` crosses neither `/` nor `:`, and nothing reaches another account but its digits.
#[test]
fn globs_are_held_against_the_whole_role_within_the_base_account() {
    let home = |name: &str| format!("{HOME}{name}");
    let elsewhere = |name: &str| format!("{ELSEWHERE}{name}");
    check(
        PatternFormat::Glob,
        HOME,
        &[
            (&["MyPodRole"], &home("MyPodRole"), true),
            (&["/MyPodRole"], &home("MyPodRole"), true),
            (&["MyPodRole"], &home("x/MyPodRole"), false),
            (&["MyPodRole"], &home("mypodrole"), false),
            (&["dev"], &home("dev-admin"), false),
            (&["team-b"], &home("team-b-admin"), false),
            (&["team-a|other-b"], &home("other-b"), false),
            (&["team-*"], &home("team-a"), true),
            (&["team-*"], &home("team-a/admin"), false),
            (&["team/**"], &home("team/a/b"), true),
            (&["*"], &home("x/y"), false),
            (&["**"], &home("x/y"), true),
            (&["*", "**", "**/x"], &elsewhere("x"), false),
            (&["arn:aws:iam::123456789012:role/*"], &home("x"), true),
            (&["arn:aws:iam::123456789012:role/*"], &home("x/y"), false),
            (&["arn:aws:iam::123456789012:role/*"], &elsewhere("x"), false),
            (&["arn:aws:iam::999999999999:role/x"], &elsewhere("x"), true),
            (&["arn:aws:iam::999999999999:role/**"], &elsewhere("a/x"), true),
            (&["arn:aws-cn:iam::999999999999:role/x"], &elsewhere("x"), false),
            (&["arn:aws:iam::*:role/x"], &elsewhere("x"), false),
            (&["arn:aws:iam::*"], &elsewhere("x"), false),
            (&["arn:aws:iam::99999999999?:role/x"], &elsewhere("x"), false),
            (&["arn:**"], &elsewhere("x"), false),
        ],
    );
}

/// K3, P31: what is left of a list that is partly wrong permits nothing.
#[test]
fn malformed_lists_deny_wholly_in_both_formats() {
    let many = serde_json::to_string(&vec!["x"; 257]).unwrap();
    let long = format!("[\"x\",\"{}\"]", "y".repeat(65_536));
    let ten_thousand = serde_json::to_string(&vec!["x"; 10_000]).unwrap();
    let nested = "[".repeat(60_000);
    for format in [PatternFormat::Glob, PatternFormat::Regexp] {
        for list in [
            r#"["x",5]"#,
            r#"["x",null]"#,
            r#"["x",["x"]]"#,
            r#"["x",""]"#,
            r#"["x","a\u0000"]"#,
            r#"["x"] trailing"#,
            r#""x""#,
            r#"{"x":true}"#,
            "x",
            "",
            "null",
            &many,
            &long,
            &ten_thousand,
            &nested,
        ] {
            let decided = code(&policy(format, HOME), "x", &listing(list));
            assert_eq!(decided, "namespace_list_malformed", "{:.80}", list);
        }
        assert_eq!(code(&policy(format, HOME), "x", &listing("[]")), "not_in_list");
        let full = serde_json::to_string(&vec!["x"; 256]).unwrap();
        assert_eq!(code(&policy(format, HOME), "x", &listing(&full)), "granted");
    }
}

/// K4, P31: an expression is held against the whole role, alternatives included.
#[test]
fn expressions_are_anchored_as_a_whole_and_cannot_leave_their_parentheses() {
    let home = |name: &str| format!("{HOME}{name}");
    let elsewhere = |name: &str| format!("{ELSEWHERE}{name}");
    check(
        PatternFormat::Regexp,
        HOME,
        &[
            (&["dev"], &home("dev"), true),
            (&["dev"], &home("dev-admin"), false),
            (&["dev.*"], &home("dev-admin"), true),
            (&["^a|b$"], &home("a"), true),
            (&["^a|b$"], &home("a-admin"), false),
            (&["^a|b$"], &home("x-b"), false),
            (&["reporting|app"], &home("reporting-admin"), false),
            (&["x)|(?:.*admin"], &home("cluster-admin"), false),
            (&["x)|(?:.*admin"], &home("x"), false),
            (&["(?:a?){5000}"], &home("a"), false),
            (&["ok", "(?:a?){5000}"], &home("ok"), false),
            (&["(?x) a # "], &home("a"), false),
            (&["(?m)a$"], &home("a"), true),
            (&[".*"], &home("x/y"), true),
            (&[".*"], &elsewhere("x"), false),
            (&["team-a|other-b"], &elsewhere("other-b"), false),
            (&["arn:aws:iam::.*"], &elsewhere("x"), false),
            (&["arn:aws:iam::.*"], &home("x"), true),
            (&[r"arn:aws:iam::\d{12}:role/x"], &elsewhere("x"), false),
            (&["arn:aws:iam::999999999999:role/x"], &elsewhere("x"), true),
            (&["^arn:aws:iam::999999999999:role/x.*$"], &elsewhere("xy"), true),
            (&["arn:aws:iam::(123456789012|999999999999):role/x"], &elsewhere("x"), true),
            (&["arn:aws:iam::1234567890123:role/x|.*"], &elsewhere("x"), false),
            (&["x|arn:aws:iam::999999999999:role/x"], &elsewhere("x"), false),
        ],
    );
}

#[test]
fn entries_are_completed_with_the_base_path_as_roles_are() {
    let base = "arn:aws:iam::123456789012:role/team/";
    for format in [PatternFormat::Glob, PatternFormat::Regexp] {
        check(
            format,
            base,
            &[
                (&["x"], "arn:aws:iam::123456789012:role/team/x", true),
                (&["x"], "arn:aws:iam::123456789012:role/x", false),
                (&["team/x"], "arn:aws:iam::123456789012:role/team/x", false),
                (&["arn:aws:iam::123456789012:role/x"], "arn:aws:iam::123456789012:role/x", true),
            ],
        );
        assert_eq!(code(&policy(format, base), "x", &listing(r#"["x"]"#)), "granted");
    }
}

#[test]
fn permitted_is_one_expression_over_the_whole_arn_and_yields_to_allowed_roles() {
    let ns = |allowed_roles: Option<&str>, permitted: &str| {
        with(NamespaceAnnotations {
            allowed_roles: allowed_roles.map(Arc::from),
            permitted: Some(Arc::from(permitted)),
            ..Default::default()
        })
    };
    let (home, elsewhere) = (format!("{HOME}app"), format!("{ELSEWHERE}app"));
    for (expression, arn, expected) in [
        (".*", &home, "granted"),
        (".*", &elsewhere, "not_in_list"),
        (".*/app", &home, "granted"),
        ("app", &home, "not_in_list"),
        ("reporting|app", &home, "not_in_list"),
        ("arn:aws:iam::999999999999:role/app", &elsewhere, "granted"),
        ("", &home, "not_in_list"),
        ("\n", &home, "not_in_list"),
        ("(", &home, "namespace_list_malformed"),
    ] {
        assert_eq!(code(&enforce(), arn, &ns(None, expression)), expected, "{expression:?}");
    }
    assert_eq!(code(&enforce(), &home, &ns(Some("[]"), ".*")), "not_in_list");
    assert_eq!(code(&enforce(), &home, &ns(Some("x"), ".*")), "namespace_list_malformed");
}

/// P32: at the bounds: a decision comes out, and no grant of what is not there.
#[test]
fn list_of_a_hostile_size_decides_within_its_bounds() {
    let globs = serde_json::to_string(&vec!["*a".repeat(100); 256]).unwrap();
    let expressions = serde_json::to_string(&vec!["(?:a?){300}b"; 256]).unwrap();
    let role = format!("{}/a", "a".repeat(500));
    assert_eq!(code(&policy(PatternFormat::Glob, HOME), &role, &listing(&globs)), "not_in_list");
    let big = code(&policy(PatternFormat::Regexp, HOME), &role, &listing(&expressions));
    assert_ne!(big, "granted");
}

#[test]
fn answers_are_remembered_for_the_question_and_not_for_the_role_alone() {
    let arn = "arn:aws:iam::123456789012:role/team/x";
    for format in [PatternFormat::Glob, PatternFormat::Regexp] {
        let ns = listing(r#"["x"]"#);
        for _ in 0..2 {
            assert_eq!(code(&policy(format, HOME), arn, &ns), "not_in_list");
            assert_eq!(code(&policy(format, "arn:aws:iam::123456789012:role/team/"), arn, &ns), "granted");
            assert_eq!(code(&policy(format, ELSEWHERE), arn, &ns), "not_in_list");
        }
        for number in 0..200 {
            assert_eq!(code(&policy(format, HOME), &format!("r{number}"), &ns), "not_in_list");
        }
        assert_eq!(code(&policy(format, HOME), "x", &ns), "granted");
    }
}

/// P32: each bound on what is read and compiled holds at its last value, and one beyond is refused by that bound and no
/// other. What the largest costs, `hostile_list` of the benches measures.
#[test]
fn every_bound_of_a_list_holds_to_the_byte() {
    let error = |format, list: &str| {
        let Err(Denied::NamespaceListMalformed { error, .. }) =
            policy(format, HOME).decide(&pod(Some("x")), &listing(list)).outcome
        else {
            return None;
        };
        Some(error)
    };
    let entry = |error| Some(ListError::Entry { number: 1, error });
    let padded = |bytes: usize| format!("[\"x\"{}]", " ".repeat(bytes - 5));
    let entries = |n: usize| serde_json::to_string(&vec!["x"; n]).unwrap();
    let of = |text: String| serde_json::to_string(&[text]).unwrap();
    for format in [PatternFormat::Glob, PatternFormat::Regexp] {
        assert_eq!(error(format, &padded(64 << 10)), None);
        assert_eq!(error(format, &padded((64 << 10) + 1)), Some(ListError::TooLong));
        assert_eq!(error(format, &entries(256)), None);
        assert_eq!(error(format, &entries(257)), Some(ListError::TooMany(257)));
        assert_eq!(error(format, &of("x".repeat(2_049))), entry(EntryError::TooLong));
    }
    assert_eq!(error(PatternFormat::Glob, &of("x".repeat(2_048))), None);
    // The longest ARN of a role, as an expression that is nothing but its text.
    assert_eq!(
        error(
            PatternFormat::Regexp,
            &of(format!("arn:aws-us-gov:iam::123456789012:role/{}", "x".repeat(575)))
        ),
        None
    );
    // It is the size that is refused: without a limit of ours this one compiles, and takes 143 ms a match.
    assert!(regex::bytes::Regex::new("(?:a?){5000}").is_ok());
    assert_eq!(error(PatternFormat::Regexp, r#"["(?:a?){5000}"]"#), entry(EntryError::Expression));
    let nested = |depth: usize| format!("{}x{}", "(".repeat(depth), ")".repeat(depth));
    assert_eq!(error(PatternFormat::Regexp, &of(nested(30))), None);
    assert_eq!(error(PatternFormat::Regexp, &of(nested(33))), entry(EntryError::Expression));
    // Each of them fits, and all of them together do not.
    let big = serde_json::to_string(&vec!["(?:a?){300}b"; 256]).unwrap();
    assert_eq!(error(PatternFormat::Regexp, r#"["(?:a?){300}b"]"#), None);
    assert_eq!(error(PatternFormat::Regexp, &big), Some(ListError::TooBig));
}

#[test]
fn list_that_is_too_big_together_offers_no_command_that_keeps_it() {
    let list = serde_json::to_string(&vec!["(?:a?){400}b"; 40]).unwrap();
    let denied =
        policy(PatternFormat::Regexp, HOME).decide(&pod(Some("x")), &listing(&list)).outcome.unwrap_err();
    assert!(denied.message().contains("too big together"), "{}", denied.message());
    assert!(
        denied.message().ends_with("change the annotation iam.amazonaws.com/allowed-roles"),
        "{denied:?}"
    );
}
