//! The inputs of the fuzz targets, replayed through the same properties.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};

#[path = "../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "the fuzz targets use it as a crate")]
mod properties;

/// Calls `property` with every input of the target.
fn replay(target: &str, property: impl Fn(&[u8])) {
    let mut files: Vec<PathBuf> = std::fs::read_dir(fuzz().join("corpus").join(target))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() > 5, "{target}: {files:?}");
    for file in files {
        // The last line of a failure says which input it was.
        println!("{}", file.display());
        property(&std::fs::read(&file).unwrap());
    }
}

fn replay_text(target: &str, property: impl Fn(&str)) {
    replay(target, |input| {
        if let Ok(text) = std::str::from_utf8(input) {
            property(text);
        }
    });
}

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// P22, P24: no target of the corpus is passed through but as an allowed path, and none that means a secret ever.
#[test]
fn targets_that_mean_secrets_are_never_passed_through() {
    replay("route", properties::route);
}

#[test]
fn annotation_is_a_role_that_the_list_has_or_none() {
    replay_text("annotation", properties::annotation);
}

/// P31: no list of the corpus grants a role of an account that is not in it, and one that is malformed grants nothing.
#[test]
fn list_grants_neither_the_nodes_role_nor_another_account() {
    replay_text("patterns", properties::patterns);
}

#[test]
fn only_what_was_issued_is_a_token() {
    replay("token", properties::token);
}

#[test]
fn only_the_metadata_service_is_a_host() {
    replay("host", properties::host);
}

/// P22, P23, P24: whatever bytes a pod sends, the metadata service is asked for nothing but allowed paths, in requests
/// that are otherwise constant, byte for byte; and what comes back is one answer of the closed set, or none.
#[test]
fn connection_answers_once_or_not_at_all_and_only_for_its_own_pod() {
    replay("connection", properties::connection);
}

#[test]
fn every_target_is_replayed() {
    let mut targets: Vec<String> = std::fs::read_dir(fuzz().join("fuzz_targets"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    targets.sort();
    assert_eq!(targets, ["annotation", "connection", "host", "patterns", "route", "token"]);
}
