//! The door with everything behind it in memory, and requests to it as bytes over an in-memory connection.

use std::collections::HashSet;
use std::convert::Infallible;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use rolegate::cluster::Snapshot;
use rolegate::config;
use rolegate::credentials::{Ask, Broker, CredentialSource, Session, SessionKey, SourceError};
use rolegate::identity::Identity;
use rolegate::imds::document::render_session;
use rolegate::imds::handler::{Door, With};
use rolegate::imds::passthrough::Passthrough;
use rolegate::imds::route::MetadataPolicy;
use rolegate::imds::token::TokenKey;
use rolegate::imds::upstream::Upstream;
use rolegate::metrics::Registry;
use rolegate::policy::{AnnotationKeys, PatternFormat, Policy, Restrictions, Rules};
use rolegate::server::{Answer, Destination, Peer};
use rolegate::types::{Clock, PodIp, PodUid, RoleArnBase, Secret};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

/// Of one answer, generously.
const ANSWER_BYTES: usize = 8 << 10;

/// HTTP connections in memory, whose servers live on the same thread.
pub(crate) struct Exchange {
    runtime: Runtime,
    /// A new connection's client side; the server side runs on the runtime.
    connect: Box<dyn Fn() -> DuplexStream>,
    answer: Vec<u8>,
}

/// What a node's agent holds: the parts that requests use.
pub(crate) struct Node {
    pub(crate) identity: Identity,
    pub(crate) policy: Arc<Policy>,
    pub(crate) tokens: TokenKey,
    pub(crate) clock: Clock,
    snapshots: watch::Sender<Arc<Snapshot>>,
    node_addresses: watch::Sender<Arc<HashSet<PodIp>>>,
}

/// Gives the same session to everybody.
struct Source;

// === impl Source ===

impl CredentialSource for Source {
    fn fetch(
        &self,
        _: SessionKey,
    ) -> Pin<Box<dyn Future<Output = Result<Session, SourceError>> + Send + 'static>> {
        Box::pin(async { Ok(session()) })
    }
}

/// A session of the usual size: tokens of STS have some 800 to 1,000 characters.
pub(crate) fn session() -> Session {
    let received = Clock::system().now();
    Session {
        access_key_id: "ASIAIOSFODNN7EXAMPLE".into(),
        secret_access_key: Secret::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into()),
        token: Secret::new("IQoJb3JpZ2luX2Vj".repeat(55)),
        expiration: received + Duration::from_secs(3_600),
        received,
        document: Bytes::new(),
    }
}

pub(crate) fn rules(format: PatternFormat) -> Rules {
    Rules {
        base: Some(RoleArnBase::of_account("aws", "123456789012").unwrap()),
        default_role: None,
        restrictions: Restrictions::Enforce,
        format,
        allow_node_role: false,
        session_name: "{namespace}.{service-account}".into(),
        session_duration: Duration::from_secs(3_600),
        keys: AnnotationKeys::default(),
        node: "node-1.example".into(),
    }
}

// === impl Node ===

impl Node {
    pub(crate) fn new(snapshot: Arc<Snapshot>) -> Self {
        let (snapshots, reader) = watch::channel(snapshot);
        let (node_addresses, addresses) = watch::channel(Arc::default());
        Self {
            identity: Identity::new(reader, addresses, &Registry::new()),
            policy: Arc::new(Policy::new(rules(PatternFormat::Glob), None)),
            // No such directory: the key lives in memory.
            tokens: TokenKey::load_or_create(Path::new("/proc/none")).0,
            clock: Clock::system(),
            snapshots,
            node_addresses,
        }
    }

    /// A broker that has the session that the pod at `ip` wants, and that session's key.
    pub(crate) fn broker(&self, runtime: &Runtime, ip: PodIp) -> (Broker, SessionKey) {
        let config = config::Credentials {
            refresh_age: Duration::from_secs(900),
            error_ttl: None,
            calls_in_flight: 32,
            calls_burst: 50,
            calls_per_second: 5,
            prefetch: false,
            region: None,
            regional_endpoint: true,
        };
        let broker = Broker::new(
            Arc::new(Source),
            config,
            self.clock.clone(),
            TaskTracker::new(),
            render_session,
            &Registry::new(),
        );
        let caller = self.identity.look_up(ip).unwrap();
        let grant = self.policy.decide(&caller.pod.facts, &caller.namespace).outcome.unwrap();
        let key = SessionKey::from(&grant);
        let ask = Ask { key: key.clone(), asker: PodUid::new("bench"), revision: 0 };
        let asked = async { broker.get(&ask, Instant::now() + Duration::from_secs(5)).await };
        runtime.block_on(asked).unwrap();
        (broker, key)
    }

    /// Its door, open to the pod at `ip`.
    pub(crate) fn exchange(&self, ip: PodIp) -> Exchange {
        // Its own: a door registers what it counts.
        let registry = Registry::new();
        let runtime = runtime();
        let (broker, _) = self.broker(&runtime, ip);
        let imds = config::Imds {
            upstream: ([127, 0, 0, 1], 9).into(),
            allow_v1: false,
            metadata_allow: Vec::new(),
            metadata_everything: false,
            state_dir: "/proc/none".into(),
            hold: Duration::from_millis(900),
            token_hop_limit: 1,
        };
        let with = With {
            tokens: self.tokens.clone(),
            metadata: MetadataPolicy::new(&[], false).unwrap(),
            identity: self.identity.clone(),
            policy: watch::channel(Some(Arc::clone(&self.policy))).1,
            broker,
            passthrough: Passthrough::new(Arc::new(Upstream::new(imds.upstream, &registry)), &registry),
            clock: self.clock.clone(),
            config: imds,
        };
        let door = Arc::new(Door::new(with, &registry));
        let peer =
            Peer { socket: (ip.addr(), 40_000).into(), ip, destination: Destination::Imds, arrival: None };
        Exchange::new(runtime, move |request| {
            let door = Arc::clone(&door);
            async move { door.answer(request, peer).await }
        })
    }

    /// Seconds, as tokens count them.
    pub(crate) fn now(&self) -> u64 {
        self.clock.now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
    }

    /// Whether somebody still reads: the channels stay open as long as the node lives.
    pub(crate) fn is_read(&self) -> bool {
        !self.snapshots.is_closed() && !self.node_addresses.is_closed()
    }
}

// === impl Exchange ===

impl Exchange {
    /// Connections that `answer` answers, one request each. hyper is set up as in the agent.
    pub(crate) fn new<F>(
        runtime: Runtime,
        answer: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        let (answer, handle) = (Arc::new(answer), runtime.handle().clone());
        let connect = Box::new(move || {
            let (client, server) = tokio::io::duplex(64 << 10);
            let answer = Arc::clone(&answer);
            let service = service_fn(move |request| {
                let answered = answer(request);
                async { Ok::<_, Infallible>(answered.await) }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(5)).keep_alive(false);
            TaskTracker::new().spawn_on(http.serve_connection(TokioIo::new(server), service), &handle);
            client
        });
        Self { runtime, connect, answer: Vec::with_capacity(ANSWER_BYTES) }
    }

    /// Sends `request` over a connection of its own and reads its answer to the end: a 200. How long it is.
    pub(crate) fn ask(&mut self, request: &[u8]) -> usize {
        let Self { runtime, connect, answer } = self;
        answer.clear();
        runtime.block_on(async {
            let mut client = connect();
            client.write_all(request).await.unwrap();
            client.read_to_end(answer).await.unwrap();
        });
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(answer));
        answer.len()
    }

    /// The body of the last answer.
    pub(crate) fn body(&self) -> Bytes {
        let head = self.answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        Bytes::copy_from_slice(&self.answer[head + 4..])
    }
}

/// One thread: its wakes cost no system call.
pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
