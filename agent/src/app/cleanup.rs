//! `rolegate cleanup`: what was removed, in sentences or as JSON.

use std::io::Write as _;

use rolegate_iptables::guard::{DEFAULT_PREFERENCE, Guard};
use rolegate_iptables::iptables;
use rolegate_iptables::pins;
use rolegate_iptables::route::{DEFAULT_TABLE, Route};
use serde_json::{Value, json};

use super::privileges::check_for_rules;
use super::process::Signals;

/// Removes what is ours from the node: redirect and guards, and with `peers` the rules that kube2iam and kiam left. With
/// `stay` it waits for a signal to end, where everything was removed.
///
/// # Errors
/// What capability is missing, or everything that could not be removed; what could be is removed and printed nevertheless.
pub async fn cleanup(peers: bool, stay: bool, json: bool) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    check_for_rules(true)?;
    let rules = iptables::cleanup(&iptables::search_path(), peers).await;
    // Rules and routes are found whatever numbers they were made with.
    let route = Route::new(DEFAULT_PREFERENCE, DEFAULT_TABLE).cleanup().await;
    let (guards, guard_errors) = Guard::new(DEFAULT_PREFERENCE).cleanup().await;
    let (pins, pin_errors) = pins::cleanup().await;

    let table = |it: iptables::Removed| {
        let (family, backend) = (it.family.to_string(), it.backend.to_string());
        let words = format!("from {family} {backend} table {}", it.table);
        (words, json!({"family": family, "backend": backend, "table": it.table}))
    };
    let routing = || ("the policy routing".to_owned(), json!({"redirect": "route"}));
    let pin = |what| (format!("the table of {what}"), json!({"pins": what}));
    let guard = |guard| (format!("the guard of {guard}"), json!({"guard": guard}));
    let mut removed: Vec<(String, Value)> = rules.removed.into_iter().map(table).collect();
    removed.extend(matches!(route, Ok(true)).then(routing));
    removed.extend(pins.into_iter().map(pin));
    removed.extend(guards.into_iter().map(guard));

    let mut errors: Vec<String> = rules.errors.iter().map(ToString::to_string).collect();
    errors.extend(route.err().map(|error| error.to_string()));
    errors.extend(pin_errors.iter().map(ToString::to_string));
    errors.extend(guard_errors.iter().map(ToString::to_string));
    let text = if json {
        let removed: Vec<&Value> = removed.iter().map(|(_, object)| object).collect();
        json!({"removed": removed, "errors": errors}).to_string()
    } else {
        as_sentences(&removed)
    };
    writeln!(std::io::stdout(), "{text}")?;
    anyhow::ensure!(errors.is_empty(), "not everything could be removed: {}", errors.join("; "));
    if stay {
        signals.next().await;
    }
    Ok(())
}

fn as_sentences(removed: &[(String, Value)]) -> String {
    if removed.is_empty() {
        return "nothing of rolegate's was found".to_owned();
    }
    removed.iter().map(|(what, _)| format!("removed {what}")).collect::<Vec<_>>().join("\n")
}
