//! Whether what pods send comes here: look-ups for their packets, and what makes look-ups prove nothing.

use std::net::IpAddr;

use prometheus::IntGauge;
use rolegate_iptables::Links;
use rolegate_iptables::dataplane::Dataplane;
use rolegate_iptables::links::{LinkError, pod_links};
use rolegate_iptables::selftest::detours;
use tracing::{info, warn};

use super::choice::{CHOOSE, Choice, Mode};
use super::detour::sentence;
use crate::metrics::Registry;

/// What was found last, so that it is logged when it changes and not at every look.
pub(super) struct Proof {
    choice: Choice,
    others: Dataplane,
    detour: Option<String>,
    unproved: IntGauge,
}

// === impl Proof ===

impl Proof {
    pub(super) fn new(choice: Choice, registry: &Registry) -> Self {
        let unproved = registry.gauge(
            "redirect_unproved_interfaces",
            "Interfaces of pods with tc programs, which may forward past redirect and guards; cilium_host counts as one, and so does that it may not be asked.",
        );
        let modes = registry.gauges(
            "redirect_mode",
            "1 for the redirect in force; undecided: none, until the operator chooses.",
            &["mode"],
        );
        for mode in Mode::ALL {
            modes.with_label_values(&[mode.as_str()]).set(i64::from(mode == choice.mode));
        }
        Self { choice, others: Dataplane::default(), detour: None, unproved }
    }

    pub(super) fn mode(&self) -> Mode {
        self.choice.mode
    }

    /// Looks for programs that forward past everything. Returns why nothing can be relied upon, where nobody has
    /// decided otherwise.
    pub(super) async fn others(&mut self, links: &Links) -> Result<Option<String>, LinkError> {
        let others = Dataplane::read(links).await?;
        let count = others.programs.len() + usize::from(others.cilium) + usize::from(others.hidden);
        self.unproved.set(i64::try_from(count).unwrap_or(i64::MAX));
        if others != self.others {
            self.log(&others);
            self.others = others;
        }
        let undecided = match (&self.choice.mode, &self.choice.why) {
            (Mode::Undecided, Some(why)) => Some(why.clone()),
            (_, Some(_)) if !self.others.is_plain() => {
                Some(format!("{}: packets may be forwarded past the redirect; {CHOOSE}", self.others))
            }
            _ => None,
        };
        Ok(undecided)
    }

    fn log(&self, others: &Dataplane) {
        if others.is_plain() {
            info!("no programs that may forward pods' packets are there any more");
        } else if self.choice.mode == Mode::Operators {
            warn!(
                found = %others,
                "the guards do not see what these forward by themselves: have a CiliumLocalRedirectPolicy bring pods' requests here and an egressDeny close the rest (deploy/cilium)"
            );
        } else if others.programs.is_empty() && !others.cilium {
            // A container with the runtime's usual profile: the operator has chosen, and there is nothing to be done.
            info!(reason = %others, "whether programs forward pods' packets past redirect and guards cannot be seen");
        } else {
            warn!(found = %others, redirect = self.choice.mode.as_str(), "programs may forward pods' packets past redirect and guards");
        }
    }

    /// Looks up the packets of pods with these addresses. Returns why some do not come here.
    pub(super) async fn detours(
        &mut self,
        links: &Links,
        addresses: &[IpAddr],
    ) -> Result<Option<String>, LinkError> {
        let mut pods = pod_links(addresses).await?;
        // An address whose interface is not there yet is routed by an uplink.
        pods.retain(|_, link| links.is_pod_side(*link));
        let found = sentence(&detours(&pods).await?, links);
        if found != self.detour {
            match &found {
                Some(reason) => warn!(reason, "pods' requests do not come here"),
                None => info!("pods' requests come here again"),
            }
            self.detour.clone_from(&found);
        }
        Ok(found)
    }
}
