//! Keeps the pins of bridge ports true, and says which addresses are believed.
//!
//! An address is believed only after its pin stands, and no longer before it goes.

mod plan;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use prometheus::IntGauge;
use rolegate_iptables::links::pod_links;
use rolegate_iptables::pins::first::FirstSeen;
use rolegate_iptables::pins::ports::Ports;
use rolegate_iptables::pins::{Pins, PinsDrift};
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use super::RedirectError;
use crate::cni::Results;
use crate::config::{self, SharedL2};
use crate::identity::{Neighbours, Standing, Standings};
use crate::metrics::Registry;
use crate::types::PodIp;

use plan::{Plan, Seen, Unpinned};

/// The cause of a repair.
pub(super) const PINS_CHANGED: &str = "pins_changed";

/// The pins of this node.
pub(super) struct Pinning {
    mode: SharedL2,
    results: PathBuf,
    /// What ports claimed first, as it was read last: a flush takes it from the kernel.
    first: Option<FirstSeen>,
    /// What was written last.
    written: Option<Pins>,
    standings: watch::Sender<Arc<Standings>>,
    wanted: Arc<Notify>,
    said: Said,
    metrics: Metrics,
}

/// What was logged last, so that it is logged when it changes.
#[derive(Default)]
struct Said {
    shared: BTreeSet<String>,
    unpinned: BTreeMap<String, Unpinned>,
    disputed: BTreeSet<IpAddr>,
    no_memory: bool,
}

struct Metrics {
    pins: IntGauge,
    doubted: IntGauge,
    odd_results: IntGauge,
}

// === impl Pinning ===

impl Pinning {
    /// As `config` asks for; nothing is known and nobody believed yet, unless all are.
    pub(super) fn new(config: &config::Redirect, registry: &Registry) -> Self {
        let others_believed = config.shared_l2 == SharedL2::Allow;
        let standings = Standings { others_believed, ..Standings::default() };
        Self {
            mode: config.shared_l2,
            results: config.cni_results.clone(),
            first: None,
            written: None,
            standings: watch::channel(Arc::new(standings)).0,
            wanted: Arc::default(),
            said: Said::default(),
            metrics: Metrics::register(registry),
        }
    }

    /// What is known of addresses, for those who ask.
    pub(super) fn neighbours(&self) -> Neighbours {
        Neighbours::new(self.standings.subscribe(), Arc::clone(&self.wanted))
    }

    /// Told when an address is asked for that is not believed.
    pub(super) fn wanted(&self) -> Arc<Notify> {
        Arc::clone(&self.wanted)
    }

    /// Has the kernel remember from now on what ports claim: before pods are known, and as early as can be.
    pub(super) async fn remember(&mut self) {
        if self.mode != SharedL2::Pin {
            return;
        }
        match Ports::read().await {
            Ok(links) => drop(self.first_seen(&links).await),
            Err(error) => warn!(%error, "links cannot be read"),
        }
    }

    /// Compares and mends, for the pods that have these addresses: all that there are. Returns what others had changed.
    ///
    /// # Errors
    /// When pins that are needed do not stand; their addresses are not believed then.
    pub(super) async fn reconcile(
        &mut self,
        addresses: &[IpAddr],
    ) -> Result<Option<PinsDrift>, RedirectError> {
        let outcome = self.mend(addresses).await;
        if outcome.is_err() {
            self.metrics.pins.set(0);
            self.publish(HashMap::new());
        }
        outcome
    }

    async fn mend(&mut self, addresses: &[IpAddr]) -> Result<Option<PinsDrift>, RedirectError> {
        let links = Ports::read().await?;
        let routed = pod_links(addresses).await?;
        let first = match self.mode {
            SharedL2::Pin => self.first_seen(&links).await,
            SharedL2::Allow | SharedL2::Refuse => FirstSeen::default(),
        };
        let results = self.read_results().await;
        let attachments = &results.attachments;
        let plan = Plan::of(&Seen { links: &links, attachments, first: &first, routed: &routed });
        let drift = self.write(&plan).await?;
        self.say(&plan);
        let standing = |(ip, standing): (&PodIp, &Standing)| (*ip, self.judge(*standing));
        let standings: HashMap<_, _> = plan.standings.iter().map(standing).collect();
        self.publish(standings);
        Ok(drift)
    }

    /// Files are read on a thread that may wait for a disk.
    async fn read_results(&self) -> Results {
        if self.mode != SharedL2::Pin {
            return Results::default();
        }
        let directory = self.results.clone();
        let results =
            tokio::task::spawn_blocking(move || Results::read(&directory)).await.unwrap_or_default();
        self.metrics.odd_results.set(i64::try_from(results.odd).unwrap_or(i64::MAX));
        results
    }

    /// Without the kernel's memory the CNI's results are all that there is.
    async fn first_seen(&mut self, links: &Ports) -> FirstSeen {
        match FirstSeen::read(self.first.as_ref(), &links.links).await {
            Ok((seen, _)) => {
                self.said.no_memory = false;
                self.first = Some(seen.clone());
                seen
            }
            Err(error) => {
                if !std::mem::replace(&mut self.said.no_memory, true) {
                    warn!(%error, "what bridge ports claim is not remembered: only the CNI's results say whose they are");
                }
                FirstSeen::default()
            }
        }
    }

    async fn write(&mut self, plan: &Plan) -> Result<Option<PinsDrift>, RedirectError> {
        let pins = if self.mode == SharedL2::Pin { plan.pins.clone() } else { Pins::default() };
        let ours = self.written.as_ref() != Some(&pins);
        let before_write = |_| self.doubt_all_but(ours.then_some(&plan.standings));
        let drift = match pins.reconcile(&before_write).await {
            // A kernel that has no such tables has none of ours.
            Err(_) if pins.pins.is_empty() => None,
            outcome => outcome?,
        };
        self.metrics.pins.set(i64::try_from(pins.pins.len()).unwrap_or(i64::MAX));
        self.written = Some(pins);
        Ok(drift.filter(|_| !ours))
    }

    /// While the table is written those alone are believed that were before and will be after.
    fn doubt_all_but(&self, after: Option<&HashMap<PodIp, Standing>>) {
        let believed = |ip: &PodIp| after.and_then(|after| after.get(ip)) == Some(&Standing::Believed);
        let before = Arc::clone(&self.standings.borrow());
        let kept = before.of.iter().filter(|(ip, _)| believed(ip));
        self.publish(kept.map(|(ip, standing)| (*ip, *standing)).collect());
    }

    fn judge(&self, standing: Standing) -> Standing {
        match (self.mode, standing) {
            (SharedL2::Allow, _) => Standing::Believed,
            (SharedL2::Refuse, Standing::Unpinned) => Standing::Shared,
            (SharedL2::Pin | SharedL2::Refuse, standing) => standing,
        }
    }

    fn publish(&self, of: HashMap<PodIp, Standing>) {
        let doubted = of.values().filter(|standing| **standing != Standing::Believed).count();
        self.metrics.doubted.set(i64::try_from(doubted).unwrap_or(i64::MAX));
        let new = Standings { others_believed: self.mode == SharedL2::Allow, of };
        self.standings.send_if_modified(|standings| {
            let differ = **standings != new;
            *standings = Arc::new(new);
            differ
        });
    }

    fn say(&mut self, plan: &Plan) {
        if self.said.shared != plan.shared {
            let interfaces = plan.shared.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            match self.mode {
                _ if plan.shared.is_empty() => {}
                SharedL2::Allow => warn!(
                    interfaces,
                    "pods share interfaces and can forge each other's addresses there: each can get its neighbours' credentials (--shared-l2=allow)"
                ),
                SharedL2::Refuse => {
                    warn!(interfaces, "pods that share interfaces get no credentials (--shared-l2=refuse)");
                }
                SharedL2::Pin => {
                    info!(interfaces, "pods share interfaces: they get credentials where a port is pinned")
                }
            }
            self.said.shared.clone_from(&plan.shared);
        }
        if self.mode != SharedL2::Pin {
            return;
        }
        for (port, why) in &plan.unpinned {
            // Every port begins silent.
            if self.said.unpinned.get(port) != Some(why) && *why != Unpinned::Silent {
                warn!(
                    port,
                    reason = why.as_str(),
                    "bridge port not pinned: the pod behind it gets no credentials"
                );
            }
        }
        if plan.disputed != self.said.disputed && !plan.disputed.is_empty() {
            let addresses = plan.disputed.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            warn!(addresses, "several bridge ports are said to have these addresses");
        }
        self.said.unpinned.clone_from(&plan.unpinned);
        self.said.disputed.clone_from(&plan.disputed);
    }
}

// === impl Metrics ===

impl Metrics {
    fn register(registry: &Registry) -> Self {
        Self {
            pins: registry.gauge("pins", "Bridge ports that are pinned to the addresses of the pod behind them."),
            doubted: registry.gauge(
                "pods_doubted",
                "Addresses of pods that get no credentials, as others can forge them: on a shared interface, without a pin.",
            ),
            odd_results: registry.gauge("cni_results_odd", "Files of CNI results that say nothing."),
        }
    }
}
