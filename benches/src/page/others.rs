//! The tables of `fairness`, `herd` and `start`.

use serde_json::Value;

use super::markdown;
use crate::machine::Machine;

/// A pod beside one that attacks.
#[must_use]
pub fn fairness(figures: &Value, machine: &Machine) -> String {
    let states = figures["states"].as_array().map_or(&[][..], Vec::as_slice);
    let Some(quiet) = states.first() else { return String::new() };
    let over_quiet = |state: &Value, figure: &str| number(&state[figure]) / number(&quiet[figure]);
    let rows: Vec<_> = states
        .iter()
        .map(|state| {
            vec![
                text(&state["state"]),
                format!("{:.2} ({:.0} us)", over_quiet(state, "p50_us"), number(&state["p50_us"])),
                format!("{:.2} ({:.0} us)", over_quiet(state, "p99_us"), number(&state["p99_us"])),
                format!("{:.2}", over_quiet(state, "bare_p99_us")),
                text(&state["errors"]),
                text(&state["hostile_opened"]),
                text(&state["hostile_answered"]),
                text(&state["agent_most_descriptors"]),
            ]
        })
        .collect();
    let head = [
        "The neighbour, while",
        "p50, ratio",
        "p99, ratio",
        "p99 of bare hyper, which nobody attacks",
        "errors",
        "connections of the attacker",
        "answered",
        "most descriptors",
    ];
    format!(
        "{}. {} rounds, {:.1} s a state and round, {} requests a second to each server. Ratios are to quiet; the p99 is the \
         median of the rounds'.\n\n{}",
        machine.in_words(),
        figures["rounds"],
        number(&figures["seconds"]) / number(&figures["rounds"]),
        figures["rate"],
        markdown(&head, &rows)
    )
}

/// Pods that ask a cold agent at once.
#[must_use]
pub fn herd(figures: &Value, machine: &Machine) -> String {
    let herds = figures["herds"].as_array().map_or(&[][..], Vec::as_slice);
    let rows: Vec<_> = herds
        .iter()
        .zip(1..)
        .map(|(herd, n): (_, u32)| {
            let millis = |figure: &str| format!("{:.0} ms", number(&herd[figure]));
            vec![
                n.to_string(),
                millis("p50_ms"),
                millis("p99_ms"),
                millis("max_ms"),
                text(&herd["sts_calls"]),
            ]
        })
        .collect();
    format!(
        "{}. {} pods, {} session keys, STS takes {} ms. Median of the p99: {:.0} ms.\n\n{}",
        machine.in_words(),
        figures["pods"],
        figures["session_keys"],
        figures["sts_ms"],
        number(&figures["median_p99_ms"]),
        markdown(&["Herd", "p50", "p99", "max", "calls to STS"], &rows)
    )
}

/// A node whose agent starts while a pod asks.
#[must_use]
pub fn start(figures: &Value, machine: &Machine) -> String {
    let mut millis: Vec<f64> =
        figures["starts_ms"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
    millis.sort_by(f64::total_cmp);
    let [fastest, slowest] = [millis.first(), millis.last()]
        .map(|millis| millis.map_or_else(String::new, |millis| format!("{millis:.0} ms")));
    let row = vec![
        text(&figures["api"]),
        text(&figures["pods"]),
        text(&figures["namespaces"]),
        millis.len().to_string(),
        fastest,
        format!("{:.0} ms", number(&figures["median_ms"])),
        slowest,
        text(&figures["requests_at_imds"]),
    ];
    let head = [
        "API server",
        "pods",
        "namespaces",
        "starts",
        "fastest",
        "median",
        "slowest",
        "requests of the pod at IMDS meanwhile",
    ];
    format!("{}.\n\n{}", machine.in_words(), markdown(&head, &[row]))
}

/// NaN where there is none.
pub(super) fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}
