//! Harness of the suites and of the demo: network namespaces, the real agent, clients, and doubles of what
//! the agent talks to.
//!
//! [`world::World`] puts it together; [`skip`] is how a test says that this machine lacks something.

pub mod agent;
pub mod bounds;
pub mod clients;
pub mod cluster;
pub mod crowd;
pub mod dashboard;
pub mod guests;
pub mod hostile;
pub mod http;
pub mod image;
pub mod imds;
pub mod kube_api;
pub mod metadata_mock;
pub mod moto;
pub mod netns;
pub mod nodes;
pub mod planted;
pub mod prometheus;
pub mod real_api;
pub mod service;
pub mod siege;
pub mod sts;
pub mod topology;
pub mod traffic;
pub mod usage;
pub mod world;

use std::io::Write as _;

/// Whether files and processes can be another user's: not in a user namespace that maps root alone.
#[must_use]
pub fn has_other_users() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().next_back().is_some_and(|length| length == "4294967295")
}

/// Says that a test is skipped and why, past the test runner's capture of output, so that a run always shows
/// what it did not check.
pub fn skip(test: &str, why: &str) {
    // Nothing is to be done about a closed standard error.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
}
