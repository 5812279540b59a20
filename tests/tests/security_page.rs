//! `docs/security.md` names, for every property and every defect that is guarded against, the tests that carry its
//! number, and each has one.
#![expect(clippy::unwrap_used, reason = "a test ends at the first thing it cannot read")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use regex::Regex;

/// The tests of each number, such as `P13` or `K9`.
type Carried = BTreeMap<String, BTreeSet<String>>;

#[test]
fn every_number_has_a_test_and_the_page_names_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut carried = Carried::new();
    for sources in ["agent/src", "agent/core/src", "iptables/src", "iptables/tests", "tests/tests"] {
        collect(&root.join(sources), &mut carried);
    }
    let page = std::fs::read_to_string(root.join("docs/security.md")).unwrap();
    let described = rows(&page);
    let missing: Vec<String> = required().filter(|number| !carried.contains_key(number)).collect();
    assert!(missing.is_empty(), "no test carries {missing:?}");
    for (number, tests) in &carried {
        let row = described.get(number).unwrap_or_else(|| panic!("the page has no row {number}: {tests:?}"));
        assert_eq!(row, tests, "{number}: the page, and the tests that carry it");
    }
    let without: Vec<&String> = described.keys().filter(|number| !carried.contains_key(*number)).collect();
    assert!(without.is_empty(), "on the page only: {without:?}");
}

/// Defects of kube2iam, and properties of the agent but those that nothing shows yet.
fn required() -> impl Iterator<Item = String> {
    let properties = 1..=44;
    (1..=27).map(|number| format!("K{number}")).chain(properties.map(|number| format!("P{number}")))
}

fn collect(dir: &Path, carried: &mut Carried) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, carried);
        } else if path.extension().is_some_and(|end| end == "rs") {
            for (number, test) in carried_in(&std::fs::read_to_string(&path).unwrap()) {
                carried.entry(number).or_default().insert(test);
            }
        }
    }
}

/// A test carries the numbers that its documentation begins with: `/// K9, P13: what it guards.`
fn carried_in(source: &str) -> Vec<(String, String)> {
    let documented = Regex::new(
        r"(?m)^\s*/// ([KP]\d+(?:, [KP]\d+)*): .*\n((?:\s*(?://|#\[).*\n)*)\s*(?:async )?fn (\w+)",
    )
    .unwrap();
    let mut found = Vec::new();
    for captures in documented.captures_iter(source) {
        let (between, test) = (&captures[2], &captures[3]);
        assert!(between.contains("test]") || between.contains("test("), "{test} is no test");
        found.extend(captures[1].split(", ").map(|number| (number.to_owned(), test.to_owned())));
    }
    found
}

/// The tests in the last cell of each row that begins with a number.
fn rows(page: &str) -> Carried {
    let row = Regex::new(r"(?m)^\| ([KP]\d+) \|.*\| ([^|]+) \|$").unwrap();
    let test = Regex::new("`([a-z0-9_]+)`").unwrap();
    row.captures_iter(page)
        .map(|row| {
            let tests = test.captures_iter(&row[2]).map(|name| name[1].to_owned()).collect();
            (row[1].to_owned(), tests)
        })
        .collect()
}

#[test]
fn numbers_are_read_from_the_first_line_of_a_tests_documentation() {
    let source = "/// K9, P13: nobody.\n/// More of it.\n#[test]\nfn a_test() {}\n\n/// K1 is not one.\n#[test]\nfn other() {}\n\
        mod tests {\n    /// P20: both.\n    #[tokio::test(start_paused = true)]\n    async fn third() {}\n}\n";
    let expected = [("K9", "a_test"), ("P13", "a_test"), ("P20", "third")];
    assert_eq!(carried_in(source), expected.map(|(number, test)| (number.to_owned(), test.to_owned())));
    let row = "| P13 | a \\| b | c | `a_test`, `b` |\n| none | `c` |\n";
    assert_eq!(rows(row)["P13"], BTreeSet::from(["a_test".to_owned(), "b".to_owned()]));
}
