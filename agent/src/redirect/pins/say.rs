//! What operators are told of shared interfaces and ports: when it changes, and not at every look.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use rolegate_iptables::pins::PinsError;
use tracing::{info, warn};

use super::plan::{Plan, Unpinned};
use crate::config::SharedL2;

/// What was said last.
#[derive(Debug, Default)]
pub(super) struct Said {
    shared: BTreeSet<String>,
    unpinned: BTreeMap<String, Unpinned>,
    disputed: BTreeSet<IpAddr>,
    forgets: bool,
}

// === impl Said ===

impl Said {
    /// The kernel does not remember what ports claim, or does again.
    pub(super) fn forgets(&mut self, error: Option<&PinsError>) {
        let told = std::mem::replace(&mut self.forgets, error.is_some());
        if let (Some(error), false) = (error, told) {
            warn!(%error, "what bridge ports claim is not remembered: only the CNI's results say whose they are");
        }
    }

    /// What is different from last time.
    pub(super) fn say(&mut self, mode: SharedL2, plan: &Plan) {
        if self.shared != plan.shared {
            if !plan.shared.is_empty() {
                shared(mode, &joined(&plan.shared));
            }
            self.shared.clone_from(&plan.shared);
        }
        if mode != SharedL2::Pin {
            return;
        }
        for (port, why) in &plan.unpinned {
            // Every port begins silent.
            if self.unpinned.get(port) != Some(why) && *why != Unpinned::Silent {
                warn!(
                    port,
                    reason = why.as_str(),
                    "bridge port not pinned: the pod behind it gets no credentials"
                );
            }
        }
        if plan.disputed != self.disputed && !plan.disputed.is_empty() {
            warn!(
                addresses = joined(&plan.disputed),
                "several bridge ports are said to have these addresses"
            );
        }
        self.unpinned.clone_from(&plan.unpinned);
        self.disputed.clone_from(&plan.disputed);
    }
}

fn shared(mode: SharedL2, interfaces: &str) {
    match mode {
        SharedL2::Allow => warn!(
            interfaces,
            "pods share interfaces and can forge each other's addresses there: each can get its neighbours' credentials (--shared-l2=allow)"
        ),
        SharedL2::Refuse => {
            warn!(interfaces, "pods that share interfaces get no credentials (--shared-l2=refuse)");
        }
        SharedL2::Pin => {
            info!(
                interfaces,
                "pods share interfaces: they get credentials where a bridge port is pinned to them"
            );
        }
    }
}

fn joined<T: ToString>(all: &BTreeSet<T>) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
