//! `rolegate guard`: puts the guards up before anything else runs on the node, and ends.

use std::io::Write as _;

use rolegate_iptables::guard::Guard;
use serde_json::json;

use super::privileges::check_for_rules;

/// Puts both guards up, the policy rules from `preference` on; asks neither the API server nor AWS. What stands already is left as it is.
///
/// # Errors
/// When a capability is missing, or one does not stand; the other is put up nevertheless.
pub async fn guard(preference: u32, json: bool) -> anyhow::Result<()> {
    check_for_rules(false)?;
    let outcome = Guard::new(preference).reconcile(&|_| {}).await;
    let mended: Vec<&str> = outcome.drift.iter().map(|drift| drift.as_str()).collect();
    let errors: Vec<String> = outcome.errors.iter().map(ToString::to_string).collect();
    if json {
        writeln!(std::io::stdout(), "{}", json!({"mended": mended, "errors": errors}))?;
    } else if errors.is_empty() {
        let before = if mended.is_empty() { "stood already" } else { "stand now" };
        writeln!(std::io::stdout(), "the guards {before}: no pod on this node reaches its credentials")?;
    }
    anyhow::ensure!(errors.is_empty(), "not guarded: {}", errors.join("; "));
    Ok(())
}
