//! Annotations of a namespace: `allowed-roles` under both formats, `permitted`, `default-role`, `imds-v1`.

use rolegate_tests::world::{NODE_ROLE, TRUST, arn};
use serde_json::json;

use crate::lab::{ALLOWED_ROLES, Lab};
use crate::table::{self, Gets, Malformed, NEIGHBOUR};

const PERMITTED: &str = "iam.amazonaws.com/permitted";
const DEFAULT_ROLE: &str = "iam.amazonaws.com/default-role";
const IMDS_V1: &str = "iam.amazonaws.com/imds-v1";

const NOT_JSON: &str = "it is not a JSON array of strings, such as";
const EMPTY: &str = "(counted from 1) is wrong: it is empty";
const EXPRESSION: &str = "it is not a regular expression, or one that compiles to more than 64 KiB";
const RESERVED: &str = "has no meaning in a glob; write one entry for each alternative";
const SHAPE: &str = "it is neither a role's name or path, nor arn:PARTITION:iam::ACCOUNT:role/...";
const ACCOUNT: &str = "its partition and account are not literal (the account has 12 digits)";
const TOO_MANY: &str = "entries; at most 256 are read";
const TOO_LONG: &str = "it has more than the 65536 bytes that are read";
const TOO_BIG: &str = "its expressions are too big together; at most 512 KiB compiled";

/// Read of one annotation, in bytes, and of its entries.
const MOST_BYTES: usize = 64 << 10;
const MOST_ENTRIES: usize = 256;

/// What a list does for the pod of `MyPodRole` in its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum List {
    /// It permits the role.
    Permits,
    /// It is a list, and has no entry for the role.
    Lacks,
    /// It permits nothing, and this is said of it.
    Malformed(&'static str),
}

use List::{Lacks, Malformed as Wrong, Permits};

/// A name, the value of `allowed-roles`, and what it does as globs and as expressions.
type ListRow = (&'static str, String, List, List);

fn lists() -> Vec<ListRow> {
    let both = |name, value: String, list| (name, value, list, list);
    let text = |name, value: &str, globs, expressions| (name, value.to_owned(), globs, expressions);
    let json_text = |name, value: &str| (name, value.to_owned(), Wrong(NOT_JSON), Wrong(NOT_JSON));
    let mut rows = vec![
        // Not JSON, or not an array.
        json_text("not-json", "MyPodRole"),
        json_text("nothing", ""),
        json_text("spaces", "   "),
        json_text("unquoted", "[MyPodRole]"),
        json_text("single-quoted", "['MyPodRole']"),
        json_text("trailing-comma", r#"["MyPodRole",]"#),
        json_text("not-closed", r#"["MyPodRole""#),
        json_text("string-not-closed", r#"["MyPodRole]"#),
        json_text("something-after", r#"["MyPodRole"] x"#),
        json_text("two-arrays", r#"["MyPodRole"]["MyPodRole"]"#),
        json_text("json-string", r#""MyPodRole""#),
        json_text("array-in-a-string", r#""[\"MyPodRole\"]""#),
        json_text("object", r#"{"MyPodRole":true}"#),
        json_text("duplicate-keys", r#"{"roles":["x"],"roles":["MyPodRole"]}"#),
        json_text("null", "null"),
        json_text("true", "true"),
        json_text("number", "5"),
        json_text("byte-order-mark", "\u{feff}[\"MyPodRole\"]"),
        json_text("nul-after", "[\"MyPodRole\"]\0"),
        json_text("raw-control", "[\"MyPodRole\", \"\u{1}\"]"),
        json_text("raw-newline-within", "[\"MyPodRole\", \"a\nb\"]"),
        json_text("fullwidth-brackets", "［\"MyPodRole\"］"),
        json_text("lone-surrogate", r#"["MyPodRole", "\ud800"]"#),
        both("nested-deeply", "[".repeat(60_000), Wrong(NOT_JSON)),
        // Elements that are no entries.
        text("number-within", r#"["MyPodRole",5]"#, Wrong("its element 2"), Wrong("its element 2")),
        text("null-within", r#"["MyPodRole",null]"#, Wrong("its element 2"), Wrong("its element 2")),
        text("array-within", r#"[["MyPodRole"]]"#, Wrong("its element 1"), Wrong("its element 1")),
        text(
            "object-within",
            r#"[{"a":1,"a":2},"MyPodRole"]"#,
            Wrong("its element 1"),
            Wrong("its element 1"),
        ),
        text("empty-entry", r#"[""]"#, Wrong(EMPTY), Wrong(EMPTY)),
        text("empty-entry-first", r#"["","MyPodRole"]"#, Wrong(EMPTY), Wrong(EMPTY)),
        text("empty-entry-last", r#"["MyPodRole",""]"#, Wrong(EMPTY), Wrong(EMPTY)),
        text(
            "escaped-nul",
            r#"["MyPodRole","\u0000"]"#,
            Wrong("which no role has"),
            Wrong("which no role has"),
        ),
        text(
            "unicode",
            r#"["MyPodRole","МуPоdRоlе"]"#,
            Wrong("which no role has"),
            Wrong("which no role has"),
        ),
        // Lists.
        text("exact", r#"["MyPodRole"]"#, Permits, Permits),
        text("spaced", " [ \"Other\" , \"MyPodRole\" ]\r\n\t", Permits, Permits),
        text("block-scalar", "[\"MyPodRole\"]\n", Permits, Permits),
        text("escaped", r#"["\u004dyPodRole"]"#, Permits, Permits),
        text("twice", r#"["MyPodRole","MyPodRole"]"#, Permits, Permits),
        text("no-entries", "[]", Lacks, Lacks),
        text("other-case", r#"["mypodrole"]"#, Lacks, Lacks),
        text("nodes-own", &format!(r#"["{NODE_ROLE}"]"#), Lacks, Lacks),
        text("percent-encoded", r#"["MyPodRol%65"]"#, Lacks, Lacks),
        text("with-a-space", r#"["MyPodRole "]"#, Lacks, Lacks),
        text("part-of-the-name", r#"["PodRole"]"#, Lacks, Lacks),
    ];
    rows.extend(patterns());
    rows.extend(sizes());
    rows
}

/// Patterns, which the two formats read differently.
fn patterns() -> Vec<ListRow> {
    let row = |name, entry: &str, globs, expressions| (name, json!([entry]).to_string(), globs, expressions);
    vec![
        row("half-anchored", "^a|MyPod$", Lacks, Lacks),
        row("half-anchored-role", "^My|Role$", Lacks, Lacks),
        row("anchored", "^MyPodRole$", Lacks, Permits),
        row("alternatives", "a|MyPodRole", Lacks, Permits),
        row("out-of-parentheses", "x)|(?:.*MyPodRole", Wrong(SHAPE), Wrong(EXPRESSION)),
        row("out-of-brackets", "x]|[.*", Wrong(RESERVED), Wrong(EXPRESSION)),
        row("too-big-to-compile", "(?:a?){5000}", Wrong(SHAPE), Wrong(EXPRESSION)),
        row(
            "nested-too-deep",
            &format!("{}MyPodRole{}", "(".repeat(100), ")".repeat(100)),
            Lacks,
            Wrong(EXPRESSION),
        ),
        row("repeated-repetition", "(a+)+$", Lacks, Lacks),
        row("repeated-repetition-of-it", "((([A-Za-z]+)+)+)+$", Wrong(RESERVED), Permits),
        row("parenthesis-not-closed", "(MyPodRole", Lacks, Wrong(EXPRESSION)),
        row("look-ahead", "(?=MyPodRole).*", Lacks, Wrong(EXPRESSION)),
        row("back-reference", r"(M)yPodRole\1", Lacks, Wrong(EXPRESSION)),
        row("multi-line", "(?m)^MyPodRole$", Lacks, Permits),
        row("any-case", "(?i)mypodrole", Lacks, Permits),
        row("free-spacing", "(?x) MyPodRole # ", Lacks, Wrong(EXPRESSION)),
        row("braces", "My{Pod,Other}Role", Wrong(RESERVED), Wrong(EXPRESSION)),
        row("brackets", "My[PO]odRole", Wrong(RESERVED), Permits),
        row("backslash-at-the-end", r"MyPodRole\", Wrong("escapes nothing"), Wrong(EXPRESSION)),
        row("star", "*", Permits, Wrong(EXPRESSION)),
        row("two-stars", "**", Permits, Wrong(EXPRESSION)),
        row("dot-star", ".*", Lacks, Permits),
        row("star-within", "My*Role", Permits, Lacks),
        row("question-marks", "My???Role", Permits, Lacks),
        row("dots", "My...Role", Lacks, Permits),
        row("star-of-a-path", "*/MyPodRole", Lacks, Wrong(EXPRESSION)),
        row("any-account", "arn:aws:iam::*:role/MyPodRole", Wrong(ACCOUNT), Lacks),
        row("any-account-expression", "arn:aws:iam::.*:role/MyPodRole", Wrong(ACCOUNT), Permits),
        row("any-digit", "arn:aws:iam::12345678901?:role/MyPodRole", Wrong(ACCOUNT), Lacks),
        row("any-partition", "arn:*:iam::123456789012:role/MyPodRole", Wrong(ACCOUNT), Lacks),
        row("eleven-digits", "arn:aws:iam::12345678901:role/MyPodRole", Wrong(ACCOUNT), Lacks),
        row("anything-of-iam", "arn:aws:iam::*", Wrong(SHAPE), Lacks),
        row("any-arn", "arn:*", Wrong(SHAPE), Lacks),
        row("other-account", "arn:aws:iam::999999999999:role/MyPodRole", Lacks, Lacks),
        row("own-account", "arn:aws:iam::123456789012:role/MyPodRole", Permits, Permits),
        row("own-account-star", "arn:aws:iam::123456789012:role/*", Permits, Lacks),
        row("user", "arn:aws:iam::123456789012:user/MyPodRole", Wrong(SHAPE), Lacks),
        row("colon", "MyPodRole:x", Wrong(SHAPE), Lacks),
    ]
}

/// At the bounds, and one beyond.
fn sizes() -> Vec<ListRow> {
    let many = |n: usize| {
        let mut entries: Vec<String> = (1..n).map(|i| format!("r{i}")).collect();
        entries.push("MyPodRole".to_owned());
        json!(entries).to_string()
    };
    let padded = |bytes: usize| format!(r#"["MyPodRole"{}]"#, " ".repeat(bytes - r#"["MyPodRole"]"#.len()));
    let both = |name, value: String, list| (name, value, list, list);
    let big: Vec<String> = (0..MOST_ENTRIES).map(|i| format!("(?:a?){{300}}b{i}")).collect();
    vec![
        both("most-entries", many(MOST_ENTRIES), Permits),
        both("one-entry-more", many(MOST_ENTRIES + 1), Wrong(TOO_MANY)),
        both("ten-thousand-entries", json!(vec!["r"; 10_000]).to_string(), Wrong(TOO_MANY)),
        both("longest", padded(MOST_BYTES), Permits),
        both("one-byte-more", padded(MOST_BYTES + 1), Wrong(TOO_LONG)),
        both("all-that-fits", padded((256 << 10) - ALLOWED_ROLES.len()), Wrong(TOO_LONG)),
        both(
            "long-entry",
            json!(["MyPodRole", "a".repeat(2_049)]).to_string(),
            Wrong("longer than 2048 bytes"),
        ),
        ("big-together", json!(big).to_string(), Wrong(SHAPE), Wrong(TOO_BIG)),
    ]
}

fn gets(list: List) -> (Gets, Malformed) {
    let refused = |reason, says| Gets::Refused { listed: "MyPodRole", reason, says };
    match list {
        Permits => (Gets::role("MyPodRole"), None),
        Lacks => (refused("not_in_list", "does not allow it"), None),
        Wrong(says) => (refused("namespace_list_malformed", says), Some(("allowed_roles", says))),
    }
}

/// A namespace for each row, with one pod; the neighbour's namespace is fine.
fn check(test: &str, flag: &str, list: impl Fn(&ListRow) -> List) {
    let Some(lab) = Lab::new(test) else { return };
    lab.namespace("default", &[(ALLOWED_ROLES, r#"["MyPodRole"]"#)]);
    let neighbour = lab.row("default", NEIGHBOUR, |pod| pod.role("MyPodRole"));
    let rows: Vec<_> = lists()
        .iter()
        .map(|row| {
            let (name, value) = (row.0, &row.1);
            lab.namespace(name, &[(ALLOWED_ROLES, value)]);
            let (gets, malformed) = gets(list(row));
            (lab.row(name, name, |pod| pod.role("MyPodRole")), gets, malformed)
        })
        .collect();
    let agent = lab.world.agent(&[flag]).unwrap();
    table::run(&lab, agent, &neighbour, &rows);
}

/// K3, K5, P31: a list that is not wholly right permits nothing, and no wildcard reaches another account.
#[test]
fn every_malformed_list_of_globs_denies_wholly_and_is_reported_on_its_namespace() {
    let test = "every_malformed_list_of_globs_denies_wholly_and_is_reported_on_its_namespace";
    check(test, "--namespace-restriction-format=glob", |row| row.2);
}

/// K3, K4, P31: expressions are held against the whole role, and one that does not compile alone permits nothing.
#[test]
fn every_malformed_list_of_expressions_denies_wholly_and_is_reported_on_its_namespace() {
    let test = "every_malformed_list_of_expressions_denies_wholly_and_is_reported_on_its_namespace";
    check(test, "--namespace-restriction-format=regexp", |row| row.3);
}

/// K5, P31: under each kind of list, a role of another account is served where its 12 digits stand, and nowhere else.
#[test]
fn role_of_another_account_needs_an_entry_with_its_digits() {
    let test = "role_of_another_account_needs_an_entry_with_its_digits";
    let Some(lab) = Lab::new(test) else { return };
    let elsewhere = "arn:aws:iam::999999999999:role/Shared";
    lab.world.role(elsewhere, TRUST).unwrap();
    lab.namespace("default", &[(ALLOWED_ROLES, r#"["MyPodRole"]"#)]);
    let neighbour = lab.row("default", NEIGHBOUR, |pod| pod.role("MyPodRole"));
    let refused = Gets::Refused { listed: "Shared", reason: "not_in_list", says: "does not allow it" };
    let served = Gets::Served(elsewhere.to_owned());
    let rows = [
        ("star", ALLOWED_ROLES, r#"["*","**","**/Shared"]"#, &refused),
        ("name", ALLOWED_ROLES, r#"["Shared"]"#, &refused),
        ("own-account", ALLOWED_ROLES, r#"["arn:aws:iam::123456789012:role/**"]"#, &refused),
        ("other-partition", ALLOWED_ROLES, r#"["arn:aws-cn:iam::999999999999:role/Shared"]"#, &refused),
        ("literal", ALLOWED_ROLES, r#"["arn:aws:iam::999999999999:role/Shared"]"#, &served),
        ("literal-star", ALLOWED_ROLES, r#"["arn:aws:iam::999999999999:role/*"]"#, &served),
        ("permitted-everything", PERMITTED, ".*", &refused),
        ("permitted-digits", PERMITTED, r"arn:aws:iam::\d{12}:role/Shared", &refused),
        ("permitted-literal", PERMITTED, "arn:aws:iam::999999999999:role/S.*", &served),
    ];
    let rows: Vec<_> = rows
        .iter()
        .map(|(name, key, value, gets)| {
            lab.namespace(name, &[(key, value)]);
            (lab.row(name, name, |pod| pod.role(elsewhere)), (*gets).clone(), None)
        })
        .collect();
    let agent = lab.world.agent(&[]).unwrap();
    table::run(&lab, agent, &neighbour, &rows);
}

/// K2, P29, P30: a default role is one role or none, asks the namespace's list like any other, and is never the node's.
#[test]
fn defaults_and_the_other_annotations_are_obeyed_or_refused_as_a_whole() {
    let test = "defaults_and_the_other_annotations_are_obeyed_or_refused_as_a_whole";
    let Some(lab) = Lab::new(test) else { return };
    lab.namespace("default", &[(ALLOWED_ROLES, r#"["MyPodRole"]"#)]);
    let neighbour = lab.row("default", NEIGHBOUR, |pod| pod.role("MyPodRole"));
    let mut rows = Vec::new();
    for (name, role, annotations, gets, malformed) in other_annotations() {
        let annotations: Vec<_> = annotations.iter().map(|(key, value)| (*key, value.as_str())).collect();
        lab.namespace(name, &annotations);
        let row = lab.row(name, name, |pod| if role.is_empty() { pod } else { pod.role(role) });
        rows.push((row, gets, malformed));
    }
    // The agent's default is never what an empty or malformed one of the namespace falls back to.
    let agent = lab.world.agent(&["--default-role=OtherRole"]).unwrap();
    table::run(&lab, agent, &neighbour, &rows);
}

/// A namespace's name, the role of its pod (empty: none), annotations, what the pod gets, what is reported.
type OtherRow = (&'static str, &'static str, Vec<(&'static str, String)>, Gets, Malformed);

fn other_annotations() -> Vec<OtherRow> {
    let default = |name, value: &str, gets, malformed| -> OtherRow {
        let annotations =
            vec![(ALLOWED_ROLES, r#"["MyPodRole"]"#.to_owned()), (DEFAULT_ROLE, value.to_owned())];
        (name, "", annotations, gets, malformed)
    };
    let wrong = |name, value: &str, says| {
        let gets = Gets::Refused { listed: "malformed-role", reason: "malformed_default_role", says };
        default(name, value, gets, Some(("default_role", says)))
    };
    let refused = |listed, reason, says| Gets::Refused { listed, reason, says };
    let permitted = |name, value: &str, gets, malformed| -> OtherRow {
        (name, "MyPodRole", vec![(PERMITTED, value.to_owned())], gets, malformed)
    };
    let v1 = |name, value: &str, gets, malformed| -> OtherRow {
        let annotations = vec![(ALLOWED_ROLES, r#"["MyPodRole"]"#.to_owned()), (IMDS_V1, value.to_owned())];
        (name, "MyPodRole", annotations, gets, malformed)
    };
    let not_v1 = |name, value: &str| {
        v1(name, value, Gets::TokenRequired, Some(("imds_v1", "it is neither allow nor deny")))
    };
    let own = "the node's own role, which is never allowed";
    let not_permitted = || refused("MyPodRole", "not_in_list", "does not allow it");
    let malformed = |says| refused("MyPodRole", "namespace_list_malformed", says);
    let long = "a".repeat(64 << 10);
    vec![
        default("default-good", "MyPodRole", Gets::role("MyPodRole"), None),
        default(
            "default-not-listed",
            "OtherRole",
            refused("OtherRole", "not_in_list", "does not allow it"),
            None,
        ),
        default("default-empty", "", Gets::NoRole, None),
        default("default-nodes-own", NODE_ROLE, refused(NODE_ROLE, "own_role", own), None),
        default(
            "default-china",
            "arn:aws-cn:iam::123456789012:role/MyPodRole",
            refused("MyPodRole", "foreign_partition", "of partition aws-cn"),
            None,
        ),
        default(
            "default-elsewhere",
            "arn:aws:iam::999999999999:role/MyPodRole",
            refused("MyPodRole", "not_in_list", "does not allow it"),
            None,
        ),
        wrong("default-space", " ", "the role's name is not"),
        wrong("default-newline", "MyPodRole\n", "the role's name is not"),
        wrong("default-arn-x", "arn:x", "not a role ARN"),
        wrong("default-json", r#"["MyPodRole"]"#, "the role's name is not"),
        wrong("default-control", "\u{1b}[2J\0", "the role's name is not"),
        wrong("default-long", &long, "allowed are at most 2048"),
        // The agent's default, where the namespace has none.
        (
            "agents-default",
            "",
            vec![(ALLOWED_ROLES, r#"["OtherRole"]"#.to_owned())],
            Gets::role("OtherRole"),
            None,
        ),
        permitted("permitted-good", ".*/MyPodRole", Gets::role("MyPodRole"), None),
        permitted("permitted-block-scalar", ".*/MyPodRole\n", Gets::role("MyPodRole"), None),
        permitted("permitted-part", "MyPodRole", not_permitted(), None),
        permitted("permitted-half-anchored", "^a|MyPodRole$", not_permitted(), None),
        permitted("permitted-empty", "", not_permitted(), None),
        permitted("permitted-spaces", "  ", not_permitted(), None),
        permitted("permitted-open", "(", malformed(EXPRESSION), Some(("permitted", EXPRESSION))),
        permitted("permitted-big", "(?:a?){5000}", malformed(EXPRESSION), Some(("permitted", EXPRESSION))),
        permitted("permitted-escapes", "x)|(?:.*", malformed(EXPRESSION), Some(("permitted", EXPRESSION))),
        permitted(
            "permitted-control",
            ".*\0",
            malformed("which no role has"),
            Some(("permitted", "which no role has")),
        ),
        permitted(
            "permitted-long",
            &long,
            malformed("longer than 2048"),
            Some(("permitted", "longer than 2048")),
        ),
        v1("v1-allow", "allow", Gets::role("MyPodRole"), None),
        v1("v1-allow-newline", "allow\n", Gets::role("MyPodRole"), None),
        v1("v1-deny", "deny", Gets::TokenRequired, None),
        not_v1("v1-empty", ""),
        not_v1("v1-capital", "Allow"),
        not_v1("v1-true", "true"),
        not_v1("v1-json", r#"["allow"]"#),
        not_v1("v1-control", "allow\0"),
        not_v1("v1-fullwidth", "ａｌｌｏｗ"),
        not_v1("v1-long", &long),
        (
            "all-wrong",
            "",
            vec![
                (ALLOWED_ROLES, "MyPodRole".to_owned()),
                (PERMITTED, ".*".to_owned()),
                (DEFAULT_ROLE, arn("MyPodRole")),
            ],
            malformed(NOT_JSON),
            Some(("allowed_roles", NOT_JSON)),
        ),
    ]
}
