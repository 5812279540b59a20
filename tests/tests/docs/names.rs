//! Flags, metrics and values of the chart that the pages name exist.

use std::collections::BTreeSet;

use regex::Regex;
use serde_json::Value;

use super::pages::{self, Page};
use super::table::{self, How};

/// Flags of other programs, by program. Those in blocks that are run need no row.
const FOREIGN: &[(&str, &[&str])] = &[
    (
        "helm, kubectl",
        &[
            "for",
            "force",
            "image",
            "kustomize",
            "logs",
            "namespace",
            "prefix",
            "selector",
            "set",
            "tail",
            "values",
        ],
    ),
    ("the AWS CLI", &["http-put-response-hop-limit", "http-tokens", "lookup-attributes", "query"]),
    ("buildah", &["all"]),
    ("the AWS load balancer controller", &["aws-region", "aws-vpc-id"]),
    ("the kubelet, cluster-autoscaler", &["register-with-taints", "startup-taint", "ignore-taint"]),
    ("kops", &["yes", "name", "state"]),
    (
        "kiam",
        &[
            "allow-ip-query",
            "allow-route-regexp",
            "assume-role-arn",
            "bind",
            "ca",
            "cert",
            "disable-strict-namespace-regexp",
            "fetchers",
            "gateway-timeout-creation",
            "host",
            "iptables-remove",
            "json-log",
            "key",
            "level",
            "port",
            "prefetch-buffer-size",
            "prometheus-listen-addr",
            "role-base-arn",
            "role-base-arn-autodetect",
            "server-address",
            "session",
            "session-refresh",
            "sync",
            "whitelist-route-regexp",
        ],
    ),
    ("cargo", &["workspace", "test", "release", "bin", "target"]),
    ("linker and nm", &["icf", "size-sort"]),
    (
        "the benches",
        &[
            "agent-flag",
            "allocations",
            "api",
            "attack",
            "draw",
            "docs",
            "herds",
            "help",
            "namespaces",
            "output",
            "pods",
            "rounds",
            "scenario",
            "seconds",
            "server",
            "sites",
        ],
    ),
];

#[test]
fn every_flag_that_the_pages_name_exists() {
    let flag = Regex::new(r"(?:^|[\s`(\[/|])--([a-z][a-z0-9-]+)").unwrap();
    let page = Page::named("docs/flags.md").text;
    let ours: BTreeSet<String> = flag.captures_iter(&page).map(|found| found[1].to_owned()).collect();
    let foreign: BTreeSet<&str> = FOREIGN.iter().flat_map(|(_, flags)| flags.iter().copied()).collect();
    let mut unknown = BTreeSet::new();
    for page in pages::all() {
        let mut texts = vec![page.prose()];
        texts.extend(page.blocks().into_iter().filter_map(|block| {
            let runs = !matches!(table::how(&page.name, &block), None | Some(How::No(_)));
            (block.language == "yaml" || block.language == "sh" && !runs).then_some(block.text)
        }));
        for found in texts.iter().flat_map(|text| flag.captures_iter(text)) {
            let name = &found[1];
            if !ours.contains(name) && !foreign.contains(name) {
                unknown.insert(format!("{}: --{name}", page.name));
            }
        }
    }
    assert!(unknown.is_empty(), "neither the agent's nor another program's: {unknown:#?}");
}

#[test]
fn every_metric_that_the_pages_name_exists() {
    let rows = Regex::new(r"(?m)^\| `([a-z0-9_]+)`").unwrap();
    let page = Page::named("docs/metrics.md").text;
    let known: BTreeSet<String> = rows.captures_iter(&page).map(|row| row[1].to_owned()).collect();
    let named = Regex::new(r"\brolegate_[a-z0-9_]*[a-z0-9]").unwrap();
    let series = |name: &str| {
        ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).map(String::from)
    };
    let mut unknown = BTreeSet::new();
    for page in pages::all() {
        for found in named.find_iter(&page.text) {
            let name = found.as_str();
            // Crates; a family by its beginning, as in `rolegate_pods_…`.
            let crates = ["rolegate_core", "rolegate_tests"];
            let family = crates.contains(&name) || page.text[found.end()..].starts_with(['…', '*', '{']);
            if !family && !known.contains(name) && !series(name).is_some_and(|name| known.contains(&name)) {
                unknown.insert(format!("{}: {name}", page.name));
            }
        }
    }
    assert!(unknown.is_empty(), "{unknown:#?}");
}

#[test]
fn every_value_of_the_chart_that_the_pages_name_exists() {
    let file = pages::root().join("deploy/helm/rolegate/values.yaml");
    let values: Value = serde_saphyr::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let page = Page::named("docs/migrating.md");
    let table = section(&page.text, "### Values of the chart");
    let row = Regex::new(r"(?m)^\| [^|]+ \| ([^|]+) \|").unwrap();
    let name = Regex::new(r"`([a-zA-Z]+(?:\.[a-zA-Z]+)*)(?:: [^`]*)?`").unwrap();
    let mut named = 0;
    for row in row.captures_iter(table) {
        for found in name.captures_iter(&row[1]) {
            named += 1;
            let pointer = format!("/{}", found[1].replace('.', "/"));
            assert!(values.pointer(&pointer).is_some(), "the chart has no value {}", &found[1]);
        }
    }
    assert!(named > 10, "the table is not found");
}

/// The text from that heading to the next one.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let start = text.find(heading).map_or(text.len(), |at| at + heading.len());
    let rest = &text[start..];
    &rest[..rest.find("\n#").unwrap_or(rest.len())]
}
