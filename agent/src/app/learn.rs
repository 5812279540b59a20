//! Learns who the node is, and from that makes the policy and the way to STS. Until then nothing is decided.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::late_source::LateSource;
use crate::config::{self, Config};
use crate::credentials::assume_role::{AssumeRoleSource, CallerIdentity};
use crate::discovery::{self, NodeIdentity};
use crate::imds::upstream::Upstream;
use crate::policy::{NodeRole, Policy};
use crate::ready::Gate;
use crate::types::{Clock, RoleArnBase};

/// One round of questions to IMDS and STS.
const ROUND: Duration = Duration::from_secs(5);
/// Between two rounds while something that is needed is missing.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two rounds while only one of two sources of the node's own role has answered.
const LONG_PAUSE: Duration = Duration::from_secs(30);

/// Asks until it knows.
pub(super) struct Learner {
    pub(super) config: Config,
    pub(super) upstream: Arc<Upstream>,
    /// Set once STS can be asked.
    pub(super) source: LateSource,
    pub(super) node: watch::Receiver<Option<String>>,
    pub(super) clock: Clock,
    pub(super) gate: Gate,
    /// Set once the metadata service says it.
    pub(super) instance_id: Arc<OnceLock<String>>,
    /// Published when enough is known, and again when more is.
    pub(super) policy: watch::Sender<Option<Arc<Policy>>>,
}

/// What was learned so far; kept between rounds.
#[derive(Default)]
struct Known {
    base: Option<RoleArnBase>,
    listed: Option<String>,
    account: Option<String>,
    region: Option<String>,
    caller: Option<CallerIdentity>,
    sts: Option<AssumeRoleSource>,
}

// === impl Learner ===

impl Learner {
    /// Asks in rounds until everything is known, then waits for `shutdown`.
    pub(super) async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let learned = async {
            self.learn().await;
            self.learn_instance_id().await;
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {}
            () = learned => shutdown.cancelled().await,
        }
        Ok(())
    }

    async fn learn(&self) {
        let mut known = Known::default();
        let node = self.node_name().await;
        loop {
            let before = known.names();
            self.round(&mut known).await;
            match known.missing(&self.config) {
                Some(missing) => {
                    warn!(missing, "who this node is, is not known yet; asked again");
                    self.gate.close(missing);
                }
                None if self.policy.borrow().is_none() || known.names() != before => {
                    self.publish(&known, &node)
                }
                None => {}
            }
            let pause = match (self.policy.borrow().is_some(), known.complete()) {
                (true, true) => return,
                (true, false) => LONG_PAUSE,
                (false, _) => PAUSE,
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// For `/healthz` alone: asked last, and only once.
    async fn learn_instance_id(&self) {
        match discovery::instance_id(&self.upstream, Instant::now() + ROUND).await {
            Ok(id) => drop(self.instance_id.set(id)),
            Err(error) => info!(%error, "the metadata service"),
        }
    }

    /// A session name may contain the node's name, which may have to be found first.
    async fn node_name(&self) -> String {
        if !self.config.policy.session_name.contains("{node}") {
            return String::new();
        }
        let mut node = self.node.clone();
        let name = node.wait_for(Option::is_some).await.ok().and_then(|name| name.clone());
        match name {
            Some(name) => name,
            // The watch ended, and the process with it.
            None => std::future::pending().await,
        }
    }

    async fn round(&self, known: &mut Known) {
        let node = NodeIdentity::discover(&self.upstream, Instant::now() + ROUND).await;
        for problem in &node.problems {
            info!(%problem, "the metadata service");
        }
        keep(&mut known.account, node.account().map(str::to_owned));
        keep(&mut known.base, node.base);
        keep(&mut known.listed, node.listed_role);
        keep(&mut known.region, node.region);
        if known.sts.is_none() {
            known.sts = self.sts(known.region.as_deref()).await;
        }
        if let (Some(sts), None) = (&known.sts, &known.caller) {
            match tokio::time::timeout(ROUND, sts.caller_identity()).await {
                Ok(Ok(caller)) => known.caller = Some(caller),
                Ok(Err(error)) => warn!(%error, "STS does not say who the agent is"),
                Err(_) => warn!("STS does not say in time who the agent is"),
            }
        }
    }

    async fn sts(&self, region: Option<&str>) -> Option<AssumeRoleSource> {
        let (config, imds) = (&self.config.credentials, self.config.imds.upstream);
        match AssumeRoleSource::load(config, region, imds, self.clock.clone()).await {
            Ok(sts) => {
                self.source.set(Arc::new(sts.clone()));
                Some(sts)
            }
            Err(error) => {
                warn!(%error, "STS cannot be asked yet");
                None
            }
        }
    }

    fn publish(&self, known: &Known, node: &str) {
        let mut rules: config::Policy = self.config.policy.clone();
        node.clone_into(&mut rules.node);
        if self.config.discovery.base_arn {
            rules.base.clone_from(&known.base);
        }
        if self.config.discovery.default_role {
            rules.default_role.clone_from(&known.listed);
        }
        let own = known.own_role();
        match &own {
            Some(own) => announce(own, known, rules.base.as_ref()),
            None => warn!("the node has no role of its own that could be refused to pods"),
        }
        self.policy.send_replace(Some(Arc::new(Policy::new(rules, own))));
        self.gate.open();
    }
}

// === impl Known ===

impl Known {
    /// What must be known before anything can be decided.
    fn missing(&self, config: &Config) -> Option<&'static str> {
        if config.discovery.base_arn && self.base.is_none() {
            return Some("the base ARN (--auto-discover-base-arn), from iam/info of the metadata service");
        }
        if config.discovery.default_role && self.listed.is_none() {
            return Some("the default role (--auto-discover-default-role), from the metadata service");
        }
        if self.sts.is_none() {
            return Some("the region; set --region or let the metadata service say it");
        }
        if self.listed.is_none() && self.caller.is_none() {
            return Some("the node's own role: neither the metadata service nor STS answers");
        }
        None
    }

    /// Both sources of the node's own role have answered.
    fn complete(&self) -> bool {
        self.listed.is_some() && self.caller.is_some()
    }

    fn names(&self) -> (Option<String>, Option<String>) {
        (self.listed.clone(), self.caller.as_ref().map(|caller| caller.arn.clone()))
    }

    fn own_role(&self) -> Option<NodeRole> {
        let caller = self.caller.as_ref().map(|caller| caller.arn.as_str());
        let own = discovery::own_role(self.listed.as_deref(), caller, self.account.as_deref());
        if own.names.is_empty() {
            return None;
        }
        let role = NodeRole::new(own.account.as_deref(), &own.names);
        Some(match &own.arn {
            Some(arn) => role.with_arn(arn),
            None => role,
        })
    }
}

/// What was learned once is not unlearned when a later round does not answer.
fn keep<T>(known: &mut Option<T>, learned: Option<T>) {
    if learned.is_some() {
        *known = learned;
    }
}

/// The node's role, and the statement that a role's trust policy needs. Neither IMDS nor STS says the role's path.
fn announce(own: &NodeRole, known: &Known, base: Option<&RoleArnBase>) {
    let arn = own.arn().map(str::to_owned).or_else(|| {
        let base = base.or(known.base.as_ref())?;
        Some(format!("arn:{}:iam::{}:role/{}", base.partition(), base.account(), own.names().first()?))
    });
    let Some(arn) = arn else {
        info!(names = %own.names().join(", "), "the node's own role; pods never get it");
        return;
    };
    let statement = serde_json::json!({
        "Sid": "",
        "Effect": "Allow",
        "Principal": {"AWS": arn},
        "Action": "sts:AssumeRole",
    });
    info!(
        role_arn = %arn,
        names = %own.names().join(", "),
        trust_statement = %statement,
        "the node's own role; pods never get it, and every role of a pod needs this statement in its trust policy \
         (if the node's role has a path, put it before the name: it is not known here)"
    );
}
