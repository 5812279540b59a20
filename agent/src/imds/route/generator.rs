//! Request targets as an attacker would write them: paths of the metadata service, misspelt by grammar.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// Names that occur in paths, and near misses of them.
const NAMES: [&str; 28] = [
    "latest",
    "1.0",
    "2009-04-04",
    "LATEST",
    "meta-data",
    "Meta-Data",
    "dynamic",
    "api",
    "token",
    "iam",
    "IAM",
    "info",
    "security-credentials",
    "node-role",
    "identity-credentials",
    "ec2",
    "ec2-instance",
    "user-data",
    "instance-id",
    "instance-identity",
    "document",
    "placement",
    "region",
    "services",
    "local-ipv4",
    "x",
    "iam;x",
    "security-credentials%20",
];

/// Prefixes that lead somewhere.
const BEGINNINGS: [&str; 10] = [
    "/latest/meta-data/iam",
    "/latest/api",
    "/latest/meta-data/iam/security-credentials",
    "/latest/meta-data/placement",
    "/latest/meta-data",
    "/latest/dynamic/instance-identity",
    "/2021-03-23/meta-data/identity-credentials",
    "/latest",
    "http://169.254.169.254/latest/meta-data",
    "",
];

/// What some parser takes for a separator.
const SEPARATORS: [&str; 15] = [
    "//", "/./", "/../", "/%2e/", "/%2E%2e/", "/.%2e/", "%2f", "%2F", "%252f", "\\", "%5c", "%c0%af",
    "\u{ff0f}", ";/", "/..;/",
];

/// What stands at the end, where anything does.
const ENDS: [&str; 11] = ["/", "//", "/.", "/..", "?", "?a=b", "#f", "%00", "%0a", "%", "%2"];

/// A target by the grammar.
pub(crate) fn targets() -> impl Strategy<Value = String> {
    let step =
        (mostly("/", &SEPARATORS), select(&NAMES[..]), encoding()).prop_map(|(separator, name, encode)| {
            format!("{separator}{}", encode.iter().fold(name.to_owned(), |name, at| encode_byte(&name, *at)))
        });
    (select(&BEGINNINGS[..]), vec(step, 0..7), mostly("", &ENDS))
        .prop_map(|(beginning, steps, end)| format!("{beginning}{}{end}", steps.concat()))
}

/// Any text at all, most of it not a path.
pub(crate) fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        vec(any::<u8>(), 0..64)
            .prop_map(|bytes| { format!("/latest/meta-data/{}", String::from_utf8_lossy(&bytes)) })
    ]
}

/// The plain form twice as often as all the others together.
fn mostly(plain: &'static str, others: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    prop_oneof![2 => Just(plain), 1 => select(others)]
}

fn encoding() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![8 => Just(Vec::new()), 1 => vec(0_usize..24, 1..4)]
}

/// `name` with the byte at `at` (if there is one, and it is ASCII) percent-encoded.
fn encode_byte(name: &str, at: usize) -> String {
    match name.as_bytes().get(at) {
        Some(byte) if name.is_ascii() => format!("{}%{byte:02x}{}", &name[..at], &name[at + 1..]),
        _ => name.to_owned(),
    }
}
