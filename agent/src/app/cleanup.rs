//! `rolegate cleanup`: what was removed, in sentences or as JSON.

use std::io::Write as _;

use rolegate_iptables::iptables::{self, Cleanup};
use serde_json::json;

/// Removes what is ours from the node's rules, and with `peers` what kube2iam and kiam left.
///
/// # Errors
/// Everything that could not be removed; what could be is removed and printed nevertheless.
pub async fn cleanup(peers: bool, json: bool) -> anyhow::Result<()> {
    let done = iptables::cleanup(&iptables::search_path(), peers).await;
    let text = if json { as_json(&done) } else { as_sentences(&done) };
    writeln!(std::io::stdout(), "{text}")?;
    let errors: Vec<String> = done.errors.iter().map(ToString::to_string).collect();
    anyhow::ensure!(errors.is_empty(), "not everything could be removed: {}", errors.join("; "));
    Ok(())
}

fn as_sentences(done: &Cleanup) -> String {
    if done.removed.is_empty() {
        return "nothing of rolegate's was found".to_owned();
    }
    let line =
        |it: &iptables::Removed| format!("removed from {} {} table {}", it.family, it.backend, it.table);
    done.removed.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn as_json(done: &Cleanup) -> String {
    let removed: Vec<_> = done
        .removed
        .iter()
        .map(|it| {
            json!({"family": it.family.to_string(), "backend": it.backend.to_string(), "table": it.table})
        })
        .collect();
    let errors: Vec<String> = done.errors.iter().map(ToString::to_string).collect();
    json!({"removed": removed, "errors": errors}).to_string()
}
