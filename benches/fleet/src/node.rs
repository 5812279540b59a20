//! One node: the agent's parts that decide when STS is called, and the pods of the node.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rolegate::cluster::index::{Event, Index};
use rolegate::cluster::{PodRecord, Snapshot};
use rolegate::config;
use rolegate::credentials::{Ask, Broker, CredentialSource, Session, SessionKey};
use rolegate::metrics::Registry;
use rolegate::policy::{
    AnnotationKeys, DEFAULT_SESSION_NAME, NamespaceAnnotations, NamespaceFacts, PatternFormat, PodFacts,
    Policy, Restrictions, Rules,
};
use rolegate::prefetch::{self, Complaints};
use rolegate::types::{Clock, PodUid, RoleArnBase};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::sts::{Account, Sts};

/// Wall time at the start: any day.
pub(super) const FIRST_DAY: Duration = Duration::from_secs(1_800_000_000);
/// Longest that a request waits for credentials (`config::Imds::hold`).
const HOLD: Duration = Duration::from_millis(900);
/// How long a client waits before it asks again; SDKs: one to some seconds.
const ASKS_AGAIN: Duration = Duration::from_secs(1);
/// Refresh age (`--iam-role-session-ttl`).
pub(super) const REFRESH_AGE: Duration = Duration::from_secs(15 * 60);
const NAMESPACE: &str = "default";

/// A node and its pods.
pub(super) struct Node {
    number: u64,
    snapshot: Arc<Snapshot>,
    asking: Vec<PodUid>,
    sts: Arc<Sts>,
    policy: Arc<Policy>,
    clock: Clock,
}

/// An agent from its start to its end.
struct Life {
    broker: Broker,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    _snapshots: watch::Sender<Arc<Snapshot>>,
}

// === impl Node ===

impl Node {
    pub(super) fn new(
        number: u64,
        roles: usize,
        one_asks_in: usize,
        account: &Arc<Account>,
        policy: &Arc<Policy>,
        clock: &Clock,
    ) -> Self {
        let mut index = Index::new();
        index.apply(Event::PodsInit);
        for role in 0..roles {
            index.apply(Event::PodInitApply(pod(role)));
        }
        for event in [Event::PodsInitDone, Event::NamespacesInit] {
            index.apply(event);
        }
        index.apply(Event::NamespaceInitApply(namespace()));
        index.apply(Event::NamespacesInitDone);
        Self {
            number,
            snapshot: index.snapshot(),
            asking: (0..roles).step_by(one_asks_in.max(1)).map(uid).collect(),
            sts: Arc::new(Sts::new(account)),
            policy: Arc::clone(policy),
            clock: clock.clone(),
        }
    }

    /// Runs until `end`, with one agent until `restart` and another from then on.
    pub(super) async fn live(self, restart: Option<Instant>, end: Instant) {
        let first = self.start(0);
        for uid in &self.asking {
            if let Some(ask) = self.ask(uid) {
                first.tasks.spawn(served(first.broker.clone(), ask, Arc::clone(&self.sts.account)));
            }
        }
        let Some(restart) = restart else {
            sleep_until(end).await;
            return first.end().await;
        };
        sleep_until(restart).await;
        first.end().await;
        let second = self.start(1);
        sleep_until(end).await;
        second.end().await;
    }

    fn start(&self, life: u64) -> Life {
        let source: Arc<dyn CredentialSource> = Arc::clone(&self.sts) as _;
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let registry = Registry::new();
        let render = |_: &Session| Bytes::new();
        let seed = self.number * 2 + life;
        let (clock, spawner) = (self.clock.clone(), tasks.clone());
        let broker = Broker::seeded(seed, source, credentials(), clock, spawner, render, &registry);
        let (snapshots, seen) = watch::channel(Arc::clone(&self.snapshot));
        let (policy, asked, ending) = (Some(Arc::clone(&self.policy)), broker.clone(), shutdown.clone());
        tasks.spawn(async move {
            prefetch::run(seen, policy, asked, &mut Complaints::new(&registry), ending).await;
        });
        tasks.spawn(broker.clone().run(shutdown.clone()));
        Life { broker, tasks, shutdown, _snapshots: snapshots }
    }

    /// What the agent makes of a request of that pod.
    fn ask(&self, uid: &PodUid) -> Option<Ask> {
        let pod = self.snapshot.pod(uid)?;
        let namespace = self.snapshot.namespace(&pod.facts.namespace)?;
        let grant = self.policy.decide(&pod.facts, namespace).outcome.ok()?;
        Some(Ask { key: SessionKey::from(&grant), asker: uid.clone(), revision: 0 })
    }
}

// === impl Life ===

impl Life {
    async fn end(self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Asks as a client does until there are credentials.
async fn served(broker: Broker, ask: Ask, account: Arc<Account>) {
    let since = Instant::now();
    while broker.get(&ask, Instant::now() + HOLD).await.is_err() {
        sleep(ASKS_AGAIN).await;
    }
    account.waited(since);
}

/// The agent's defaults.
fn credentials() -> config::Credentials {
    config::Credentials {
        refresh_age: REFRESH_AGE,
        error_ttl: None,
        calls_in_flight: 32,
        calls_burst: 50,
        calls_per_second: 5,
        prefetch: true,
        region: None,
        regional_endpoint: true,
    }
}

/// The agent's defaults.
pub(super) fn rules(session: Duration) -> Rules {
    Rules {
        base: RoleArnBase::parse("arn:aws:iam::123456789012:role/").ok(),
        default_role: None,
        restrictions: Restrictions::Enforce,
        format: PatternFormat::Glob,
        allow_node_role: false,
        session_name: DEFAULT_SESSION_NAME.to_owned(),
        session_duration: session,
        keys: AnnotationKeys::default(),
        node: String::new(),
    }
}

fn namespace() -> NamespaceFacts {
    let allowed_roles = Some(r#"["*"]"#.into());
    NamespaceFacts::new(NAMESPACE, NamespaceAnnotations { allowed_roles, ..NamespaceAnnotations::default() })
}

fn uid(role: usize) -> PodUid {
    PodUid::new(&format!("pod-{role}"))
}

fn pod(role: usize) -> PodRecord {
    let facts = PodFacts {
        uid: uid(role),
        namespace: NAMESPACE.into(),
        name: format!("pod-{role}").into(),
        service_account: "default".into(),
        role: Some(format!("role-{role}").into()),
        external_id: None,
    };
    PodRecord {
        facts,
        ips: Vec::new(),
        terminal: false,
        deleting: false,
        host_network: false,
        unreadable: false,
    }
}
