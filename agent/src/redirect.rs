//! Keeps the redirect and the drop of crate `rolegate-iptables` true, and says by its gate when they are not.
//!
//! Level-triggered: every look compares all of it. It looks on a timer, when rules, links or default routes change, when
//! pods' addresses do, and when told. Nothing is removed when the task ends: what pods ask then is refused, never answered by the node.

mod health;
mod metrics;
mod notices;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use rolegate_iptables::conntrack;
use rolegate_iptables::iptables::{self, Cause, Desired, Iptables, Outcome, TargetError, search_path};
use rolegate_iptables::links::{LinkError, pod_links};
use rolegate_iptables::{Family, InterfaceSpec, InterfaceSpecError, Links};
use tokio::sync::{Notify, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::cluster::snapshot::Snapshot;
use crate::config::{self, RedirectMode};
use crate::metrics::Registry;
use crate::ready::Gate;

use health::Health;
use metrics::Metrics;
use notices::Notices;

/// Longest between two looks: legacy tables tell nobody of changes.
const LOOK_AT_MOST_EVERY: Duration = Duration::from_secs(5);

/// After an error the next look comes sooner.
const LOOK_AFTER_ERROR: Duration = Duration::from_secs(1);

/// Why the redirect cannot be what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    /// `--host-interface`: the operator has to write it differently.
    #[error("--host-interface: {0}")]
    Interfaces(#[from] InterfaceSpecError),
    /// `--host-ip`: the operator has to give another one.
    #[error("--host-ip: {0}")]
    Target(#[from] TargetError),
    /// `--host-ip` is needed.
    #[error("--host-ip: an address of this node that pods' traffic is redirected to has to be given")]
    NoTarget,
    /// Links and routes could not be read.
    #[error(transparent)]
    Links(#[from] LinkError),
    /// Rules could not be read or written.
    #[error(transparent)]
    Iptables(#[from] iptables::Error),
}

/// The capture of this node.
pub struct Redirect {
    desired: Option<Desired>,
    look_every: Duration,
    search: OsString,
    host: Option<Iptables>,
    stale_connections: bool,
    health: Health,
    trigger: Arc<Notify>,
    gate: Gate,
    metrics: Metrics,
}

// === impl Redirect ===

impl Redirect {
    /// What `config` asks for, redirected to `app_port`. `gate` is open only while it is in force and pods are
    /// behind the interfaces meant; with [`RedirectMode::None`] it is opened for good.
    ///
    /// # Errors
    /// When interfaces or addresses cannot be used.
    pub fn new(
        config: &config::Redirect,
        app_port: u16,
        gate: Gate,
        registry: &Registry,
    ) -> Result<Self, RedirectError> {
        let desired = match config.mode {
            RedirectMode::None => None,
            RedirectMode::Iptables if config.host_ips.is_empty() => return Err(RedirectError::NoTarget),
            RedirectMode::Iptables => {
                Some(Desired::new(InterfaceSpec::parse(&config.interfaces)?, &config.host_ips, app_port)?)
            }
        };
        Ok(Self {
            desired,
            look_every: config.reconcile_every.clamp(Duration::from_millis(100), LOOK_AT_MOST_EVERY),
            search: search_path(),
            host: None,
            stale_connections: true,
            health: Health::default(),
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

    /// Puts the rules in and forgets older connections. To be called before anything is waited for: an agent that
    /// is not ready refuses, it never lets through. The gate stays closed until [`Self::run`] looks.
    ///
    /// # Errors
    /// When the rules do not stand; [`Self::run`] goes on trying. That old connections could not be forgotten is
    /// logged, counted and tried again.
    pub async fn install_once(&mut self) -> Result<(), RedirectError> {
        let Some(desired) = self.desired.clone() else {
            info!("no redirect is installed: it is the operator's own");
            return Ok(());
        };
        let links = Links::read().await?;
        let outcome = self.reconcile(&desired, &links.uplinks).await?;
        for cause in &outcome.causes {
            info!(%cause, "redirect installed");
        }
        in_force(outcome)?;
        self.metrics.present.set(1);
        self.gate.close("installed, pods' interfaces not looked at yet");
        self.log_start(&desired, &links);
        Ok(())
    }

    /// Looks until `shutdown`, and leaves everything in place.
    ///
    /// # Errors
    /// None: what fails is logged and counted, closes the gate and is tried again.
    pub async fn run(
        mut self,
        shutdown: CancellationToken,
        mut pods: watch::Receiver<Arc<Snapshot>>,
    ) -> anyhow::Result<()> {
        let Some(desired) = self.desired.clone() else {
            self.gate.open();
            shutdown.cancelled().await;
            return Ok(());
        };
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
            if due && self.look(&desired, &mut notices).await.is_err() {
                timer.reset_after(LOOK_AFTER_ERROR.min(self.look_every));
            }
        }
    }

    /// One look: compares, mends, and sets the gate by what came of it.
    async fn look(&mut self, desired: &Desired, notices: &mut Notices) -> Result<(), RedirectError> {
        notices.listen();
        let looked = self.look_at_all(desired, notices).await;
        match &looked {
            Ok(None) if notices.listed => self.gate.open(),
            Ok(None) => self.gate.close("pods are not listed yet: their interfaces are not known"),
            Ok(Some(reason)) => self.gate.close(reason.clone()),
            Err(error) => {
                self.metrics.errors.inc();
                self.metrics.present.set(0);
                warn!(%error, "redirect not in force");
                self.gate.close(format!("not known to be in force: {error}"));
            }
        }
        looked.map(drop)
    }

    /// Returns why pods are not captured although the rules stand.
    async fn look_at_all(
        &mut self,
        desired: &Desired,
        notices: &mut Notices,
    ) -> Result<Option<String>, RedirectError> {
        let links = Links::read().await?;
        let outcome = self.reconcile(desired, &links.uplinks).await?;
        for cause in &outcome.causes {
            warn!(%cause, "redirect repaired");
            self.metrics.repairs.with_label_values(&[cause.drift.as_str()]).inc();
        }
        in_force(outcome)?;
        self.metrics.present.set(1);
        let report = links.report(desired.interfaces(), &pod_links(&notices.addresses).await?);
        notices.seen(links);
        Ok(self.health.judge(desired.interfaces(), &report))
    }

    /// Makes the rules what they should be, and forgets older connections if anything was written.
    async fn reconcile(
        &mut self,
        desired: &Desired,
        uplinks: &BTreeSet<String>,
    ) -> Result<Outcome, RedirectError> {
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
        self.stale_connections |= outcome.changed;
        if self.stale_connections {
            self.forget_connections(desired).await;
        }
        Ok(outcome)
    }

    /// Failing, it is tried again at the next look: what is forwarded is dropped meanwhile.
    async fn forget_connections(&mut self, desired: &Desired) {
        match conntrack::delete_imds_entries(&desired.targets()).await {
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

fn in_force(outcome: Outcome) -> Result<(), RedirectError> {
    match outcome.errors.into_iter().next() {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
