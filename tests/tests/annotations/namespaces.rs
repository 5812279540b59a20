//! `iam.amazonaws.com/allowed-roles` of a namespace, under both formats.

use rolegate_tests::world::{NODE_ROLE, TRUST};
use serde_json::json;

use crate::lab::{ALLOWED_ROLES, Lab, PERMITTED};
use crate::table::{self, Gets, Malformed, NEIGHBOUR};

pub(crate) const NOT_JSON: &str = "it is not a JSON array of strings, such as";
const EMPTY: &str = "(counted from 1) is wrong: it is empty";
pub(crate) const EXPRESSION: &str =
    "it is not a regular expression, or one that compiles to more than 64 KiB";
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
    [not_arrays(), elements(), patterns(), sizes()].concat()
}

/// Not JSON, or something else than an array.
fn not_arrays() -> Vec<ListRow> {
    let json_text = |name, value: &str| (name, value.to_owned(), Wrong(NOT_JSON), Wrong(NOT_JSON));
    vec![
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
        json_text("nested-deeply", &"[".repeat(60_000)),
    ]
}

/// Elements that are entries in both formats, or in none.
fn elements() -> Vec<ListRow> {
    let text = |name, value: &str, list| (name, value.to_owned(), list, list);
    vec![
        text("number-within", r#"["MyPodRole",5]"#, Wrong("its element 2")),
        text("null-within", r#"["MyPodRole",null]"#, Wrong("its element 2")),
        text("array-within", r#"[["MyPodRole"]]"#, Wrong("its element 1")),
        text("object-within", r#"[{"a":1,"a":2},"MyPodRole"]"#, Wrong("its element 1")),
        text("empty-entry", r#"[""]"#, Wrong(EMPTY)),
        text("empty-entry-first", r#"["","MyPodRole"]"#, Wrong(EMPTY)),
        text("empty-entry-last", r#"["MyPodRole",""]"#, Wrong(EMPTY)),
        text("escaped-nul", r#"["MyPodRole","\u0000"]"#, Wrong("which no role has")),
        text("unicode", r#"["MyPodRole","МуPоdRоlе"]"#, Wrong("which no role has")),
        text("exact", r#"["MyPodRole"]"#, Permits),
        text("spaced", " [ \"Other\" , \"MyPodRole\" ]\r\n\t", Permits),
        text("block-scalar", "[\"MyPodRole\"]\n", Permits),
        text("escaped", r#"["\u004dyPodRole"]"#, Permits),
        text("twice", r#"["MyPodRole","MyPodRole"]"#, Permits),
        text("no-entries", "[]", Lacks),
        text("other-case", r#"["mypodrole"]"#, Lacks),
        text("nodes-own", &format!(r#"["{NODE_ROLE}"]"#), Lacks),
        text("percent-encoded", r#"["MyPodRol%65"]"#, Lacks),
        text("with-a-space", r#"["MyPodRole "]"#, Lacks),
        text("part-of-the-name", r#"["PodRole"]"#, Lacks),
    ]
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
