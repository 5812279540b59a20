//! What operators are told: the rules of deploy/helm/rolegate/files/alerts.yaml and the dashboard beside it, by
//! Prometheus's own tools, by a real Prometheus that scrapes a real agent, and against the pages that explain them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

#[path = "prometheus/dashboard.rs"]
mod dashboard;
#[path = "prometheus/faults.rs"]
mod faults;
#[path = "prometheus/pages.rs"]
mod pages;
#[path = "prometheus/rules.rs"]
mod rules;

use std::path::PathBuf;

/// A file of the repository.
fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn text(path: &str) -> String {
    std::fs::read_to_string(repository(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

const ALERTS: &str = "deploy/helm/rolegate/files/alerts.yaml";

/// Scrapes the agent of a world every second, and evaluates its rules twice as often.
const CONFIG: &str = "
global: { scrape_interval: 1s, evaluation_interval: 500ms }
rule_files: [alerts.yaml]
scrape_configs:
  - job_name: kube-system/rolegate
    static_configs: [{ targets: ['127.0.0.1:9543'], labels: { node: node-1.example } }]
";
