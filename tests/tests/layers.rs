//! The layers of crates `rolegate` and `rolegate-core`, as one: no import goes upward, no layer has a cycle, no package leaves its home.
#![expect(clippy::unwrap_used, reason = "a test ends at the first thing it cannot read")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Rows of modules, highest first. A module belongs to the longest entry that it begins with; it may import
/// whole lower rows, and of its own row what a sibling shows at its top, as long as nothing goes round.
const ROWS: &[&[&str]] = &[
    &["main"],
    &["app"],
    &["server", "imds", "admin", "prefetch", "discovery"],
    &[
        "cluster",
        "cluster::watch",
        "identity",
        "credentials",
        "imds::passthrough",
        "imds::upstream",
        "redirect",
        "telemetry",
    ],
    &["config", "cni", "cluster::index", "cluster::snapshot", "imds::route", "imds::token"],
    &["policy", "args"],
    &["types", "ready", "supervisor", "metrics", "accept"],
];

/// Paths of packages (a `*` at the end of a segment stands for any rest) and the only modules that may name them.
const HOMES: &[(&str, &[&str])] = &[
    ("hyper", &["server", "imds", "admin"]),
    ("hyper_util", &["server", "imds", "admin"]),
    // The client, its requests and answers; who makes them: the watches, and what the Node is told.
    (
        "kube",
        &["cluster::client", "cluster::answer", "cluster::kubeconfig", "cluster::watch", "cluster::own_node"],
    ),
    ("k8s_openapi", &["cluster::watch"]),
    ("serde_saphyr", &["cluster::kubeconfig"]),
    ("aws_config", &["credentials::assume_role"]),
    ("aws_credential_types", &["credentials::assume_role"]),
    ("aws_sdk_sts", &["credentials::assume_role"]),
    ("aws_smithy*", &["credentials::assume_role"]),
    ("aws_types", &["credentials::assume_role"]),
    ("moka", &["credentials::broker"]),
    // Socket options; why accepting failed; limits and flags of the process; how the key's file is opened; who is at the
    // other end of a hand-over.
    ("nix", &["server", "accept", "app::process", "app::handover", "imds::token::key_file"]),
    // Capabilities: nix has none of them. Descriptors that arrive are owned: nix's are numbers, which to own is unsafe.
    ("rustix", &["app::privileges", "app::handover::descriptors"]),
    ("socket2", &["server::rest"]),
    ("rtnetlink", &["redirect"]),
    ("tracing_subscriber", &["telemetry"]),
    ("clap", &["args"]),
    // Tasks end with `anyhow::Result`, which the supervisor prints: beside `main` and `app`, their `run`s.
    (
        "anyhow",
        &[
            "main",
            "app",
            "supervisor",
            "admin",
            "server",
            "imds::entrance",
            "prefetch",
            "redirect",
            "cluster::watch",
        ],
    ),
    // What is of it is shown under the agent's own names.
    ("rolegate_core", &["cluster", "credentials"]),
    ("prometheus::TextEncoder", &["admin"]),
    ("prometheus::Encoder", &["admin"]),
    ("prometheus::default_registry", &[]),
    ("prometheus::gather", &[]),
    ("prometheus::register*", &[]),
];

/// Modules that hold the decisions: functions and folds.
const PURE: &[&str] = &[
    "policy",
    "cluster::index",
    "cluster::snapshot",
    "identity::witness",
    "imds::route",
    "imds::token",
    "imds::document",
];

/// What a pure module never names.
const IMPURE: &[&str] = &["tokio", "kube", "k8s_openapi", "hyper", "hyper_util", "aws_config", "aws_sdk_sts"];

#[test]
fn the_agent_keeps_its_layers() {
    let mut files = Vec::new();
    for sources in ["../agent/src", "../agent/core/src"] {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(sources);
        let before = files.len();
        read_sources(&root, &root, &mut files);
        assert!(files.len() > before + 10, "no sources below {}", root.display());
    }
    let found = violations(&files);
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

fn read_sources(root: &Path, dir: &Path, files: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_sources(root, &path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).unwrap().with_extension("");
            let module = name.to_str().unwrap().replace('/', "::");
            files.push((module, std::fs::read_to_string(&path).unwrap()));
        }
    }
}

/// What is wrong with these (module, source) pairs, one sentence each.
fn violations(files: &[(String, String)]) -> Vec<String> {
    let modules: BTreeSet<&str> = files.iter().map(|(module, _)| module.as_str()).collect();
    let mut found = Vec::new();
    let mut edges = BTreeMap::<&str, BTreeSet<&str>>::new();
    let tests = test_modules(files);
    let is_test = |module: &str| tests.iter().any(|test| within(module, test));
    for (module, source) in files.iter().filter(|(module, _)| module != "lib" && !is_test(module)) {
        let Some((unit, row)) = unit_of(module) else {
            found.push(format!("{module}: is in no row of ROWS"));
            continue;
        };
        for path in paths(module, source) {
            check_packages(module, &path, &mut found);
            let Some(inner) = path.strip_prefix("crate::") else { continue };
            let Some((target, target_row)) = unit_of(inner) else { continue };
            if target == unit || module.starts_with(&format!("{target}::")) && target_row == row {
                continue;
            }
            if target_row < row {
                found.push(format!("{module}: {path} is upward"));
            } else if target_row == row {
                edges.entry(unit).or_default().insert(target);
                if inside(inner, target, &modules) {
                    found.push(format!("{module}: {path} is inside a sibling"));
                }
            }
        }
    }
    found.extend(
        edges
            .keys()
            .filter(|unit| reaches(&edges, unit, unit))
            .map(|unit| format!("{unit}: imports itself in a circle")),
    );
    found
}

/// The modules that are declared `#[cfg(test)] mod name;`.
fn test_modules(files: &[(String, String)]) -> Vec<String> {
    let mut found = Vec::new();
    for (module, source) in files {
        let tokens = tokens(source);
        for at in (0..tokens.len()).filter(|at| is_test_mark(&tokens[*at..])) {
            let item = tokens[at + TEST_MARK.len()..].iter().map(String::as_str).take(8);
            let item: Vec<&str> =
                item.skip_while(|token| matches!(*token, "pub" | "(" | "crate" | ")")).collect();
            if let ["mod", name, ";", ..] = item[..] {
                found.push(if module == "lib" { name.to_owned() } else { format!("{module}::{name}") });
            }
        }
    }
    found
}

fn check_packages(module: &str, path: &str, found: &mut Vec<String>) {
    for (package, homes) in HOMES {
        if names(path, package) && !homes.iter().any(|home| within(module, home)) {
            found.push(format!("{module}: {path} is away from its home {homes:?}"));
        }
    }
    let pure = PURE.iter().any(|pure| within(module, pure));
    if pure && IMPURE.iter().any(|package| names(path, package)) {
        found.push(format!("{module}: {path} in a pure module"));
    }
}

/// The entry of [`ROWS`] that a path begins with, and its row.
fn unit_of(path: &str) -> Option<(&'static str, usize)> {
    let rows = ROWS.iter().enumerate();
    let units = rows.flat_map(|(row, units)| units.iter().map(move |unit| (*unit, row)));
    units.filter(|(unit, _)| within(path, unit)).max_by_key(|(unit, _)| unit.len())
}

fn within(path: &str, module: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// `pattern` is a path, its last segment perhaps with a `*` at its end.
fn names(path: &str, pattern: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => path.starts_with(start),
        None => within(path, pattern),
    }
}

/// The path goes through a module below `unit`, not just to an item of it.
fn inside(path: &str, unit: &str, modules: &BTreeSet<&str>) -> bool {
    let segments: Vec<&str> = path.split("::").collect();
    let depth = unit.split("::").count() + 1;
    segments.len() > depth && modules.contains(segments[..depth].join("::").as_str())
}

fn reaches(edges: &BTreeMap<&str, BTreeSet<&str>>, from: &str, to: &str) -> bool {
    let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(unit) = next.pop() {
        for target in edges.get(unit).into_iter().flatten() {
            if *target == to {
                return true;
            }
            if seen.insert(*target) {
                next.push(target);
            }
        }
    }
    false
}

// === reading paths out of source text ===

/// Every path that non-test code names: `crate::a::b` (from `crate`, `self`, `super`, `rolegate`) or `package::c`.
fn paths(module: &str, source: &str) -> Vec<String> {
    let tokens = without_tests(&tokens(source));
    let mut scopes: Vec<(String, usize)> = Vec::new();
    let (mut found, mut depth, mut at) = (Vec::new(), 0_usize, 0);
    while at < tokens.len() {
        let (token, next) = (tokens[at].as_str(), tokens.get(at + 1).map(String::as_str));
        let mut raw = Vec::new();
        match token {
            "mod" if tokens.get(at + 2).is_some_and(|t| t == "{") => {
                scopes.push((tokens[at + 1].clone(), depth));
                at += 1;
            }
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                if scopes.last().is_some_and(|scope| scope.1 == depth) {
                    scopes.pop();
                }
            }
            "use" => at = tree(&tokens, at + 1, "", &mut raw),
            _ if is_name(token) && next == Some("::") => {
                let end = (at..tokens.len()).step_by(2).find(|i| {
                    tokens.get(i + 1).is_none_or(|t| t != "::")
                        || !tokens.get(i + 2).is_some_and(|t| is_name(t))
                });
                let end = end.unwrap_or(at);
                raw.push(tokens[at..=end].concat());
                at = end;
            }
            _ => {}
        }
        let here = scopes.iter().fold(module.to_owned(), |path, scope| format!("{path}::{}", scope.0));
        found.extend(raw.iter().map(|path| absolute(&here, path)));
        at += 1;
    }
    found
}

/// Unfolds `a::{b, c::{d, e}}`; returns the place of the token that ends it.
fn tree(tokens: &[String], mut at: usize, prefix: &str, found: &mut Vec<String>) -> usize {
    let mut path = prefix.to_owned();
    while let Some(token) = tokens.get(at) {
        match token.as_str() {
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|t| t != "}") {
                    at = tree(tokens, at, &path, found);
                    at += usize::from(tokens.get(at).is_some_and(|t| t == ","));
                }
                return at + 1;
            }
            ";" | "," | "}" => break,
            "as" => at += 1,
            // A leading `::` says: a package.
            "::" if path.is_empty() => {}
            part => path.push_str(part),
        }
        at += 1;
    }
    found.push(path);
    at
}

/// `self` and `super` replaced, `rolegate::` (as `main` says) taken for `crate::`.
fn absolute(module: &str, path: &str) -> String {
    let (first, rest) = path.split_once("::").unwrap_or((path, ""));
    let mut place: Vec<&str> = module.split("::").collect();
    let mut rest = match first {
        "rolegate" => return format!("crate::{rest}"),
        "self" => rest,
        "super" => {
            place.pop();
            rest
        }
        _ => return path.to_owned(),
    };
    while let Some(above) = rest.strip_prefix("super::") {
        place.pop();
        rest = above;
    }
    format!("crate::{}::{rest}", place.join("::")).replace("::::", "::")
}

/// Drops every item under `#[cfg(test)]`: up to its `;` or the end of its braces.
fn without_tests(tokens: &[String]) -> Vec<String> {
    let (mut kept, mut at) = (Vec::new(), 0);
    while at < tokens.len() {
        if !is_test_mark(&tokens[at..]) {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        let mut depth = 0_usize;
        at += TEST_MARK.len();
        while at < tokens.len() {
            match tokens[at].as_str() {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            let end = depth == 0 && matches!(tokens[at].as_str(), ";" | "}");
            at += 1;
            if end {
                break;
            }
        }
    }
    kept
}

const TEST_MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];

fn is_test_mark(tokens: &[String]) -> bool {
    tokens.iter().map(String::as_str).take(TEST_MARK.len()).eq(TEST_MARK)
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Names, `::` and single characters; comments, texts, lifetimes and character literals left out.
fn tokens(source: &str) -> Vec<String> {
    let lexer = regex::Regex::new(
        r##"(?xs) //[^\n]* | /\*.*?\*/ | [bc]?r\#*" | [bc]?"(?:\\.|[^"\\])*" | b?'(?:\\[^']+|\\'|[^\\'])' | '\w+ | \w+ | :: | \S"##,
    )
    .unwrap();
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(token) = lexer.find_at(source, at) {
        at = token.end();
        let text = token.as_str();
        let raw = text.trim_start_matches(['b', 'c']);
        if raw.starts_with('r') && raw.ends_with('"') {
            let close = format!("\"{}", &raw[1..raw.len() - 1]);
            at += source[at..].find(&close).map_or(0, |found| found + close.len());
        } else if !text.starts_with("//")
            && !text.starts_with("/*")
            && !text.ends_with('"')
            && !is_quote(text)
        {
            found.push(text.to_owned());
        }
    }
    found
}

fn is_quote(text: &str) -> bool {
    text.trim_start_matches('b').starts_with('\'')
}

// === the test can fail ===

fn check(files: &[(&str, &str)]) -> Vec<String> {
    let files: Vec<_> = files.iter().map(|(module, source)| ((*module).into(), (*source).into())).collect();
    violations(&files)
}

#[test]
fn downward_imports_and_a_siblings_face_are_fine() {
    let found = check(&[
        ("main", "fn main() { rolegate::app::run() }"),
        ("imds", "use crate::{identity::Caller, policy::{self, decide}}; use route::Route;"),
        ("imds::route", "use crate::types::PodIp;"),
        ("imds::handler", "use super::route::Route; use crate::server::Handler;"),
        ("server", "use hyper::server; pub trait Handler {}"),
        ("admin", "#[cfg(test)] pub(crate) mod testing;"),
        ("admin::testing", "use crate::app::run;"),
    ]);
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn upward_imports_are_found_however_they_are_written() {
    for source in [
        "use crate::app::run;",
        "use crate::{types::PodIp, app};",
        "use crate::{types::{PodIp}, policy::{decide as d, facts::{A, B}}, app::{run}};",
        "fn f() { let _ = crate::app::run(); }",
        "fn f(_: &crate::app::App) {}",
        "pub(crate) use super::app::App;",
        "mod inner { use super::super::app::App; }",
        "use self::super::app::App;",
    ] {
        let found = check(&[("app", ""), ("config", source)]);
        assert_eq!(found.len(), 1, "{source}: {found:?}");
        assert!(found[0].starts_with("config: crate::app") && found[0].ends_with("is upward"), "{found:?}");
    }
    assert_eq!(
        check(&[("imds::route", "use super::Answer;")]),
        ["imds::route: crate::imds::Answer is upward"]
    );
}

#[test]
fn a_siblings_inside_and_a_circle_are_found() {
    let inside = [("server", "use crate::imds::handler::Handler;"), ("imds", ""), ("imds::handler", "")];
    assert_eq!(check(&inside), ["server: crate::imds::handler::Handler is inside a sibling"]);
    let circle = [
        ("types", "use crate::ready::A;"),
        ("ready", "use crate::metrics::A;"),
        ("metrics", "use crate::types::A;"),
    ];
    assert_eq!(check(&circle).len(), 3, "{:?}", check(&circle));
}

#[test]
fn a_package_away_from_its_home_is_found() {
    for (module, source) in [
        ("policy", "use kube::Api;"),
        ("identity", "use ::kube::Api;"),
        ("identity", "fn f() { nix::unistd::getpid(); }"),
        ("credentials::broker", "use aws_smithy_types::retry::RetryConfig;"),
        ("config", "use anyhow::Context;"),
        ("server", "use prometheus::{IntCounter, TextEncoder};"),
        ("metrics", "fn f() { prometheus::register_counter!(); }"),
        ("policy", "use tokio::sync::watch;"),
    ] {
        assert!(!check(&[(module, source)]).is_empty(), "{module}: {source}");
    }
}

#[test]
fn comments_texts_and_test_code_are_not_read() {
    let source = r####"
        //! See [`crate::app::App`].
        /* use crate::app; */
        const A: (&str, char, &str) = ("\"; use crate::app;", '"', r#"" use crate::app; "#);
        fn f<'a>(_: &'a str) -> char { '\'' }
        #[cfg(test)]
        use crate::app::App;
        #[cfg(test)]
        mod tests { fn f() { crate::app::run(); } }
    "####;
    assert_eq!(check(&[("config", source)]), Vec::<String>::new());
    assert_eq!(check(&[("config", &format!("{source} use crate::app::App;"))]).len(), 1);
}

#[test]
fn a_module_without_a_row_is_found() {
    assert_eq!(check(&[("novel", "")]), ["novel: is in no row of ROWS"]);
}
