//! Fifteen minutes and more, on a paused clock: the parts of the agent that know of time, wired as in the agent,
//! with pods that come and go and an STS that counts.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::cluster::index::{Event, Index};
use crate::cluster::{PodRecord, Snapshot};
use crate::config;
use crate::credentials::{Ask, Broker, BrokerError, CredentialSource, Session, SessionKey, SourceError};
use crate::metrics::Registry;
use crate::policy::{
    AnnotationKeys, DEFAULT_SESSION_NAME, Denied, NamespaceAnnotations, NamespaceFacts, PatternFormat,
    PodFacts, Policy, Restrictions, Rules,
};
use crate::prefetch;
use crate::types::{Clock, PodUid, RoleArnBase, Secret};
use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const MINUTE: Duration = Duration::from_secs(60);
/// Long for STS: whoever waited for it would be seen to.
const LATENCY: Duration = Duration::from_millis(500);
/// Longest that a request waits.
const HOLD: Duration = Duration::from_millis(900);

/// Issues a session for every call, and counts.
struct Sts {
    clock: Clock,
    calls: Mutex<Vec<SessionKey>>,
}

/// Index, policy, prefetch and broker of an agent, with `default` and its pods.
struct Node {
    index: Mutex<Index>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    policy: Arc<Policy>,
    broker: Broker,
    sts: Arc<Sts>,
    clock: Clock,
    started: Instant,
}

// === impl Sts ===

impl CredentialSource for Sts {
    fn fetch(&self, key: SessionKey) -> BoxFuture<'static, Result<Session, SourceError>> {
        let mut calls = self.calls.lock();
        calls.push(key.clone());
        let (number, clock) = (calls.len(), self.clock.clone());
        Box::pin(async move {
            sleep(LATENCY).await;
            let now = clock.now();
            Ok(Session {
                access_key_id: format!("ASIA{number}"),
                secret_access_key: Secret::new("secret".to_owned()),
                token: Secret::new("token".to_owned()),
                expiration: now + key.duration,
                received: now,
                document: Bytes::new(),
            })
        })
    }
}

// === impl Node ===

impl Node {
    /// Everything listed, no pod yet, `MyPodRole` allowed.
    fn start() -> Self {
        let clock = Clock::anchored(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        let sts = Arc::new(Sts { clock: clock.clone(), calls: Mutex::default() });
        let tasks = TaskTracker::new();
        let source: Arc<dyn CredentialSource> = Arc::clone(&sts) as _;
        let render = |session: &Session| Bytes::from(session.access_key_id.clone());
        let broker =
            Broker::new(source, credentials(), clock.clone(), tasks.clone(), render, &Registry::new());
        let policy = Arc::new(Policy::new(rules(), None));
        let mut index = Index::new();
        for event in [Event::PodsInit, Event::PodsInitDone, Event::NamespacesInit] {
            index.apply(event);
        }
        index.apply(Event::NamespaceInitApply(namespace("MyPodRole")));
        index.apply(Event::NamespacesInitDone);
        let (snapshots, seen) = watch::channel(index.snapshot());

        let shutdown = CancellationToken::new();
        let (decide, asked, ending) = (Some(Arc::clone(&policy)), broker.clone(), shutdown.clone());
        tasks.spawn(async move {
            let mut complaints = prefetch::Complaints::new(&Registry::new());
            prefetch::run(seen, decide, asked, &mut complaints, ending).await;
        });
        tasks.spawn(broker.clone().run(shutdown));
        Self { index: Mutex::new(index), snapshots, policy, broker, sts, clock, started: Instant::now() }
    }

    fn tell(&self, event: Event) {
        let mut index = self.index.lock();
        index.apply(event);
        self.snapshots.send_replace(index.snapshot());
    }

    fn make(&self, uid: &str) {
        self.tell(Event::PodApply(replica(uid)));
    }

    fn delete(&self, uid: &str) {
        self.tell(Event::PodDelete(PodUid::new(uid)));
    }

    /// A request, as the agent answers it: the policy first, then the broker. With how long it took.
    async fn ask(&self, uid: &str) -> Result<(Arc<Session>, Duration), Denied> {
        let snapshot = Arc::clone(&self.snapshots.borrow());
        let asker = PodUid::new(uid);
        let pod = snapshot.pod(&asker).unwrap();
        let namespace = snapshot.namespace(&pod.facts.namespace).unwrap();
        let grant = self.policy.decide(&pod.facts, namespace).outcome?;
        let ask = Ask { key: SessionKey::from(&grant), asker, revision: 0 };
        let begin = Instant::now();
        let session: Result<_, BrokerError> = self.broker.get(&ask, begin + HOLD).await;
        Ok((session.unwrap(), begin.elapsed()))
    }

    /// The access key that a replica is handed at once, with 45 minutes or more to live.
    async fn handed_at_once(&self, uid: &str) -> String {
        let (session, took) = self.ask(uid).await.unwrap();
        assert_eq!(took, Duration::ZERO, "nobody waits");
        let left = session.expiration.duration_since(self.clock.now()).unwrap();
        assert!(left >= MINUTE * 45, "{left:?}");
        session.access_key_id.clone()
    }

    async fn at_minute(&self, minute: u32) {
        tokio::time::sleep_until(self.started + MINUTE * minute).await;
    }

    fn calls(&self) -> usize {
        self.sts.calls.lock().len()
    }
}

fn credentials() -> config::Credentials {
    config::Credentials {
        refresh_age: MINUTE * 15,
        error_ttl: None,
        calls_in_flight: 32,
        calls_burst: 50,
        calls_per_second: 5,
        prefetch: true,
        region: None,
        regional_endpoint: true,
    }
}

fn rules() -> Rules {
    Rules {
        base: Some(RoleArnBase::parse("arn:aws:iam::123456789012:role/").unwrap()),
        default_role: None,
        restrictions: Restrictions::Enforce,
        format: PatternFormat::Glob,
        allow_node_role: false,
        session_name: DEFAULT_SESSION_NAME.to_owned(),
        session_duration: MINUTE * 60,
        keys: AnnotationKeys::default(),
        node: String::new(),
    }
}

/// `default`, which allows this role.
fn namespace(allowed: &str) -> NamespaceFacts {
    let allowed_roles = Some(format!(r#"["{allowed}"]"#).into());
    NamespaceFacts::new("default", NamespaceAnnotations { allowed_roles, ..NamespaceAnnotations::default() })
}

/// A pod of the one service account, with the one role.
fn replica(uid: &str) -> PodRecord {
    let facts = PodFacts {
        uid: PodUid::new(uid),
        namespace: "default".into(),
        name: uid.into(),
        service_account: "aws-cli".into(),
        role: Some("MyPodRole".into()),
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

#[tokio::test(start_paused = true)]
async fn three_replicas_over_fifteen_minutes() {
    let node = Node::start();
    for uid in ["a", "b", "c"] {
        node.make(uid);
    }
    // One call for all, made before anybody asked.
    sleep(Duration::from_secs(1)).await;
    let first = node.handed_at_once("a").await;
    assert_eq!(node.handed_at_once("b").await, first);
    assert_eq!(node.handed_at_once("c").await, first);

    // One made again: served at once, from the cache.
    node.at_minute(5).await;
    node.delete("c");
    node.make("c2");
    assert_eq!(node.handed_at_once("c2").await, first);
    assert_eq!(node.calls(), 1);

    node.at_minute(14).await;
    assert_eq!(node.handed_at_once("a").await, first);
    // Past fifteen minutes and jitter, asked every second meanwhile: a new one, and nobody waited for it.
    while node.started.elapsed() < MINUTE * 16 {
        node.handed_at_once("a").await;
        sleep(Duration::from_secs(1)).await;
    }
    let second = node.handed_at_once("a").await;
    assert_ne!(second, first);
    assert_eq!(node.handed_at_once("c2").await, second);
    assert_eq!(node.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn all_replicas_gone_and_one_made_is_a_new_session() {
    let node = Node::start();
    for uid in ["a", "b", "c"] {
        node.make(uid);
    }
    node.at_minute(5).await;
    let first = node.handed_at_once("a").await;
    for uid in ["a", "b", "c"] {
        node.delete(uid);
    }
    node.at_minute(6).await;
    assert_eq!(node.calls(), 1);
    node.make("d");
    node.at_minute(7).await;
    assert_ne!(node.handed_at_once("d").await, first);
    assert_eq!(node.calls(), 2);
}

/// P34: a role taken off the list is refused at the next request, with a session of it still cached.
#[tokio::test(start_paused = true)]
async fn role_taken_off_the_list_at_minute_twenty_is_refused_at_the_next_request() {
    let node = Node::start();
    node.make("a");
    node.at_minute(20).await;
    let session = node.ask("a").await.unwrap().0;
    assert!(session.expiration > node.clock.now() + MINUTE * 45, "a good session is cached");
    node.tell(Event::NamespaceApply(namespace("OtherRole")));
    let denied = node.ask("a").await.unwrap_err();
    assert_eq!(denied.code(), "not_in_list");
    // And nothing is got for it any more.
    let calls = node.calls();
    node.at_minute(120).await;
    assert_eq!(node.calls(), calls);
}
