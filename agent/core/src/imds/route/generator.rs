//! Request targets as an attacker would write them: paths of the metadata service, misspelt by grammar.

use proptest::collection::vec;
use proptest::prelude::*;

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

/// Most steps of a target.
const STEPS: usize = 7;
/// Choices that make a step, a byte each.
const STEP_CHOICES: usize = 4;
/// Choices that make a target: its beginning, its end, how many steps, and those.
const CHOICES: usize = 3 + STEPS * STEP_CHOICES;

/// A target by the grammar. It is read off plain numbers, which is many times cheaper than a strategy for each part; zeros
/// are the plain choices, so that a failure shrinks to what matters of it.
pub(crate) fn targets() -> impl Strategy<Value = String> {
    any::<[u64; CHOICES.div_ceil(8)]>().prop_map(|words| {
        let choices: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        target(&choices)
    })
}

fn target(choices: &[u8]) -> String {
    let count = usize::from(choices[2]) % (STEPS + 1);
    let mut target = BEGINNINGS[usize::from(choices[0]) % BEGINNINGS.len()].to_owned();
    for step in choices[3..].chunks_exact(STEP_CHOICES).take(count) {
        target.push_str(mostly("/", &SEPARATORS, step[0]));
        let name = NAMES[usize::from(step[1]) % NAMES.len()];
        // One name in nine has one to three of its bytes encoded.
        let encoded = if step[2] % 9 == 8 { 1 + step[2] / 9 % 3 } else { 0 };
        let places = (0..encoded).map(|nth| (usize::from(step[3]) + 7 * usize::from(nth)) % 24);
        target.push_str(&places.fold(name.to_owned(), |name, at| encode_byte(&name, at)));
    }
    target.push_str(mostly("", &ENDS, choices[1]));
    target
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
fn mostly(plain: &'static str, others: &[&'static str], choice: u8) -> &'static str {
    (usize::from(choice) % (3 * others.len())).checked_sub(2 * others.len()).map_or(plain, |at| others[at])
}

/// `name` with the byte at `at` (if there is one, and it is ASCII) percent-encoded.
fn encode_byte(name: &str, at: usize) -> String {
    match name.as_bytes().get(at) {
        Some(byte) if name.is_ascii() => format!("{}%{byte:02x}{}", &name[..at], &name[at + 1..]),
        _ => name.to_owned(),
    }
}
