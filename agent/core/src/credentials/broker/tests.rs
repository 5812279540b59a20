//! The broker's stories, told with a scripted source and paused time.

mod outage;
mod properties;
mod refusals;
mod shares;
mod sharing;
mod time;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::credentials::source::SourceError;
use crate::types::{ExternalId, Secret, SessionName};

const HOUR: Duration = Duration::from_secs(3_600);
const MINUTE: Duration = Duration::from_secs(60);
const HOLD: Duration = Duration::from_millis(900);

/// What the scripted STS does with a call.
#[derive(Clone, Debug)]
enum Reply {
    /// A session of the duration asked for.
    Give,
    /// A session of this life.
    GiveFor(Duration),
    /// An error.
    Fail(SourceError),
    /// Nothing, for ever.
    Hang,
    /// A defect of the source.
    Panic,
}

type Script = Box<dyn FnMut(&SessionKey) -> Reply + Send>;

struct Sts {
    clock: Clock,
    latency: Mutex<Duration>,
    script: Mutex<Script>,
    calls: Mutex<Vec<(Instant, SessionKey)>>,
    under_way: Arc<Mutex<AllUnderWay>>,
}

/// Keys that are being fetched right now, and those that were while they were.
#[derive(Default)]
struct AllUnderWay {
    keys: HashSet<SessionKey>,
    twice: Vec<SessionKey>,
}

/// A call until it ends, or is given up.
struct UnderWay {
    key: SessionKey,
    all: Arc<Mutex<AllUnderWay>>,
}

/// A broker that runs, its STS, and how to end it.
struct Bench {
    broker: Broker,
    sts: Arc<Sts>,
    clock: Clock,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    registry: Registry,
}

// === impl Sts ===

impl CredentialSource for Sts {
    fn fetch(&self, key: SessionKey) -> BoxFuture<'static, Result<Session, SourceError>> {
        self.calls.lock().push((Instant::now(), key.clone()));
        let reply = (self.script.lock())(&key);
        let under_way = UnderWay::new(&key, &self.under_way);
        let (latency, clock, number) = (*self.latency.lock(), self.clock.clone(), self.calls.lock().len());
        Box::pin(async move {
            let _under_way = under_way;
            sleep(latency).await;
            let life = match reply {
                Reply::Give => key.duration,
                Reply::GiveFor(life) => life,
                Reply::Fail(SourceError::Unauthorized { .. }) => {
                    return Err(SourceError::Unauthorized { message: format!("no to {key:?}") });
                }
                Reply::Fail(error) => return Err(error),
                Reply::Hang => std::future::pending().await,
                Reply::Panic => panic!("a defect of the source"),
            };
            let now = clock.now();
            Ok(Session {
                access_key_id: format!("ASIA{number}-{}", key.role.name()),
                secret_access_key: Secret::new("secret".to_owned()),
                token: Secret::new(format!("{key:?}")),
                expiration: now + life,
                received: now,
                document: Bytes::new(),
            })
        })
    }
}

impl Sts {
    fn calls(&self) -> usize {
        self.calls.lock().len()
    }

    fn calls_of(&self, key: &SessionKey) -> usize {
        self.calls.lock().iter().filter(|(_, called)| called == key).count()
    }

    fn script(&self, script: impl FnMut(&SessionKey) -> Reply + Send + 'static) {
        *self.script.lock() = Box::new(script);
    }

    fn always(&self, reply: Reply) {
        self.script(move |_| reply.clone());
    }
}

// === impl UnderWay ===

impl UnderWay {
    fn new(key: &SessionKey, all: &Arc<Mutex<AllUnderWay>>) -> Self {
        let mut under_way = all.lock();
        if !under_way.keys.insert(key.clone()) {
            under_way.twice.push(key.clone());
        }
        drop(under_way);
        Self { key: key.clone(), all: Arc::clone(all) }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.all.lock().keys.remove(&self.key);
    }
}

// === impl Bench ===

impl Bench {
    fn new() -> Self {
        Self::with(config())
    }

    fn with(config: config::Credentials) -> Self {
        let clock = Clock::anchored(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        let sts = Arc::new(Sts {
            clock: clock.clone(),
            latency: Mutex::new(Duration::from_millis(150)),
            script: Mutex::new(Box::new(|_| Reply::Give)),
            calls: Mutex::new(Vec::new()),
            under_way: Arc::default(),
        });
        let (tasks, shutdown, registry) = (TaskTracker::new(), CancellationToken::new(), Registry::new());
        let source: Arc<dyn CredentialSource> = Arc::clone(&sts) as _;
        let render = |session: &Session| Bytes::from(session.access_key_id.clone());
        let broker = Broker::new(source, config, clock.clone(), tasks.clone(), render, &registry);
        tasks.spawn(broker.clone().run(shutdown.clone()));
        Self { broker, sts, clock, tasks, shutdown, registry }
    }

    async fn get(&self, ask: &Ask) -> Result<Arc<Session>, BrokerError> {
        self.broker.get(ask, Instant::now() + HOLD).await
    }

    /// As a client does that asks again and again until it is served: how long that took.
    async fn served_after(&self, ask: &Ask) -> Duration {
        let start = Instant::now();
        while self.get(ask).await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
        start.elapsed()
    }

    fn spawn_get(&self, ask: Ask) -> tokio::task::JoinHandle<Result<Arc<Session>, BrokerError>> {
        let broker = self.broker.clone();
        self.tasks.spawn(async move { broker.get(&ask, Instant::now() + HOLD).await })
    }

    fn want(&self, wanted: &[(&SessionKey, &[&str])]) {
        let desired = |&(key, pods): &(&SessionKey, &[&str])| Desired {
            key: key.clone(),
            pods: pods.iter().map(|uid| PodUid::new(uid)).collect(),
        };
        self.broker.set_desired(wanted.iter().map(desired).collect());
    }

    /// The value of a counter or gauge, summed over the series whose labels include `labels`.
    fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == format!("rolegate_{name}")).unwrap();
        let has = |metric: &prometheus::proto::Metric, &(name, value): &(&str, &str)| {
            metric.get_label().iter().any(|label| label.name() == name && label.value() == value)
        };
        let matching =
            family.get_metric().iter().filter(|metric| labels.iter().all(|label| has(metric, label)));
        matching.map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value()).sum()
    }
}

impl Drop for Bench {
    /// Whatever a test is about: there is one call for a key at a time.
    fn drop(&mut self) {
        let twice = self.sts.under_way.lock().twice.clone();
        assert!(std::thread::panicking() || twice.is_empty(), "two calls at once for {twice:?}");
    }
}

fn config() -> config::Credentials {
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

fn key(role: &str) -> SessionKey {
    SessionKey {
        role: RoleArn::parse(&format!("arn:aws:iam::123456789012:role/{role}")).unwrap(),
        external_id: None,
        session_name: SessionName::parse("default.aws-cli").unwrap(),
        duration: HOUR,
    }
}

fn ask(role: &str, pod: &str) -> Ask {
    Ask { key: key(role), asker: PodUid::new(pod), revision: 0 }
}

fn unavailable() -> Reply {
    Reply::Fail(SourceError::Unavailable { reason: "connection refused".into() })
}

fn denied() -> Reply {
    Reply::Fail(SourceError::Unauthorized { message: "not authorized to perform: sts:AssumeRole".into() })
}

fn expect_refused(result: &Result<Arc<Session>, BrokerError>) {
    assert!(matches!(result, Err(BrokerError::Unauthorized { .. })), "{result:?}");
}
