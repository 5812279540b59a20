//! Keeps the guards and the redirect of crate `rolegate-iptables` true, and says by its gate when they are not.
//!
//! Level-triggered: every look compares all of it. It looks on a timer, when rules, links or default routes change, when
//! pods' addresses do, and when told. Nothing is removed when the task ends: what pods ask then is refused, never answered
//! by the node. Which capture it is: [`Choice`].

mod choice;
mod detour;
mod error;
mod health;
mod metrics;
mod notices;
mod pins;
mod proof;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rolegate_iptables::conntrack;
use rolegate_iptables::guard::Guard;
use rolegate_iptables::iptables::{Cause, Desired, Iptables, search_path};
use rolegate_iptables::links::pod_links;
use rolegate_iptables::route::Route;
use rolegate_iptables::{Family, InterfaceSpec, Links};
use tokio::sync::{Notify, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::cluster::snapshot::Snapshot;
use crate::config;
use crate::metrics::Registry;
use crate::ready::Gate;

pub use choice::{Choice, Mode};
pub use error::RedirectError;
use health::Health;
use metrics::{Metrics, ROUTE_CHANGED};
use notices::Notices;
pub use pins::Pinning;
use proof::Proof;

/// Longest between two looks: legacy tables tell nobody of changes.
const LOOK_AT_MOST_EVERY: Duration = Duration::from_secs(5);

/// After an error the next look comes sooner.
const LOOK_AFTER_ERROR: Duration = Duration::from_secs(1);

/// The guards and the capture of this node.
pub struct Redirect {
    guard: Guard,
    /// The guards failed, and where the redirect is the operator's own that has been said.
    unguarded: bool,
    capture: Capture,
    look_every: Duration,
    search: OsString,
    host: Option<Iptables>,
    stale_connections: bool,
    /// The other capture may stand, from an earlier run.
    stale_capture: bool,
    health: Health,
    proof: Proof,
    trigger: Arc<Notify>,
    gate: Gate,
    metrics: Metrics,
}

/// How pods' requests get here.
#[derive(Clone, Debug)]
enum Capture {
    Iptables(Desired),
    Route(Route),
    /// By the operator's own means.
    Operators,
    /// Not at all, until the operator chooses.
    Undecided,
}

/// What a reconciliation found and mended, by label and in words, and the first thing that it could not.
#[derive(Default)]
struct Mended {
    causes: Vec<(&'static str, String)>,
    failed: Option<RedirectError>,
}

// === impl Redirect ===

impl Redirect {
    /// What `choice` says, as `config` asks for it, redirected to `app_port`. `gate` is open only while it is in force
    /// and pods are behind the interfaces meant. With [`Mode::Operators`] the guards are tried, and it is opened for
    /// good; with [`Mode::Undecided`] they are tried, and it stays closed.
    ///
    /// # Errors
    /// When interfaces or addresses cannot be used.
    pub fn new(
        config: &config::Redirect,
        choice: Choice,
        app_port: u16,
        gate: Gate,
        registry: &Registry,
    ) -> Result<Self, RedirectError> {
        let capture = match choice.mode {
            Mode::Operators => Capture::Operators,
            Mode::Undecided => Capture::Undecided,
            Mode::Route => Capture::Route(Route::new(config.preference, config.table)),
            Mode::Iptables if config.host_ips.is_empty() => return Err(RedirectError::NoTarget),
            Mode::Iptables => {
                let interfaces = InterfaceSpec::parse(&config.interfaces)?;
                Capture::Iptables(Desired::new(interfaces, &config.host_ips, app_port)?)
            }
        };
        Ok(Self {
            guard: Guard::new(config.preference),
            unguarded: false,
            capture,
            look_every: config.reconcile_every.clamp(Duration::from_millis(100), LOOK_AT_MOST_EVERY),
            search: search_path(),
            host: None,
            stale_connections: true,
            stale_capture: true,
            health: Health::default(),
            proof: Proof::new(choice, registry),
            trigger: Arc::default(),
            gate,
            metrics: Metrics::register(registry),
        })
    }

    /// Makes the task look at once.
    #[must_use]
    pub fn trigger(&self) -> Arc<Notify> {
        Arc::clone(&self.trigger)
    }

    /// Puts guards and rules in and forgets older connections. To be called before anything is waited for: an agent
    /// that is not ready refuses, it never lets through. The gate stays closed until [`Self::run`] looks.
    ///
    /// # Errors
    /// When they do not stand; [`Self::run`] goes on trying. That old connections could not be forgotten is
    /// logged, counted and tried again.
    pub async fn install_once(&mut self) -> Result<(), RedirectError> {
        let links = Links::read().await?;
        let mended = self.reconcile(&links.uplinks).await;
        for (_, cause) in &mended.causes {
            info!(cause, "installed");
        }
        self.in_force(mended)?;
        match &self.capture {
            Capture::Iptables(desired) => self.log_start(desired, &links),
            Capture::Route(_) => info!("redirect in force: by policy routing"),
            Capture::Operators => info!("no redirect is installed: it is the operator's own"),
            Capture::Undecided => {}
        }
        self.gate.close("installed, pods' interfaces not looked at yet");
        Ok(())
    }

    /// Looks until `shutdown`, and leaves everything in place.
    ///
    /// # Errors
    /// None: what fails is logged and counted, closes the gate and is tried again.
    pub async fn run(
        &mut self,
        shutdown: CancellationToken,
        mut pods: watch::Receiver<Arc<Snapshot>>,
    ) -> anyhow::Result<()> {
        let trigger = self.trigger();
        let mut timer = tokio::time::interval(self.look_every);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut notices = Notices::new();
        notices.listen();
        notices.addresses_differ(&pods);
        loop {
            let due = tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                () = trigger.notified() => true,
                _ = timer.tick() => true,
                due = notices.due(&mut pods) => due,
            };
            if due && self.look(&mut notices).await.is_err() {
                timer.reset_after(LOOK_AFTER_ERROR.min(self.look_every));
            }
        }
    }

    /// Another agent keeps it from now on, until [`Self::run`] looks again.
    pub fn left_to_another(&mut self) {
        (self.stale_connections, self.stale_capture) = (true, true);
        self.gate.close("another agent of this node keeps the redirect");
    }

    /// One look: compares, mends, and sets the gate by what came of it.
    async fn look(&mut self, notices: &mut Notices) -> Result<(), RedirectError> {
        notices.listen();
        let looked = self.look_at_all(notices).await;
        match &looked {
            Ok(None) if notices.listed || !matches!(self.capture, Capture::Iptables(_)) => self.gate.open(),
            Ok(None) => self.gate.close("pods are not listed yet: their interfaces are not known"),
            Ok(Some(reason)) => self.gate.close(reason.clone()),
            Err(error) => {
                self.metrics.errors.inc();
                warn!(%error, "redirect not in force");
                self.gate.close(format!("not known to be in force: {error}"));
            }
        }
        looked.map(drop)
    }

    /// Returns why pods are not captured although the rules stand.
    async fn look_at_all(&mut self, notices: &mut Notices) -> Result<Option<String>, RedirectError> {
        let links = Links::read().await?;
        let mended = self.reconcile(&links.uplinks).await;
        for (label, cause) in &mended.causes {
            warn!(cause, "repaired");
            self.metrics.repairs.with_label_values(&[label]).inc();
        }
        self.in_force(mended)?;
        let mut reason = self.proof.others(&links).await?;
        match &self.capture {
            Capture::Iptables(desired) => {
                let report = links.report(desired.interfaces(), &pod_links(&notices.addresses).await?);
                let elsewhere = self.health.judge(desired.interfaces(), &report);
                reason = reason.or(elsewhere);
            }
            Capture::Route(_) => {
                let detours = self.proof.detours(&links, &notices.addresses).await?;
                reason = reason.or(detours);
            }
            Capture::Operators | Capture::Undecided => {}
        }
        notices.seen(links);
        Ok(reason)
    }

    /// Makes guards and rules what they should be, the guards first, and forgets older connections if anything was
    /// written. One that fails keeps no other from being mended.
    async fn reconcile(&mut self, uplinks: &BTreeSet<String>) -> Mended {
        let mut mended = Mended::default();
        self.reconcile_guards(&mut mended).await;
        let (done, targets) = match self.capture.clone() {
            Capture::Iptables(desired) => {
                (self.reconcile_rules(&desired, uplinks, &mut mended).await, desired.targets())
            }
            Capture::Route(route) => (self.reconcile_route(route, &mut mended).await, Vec::new()),
            Capture::Operators | Capture::Undecided => return mended,
        };
        self.metrics.present.set(i64::from(done.is_ok()));
        let done = match done {
            Ok(()) if self.stale_capture => self.remove_other_capture().await,
            done => done,
        };
        if let Err(error) = done {
            mended.failed.get_or_insert(error);
        }
        self.stale_connections |= !mended.causes.is_empty();
        if self.stale_connections {
            self.forget_connections(&targets).await;
        }
        mended
    }

    async fn reconcile_guards(&mut self, mended: &mut Mended) {
        let before_write = |drift| {
            self.metrics.guards.set(0);
            if !matches!(self.capture, Capture::Operators) {
                self.gate.close(format!("a guard is being repaired ({drift})"));
            }
        };
        let outcome = self.guard.reconcile(&before_write).await;
        mended.causes.extend(outcome.drift.iter().map(|drift| (drift.as_str(), drift.to_string())));
        self.metrics.guards.set(i64::from(outcome.errors.is_empty()));
        mended.failed = outcome.errors.into_iter().next().map(RedirectError::from);
    }

    async fn reconcile_rules(
        &mut self,
        desired: &Desired,
        uplinks: &BTreeSet<String>,
        mended: &mut Mended,
    ) -> Result<(), RedirectError> {
        let host = match self.host.take() {
            Some(host) => host,
            None => Iptables::detect(&self.search).await?,
        };
        let before_write = |causes: &BTreeSet<Cause>| {
            let causes: Vec<String> = causes.iter().map(ToString::to_string).collect();
            self.metrics.present.set(0);
            self.gate.close(format!("the rules are being repaired ({})", causes.join(", ")));
        };
        let outcome = host.reconcile(desired, uplinks, &before_write).await;
        self.host = Some(host);
        mended.causes.extend(outcome.causes.iter().map(|cause| (cause.drift.as_str(), cause.to_string())));
        outcome.errors.into_iter().next().map_or(Ok(()), |error| Err(error.into()))
    }

    async fn reconcile_route(&self, route: Route, mended: &mut Mended) -> Result<(), RedirectError> {
        let before_write = || {
            self.metrics.present.set(0);
            self.gate.close("the policy routing is being repaired");
        };
        if route.reconcile(&before_write).await.map_err(RedirectError::Routing)? {
            mended.causes.push((ROUTE_CHANGED, "policy routing".to_owned()));
        }
        Ok(())
    }

    async fn remove_other_capture(&mut self) -> Result<(), RedirectError> {
        if self.proof.mode().remove_other(&self.search).await? {
            info!("the other redirect, of an earlier start, is removed");
            self.stale_connections = true;
        }
        self.stale_capture = false;
        Ok(())
    }

    /// Where the redirect is the operator's own, guards are what can be had: without them it is said, once.
    fn in_force(&mut self, mended: Mended) -> Result<(), RedirectError> {
        let Some(error) = mended.failed else {
            self.unguarded = false;
            return Ok(());
        };
        if !matches!(self.capture, Capture::Operators) {
            return Err(error);
        }
        if !self.unguarded {
            warn!(%error, "this node has no guards of ours: what the redirect lets past reaches the node's credentials");
        }
        self.unguarded = true;
        Ok(())
    }

    /// Failing, it is tried again at the next look: what is forwarded is dropped meanwhile.
    async fn forget_connections(&mut self, redirected_to: &[SocketAddr]) {
        match conntrack::delete_imds_entries(redirected_to).await {
            Ok(deleted) => {
                self.stale_connections = false;
                self.metrics.conntrack_deleted.inc_by(u64::try_from(deleted).unwrap_or(u64::MAX));
                debug!(deleted, "connections older than the redirect forgotten");
            }
            Err(error) => {
                self.metrics.errors.inc();
                warn!(%error, "connections older than the redirect cannot be forgotten");
            }
        }
    }

    fn log_start(&self, desired: &Desired, links: &Links) {
        let backend = |family| {
            let backend = self.host.as_ref().map(|host| host.backend(family));
            match backend {
                Some(Ok(backend)) => backend.to_string(),
                Some(Err(absent)) => absent.to_string(),
                None => "unknown".to_owned(),
            }
        };
        info!(
            interfaces = %desired.interfaces(),
            uplinks = ?links.uplinks,
            targets = ?desired.targets(),
            iptables = backend(Family::V4),
            ip6tables = backend(Family::V6),
            "redirect in force"
        );
        if let (Some(target), Some(Err(absent))) =
            (desired.target(Family::V6), self.host.as_ref().map(|host| host.backend(Family::V6)))
        {
            warn!(%target, reason = %absent, "IPv6 is not redirected");
        }
    }
}

#[cfg(test)]
mod tests;
