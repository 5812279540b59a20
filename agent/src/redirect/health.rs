//! Whether pods are behind the interfaces that are captured.

use rolegate_iptables::{InterfaceSpec, LinkReport};
use tracing::{info, warn};

/// Most names that one reason lists.
const NAMES_AT_MOST: usize = 4;

/// What was found last, so that it is logged when it changes and not at every look.
#[derive(Debug, Default)]
pub(super) struct Health {
    last: Option<Finding>,
}

#[derive(Debug, PartialEq, Eq)]
enum Finding {
    Fine,
    /// Nothing matches, and no pod shows that something should.
    NothingMatches,
    /// Pods are routed by interfaces that are not captured: they get nothing, what they send is dropped.
    Elsewhere(String),
}

// === impl Health ===

impl Health {
    /// Returns the reason not to be ready, if there is one.
    pub(super) fn judge(&mut self, spec: &InterfaceSpec, report: &LinkReport) -> Option<String> {
        let found = find(spec, report);
        let reason = match &found {
            Finding::Elsewhere(reason) => Some(reason.clone()),
            Finding::Fine | Finding::NothingMatches => None,
        };
        if self.last.as_ref() != Some(&found) {
            match &found {
                Finding::Elsewhere(reason) => warn!(interfaces = %spec, reason, "pods are not captured"),
                Finding::NothingMatches => warn!(interfaces = %spec, "no interface matches"),
                Finding::Fine => {
                    info!(interfaces = %spec, matching = report.matching.len(), "interfaces match")
                }
            }
            self.last = Some(found);
        }
        reason
    }
}

fn find(spec: &InterfaceSpec, report: &LinkReport) -> Finding {
    if report.elsewhere.is_empty() {
        return if report.matching.is_empty() { Finding::NothingMatches } else { Finding::Fine };
    }
    let mut names: Vec<&str> = report.elsewhere.keys().map(String::as_str).take(NAMES_AT_MOST).collect();
    if report.elsewhere.len() > names.len() {
        names.push("...");
    }
    let names = names.join(", ");
    Finding::Elsewhere(if report.matching.is_empty() {
        format!("--host-interface={spec} matches no interface, but pods are routed by {names}")
    } else {
        format!("--host-interface={spec} does not match {names}, which pods are routed by")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(matching: &[&str], elsewhere: &[&str]) -> Option<String> {
        let report = LinkReport {
            matching: matching.iter().map(|name| (*name).to_owned()).collect(),
            elsewhere: elsewhere.iter().map(|name| ((*name).to_owned(), 1)).collect(),
        };
        Health::default().judge(&InterfaceSpec::parse("cbr0").expect("spec"), &report)
    }

    #[test]
    fn pods_elsewhere_close_the_gate_and_both_names_are_said() {
        assert_eq!(
            judge(&[], &["cali1", "cali2"]).as_deref(),
            Some("--host-interface=cbr0 matches no interface, but pods are routed by cali1, cali2")
        );
        assert_eq!(
            judge(&["cbr0"], &["vlan7"]).as_deref(),
            Some("--host-interface=cbr0 does not match vlan7, which pods are routed by")
        );
        let many = judge(&[], &["a", "b", "c", "d", "e"]).expect("closed");
        assert!(many.ends_with("by a, b, c, d, ..."), "{many}");
    }

    #[test]
    fn matching_nothing_is_no_reason_while_no_pod_is_elsewhere() {
        assert_eq!(judge(&[], &[]), None);
        assert_eq!(judge(&["cbr0"], &[]), None);
    }
}
