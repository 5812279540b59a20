//! `rolegate cleanup`: what was removed, in sentences or as JSON.

use std::io::Write as _;

use rolegate_iptables::guard::{DEFAULT_PREFERENCE, Guard};
use rolegate_iptables::iptables;
use serde_json::{Value, json};

/// Removes what is ours from the node: redirect and guards, and with `peers` the rules that kube2iam and kiam left.
///
/// # Errors
/// Everything that could not be removed; what could be is removed and printed nevertheless.
pub async fn cleanup(peers: bool, json: bool) -> anyhow::Result<()> {
    let rules = iptables::cleanup(&iptables::search_path(), peers).await;
    let (guards, guard_errors) = Guard::new(DEFAULT_PREFERENCE).cleanup().await;
    let removed = rules.removed.iter().map(|it| {
        let object =
            json!({"family": it.family.to_string(), "backend": it.backend.to_string(), "table": it.table});
        (format!("from {} {} table {}", it.family, it.backend, it.table), object)
    });
    let removed: Vec<(String, Value)> = removed
        .chain(guards.into_iter().map(|guard| (format!("the guard of {guard}"), json!({"guard": guard}))))
        .collect();
    let rule_errors = rules.errors.iter().map(ToString::to_string);
    let errors: Vec<String> = rule_errors.chain(guard_errors.iter().map(ToString::to_string)).collect();
    let text = if json {
        let removed: Vec<&Value> = removed.iter().map(|(_, object)| object).collect();
        json!({"removed": removed, "errors": errors}).to_string()
    } else {
        as_sentences(&removed)
    };
    writeln!(std::io::stdout(), "{text}")?;
    anyhow::ensure!(errors.is_empty(), "not everything could be removed: {}", errors.join("; "));
    Ok(())
}

fn as_sentences(removed: &[(String, Value)]) -> String {
    if removed.is_empty() {
        return "nothing of rolegate's was found".to_owned();
    }
    removed.iter().map(|(what, _)| format!("removed {what}")).collect::<Vec<_>>().join("\n")
}
