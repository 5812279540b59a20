//! What a type shows of itself when it is printed for debugging: nothing that is secret.

use std::path::Path;
use std::time::{Duration, SystemTime};

use regex::Regex;
use rolegate::credentials::Session;
use rolegate::imds::token::TokenKey;
use rolegate::types::Secret;
use rolegate_tests::sts::{SECRET_MARK, TOKEN_MARK};

/// Types that derive `Debug` and hold bytes that need no hiding, and why.
const OPEN: [(&str, &str); 4] = [
    ("config::Config", "its Credentials are settings"),
    ("imds::error::Refusal", "its Credentials are an error of the broker"),
    ("imds::route::Route", "names of directories"),
    ("imds::upstream::Text", "what pods may read of the metadata service"),
];

/// Names of fields that hold something secret.
const SECRET_NAMES: &str = "secret|token|password|bearer|credential|private|session_key|authorization";
/// Types of fields that would show it.
const TEXT_TYPES: &str = r"\bString\b|\bstr\b|\bOsString\b|\[u8|Vec<u8>";
/// Types that hold a document, a header, a key or the credentials of the SDK.
const MATERIAL_TYPES: &str =
    r"\bBytes\b|\bHeaderValue\b|\bZeroizing\b|\bhmac::Key\b|\bCredentials\b|\bSharedCredentialsProvider\b";

/// Sentences about types of this source that derive `Debug` and would show a secret.
fn violations(module: &str, source: &str) -> Vec<String> {
    let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let regex = |text: &str| Regex::new(text).unwrap();
    let types = regex(
        r"(?s)#\[derive\(([^)]*)\)\]\s*(?:#\[[^\]]*\]\s*)*(?:pub(?:\([^)]*\))?\s+)?(?:struct|enum)\s+(\w+)[^{;(]*(\{.*?\n\}|\([^;]*\);)",
    );
    let fields = regex(r"(?m)^\s*(?:pub(?:\([^)]*\))?\s+)?(\w+):\s*([^\n]+)");
    let comments = regex(r"(?m)//[^\n]*$");
    let (names, texts, material) = (regex(SECRET_NAMES), regex(TEXT_TYPES), regex(MATERIAL_TYPES));
    let mut found = Vec::new();
    for one in types.captures_iter(source).filter(|one| one[1].contains("Debug")) {
        let name = format!("{module}::{}", &one[2]);
        let body = comments.replace_all(&one[3], "");
        if material.is_match(&body) && !OPEN.iter().any(|(open, _)| *open == name) {
            found.push(format!("{name}: derives Debug and holds a document, a header or a key"));
        }
        for field in fields.captures_iter(&body) {
            // A limit or a lifetime of a secret is none.
            let about = field[1].ends_with("_limit") || field[1].ends_with("_seconds");
            if !about && names.is_match(&field[1]) && texts.is_match(&field[2]) {
                found.push(format!("{name}: derives Debug, and {} is no Secret", &field[1]));
            }
        }
    }
    found
}

fn sources(dir: &Path, module: &str, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let name = if module.is_empty() { stem.clone() } else { format!("{module}::{stem}") };
        if stem == "tests" {
            continue;
        } else if path.is_dir() {
            sources(&path, &name, found);
        } else {
            found.push((name, std::fs::read_to_string(&path).unwrap()));
        }
    }
}

/// P40: whoever adds a type that holds a secret hides it, or says here why there is nothing to hide.
#[test]
fn no_type_that_derives_debug_holds_a_secret_in_the_open() {
    let mut files = Vec::new();
    for tree in ["agent/src", "agent/core/src", "iptables/src"] {
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(tree), "", &mut files);
    }
    let found: Vec<String> = files.iter().flat_map(|(module, source)| violations(module, source)).collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
    for (open, _) in OPEN {
        let (module, name) = open.rsplit_once("::").unwrap();
        let there =
            |(file, source): &(String, String)| file == module && source.contains(&format!(" {name} {{"));
        assert!(files.iter().any(there), "{open} is no more");
    }
    // Printing is all that hides them: nothing else may write them out.
    let secret = &files.iter().find(|(module, _)| module == "types::secret").unwrap().1;
    for other in ["Display for", "Serialize for", "Deref for", "AsRef<str> for", "Serialize)", "Serialize,"] {
        assert!(!secret.contains(other), "{other}");
    }
}

#[test]
fn derived_debug_of_a_secret_is_found_and_a_hidden_one_is_not() {
    for bad in [
        "#[derive(Clone, Debug)]\npub struct A {\n    /// The token.\n    pub token: Option<String>,\n}",
        "#[derive(Debug)]\nstruct A {\n    n: u32,\n    secret_key: Vec<u8>,\n}",
        "#[derive(Debug, Clone)]\n#[allow(x)]\npub(super) enum A {\n    One,\n    Two { bearer: &'static str },\n    \n    three_token: Arc<str>,\n}",
        "#[derive(Debug)]\nstruct A(HeaderValue);",
        "#[derive(Debug)]\nstruct A {\n    body: Bytes,\n}",
    ] {
        assert!(!violations("m", bad).is_empty(), "{bad}");
    }
    for good in [
        "#[derive(Clone)]\npub struct A {\n    pub token: Option<String>,\n}",
        "#[derive(Debug)]\nstruct A {\n    token: Option<Secret>,\n    token_seconds: Option<u32>,\n    /// secret: String\n    name: String,\n}",
        "#[derive(Debug)]\nstruct A {\n    name: String,\n}\n\nstruct B {\n    token: String,\n}",
    ] {
        assert_eq!(violations("m", good), Vec::<String>::new(), "{good}");
    }
}

/// P40: a panic, an assertion or a log line that prints what holds secrets shows none of them.
#[test]
fn debug_of_everything_that_holds_a_secret_is_redacted() {
    let planted = || Secret::new(format!("{SECRET_MARK}-of-this-test"));
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let session = Session {
        access_key_id: "ASIAEXAMPLE".into(),
        secret_access_key: planted(),
        token: Secret::new(format!("{TOKEN_MARK}-of-this-test")),
        expiration: now,
        received: now,
        document: format!("{SECRET_MARK}{TOKEN_MARK}").into(),
    };
    let dir = tempfile::tempdir().unwrap();
    let (key, _) = TokenKey::load_or_create(dir.path());
    let bytes = std::fs::read(dir.path().join("imds-token.key")).unwrap();
    let sdk = aws_credential_types::Credentials::new(
        "ASIAEXAMPLE",
        format!("{SECRET_MARK}-of-this-test"),
        Some(format!("{TOKEN_MARK}-of-this-test")),
        None,
        "planted",
    );
    let shown = [
        format!("{:?} {:#?}", planted(), Some(planted())),
        format!("{session:?} {session:#?}"),
        format!("{key:?} {key:#?}"),
        format!("{sdk:?} {sdk:#?}"),
    ];
    for shown in &shown {
        assert_eq!(rolegate_tests::planted::find(shown), None);
        assert!(
            !shown.contains(&format!("{bytes:?}")) && !shown.contains(&format!("{:?}", &bytes[..8])),
            "{shown}"
        );
    }
    assert!(shown[1].contains("ASIAEXAMPLE"), "the public part is for operators: {}", shown[1]);
}
