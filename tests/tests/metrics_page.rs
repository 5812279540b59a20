//! `docs/metrics.md` has every metric of the agent's sources, and none that there is not.
#![expect(clippy::unwrap_used, reason = "a test ends at the first thing it cannot read")]

use std::collections::BTreeSet;
use std::path::Path;

use regex::Regex;

#[test]
fn the_page_and_the_sources_name_the_same_metrics() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut registered = BTreeSet::new();
    for sources in ["agent/src", "agent/core/src"] {
        collect(&root.join(sources), &mut registered);
    }
    let page = std::fs::read_to_string(root.join("docs/metrics.md")).unwrap();
    let rows = Regex::new(r"(?m)^\| `([a-z0-9_]+)`").unwrap();
    let described: BTreeSet<String> = rows.captures_iter(&page).map(|row| row[1].to_owned()).collect();
    let (registered, described) = (&registered, &described);
    assert_eq!(registered - described, BTreeSet::new(), "not on the page");
    assert_eq!(described - registered, BTreeSet::new(), "on the page only");
}

fn collect(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.file_name().is_some_and(|name| name != "tests.rs") {
            found.extend(registered(&std::fs::read_to_string(&path).unwrap()));
        }
    }
}

/// Names given to the registry, which puts the prefix before them, and those given to the library whole.
fn registered(source: &str) -> Vec<String> {
    let ours = Regex::new(r#"\.(?:counters?|gauges?|float_gauge|histograms?)\(\s*"([a-z0-9_]+)""#).unwrap();
    let whole = Regex::new(r#"(?:Opts|Gauge|Counter)::new\(\s*"([a-z0-9_]+)""#).unwrap();
    let ours = ours.captures_iter(source).map(|name| format!("rolegate_{}", &name[1]));
    ours.chain(whole.captures_iter(source).map(|name| name[1].to_owned())).collect()
}

#[test]
fn names_are_found_however_the_call_is_broken() {
    let source =
        "r.counter(\"a_total\", \"h\"); r.gauges(\n    \"b\",\n  &[]); Gauge::new(\"process_c\", \"h\")";
    assert_eq!(registered(source), ["rolegate_a_total", "rolegate_b", "process_c"]);
}
