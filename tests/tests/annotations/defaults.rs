//! The other annotations of a namespace: `default-role`, kiam's `permitted`, `imds-v1`.

use rolegate_tests::world::{NODE_ROLE, arn};

use crate::lab::{ALLOWED_ROLES, Lab, PERMITTED};
use crate::namespaces::{EXPRESSION, NOT_JSON};
use crate::table::{self, Gets, Malformed, NEIGHBOUR};

const DEFAULT_ROLE: &str = "iam.amazonaws.com/default-role";
const IMDS_V1: &str = "iam.amazonaws.com/imds-v1";

const MINE: &str = r#"["MyPodRole"]"#;
const NAME: &str = "the role's name is not 1 to 64";
const NOT_LISTED: &str = "does not allow it";

/// A namespace's name, the role of its pod (empty: none), annotations, what the pod gets, what is reported.
type Row = (&'static str, &'static str, Vec<(&'static str, String)>, Gets, Malformed);

fn rows() -> Vec<Row> {
    let all_wrong = vec![
        (ALLOWED_ROLES, "MyPodRole".to_owned()),
        (PERMITTED, ".*".to_owned()),
        (DEFAULT_ROLE, arn("MyPodRole")),
    ];
    let malformed = refused("MyPodRole", "namespace_list_malformed", NOT_JSON);
    let rest = vec![("all-wrong", "", all_wrong, malformed, Some(("allowed_roles", NOT_JSON)))];
    [defaults(), permitted(), imds_v1(), rest].concat()
}

fn refused(listed: &'static str, reason: &'static str, says: &'static str) -> Gets {
    Gets::Refused { listed, reason, says }
}

/// Of pods without a role of their own, in namespaces that allow `MyPodRole`.
fn defaults() -> Vec<Row> {
    let row = |name, value: &str, gets| -> Row {
        let annotations = vec![(ALLOWED_ROLES, MINE.to_owned()), (DEFAULT_ROLE, value.to_owned())];
        (name, "", annotations, gets, None)
    };
    let wrong = |name, value: &str, says| -> Row {
        let (name, role, annotations, gets, _) =
            row(name, value, refused("malformed-role", "malformed_default_role", says));
        (name, role, annotations, gets, Some(("default_role", says)))
    };
    let own = refused(NODE_ROLE, "own_role", "the node's own role, which is never allowed");
    let china = refused("MyPodRole", "foreign_partition", "of partition aws-cn");
    let not_listed = |listed| refused(listed, "not_in_list", NOT_LISTED);
    let agents = vec![(ALLOWED_ROLES, r#"["OtherRole"]"#.to_owned())];
    vec![
        row("default-good", "MyPodRole", Gets::role("MyPodRole")),
        row("default-not-listed", "OtherRole", not_listed("OtherRole")),
        row("default-empty", "", Gets::NoRole),
        row("default-nodes-own", NODE_ROLE, own),
        row("default-china", "arn:aws-cn:iam::123456789012:role/MyPodRole", china),
        row("default-elsewhere", "arn:aws:iam::999999999999:role/MyPodRole", not_listed("MyPodRole")),
        wrong("default-space", " ", NAME),
        wrong("default-newline", "MyPodRole\n", NAME),
        wrong("default-arn-x", "arn:x", "not a role ARN"),
        wrong("default-json", MINE, NAME),
        wrong("default-control", "\u{1b}[2J\0", NAME),
        wrong("default-long", &"a".repeat(64 << 10), "allowed are at most 2048"),
        // The agent's default, where the namespace has none.
        ("agents-default", "", agents, Gets::role("OtherRole"), None),
    ]
}

/// Of pods of `MyPodRole`, in namespaces without a list.
fn permitted() -> Vec<Row> {
    let row = |name, value: &str, gets, malformed| -> Row {
        (name, "MyPodRole", vec![(PERMITTED, value.to_owned())], gets, malformed)
    };
    let fine = |name, value| row(name, value, Gets::role("MyPodRole"), None);
    let lacks = |name, value| row(name, value, refused("MyPodRole", "not_in_list", NOT_LISTED), None);
    let wrong = |name, value: &str, says| {
        let gets = refused("MyPodRole", "namespace_list_malformed", says);
        row(name, value, gets, Some(("permitted", says)))
    };
    vec![
        fine("permitted-good", ".*/MyPodRole"),
        fine("permitted-block-scalar", ".*/MyPodRole\n"),
        lacks("permitted-part", "MyPodRole"),
        lacks("permitted-half-anchored", "^a|MyPodRole$"),
        lacks("permitted-empty", ""),
        lacks("permitted-spaces", "  "),
        wrong("permitted-open", "(", EXPRESSION),
        wrong("permitted-big", "(?:a?){5000}", EXPRESSION),
        wrong("permitted-escapes", "x)|(?:.*", EXPRESSION),
        wrong("permitted-control", ".*\0", "which no role has"),
        wrong("permitted-long", &"a".repeat(64 << 10), "longer than 2048"),
    ]
}

/// Of pods of `MyPodRole`, in namespaces that allow it; they ask without a token.
fn imds_v1() -> Vec<Row> {
    let row = |name, value: &str, gets, malformed| -> Row {
        let annotations = vec![(ALLOWED_ROLES, MINE.to_owned()), (IMDS_V1, value.to_owned())];
        (name, "MyPodRole", annotations, gets, malformed)
    };
    let wrong = |name, value: &str| {
        row(name, value, Gets::TokenRequired, Some(("imds_v1", "it is neither allow nor deny")))
    };
    vec![
        row("v1-allow", "allow", Gets::role("MyPodRole"), None),
        row("v1-allow-newline", "allow\n", Gets::role("MyPodRole"), None),
        row("v1-deny", "deny", Gets::TokenRequired, None),
        wrong("v1-empty", ""),
        wrong("v1-capital", "Allow"),
        wrong("v1-true", "true"),
        wrong("v1-json", r#"["allow"]"#),
        wrong("v1-control", "allow\0"),
        wrong("v1-fullwidth", "ａｌｌｏｗ"),
        wrong("v1-long", &"a".repeat(64 << 10)),
    ]
}

/// K2, P29, P30: a default role is one role or none, asks the namespace's list like any other, and is never the node's.
#[test]
fn defaults_and_the_other_annotations_are_obeyed_or_refused_as_a_whole() {
    let test = "defaults_and_the_other_annotations_are_obeyed_or_refused_as_a_whole";
    let Some(lab) = Lab::new(test) else { return };
    lab.namespace("default", &[(ALLOWED_ROLES, MINE)]);
    let neighbour = lab.row("default", NEIGHBOUR, |pod| pod.role("MyPodRole"));
    let mut pods = Vec::new();
    for (name, role, annotations, gets, malformed) in rows() {
        let annotations: Vec<_> = annotations.iter().map(|(key, value)| (*key, value.as_str())).collect();
        lab.namespace(name, &annotations);
        let row = lab.row(name, name, |pod| if role.is_empty() { pod } else { pod.role(role) });
        pods.push((row, gets, malformed));
    }
    // The agent's default is never what an empty or malformed one of the namespace falls back to.
    let agent = lab.world.agent(&["--default-role=OtherRole"]).unwrap();
    table::run(&lab, agent, &neighbour, &pods);
}
