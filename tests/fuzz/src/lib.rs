//! What holds for any input that a pod or an annotation can be: the fuzz targets and the replay of their corpora
//! (`tests/tests/corpora.rs`) call the same functions. Each panics where its property does not hold.

mod connection;

use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{Method, Uri, Version};
use rolegate::imds::route::{MetadataPolicy, Route, host_allowed, request_target, route as route_of};
use rolegate::imds::token::{LONGEST_TTL_SECONDS, TOKEN_CHARS, TokenKey, parse_ttl};
use rolegate::policy::{
    AnnotationKeys, DEFAULT_SESSION_NAME, NamespaceAnnotations, NamespaceFacts, NodeRole, PatternFormat,
    PodFacts, Policy, Restrictions, Rules,
};
use rolegate::types::{PodIp, PodUid, RoleArn, RoleArnBase};

pub use connection::connection;

const BASE: &str = "arn:aws:iam::123456789012:role/";
const ACCOUNT: &str = "123456789012";
const NODE_ROLE: &str = "node-role";
/// Longest message of a refusal, in characters.
const LONGEST_MESSAGE: usize = 1_024;
/// What nothing opens.
const NEVER: [&str; 4] = ["iam", "identity-credentials", "security-credentials", "user-data"];

// === route: the first byte chooses the method, the rest is the target ===

/// Nothing that any server reads as a secret is passed through, what is passed through is a path of the allow-list in
/// its plain form, and only PUT gets a token.
pub fn route(input: &[u8]) {
    let (first, target) = input.split_first().map_or((&0, &[][..]), |(first, rest)| (first, rest));
    let methods = [
        Method::GET,
        Method::HEAD,
        Method::PUT,
        Method::POST,
        Method::DELETE,
        Method::OPTIONS,
        Method::CONNECT,
    ];
    let method = &methods[usize::from(*first) % methods.len()];
    let target = String::from_utf8_lossy(target);
    one_route(method, &target);
    // As it comes from the wire.
    if let Ok(uri) = target.parse::<Uri>() {
        one_route(method, &request_target(&uri));
    }
}

fn one_route(method: &Method, target: &str) {
    for (policy, open) in metadata_policies() {
        let found = route_of(method, target, policy);
        let reads = *method == Method::GET || *method == Method::HEAD;
        match &found {
            Route::Metadata(path) => {
                assert!(reads);
                let path = path.as_str();
                assert!(*open || is_on_the_default_list(path), "{target:?} -> {path:?}");
                assert!(is_plain(path), "{target:?} -> {path:?}");
                let read: Vec<String> = naive_segments(target);
                assert!(!read.iter().any(|segment| NEVER.contains(&&**segment)), "{target:?} -> {path:?}");
                assert_eq!(route_of(method, path, policy), found, "{target:?}");
            }
            Route::Token => {
                assert_eq!(*method, Method::PUT);
                assert_eq!(naive_segments(target), ["latest", "api", "token"], "{target:?}");
            }
            Route::Document { role } => {
                assert!(reads && !role.is_empty() && !role.contains(['%', '\\', '?', '#', ' ', '\0', '\n']));
            }
            Route::Versions
            | Route::Directory(_)
            | Route::IamDirectory
            | Route::RoleList
            | Route::IamInfo => {
                assert!(reads, "{method} {target:?}");
            }
            Route::TokenForbidden
            | Route::TokenMethod
            | Route::HostForbidden
            | Route::MethodNotAllowed
            | Route::NotFound => {}
        }
    }
}

/// The default one; one that allows all it can.
fn metadata_policies() -> &'static [(MetadataPolicy, bool); 2] {
    static POLICIES: OnceLock<[(MetadataPolicy, bool); 2]> = OnceLock::new();
    let policy = |extra: &[String], everything| {
        MetadataPolicy::new(extra, everything).unwrap_or_else(|mistakes| panic!("{mistakes:?}"))
    };
    POLICIES.get_or_init(|| [(policy(&[], false), false), (policy(&["**".to_owned()], true), true)])
}

/// How a careless server reads a target: decoded until nothing changes, lower case, resolved.
fn naive_segments(target: &str) -> Vec<String> {
    let path = target.split(['?', '#']).next().unwrap_or_default();
    let path = match path.split_once("://") {
        Some((_, rest)) => rest.split_once('/').map_or("", |(_, path)| path),
        None => path,
    };
    let mut decoded = path.to_owned();
    loop {
        let again = decode_once(&decoded);
        if again == decoded {
            break;
        }
        decoded = again;
    }
    let mut segments: Vec<String> = Vec::new();
    for segment in decoded.to_lowercase().replace('\\', "/").split('/') {
        match segment.split(';').next().unwrap_or_default().trim() {
            "" | "." => {}
            ".." => drop(segments.pop()),
            name => segments.push(name.to_owned()),
        }
    }
    segments
}

fn decode_once(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        let byte = escape
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .filter(|hex| hex.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        decoded.push(byte.unwrap_or(bytes[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn is_plain(path: &str) -> bool {
    let segments = path.split('/').skip(1);
    (path.starts_with("/latest/meta-data/") || path.starts_with("/latest/dynamic/"))
        && path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._:+=,@-".contains(&byte))
        && segments.clone().all(|segment| !matches!(segment, "" | "." | ".."))
        && !segments.into_iter().any(|segment| NEVER.contains(&&*segment.to_ascii_lowercase()))
}

/// The default list, written down a second time.
fn is_on_the_default_list(path: &str) -> bool {
    let one = |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| !rest.contains('/'));
    matches!(
        path,
        "/latest/dynamic/instance-identity/document"
            | "/latest/meta-data/ami-id"
            | "/latest/meta-data/hostname"
            | "/latest/meta-data/instance-id"
            | "/latest/meta-data/instance-type"
            | "/latest/meta-data/mac"
    ) || one("/latest/meta-data/placement/")
        || one("/latest/meta-data/services/")
        || one("/latest/meta-data/local-")
}

// === annotation: a pod's role ===

/// An annotation is no role, or one whose parts make up the whole, in an account of 12 digits; a name without an account
/// stays in the base's. With a list of one role only that role is granted, and the node's own never.
pub fn annotation(text: &str) {
    let base = base();
    let role = RoleArn::resolve(text, Some(&base)).ok();
    if let Some(role) = &role {
        assert_eq!(RoleArn::parse(role.as_str()).as_ref(), Ok(role));
        let whole = format!("arn:{}:iam::{}:role/{}", role.partition(), role.account(), role.path_and_name());
        assert_eq!(role.as_str(), whole);
        assert!(role.path_and_name().ends_with(role.name()));
        assert!(!role.name().is_empty() && !role.name().contains(['/', ':', '\n', '%']));
        assert!(role.account().len() == 12 && role.account().bytes().all(|byte| byte.is_ascii_digit()));
        if !text.starts_with("arn:") {
            assert_eq!((role.partition(), role.account()), (base.partition(), base.account()));
        }
    }
    if let Ok(base) = RoleArnBase::parse(text) {
        assert!(RoleArn::resolve("a-role", Some(&base)).is_ok_and(|role| role.account() == base.account()));
    }
    let one = granted(PatternFormat::Glob, text, Some(r#"["team/MyPodRole"]"#), None);
    assert!(one.is_none_or(|role| role.as_str() == format!("{BASE}team/MyPodRole")), "{text:?}");
    let all = granted(PatternFormat::Glob, text, Some(r#"["**"]"#), None);
    assert!(all.is_none_or(|granted| Some(granted) == role && !is_own(text)), "{text:?}");
}

// === patterns: the role, a newline, the namespace's annotation ===

/// No list grants the node's own role, or a role of an account whose digits are not in it; one that is no JSON array of
/// texts grants nothing. Without a newline the role is one that the node's account does not have.
pub fn patterns(text: &str) {
    let (role, list) = text.split_once('\n').unwrap_or(("arn:aws:iam::210987654321:role/MyPodRole", text));
    let is_list = serde_json::from_str::<Vec<String>>(list).is_ok();
    for format in [PatternFormat::Glob, PatternFormat::Regexp] {
        let by_list = granted(format, role, Some(list), None);
        assert!(is_list || by_list.is_none(), "{text:?}");
        let by_expression = granted(format, role, None, Some(list));
        // The list goes before kiam's expression.
        assert_eq!(granted(format, role, Some(list), Some(".*")), by_list, "{text:?}");
        for granted in [by_list, by_expression].into_iter().flatten() {
            assert!(granted.account() == ACCOUNT || list.contains(granted.account()), "{text:?}");
            assert!(!is_own(granted.as_str()), "{text:?}");
        }
    }
}

/// What a pod with this annotation gets; the same twice, and a message fit for a document where it gets nothing.
fn granted(
    format: PatternFormat,
    role: &str,
    list: Option<&str>,
    permitted: Option<&str>,
) -> Option<RoleArn> {
    let policy = Policy::new(rules(format), Some(NodeRole::new(Some(ACCOUNT), [NODE_ROLE])));
    let (pod, namespace) = (facts(role), namespace(list, permitted));
    let decision = policy.decide(&pod, &namespace);
    assert_eq!(decision, policy.decide(&pod, &namespace));
    match decision.outcome {
        Ok(grant) => Some(grant.role),
        Err(denied) => {
            let message = denied.message();
            assert!(!message.is_empty() && message.len() <= LONGEST_MESSAGE, "{message:?}");
            assert!(message.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()), "{message:?}");
            None
        }
    }
}

fn rules(format: PatternFormat) -> Rules {
    Rules {
        base: Some(base()),
        default_role: None,
        restrictions: Restrictions::Enforce,
        format,
        allow_node_role: false,
        session_name: DEFAULT_SESSION_NAME.to_owned(),
        session_duration: Duration::from_secs(3_600),
        keys: AnnotationKeys::default(),
        node: "node-1".to_owned(),
    }
}

/// A pod with this annotation.
fn facts(role: &str) -> PodFacts {
    PodFacts {
        uid: PodUid::new("7b1f"),
        namespace: Arc::from("default"),
        name: Arc::from("pod"),
        service_account: Arc::from("default"),
        role: Some(Arc::from(role)),
        external_id: None,
    }
}

/// Its namespace.
fn namespace(list: Option<&str>, permitted: Option<&str>) -> NamespaceFacts {
    let annotations = NamespaceAnnotations {
        allowed_roles: list.map(Arc::from),
        permitted: permitted.map(Arc::from),
        ..NamespaceAnnotations::default()
    };
    NamespaceFacts::new("default", annotations)
}

fn base() -> RoleArnBase {
    RoleArnBase::parse(BASE).unwrap_or_else(|error| panic!("{error}"))
}

/// The node's own role, whatever its path and case.
fn is_own(role: &str) -> bool {
    let ours = !role.starts_with("arn:") || role.contains(ACCOUNT);
    ours && role.rsplit('/').next().is_some_and(|name| name.eq_ignore_ascii_case(NODE_ROLE))
}

// === token: what is presented, and what a good one is changed with ===

/// Nothing is a token but what was issued, to that address, until its end; a lifetime is a number from 1 to 21600.
pub fn token(input: &[u8]) {
    static KEY: OnceLock<TokenKey> = OnceLock::new();
    // No directory: the key lives in memory.
    let key = KEY.get_or_init(|| TokenKey::load_or_create(Path::new("/dev/null/none")).0);
    let (ip, other) = (pod_ip([100, 96, 1, 11]), pod_ip([100, 96, 1, 12]));
    let (now, ttl) = (1_800_000_000, 300);
    let good = key.issue(ip, ttl, now);
    assert_eq!(good.len(), TOKEN_CHARS);
    // The fuzzer reads the good one out of comparisons.
    assert_eq!(key.verify(input, ip, now).is_ok(), input == good.as_bytes());
    let mut changed = good.clone().into_bytes();
    for (byte, change) in changed.iter_mut().zip(input) {
        *byte ^= change;
    }
    let same = changed == good.as_bytes();
    assert_eq!(key.verify(&changed, ip, now).is_ok(), same);
    assert!(key.verify(&changed, other, now).is_err());
    assert!(key.verify(&changed, ip, now + u64::from(ttl)).is_err());

    let written =
        std::str::from_utf8(input).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let number = written.and_then(|text| text.parse::<u32>().ok());
    match parse_ttl([input]) {
        Ok(ttl) => assert!(number == Some(ttl) && (1..=LONGEST_TTL_SECONDS).contains(&ttl)),
        Err(_) => assert!(
            number.is_none_or(|ttl| !(1..=LONGEST_TTL_SECONDS).contains(&ttl) || input.len() > 5),
            "{number:?}"
        ),
    }
    assert!(parse_ttl([input, input]).is_err());
}

fn pod_ip(octets: [u8; 4]) -> PodIp {
    PodIp::new(IpAddr::from(octets))
}

// === host: the values of `Host`, one a line ===

/// Allowed is exactly one value that names the metadata service, or none in HTTP/1.0.
pub fn host(input: &[u8]) {
    let values: Vec<&[u8]> =
        if input.is_empty() { Vec::new() } else { input.split(|byte| *byte == b'\n').collect() };
    for version in [Version::HTTP_10, Version::HTTP_11] {
        let allowed = host_allowed(values.iter().copied(), version);
        let right = match values[..] {
            [] => version == Version::HTTP_10,
            [only] => names_the_service(only),
            _ => false,
        };
        assert_eq!(allowed, right, "{version:?} {:?}", String::from_utf8_lossy(input));
    }
}

fn names_the_service(value: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(value) else { return false };
    let text = text.to_ascii_lowercase();
    let host = text.strip_suffix(":80").unwrap_or(&text);
    let v6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    ["169.254.169.254", "instance-data", "instance-data.ec2.internal"].contains(&host)
        || host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .is_some_and(|inner| inner.parse() == Ok(v6))
}
