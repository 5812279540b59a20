//! Keeps the pins of bridge ports true, and says which addresses are believed.
//!
//! Level-triggered, as the redirect is, and a task of its own: a pod that is new asks at once, and waits meanwhile, unless
//! it has a link to itself ([`newcomers`]). An address is believed only after its pin stands, and no longer before it goes.

mod newcomers;
mod plan;
mod say;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use prometheus::{IntCounter, IntGauge};
use rolegate_iptables::Links;
use rolegate_iptables::links::{LinkError, pod_links};
use rolegate_iptables::pins::first::FirstSeen;
use rolegate_iptables::pins::ports::Ports;
use rolegate_iptables::pins::{Pins, PinsError, solicit};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::metrics::PINS_CHANGED;
use super::notices::Notices;
use super::{LOOK_AFTER_ERROR, LOOK_AT_MOST_EVERY, Redirect};
use crate::cluster::snapshot::Snapshot;
use crate::cni::Results;
use crate::config::{self, SharedL2};
use crate::identity::{Neighbours, Standing};
use crate::metrics::Registry;
use crate::ready::Gate;
use crate::types::PodIp;

use newcomers::Board;
use plan::{Claim, Plan, Seen};
use say::Said;

/// Least time between two looks because somebody asks who is not believed: each costs a few milliseconds.
const ASKED_SPACING: Duration = Duration::from_millis(100);

/// Whoever has an address that another port claims answers within this: kernels do in less than a millisecond, and what
/// a pod that is new may wait for in all is 900 ms.
const ANSWER_WITHIN: Duration = Duration::from_millis(250);

/// The pins of this node.
pub struct Pinning {
    mode: SharedL2,
    results: PathBuf,
    look_every: Duration,
    /// What ports claimed first, as it was read last: a flush takes it from the kernel.
    first: Option<FirstSeen>,
    /// Since when everybody on the bridge is asked about a claim.
    asked: BTreeMap<Claim, Instant>,
    /// What was written last.
    written: Option<Pins>,
    board: Arc<Board>,
    wanted: Arc<Notify>,
    said: Said,
    gate: Gate,
    metrics: Metrics,
}

/// Why needed pins do not stand.
#[derive(Debug, thiserror::Error)]
enum PinningError {
    /// Links and routes could not be read.
    #[error(transparent)]
    Links(#[from] LinkError),
    /// The table could not be read or written.
    #[error(transparent)]
    Pins(#[from] PinsError),
}

struct Metrics {
    pins: IntGauge,
    doubted: IntGauge,
    odd_results: IntGauge,
    repairs: IntCounter,
    errors: IntCounter,
}

// === impl Redirect ===

impl Redirect {
    /// The pins that `config` asks for. `gate` is closed while those that are needed do not stand.
    #[must_use]
    pub fn pinning(&self, config: &config::Redirect, gate: Gate, registry: &Registry) -> Pinning {
        let repairs = self.metrics.repairs.with_label_values(&[PINS_CHANGED]);
        Pinning::new(config, gate, repairs, self.metrics.errors.clone(), registry)
    }
}

// === impl Pinning ===

impl Pinning {
    /// As `config` asks for; nothing is known and nobody believed yet, unless all are.
    fn new(
        config: &config::Redirect,
        gate: Gate,
        repairs: IntCounter,
        errors: IntCounter,
        registry: &Registry,
    ) -> Self {
        Self {
            mode: config.shared_l2,
            results: config.cni_results.clone(),
            look_every: config.reconcile_every.min(LOOK_AT_MOST_EVERY),
            first: None,
            asked: BTreeMap::new(),
            written: None,
            board: Arc::new(Board::new(config.shared_l2 == SharedL2::Allow)),
            wanted: Arc::default(),
            said: Said::default(),
            gate,
            metrics: Metrics::register(registry, repairs, errors),
        }
    }

    /// What is known of addresses, for those who ask.
    #[must_use]
    pub fn neighbours(&self) -> Neighbours {
        Neighbours::new(self.board.subscribe(), Arc::clone(&self.wanted))
    }

    /// Has the kernel remember from now on what ports claim: before pods are known, and as early as can be.
    pub async fn remember(&mut self) {
        if self.mode != SharedL2::Pin {
            return;
        }
        match Ports::read().await {
            Ok(links) => drop(self.first_seen(&links).await),
            Err(error) => warn!(%error, "links cannot be read"),
        }
    }

    /// Looks until `shutdown`, and leaves everything in place.
    ///
    /// # Errors
    /// None: what fails is logged and counted, closes the gate and is tried again.
    pub async fn run(
        &mut self,
        shutdown: CancellationToken,
        pods: watch::Receiver<Arc<Snapshot>>,
    ) -> anyhow::Result<()> {
        let board = Arc::clone(&self.board);
        let all_believed = self.mode == SharedL2::Allow;
        let newcomers = async {
            if !all_believed && let Err(error) = board.welcome(pods.clone()).await {
                warn!(%error, "pods that are new wait for the next look");
            }
            std::future::pending().await
        };
        tokio::select! {
            () = self.look_on(&shutdown, pods.clone()) => Ok(()),
            never = newcomers => never,
        }
    }

    async fn look_on(&mut self, shutdown: &CancellationToken, mut pods: watch::Receiver<Arc<Snapshot>>) {
        let wanted = Arc::clone(&self.wanted);
        let mut timer = tokio::time::interval(self.look_every);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut notices = Notices::new();
        notices.addresses_differ(&pods);
        let mut looked_at = Instant::now();
        loop {
            let asked = async {
                sleep_until(looked_at + ASKED_SPACING).await;
                wanted.notified().await;
            };
            let answered = self.next_answers(looked_at);
            let due = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                due = notices.due(&mut pods) => due,
                _ = timer.tick() => true,
                () = asked => true,
                () = sleep_until(answered.unwrap_or(looked_at)), if answered.is_some() => true,
            };
            // Before all pods are known there is nothing to pin, and what an earlier agent has pinned stays.
            if due && notices.listed {
                looked_at = Instant::now();
                if self.look(&mut notices, &pods).await.is_err() {
                    timer.reset_after(LOOK_AFTER_ERROR.min(self.look_every));
                }
            }
        }
    }

    /// Another agent of this node writes pins from here on: who is believed stays as it was seen last.
    pub fn left_to_another(&self) {
        self.gate.close("another agent of this node keeps the pins");
    }

    /// One look: compares, mends, and sets the gate by what came of it.
    async fn look(
        &mut self,
        notices: &mut Notices,
        pods: &watch::Receiver<Arc<Snapshot>>,
    ) -> Result<(), PinningError> {
        notices.listen();
        notices.addresses_differ(pods);
        self.board.look_begins();
        if let Ok(links) = Links::read().await {
            notices.seen(links);
        }
        let outcome = self.mend(&notices.addresses).await;
        if let Err(PinningError::Links(_)) = outcome {
            self.metrics.doubted.set(0);
            self.board.blind();
        }
        self.board.look_ends();
        match &outcome {
            Ok(()) => self.gate.open(),
            Err(error) => {
                self.metrics.errors.inc();
                self.metrics.pins.set(0);
                warn!(%error, "pins of bridge ports not in force");
                self.gate.close(format!("not known to be in force: {error}"));
            }
        }
        outcome
    }

    async fn mend(&mut self, addresses: &[IpAddr]) -> Result<(), PinningError> {
        let links = Ports::read().await?;
        let routed = pod_links(addresses).await?;
        self.board.looked(&routed);
        // Where nobody shares an interface the rest says nothing of pods, and a new one need not wait for it.
        let nothing = FirstSeen::default();
        let mut seen = Seen {
            links: &links,
            attachments: &[],
            first: &nothing,
            heard: &BTreeSet::new(),
            routed: &routed,
        };
        let alone = Plan::of(&seen);
        if alone.shared.is_empty() {
            self.publish(alone.standings.clone());
        }
        // Whoever has not been heard by now has not contradicted what is read next.
        let heard = self.heard();
        let first = match self.mode {
            SharedL2::Pin => self.first_seen(&links).await,
            SharedL2::Allow | SharedL2::Refuse => FirstSeen::default(),
        };
        let results = self.read_results().await;
        (seen.attachments, seen.first, seen.heard) = (&results.attachments, &first, &heard);
        let plan = Plan::of(&seen);
        self.ask_about(&plan).await;
        self.said.say(self.mode, &plan);
        debug!(pins = plan.pins.pins.len(), results = results.attachments.len(), unpinned = ?plan.unpinned, "looked at ports");
        let written = self.write(&plan).await;
        // Without pins those alone are believed who need none.
        let standings = if written.is_ok() { plan.standings } else { alone.standings };
        self.publish(standings.into_iter().map(|(ip, standing)| (ip, self.judge(standing))).collect());
        written
    }

    /// Claims that everybody has had the time to contradict.
    fn heard(&self) -> BTreeSet<Claim> {
        let heard = self.asked.iter().filter(|(_, since)| since.elapsed() >= ANSWER_WITHIN);
        heard.map(|(claim, _)| claim.clone()).collect()
    }

    /// When the next ones are, after `looked_at`.
    fn next_answers(&self, looked_at: Instant) -> Option<Instant> {
        self.asked.values().map(|since| *since + ANSWER_WITHIN).filter(|at| *at > looked_at).min()
    }

    /// Asks once about every claim that could be believed.
    async fn ask_about(&mut self, plan: &Plan) {
        self.asked.retain(|claim, _| plan.claims.contains_key(claim));
        for (claim, bridge) in &plan.claims {
            if self.asked.contains_key(claim) {
                continue;
            }
            match solicit(*bridge, claim.1).await {
                Ok(()) => drop(self.asked.insert(claim.clone(), Instant::now())),
                // It is asked again at the next look, and not believed before.
                Err(error) => warn!(%error, address = %claim.1, "who has an address cannot be asked"),
            }
        }
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
            Ok((seen, made)) => {
                self.said.forgets(None);
                if made {
                    // Who contradicted while there was no table was not heard.
                    self.asked.clear();
                }
                self.first = Some(seen.clone());
                seen
            }
            Err(error) => {
                self.said.forgets(Some(&error));
                FirstSeen::default()
            }
        }
    }

    async fn write(&mut self, plan: &Plan) -> Result<(), PinningError> {
        let pins = if self.mode == SharedL2::Pin { plan.pins.clone() } else { Pins::default() };
        let ours = self.written.as_ref() != Some(&pins);
        let before_write = |_| self.doubt_all_but(ours.then_some(&plan.standings));
        let drift = match pins.reconcile(&before_write).await {
            // A kernel that has no such tables has none of ours.
            Err(_) if pins.pins.is_empty() => None,
            outcome => outcome?,
        };
        if let Some(cause) = drift.filter(|_| !ours) {
            warn!(%cause, "repaired");
            self.metrics.repairs.inc();
        }
        self.metrics.pins.set(i64::try_from(pins.pins.len()).unwrap_or(i64::MAX));
        self.written = Some(pins);
        Ok(())
    }

    /// While the table is written those alone are believed that were before and will be after.
    fn doubt_all_but(&self, after: Option<&HashMap<PodIp, Standing>>) {
        let before = self.board.standings();
        let kept = before.of.iter().filter(|(ip, standing)| {
            standing.is_believed() && after.and_then(|after| after.get(*ip)) == Some(*standing)
        });
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
        let doubted = of.values().filter(|standing| !standing.is_believed()).count();
        self.metrics.doubted.set(i64::try_from(doubted).unwrap_or(i64::MAX));
        self.board.publish(of);
    }
}

// === impl Metrics ===

impl Metrics {
    fn register(registry: &Registry, repairs: IntCounter, errors: IntCounter) -> Self {
        Self {
            repairs,
            errors,
            pins: registry.gauge("pins", "Bridge ports that are pinned to the addresses of the pod behind them."),
            doubted: registry.gauge(
                "pods_doubted",
                "Addresses of pods that get no credentials, as others can forge them: on a shared interface, without a pin.",
            ),
            odd_results: registry.gauge("cni_results_odd", "Files of CNI results that say nothing."),
        }
    }
}
