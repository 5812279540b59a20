//! `iam.amazonaws.com/role` of a pod: everything that it can hold.

use rolegate_tests::world::{NODE_ROLE, TRUST, World, arn};

use crate::lab::{ALLOWED_ROLES, Lab, ROLE_KEY};
use crate::table::{self, Gets, Malformed, NEIGHBOUR};

const SHAPE: &str = "not a role ARN; allowed is arn:PARTITION:iam::ACCOUNT:role/[PATH/]NAME";
const PARTITION: &str = "the partition is not one";
const ACCOUNT: &str = "the account is not 12 digits";
const PATH: &str = "the role's path has an empty segment or a character outside printable ASCII";
const NAME: &str = "the role's name is not 1 to 64 letters, digits and _+=,.@-";
const TOO_LONG: &str = "the role is too long; allowed are at most 2048 bytes";

/// All that an API server takes of a pod's annotations, in bytes, keys included (`TotalAnnotationSizeLimitB`).
const MOST_ANNOTATION_BYTES: usize = 256 << 10;
/// Of a role's path without the slashes at its ends, and of its name (IAM API reference, `CreateRole`).
const LONGEST_PATH: usize = 510;
const LONGEST_NAME: usize = 64;

/// A name, the annotation's value, and what a pod gets where its namespace allows every role of the account.
type RoleRow = (&'static str, String, Gets);

fn malformed(says: &'static str) -> Gets {
    Gets::Refused { listed: "malformed-role", reason: "malformed_role", says }
}

fn foreign_partition(says: &'static str) -> Gets {
    Gets::Refused { listed: "MyPodRole", reason: "foreign_partition", says }
}

fn own_role(listed: &'static str) -> Gets {
    Gets::Refused { listed, reason: "own_role", says: "the node's own role, which is never allowed" }
}

fn rows() -> Vec<RoleRow> {
    let own = |role: &str| format!("arn:aws:iam::123456789012:role/{role}");
    let mut rows = vec![("empty", String::new(), Gets::NoRole)];
    rows.extend(arns());
    rows.extend(characters());
    rows.extend(lengths());
    rows.extend([
        ("name", "MyPodRole".into(), Gets::role("MyPodRole")),
        ("arn", own("MyPodRole"), Gets::role("MyPodRole")),
        ("leading-slash", "/MyPodRole".into(), Gets::role("MyPodRole")),
        ("trailing-slash", "MyPodRole/".into(), malformed(NAME)),
        ("trailing-slash-of-arn", own("MyPodRole/"), malformed(NAME)),
        ("slash", "/".into(), malformed(NAME)),
        ("slashes", "//".into(), malformed(PATH)),
        ("slashes-before", "//MyPodRole".into(), malformed(PATH)),
        ("slashes-within", "team//MyPodRole".into(), malformed(PATH)),
        ("slashes-in-arn", own("/MyPodRole"), malformed(PATH)),
        ("nodes-own", NODE_ROLE.into(), own_role(NODE_ROLE)),
        ("nodes-own-arn", own(NODE_ROLE), own_role(NODE_ROLE)),
        ("nodes-own-below-a-path", own("x/nodes.example.cluster.k8s.local"), own_role(NODE_ROLE)),
        (
            "nodes-own-in-capitals",
            "NODES.EXAMPLE.CLUSTER.K8S.LOCAL".into(),
            own_role("NODES.EXAMPLE.CLUSTER.K8S.LOCAL"),
        ),
    ]);
    rows
}

/// Whole ARNs, and what looks like one.
fn arns() -> Vec<RoleRow> {
    let elsewhere = Gets::Refused {
        listed: "MyPodRole",
        reason: "not_in_list",
        says: "role arn:aws:iam::999999999999:role/MyPodRole is not allowed",
    };
    let text = |text: &str| text.to_owned();
    vec![
        ("arn-colon", text("arn:"), malformed(SHAPE)),
        ("arn-x", text("arn:x"), malformed(SHAPE)),
        ("arn-of-nothing", text("arn:aws:iam::"), malformed(SHAPE)),
        ("arn-of-account", text("arn:aws:iam::123456789012:"), malformed(SHAPE)),
        ("arn-without-name", text("arn:aws:iam::123456789012:role/"), malformed(NAME)),
        ("arn-without-slash", text("arn:aws:iam::123456789012:role"), malformed(SHAPE)),
        ("arn-in-capitals", text("ARN:AWS:IAM::123456789012:ROLE/MyPodRole"), malformed(SHAPE)),
        ("other-account", text("arn:aws:iam::999999999999:role/MyPodRole"), elsewhere),
        ("eleven-digits", text("arn:aws:iam::12345678901:role/MyPodRole"), malformed(ACCOUNT)),
        ("thirteen-digits", text("arn:aws:iam::1234567890123:role/MyPodRole"), malformed(ACCOUNT)),
        ("no-account", text("arn:aws:iam:::role/MyPodRole"), malformed(ACCOUNT)),
        ("letters-as-account", text("arn:aws:iam::12345678901x:role/MyPodRole"), malformed(ACCOUNT)),
        ("fullwidth-account", text("arn:aws:iam::１２３４:role/MyPodRole"), malformed(ACCOUNT)),
        ("any-account", text("arn:aws:iam::*:role/MyPodRole"), malformed(ACCOUNT)),
        (
            "china",
            text("arn:aws-cn:iam::123456789012:role/MyPodRole"),
            foreign_partition("of partition aws-cn"),
        ),
        (
            "gov-cloud",
            text("arn:aws-us-gov:iam::123456789012:role/MyPodRole"),
            foreign_partition("of partition aws-us-gov"),
        ),
        ("no-partition", text("arn::iam::123456789012:role/MyPodRole"), malformed(PARTITION)),
        ("made-up-partition", text("arn:amazon:iam::123456789012:role/MyPodRole"), malformed(PARTITION)),
        ("partition-in-capitals", text("arn:AWS:iam::123456789012:role/MyPodRole"), malformed(PARTITION)),
        ("sts", text("arn:aws:sts::123456789012:assumed-role/MyPodRole/x"), malformed(SHAPE)),
        ("s3", text("arn:aws:s3:::bucket/MyPodRole"), malformed(SHAPE)),
        ("user", text("arn:aws:iam::123456789012:user/MyPodRole"), malformed(SHAPE)),
        ("instance-profile", text("arn:aws:iam::123456789012:instance-profile/MyPodRole"), malformed(SHAPE)),
        ("region", text("arn:aws:iam:eu-west-1:123456789012:role/MyPodRole"), malformed(SHAPE)),
        ("colon", text("MyPodRole:x"), malformed(SHAPE)),
        (
            "two-arns",
            text("arn:aws:iam::123456789012:role/arn:aws:iam::999999999999:role/x"),
            malformed(PATH),
        ),
    ]
}

/// Names with something in them that is in no name. None of them is taken for `MyPodRole`.
fn characters() -> Vec<RoleRow> {
    let name = |row: &'static str, value: &str| (row, value.to_owned(), malformed(NAME));
    vec![
        name("space", " "),
        name("spaces", "     "),
        name("space-before", " MyPodRole"),
        name("space-after", "MyPodRole "),
        name("tab", "\tMyPodRole"),
        name("newline", "MyPodRole\n"),
        name("newline-and-another", "MyPodRole\nOtherRole"),
        name("carriage-return", "MyPodRole\r\n"),
        name("nul", "MyPodRole\0"),
        name("nul-and-more", "MyPodRole\0OtherRole"),
        name("escape-sequence", "\u{1b}[2J\u{1b}[31mMyPodRole"),
        name("delete-and-bell", "MyPodRole\u{7f}\u{7}"),
        name("c1-control", "MyPodRole\u{9b}31m"),
        name("fullwidth", "ＭｙＰｏｄＲｏｌｅ"),
        name("right-to-left", "\u{202e}eloRdoPyM"),
        name("combining", "MyPodRole\u{301}"),
        name("homoglyph", "МуPоdRоlе"),
        name("ligature", "MyPodRole\u{fb01}"),
        name("zero-width", "MyPod\u{200b}Role"),
        name("byte-order-mark", "\u{feff}MyPodRole"),
        name("line-separator", "MyPodRole\u{2028}"),
        name("emoji", "🔑"),
        name("percent-encoded", "MyPodRol%65"),
        name("percent-encoded-slash", "team%2FMyPodRole"),
        name("star", "*"),
        name("stars", "**"),
        name("star-after", "MyPod*"),
        name("question-mark", "MyPodRol?"),
        name("expression", "^(MyPodRole)$"),
        name("json", r#"["MyPodRole"]"#),
        name("quoted", r#""MyPodRole""#),
        name("shell", "$(id)'; id; '"),
        name("markup", "<script>alert(1)</script>"),
        name("log-format", "{}%s%n${x}"),
        ("path-with-newline", "te\nam/MyPodRole".to_owned(), malformed(PATH)),
        ("path-with-space", "te am/MyPodRole".to_owned(), malformed(PATH)),
        ("path-with-unicode", "téam/MyPodRole".to_owned(), malformed(PATH)),
    ]
}

fn lengths() -> Vec<RoleRow> {
    let big = |bytes: usize| "a".repeat(bytes);
    let path = |bytes: usize| format!("{}/MyPodRole", big(bytes));
    // It begins as an allowed role does.
    let long = format!("MyPodRole\n{}", big(64 << 10));
    let longest = format!("{}é", big(MOST_ANNOTATION_BYTES - ROLE_KEY.len() - "é".len()));
    vec![
        ("longest-name", big(LONGEST_NAME), Gets::role(&big(LONGEST_NAME))),
        ("name-too-long", big(LONGEST_NAME + 1), malformed(NAME)),
        ("longest-path", path(LONGEST_PATH), Gets::role(&path(LONGEST_PATH))),
        ("path-too-long", path(LONGEST_PATH + 1), malformed(PATH)),
        ("two-kilobytes", big(2_048), malformed(TOO_LONG)),
        ("sixty-four-kilobytes", long, malformed(TOO_LONG)),
        ("all-that-fits", longest, malformed(TOO_LONG)),
    ]
}

fn roles_of(world: &World, rows: &[RoleRow]) {
    for (_, _, gets) in rows {
        if let Gets::Served(arn) = gets {
            world.role(arn, TRUST).unwrap();
        }
    }
}

/// K2, P30: a pod's role annotation is one role, or none at all: never the base ARN, the node's own or its neighbour's.
#[test]
fn every_malformed_role_is_refused_and_reported_on_its_pod_while_its_neighbour_is_served() {
    let test = "every_malformed_role_is_refused_and_reported_on_its_pod_while_its_neighbour_is_served";
    let Some(lab) = Lab::new(test) else { return };
    let rows = rows();
    roles_of(&lab.world, &rows);
    lab.namespace("default", &[(ALLOWED_ROLES, r#"["**"]"#)]);
    let neighbour = lab.row("default", NEIGHBOUR, |pod| pod.role("MyPodRole"));
    let pods: Vec<(_, Gets, Malformed)> = rows
        .iter()
        .map(|(name, value, gets)| (lab.row("default", name, |pod| pod.role(value)), gets.clone(), None))
        .chain([(lab.row("default", "absent", |pod| pod), Gets::NoRole, None)])
        .collect();
    let agent = lab.world.agent(&[]).unwrap();
    table::run(&lab, agent, &neighbour, &pods);
}

/// P29: what is served is the role of the annotation, normalised, that the list has over its full length; nothing near it.
#[test]
fn role_that_only_looks_like_an_allowed_one_is_not_it() {
    let Some(lab) = Lab::new("role_that_only_looks_like_an_allowed_one_is_not_it") else { return };
    let team = arn("team/MyPodRole");
    lab.world.role(&team, TRUST).unwrap();
    lab.namespace("default", &[(ALLOWED_ROLES, r#"["MyPodRole", "team/*"]"#)]);
    let neighbour = lab.row("default", NEIGHBOUR, |pod| pod.role("MyPodRole"));
    let not_in_list = |listed: &'static str| Gets::Refused {
        listed,
        reason: "not_in_list",
        says: "namespace default does not allow it",
    };
    let rows = [
        ("itself", "MyPodRole", Gets::role("MyPodRole")),
        ("as-arn", "arn:aws:iam::123456789012:role/MyPodRole", Gets::role("MyPodRole")),
        ("below-team", "team/MyPodRole", Gets::Served(team)),
        ("other-case", "mypodrole", not_in_list("mypodrole")),
        ("longer", "MyPodRole2", not_in_list("MyPodRole2")),
        ("longer-before", "XMyPodRole", not_in_list("XMyPodRole")),
        ("shorter", "MyPodRol", not_in_list("MyPodRol")),
        ("two", "MyPodRole,OtherRole", not_in_list("MyPodRole,OtherRole")),
        ("same-name-below-a-path", "x/MyPodRole", not_in_list("MyPodRole")),
        ("same-name-above", "../MyPodRole", not_in_list("MyPodRole")),
        ("same-name-here", "./MyPodRole", not_in_list("MyPodRole")),
        ("up-and-down", "team/../x/MyPodRole", not_in_list("MyPodRole")),
        ("up-encoded", "%2e%2e/MyPodRole", not_in_list("MyPodRole")),
        ("deeper", "team/x/MyPodRole", not_in_list("MyPodRole")),
        ("backslash", r"team\x/MyPodRole", not_in_list("MyPodRole")),
        ("other-account", "arn:aws:iam::999999999999:role/MyPodRole", not_in_list("MyPodRole")),
    ];
    let pods: Vec<(_, Gets, Malformed)> = rows
        .map(|(name, value, gets)| (lab.row("default", name, |pod| pod.role(value)), gets, None))
        .into_iter()
        .collect();
    let agent = lab.world.agent(&[]).unwrap();
    table::run(&lab, agent, &neighbour, &pods);
}
