//! Targets and what they must be taken for.

use http::{Method, Uri, Version};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;

use super::{MetadataPolicy, Route, generator, host_allowed, request_target, route};

fn policy() -> MetadataPolicy {
    MetadataPolicy::new(&[], false).unwrap()
}

fn everything() -> MetadataPolicy {
    MetadataPolicy::new(&["**".into()], true).unwrap()
}

fn get(target: &str) -> Route {
    route(&Method::GET, target, &policy())
}

fn upstream_path(route: &Route) -> Option<&str> {
    match route {
        Route::Metadata(path) => Some(path.as_str()),
        _ => None,
    }
}

#[test]
fn own_answers_are_found_under_every_version_and_harmless_spelling() {
    let list = |target: &str| assert_eq!(get(target), Route::RoleList, "{target}");
    for version in ["latest", "1.0", "2009-04-04", "2024-04-11"] {
        list(&format!("/{version}/meta-data/iam/security-credentials"));
        list(&format!("/{version}/meta-data/iam/security-credentials/"));
        assert_eq!(get(&format!("/{version}/meta-data/iam/info")), Route::IamInfo);
        assert_eq!(get(&format!("/{version}/meta-data/iam/")), Route::IamDirectory);
    }
    list("//latest//meta-data///iam/security-credentials//");
    list("/latest/./meta-data/x/../iam/%2e/security-credentials/");
    list("/latest/meta-data/iam%2Fsecurity-credentials%2f");
    list("/latest/meta-data/%69am/security-credentials/");
    list("/latest/meta-data/iam/security-credentials/?");
    list("http://169.254.169.254/latest/meta-data/iam/security-credentials/");
    list("HTTP://[FD00:EC2::254]:80/latest/meta-data/iam/security-credentials/");
}

#[test]
fn document_carries_name_path_or_arn_decoded_once() {
    let role = |tail: &str| match get(&format!("/latest/meta-data/iam/security-credentials/{tail}")) {
        Route::Document { role } => role,
        other => panic!("{tail}: {other:?}"),
    };
    assert_eq!(role("my-role"), "my-role");
    assert_eq!(role("my-role/"), "my-role");
    assert_eq!(role("my_role+=,.@-"), "my_role+=,.@-");
    assert_eq!(role("my%2Brole%40x"), "my+role@x");
    assert_eq!(role("team/app/my-role"), "team/app/my-role");
    assert_eq!(role("team%2fmy-role"), "team/my-role");
    let arn = "arn:aws:iam::123456789012:role/team/my-role";
    assert_eq!(role(arn), arn);
    assert_eq!(role("arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Fteam%2Fmy-role"), arn);
}

#[test]
fn token_is_put_on_exactly_one_path() {
    let put = |target: &str| route(&Method::PUT, target, &policy());
    assert_eq!(put("/latest/api/token"), Route::Token);
    assert_eq!(put("//latest/api/token"), Route::Token);
    assert_eq!(put("http://instance-data/latest/api/token"), Route::Token);
    assert_eq!(put("/latest/api/token/"), Route::TokenForbidden);
    assert_eq!(put("/2021-03-23/api/token"), Route::TokenForbidden);
    for method in [Method::GET, Method::HEAD, Method::POST, Method::DELETE, Method::OPTIONS] {
        assert_eq!(route(&method, "/latest/api/token", &policy()), Route::TokenMethod, "{method}");
    }
}

#[test]
fn methods_that_write_are_not_allowed_anywhere_else() {
    for method in [Method::PUT, Method::POST, Method::DELETE, Method::PATCH, Method::OPTIONS, Method::TRACE] {
        for target in ["/", "/latest/meta-data/instance-id", "/latest/user-data"] {
            assert_eq!(route(&method, target, &policy()), Route::MethodNotAllowed, "{method} {target}");
            assert_eq!(route(&method, target, &everything()), Route::MethodNotAllowed, "{method} {target}");
        }
    }
    assert_eq!(route(&Method::HEAD, "/latest/meta-data/iam/info", &policy()), Route::IamInfo);
    assert_eq!(route(&Method::CONNECT, "169.254.169.254:80", &policy()), Route::NotFound);
    assert_eq!(route(&Method::OPTIONS, "*", &policy()), Route::NotFound);
}

#[test]
fn safe_metadata_is_passed_through_under_its_constant_path() {
    for (target, path) in [
        ("/latest/meta-data/instance-id", "/latest/meta-data/instance-id"),
        ("/latest/meta-data/instance-id/", "/latest/meta-data/instance-id"),
        ("/2009-04-04/meta-data/instance-type", "/latest/meta-data/instance-type"),
        ("/latest/meta-data/placement/availability-zone/", "/latest/meta-data/placement/availability-zone"),
        ("/latest//meta-data/placement/region", "/latest/meta-data/placement/region"),
        ("/latest/meta-data/iam/../local-ipv4", "/latest/meta-data/local-ipv4"),
        ("/latest/dynamic/instance-identity/document/", "/latest/dynamic/instance-identity/document"),
        ("/latest/meta-data/services/%64omain", "/latest/meta-data/services/domain"),
    ] {
        assert_eq!(upstream_path(&get(target)), Some(path), "{target}");
    }
    assert!(matches!(get("/latest/meta-data/mac"), Route::Metadata(path) if path.is_constant()));
}

/// Targets that some proxy or server reads as secrets, each a row: not one is passed through, whatever is
/// configured, and not one is taken for an answer of our own.
const FORBIDDEN: [&str; 62] = [
    "/latest/user-data",
    "/latest/user-data/",
    "/2009-04-04/user-data",
    "/latest/user-data?x",
    "/latest//user-data",
    "/latest/meta-data/../user-data",
    "/latest/meta-data/%2e%2e/user-data",
    "/latest/meta-data/user-data",
    "/latest/USER-DATA",
    "/latest/User-Data",
    "http://169.254.169.254/latest/user-data",
    "/latest/meta-data/identity-credentials/ec2/info",
    "/latest/meta-data/identity-credentials/ec2/security-credentials/ec2-instance",
    "/latest/meta-data/Identity-Credentials/ec2/security-credentials/ec2-instance",
    "/latest/meta-data/x/../identity-credentials/ec2/security-credentials/ec2-instance",
    "/latest/meta-data/iam/security-credentials%20/node-role",
    "/latest/meta-data/iam;x/security-credentials/node-role",
    "/latest/meta-data;x/iam/security-credentials/node-role",
    "/latest/meta-data/iam/security-credentials;x/node-role",
    "/latest/meta-data/iam/security-credentials/node-role%0a",
    "/latest/meta-data/iam/security-credentials/node-role%0d%0a",
    "/latest/meta-data/iam/security-credentials/node-role%00",
    "/latest/meta-data/iam/security-credentials/node-role\n",
    "/latest/meta-data/iam/security-credentials/node-role?x=y",
    "/latest/meta-data/iam/security-credentials/node-role#x",
    "/latest/Meta-Data/IAM/security-credentials/node-role",
    "/latest/meta-data/IAM/security-credentials/node-role",
    "/latest/meta-data/iam/Security-Credentials/node-role",
    "/latest/meta-data%252fiam/security-credentials/node-role",
    "/latest/meta-data/%2569am/security-credentials/node-role",
    "/latest/meta-data/iam%252Fsecurity-credentials/node-role",
    "/latest/meta-data/%252e%252e/user-data",
    "/latest/meta-data\\iam\\security-credentials\\node-role",
    "/latest/meta-data%5ciam/security-credentials/node-role",
    "/latest/meta-data%c0%afiam/security-credentials/node-role",
    "/latest/meta-data/iam%e0%80%af/security-credentials",
    "/latest/meta-data/\u{ff49}\u{ff41}\u{ff4d}/security-credentials/node-role",
    "/latest/meta-data/%ef%bd%89am/security-credentials/node-role",
    "/latest/meta-data\u{ff0f}iam/security-credentials/node-role",
    "/latest/meta-data/iam/..;/iam/security-credentials/node-role",
    "/a/latest/meta-data/iam/security-credentials/node-role",
    "/meta-data/iam/security-credentials/node-role",
    "/Latest/meta-data/iam/security-credentials/node-role",
    "/latest%20/meta-data/iam/security-credentials/node-role",
    "/1.1/meta-data/instance-id",
    "/2009-4-4/meta-data/instance-id",
    "/20O9-04-04/meta-data/instance-id",
    "/latest/dynamic/iam/security-credentials/node-role",
    "/latest/iam/security-credentials/node-role",
    "/latest/managed-ssh-keys/signer-cert",
    "/latest/meta-data/instance-id?x=1",
    "/latest/meta-data/instance-id#x",
    "/latest/meta-data/instance-id%3fx",
    "/latest/meta-data/instance-id%",
    "/latest/meta-data/instance-id%2",
    "/latest/meta-data/instance-id%zz",
    "/latest/meta-data/instance-id%+1",
    "/../latest/meta-data/instance-id",
    "/%2e%2e/latest/meta-data/instance-id",
    "latest/meta-data/instance-id",
    "https://169.254.169.254/latest/meta-data/instance-id",
    "*",
];

#[test]
fn hostile_targets_are_not_found_whatever_is_configured() {
    for target in FORBIDDEN {
        assert_eq!(get(target), Route::NotFound, "{target:?}");
        assert_eq!(route(&Method::GET, target, &everything()), Route::NotFound, "{target:?}");
    }
}

#[test]
fn absolute_targets_for_another_host_are_forbidden() {
    for target in [
        "http://evil.example/latest/user-data",
        "http://evil.example/latest/meta-data/instance-id",
        "http://169.254.169.254.evil.example/latest/meta-data/instance-id",
        "http://169.254.169.254:8080/latest/meta-data/instance-id",
        "http://user@169.254.169.254/latest/meta-data/instance-id",
        "http://169.254.169.254\\@evil.example/latest/meta-data/instance-id",
        "http:///latest/meta-data/instance-id",
        "http://[::ffff:169.254.169.254]/latest/meta-data/instance-id",
    ] {
        assert_eq!(get(target), Route::HostForbidden, "{target}");
    }
}

#[test]
fn default_policy_hides_what_is_not_on_the_safe_list() {
    for target in [
        "/latest/meta-data/public-keys/0/openssh-key",
        "/latest/meta-data/spot/instance-action",
        "/latest/meta-data/network/interfaces/macs/",
        "/latest/meta-data/placement/region/x",
        "/latest/meta-data/tags/instance/Name",
        "/latest/dynamic/instance-identity/pkcs7",
        "/latest/dynamic/instance-identity/signature",
        "/latest/meta-data/instance-id/x",
        "/latest/meta-data/instance-idx",
    ] {
        assert_eq!(get(target), Route::NotFound, "{target}");
    }
}

#[test]
fn extra_patterns_open_what_they_name_and_no_more() {
    let policy = MetadataPolicy::new(
        &["public-ipv4".into(), "/latest/meta-data/network/**".into(), "tags/instance/*".into()],
        false,
    )
    .unwrap();
    let passes = |target: &str| upstream_path(&route(&Method::GET, target, &policy)).is_some();
    assert!(passes("/latest/meta-data/public-ipv4"));
    assert!(passes("/latest/meta-data/network/"));
    assert!(passes("/latest/meta-data/network/interfaces/macs/0e:49:61:0f:c3:11/subnet-id"));
    assert!(passes("/latest/meta-data/tags/instance/Name"));
    assert!(!passes("/latest/meta-data/tags/instance/a/b"));
    assert!(!passes("/latest/meta-data/tags/instance/"));
    assert!(!passes("/latest/meta-data/network/iam/x"));
    assert!(!passes("/latest/meta-data/public-ipv4x"));
    let Route::Directory(list) = route(&Method::GET, "/latest/meta-data/", &policy) else { panic!() };
    let list = String::from_utf8(list.to_vec()).unwrap();
    assert!(list.lines().any(|line| line == "public-ipv4") && list.lines().any(|line| line == "network/"));
}

#[test]
fn mistakes_in_patterns_are_reported_all_at_once() {
    let bad =
        ["iam/*", "IAM/info", "user-data", "a//b", "a/../b", "a***", "a b", "", "identity-credentials/**"];
    let mistakes = MetadataPolicy::new(&bad.map(str::to_owned), false).unwrap_err();
    assert_eq!(mistakes.len(), bad.len(), "{mistakes:?}");
    assert!(mistakes[0].contains("\"iam/*\"") && mistakes[0].contains("never"), "{mistakes:?}");
}

#[test]
fn lists_show_what_is_allowed() {
    let list = |target: &str| match get(target) {
        Route::Directory(list) => String::from_utf8(list.to_vec()).unwrap(),
        other => panic!("{target}: {other:?}"),
    };
    assert_eq!(list("/latest"), "dynamic\nmeta-data");
    assert_eq!(list("/1.0/"), "dynamic\nmeta-data");
    assert_eq!(list("/latest/dynamic/"), "instance-identity/");
    assert_eq!(list("/latest/dynamic/instance-identity"), "document");
    assert_eq!(list("/latest/meta-data/placement"), "availability-zone\navailability-zone-id\nregion");
    assert_eq!(
        list("/latest/meta-data/"),
        "ami-id\nhostname\niam/\ninstance-id\ninstance-type\nlocal-hostname\nlocal-ipv4\nmac\nplacement/\nservices/"
    );
    assert_eq!(get("/"), Route::Versions);
    assert_eq!(get("http://169.254.169.254"), Route::Versions);
}

#[test]
fn only_the_metadata_service_is_a_host() {
    let one = |host: &str| host_allowed([host.as_bytes()], Version::HTTP_11);
    for host in [
        "169.254.169.254",
        "169.254.169.254:80",
        "[fd00:ec2::254]",
        "[FD00:EC2::254]:80",
        "[fd00:0ec2:0::0254]",
        "instance-data",
        "Instance-Data.EC2.internal",
        "instance-data:80",
    ] {
        assert!(one(host), "{host}");
    }
    for host in [
        "",
        "169.254.169.254:8181",
        "169.254.169.254 ",
        "169.254.169.254.",
        "169.254.169.254, evil.example",
        "169.254.169.253",
        "2852039166",
        "rebind.evil.example",
        "instance-data.evil.example",
        "fd00:ec2::254",
        "[fd00:ec2::254",
        "[fd00:ec2::23]",
        "[fd00:ec2::254%25eth0]",
        ":80",
    ] {
        assert!(!one(host), "{host}");
    }
    assert!(!one("\u{ff11}69.254.169.254"));
    assert!(!host_allowed([&b"169.254.169.254"[..], b"169.254.169.254"], Version::HTTP_11));
    assert!(!host_allowed([], Version::HTTP_11));
    assert!(host_allowed([], Version::HTTP_10));
    assert!(!host_allowed([&b"169.254.169.254"[..], b"169.254.169.254"], Version::HTTP_10));
}

#[test]
fn target_of_a_uri_keeps_a_foreign_authority() {
    let target = |text: &str| request_target(&text.parse::<Uri>().unwrap()).into_owned();
    assert_eq!(target("/latest//x?y"), "/latest//x?y");
    assert_eq!(target("http://evil.example/latest/"), "http://evil.example/latest/");
    assert_eq!(target("169.254.169.254:80"), "169.254.169.254:80");
}

/// How a careless server would read a target: decoded, lower-cased, resolved.
fn naive_segments(target: &str) -> Vec<String> {
    let path = target.split(['?', '#']).next().unwrap_or_default();
    let decoded = percent_encoding::percent_decode_str(path).decode_utf8_lossy().to_lowercase();
    let mut segments: Vec<String> = Vec::new();
    for segment in decoded.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            name => segments.push(name.to_owned()),
        }
    }
    segments
}

/// What the allow-list is in words, written down a second time.
fn on_default_list(path: &str) -> bool {
    let one_segment =
        |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && !rest.contains('/'));
    [
        "/latest/dynamic/instance-identity/document",
        "/latest/meta-data/ami-id",
        "/latest/meta-data/hostname",
        "/latest/meta-data/instance-id",
        "/latest/meta-data/instance-type",
        "/latest/meta-data/mac",
    ]
    .contains(&path)
        || one_segment("/latest/meta-data/placement/")
        || one_segment("/latest/meta-data/services/")
        || path.strip_prefix("/latest/meta-data/local-").is_some_and(|rest| !rest.contains('/'))
}

fn check(target: &str) -> Result<(), TestCaseError> {
    for (policy, default) in [(policy_once(), true), (everything_once(), false)] {
        let decided = route(&Method::GET, target, policy);
        let Some(path) = upstream_path(&decided) else { continue };
        prop_assert!(!default || on_default_list(path), "{target:?} -> {path:?}");
        prop_assert!(
            path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._:+=,@-".contains(&byte)),
            "{path:?}"
        );
        let naive = naive_segments(target);
        for never in ["iam", "identity-credentials", "security-credentials", "user-data"] {
            prop_assert!(!naive.iter().any(|segment| segment == never), "{target:?} -> {path:?}");
            prop_assert!(!path.contains(&format!("/{never}")), "{target:?} -> {path:?}");
        }
        // The path is its own normal form: routed again it is the same value.
        prop_assert_eq!(route(&Method::GET, path, policy), decided.clone());
        for method in [Method::PUT, Method::POST, Method::DELETE] {
            prop_assert!(upstream_path(&route(&method, target, policy)).is_none());
        }
    }
    Ok(())
}

fn policy_once() -> &'static MetadataPolicy {
    static POLICY: std::sync::OnceLock<MetadataPolicy> = std::sync::OnceLock::new();
    POLICY.get_or_init(policy)
}

fn everything_once() -> &'static MetadataPolicy {
    static POLICY: std::sync::OnceLock<MetadataPolicy> = std::sync::OnceLock::new();
    POLICY.get_or_init(everything)
}

#[test]
fn grammar_reaches_what_it_is_to_attack() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut labels = std::collections::BTreeSet::new();
    for _ in 0..50_000 {
        let target = generator::targets().new_tree(&mut runner).unwrap().current();
        labels.insert(route(&Method::GET, &target, everything_once()).label());
    }
    for label in ["metadata", "document", "role_list", "iam_info", "directory", "not_found"] {
        assert!(labels.contains(label), "{label} not in {labels:?}");
    }
}

/// Targets of the grammar that are tried, and how many of them make one case: a case costs more than a target.
const TARGETS: u32 = 1_000_000;
const BATCH: u32 = 20;

proptest! {
    #![proptest_config(ProptestConfig { cases: TARGETS / BATCH, ..ProptestConfig::default() })]

    /// P22, P24: no target by the grammar reaches upstream but under a path of the allow-list, byte for byte, and none
    /// that can be read as a secret does so under any configuration.
    #[test]
    fn nothing_by_the_grammar_reaches_upstream_off_the_allow_list(
        targets in vec(generator::targets(), BATCH as usize),
    ) {
        targets.iter().try_for_each(|target| check(target))?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    /// P22, P24: nor does any other text.
    #[test]
    fn no_text_reaches_upstream_off_the_allow_list(target in generator::texts()) {
        check(&target)?;
    }
}
