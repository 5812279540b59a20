//! Every alert has its page in docs/runbooks, every page its alert, and all of them speak of metrics that there are.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;

use crate::rules::{alerts, rules};
use crate::{ALERTS, repository, text};

const RUNBOOKS: &str = "docs/runbooks";
/// What a page answers.
const SECTIONS: [&str; 4] = ["## What pods feel", "## How to see it", "## What to do", "## If it is wrong"];

#[test]
fn every_alert_has_a_runbook_and_every_runbook_an_alert() {
    let manifest = text("Cargo.toml");
    let repository_url =
        Regex::new(r#"(?m)^repository = "(.+)"$"#).unwrap().captures(&manifest).unwrap()[1].to_owned();
    let mut named = BTreeSet::new();
    for alert in alerts() {
        let name = alert["alert"].as_str().unwrap();
        let annotations = &alert["annotations"];
        let expected = format!("{repository_url}/blob/main/{RUNBOOKS}/{name}.md");
        assert_eq!(annotations["runbook_url"], expected.as_str());
        assert!(annotations["summary"].is_string() && annotations["description"].is_string(), "{name}");
        let severity = alert["labels"]["severity"].as_str().unwrap();
        assert!(["critical", "warning"].contains(&severity), "{name}: {severity}");
        named.insert(format!("{name}.md"));
    }
    assert_eq!(runbooks().into_keys().collect::<BTreeSet<_>>(), named);
}

#[test]
fn every_runbook_answers_the_same_questions() {
    for (name, page) in runbooks() {
        let title = format!("# {}\n", name.trim_end_matches(".md"));
        assert!(page.starts_with(&title), "{name} begins with {title:?}");
        let sections: Vec<&str> = page.lines().filter(|line| line.starts_with("## ")).collect();
        assert_eq!(sections, SECTIONS, "{name}");
        assert!(page.contains("```sh"), "{name} has a command");
    }
}

#[test]
fn alerts_and_runbooks_name_metrics_that_there_are() {
    let known = Known::new();
    known.check(ALERTS, &text(ALERTS));
    for (name, page) in runbooks() {
        known.check(&name, &page);
    }
}

#[test]
fn the_page_of_metrics_lists_every_alert() {
    let page = text("docs/metrics.md");
    for alert in alerts() {
        let name = alert["alert"].as_str().unwrap();
        assert!(page.contains(&format!("](runbooks/{name}.md)")), "docs/metrics.md has no link to {name}");
    }
}

/// The pages by their file names.
fn runbooks() -> BTreeMap<String, String> {
    let entries = std::fs::read_dir(repository(RUNBOOKS)).unwrap();
    entries
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), std::fs::read_to_string(entry.path()).unwrap())
        })
        .collect()
}

/// Metrics, their labels and the labels' values, as docs/metrics.md has them, and what the rules record.
pub(crate) struct Known {
    /// By metric: what its row says of labels.
    metrics: BTreeMap<String, String>,
    recorded: BTreeSet<String>,
}

impl Known {
    pub(crate) fn new() -> Self {
        let row = Regex::new(r"(?m)^\| `((?:rolegate|process)_[a-z0-9_]+)` \| (\w+) \| (.*?) \|").unwrap();
        let page = text("docs/metrics.md");
        let metrics = row.captures_iter(&page).map(|row| (row[1].to_owned(), row[3].to_owned())).collect();
        let recorded =
            rules().iter().filter_map(|rule| Some(rule.get("record")?.as_str()?.to_owned())).collect();
        Self { metrics, recorded }
    }

    /// Every metric that `text` names is there, and so are the labels and values that it selects by.
    pub(crate) fn check(&self, place: &str, text: &str) {
        let name = Regex::new(
            r"\b(?:(?:rolegate|instance):[a-z0-9_:]+|(?:rolegate|process)_[a-z0-9_]+)(?:\{([^}]*)\})?",
        )
        .unwrap();
        let selector = Regex::new(r#"(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)""#).unwrap();
        for found in name.captures_iter(text) {
            let metric = found[0].split('{').next().unwrap();
            let metric = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|part| metric.strip_suffix(part).filter(|whole| self.metrics.contains_key(*whole)))
                .unwrap_or(metric);
            if metric.contains(':') {
                assert!(self.recorded.contains(metric), "{place}: nobody records {metric}");
                continue;
            }
            let labels = self.metrics.get(metric).unwrap_or_else(|| panic!("{place}: unknown {metric}"));
            let selectors = found.get(1).map_or("", |it| it.as_str());
            for one in selector.captures_iter(selectors) {
                if ["job", "node", "instance", "le"].contains(&&one[1]) {
                    continue;
                }
                assert!(
                    labels.contains(&format!("`{}`", &one[1])),
                    "{place}: {metric} has no label {}",
                    &one[1]
                );
                // The page lists neither statuses nor versions, and another label's values where they come first.
                let listed = !["status", "version", "revision", "rustc"].contains(&&one[1]);
                let label = format!("`{}`", &one[1]);
                for value in one[3].split('|').filter(|_| listed) {
                    let mut rows = self.metrics.values().filter(|row| row.contains(&label));
                    assert!(
                        rows.any(|row| row.contains(&format!("`{value}`"))),
                        "{place}: {label} of {metric} is never {value:?}"
                    );
                }
            }
        }
    }
}
