//! What a node's agent holds in memory, and its door: the parts that requests use, without Kubernetes, AWS and rules.
#![expect(clippy::unwrap_used, reason = "a measurement ends at the first thing that fails")]

use std::collections::HashSet;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rolegate::cluster::Snapshot;
use rolegate::config;
use rolegate::credentials::{Ask, Broker, CredentialSource, Session, SessionKey, SourceError};
use rolegate::identity::{Identity, Witnesses};
use rolegate::imds::document::render_session;
use rolegate::imds::handler::{Door, With};
use rolegate::imds::passthrough::Passthrough;
use rolegate::imds::route::MetadataPolicy;
use rolegate::imds::token::TokenKey;
use rolegate::imds::upstream::Upstream;
use rolegate::metrics::Registry;
use rolegate::policy::{AnnotationKeys, PatternFormat, Policy, Restrictions, Rules};
use rolegate::types::{Clock, PodIp, PodUid, RoleArnBase, Secret};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

/// How long a request waits for what is not known yet.
pub const HOLD: Duration = Duration::from_millis(900);

/// What a node's agent holds: the parts that requests use.
pub struct Node {
    /// Address to pod.
    pub identity: Identity,
    /// The decision.
    pub policy: Arc<Policy>,
    /// Session tokens.
    pub tokens: TokenKey,
    /// Wall time.
    pub clock: Clock,
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
#[must_use]
pub fn session() -> Session {
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

/// What a policy rests on, as the agent's defaults have it.
#[must_use]
pub fn rules(format: PatternFormat) -> Rules {
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
    /// A node that knows this of its cluster.
    #[must_use]
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
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

    /// The same, with what the kernel has behind an address looked at for every request, as the agent does.
    #[must_use]
    pub fn with_witnesses(self) -> Self {
        let witnesses = Witnesses::new("/proc/none".into(), || true, self.clock.clone()).unwrap();
        Self { identity: self.identity.with_witnesses(Arc::new(witnesses)), ..self }
    }

    /// A broker that has the session that the pod at `ip` wants, and that session's key.
    pub async fn broker(&self, ip: PodIp) -> (Broker, SessionKey) {
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
        broker.get(&ask, Instant::now() + Duration::from_secs(5)).await.unwrap();
        (broker, key)
    }

    /// Its door, with the sessions that `broker` has.
    #[must_use]
    pub fn door(&self, broker: Broker, registry: &Registry) -> Door {
        let imds = config::Imds {
            upstream: ([127, 0, 0, 1], 9).into(),
            allow_v1: false,
            metadata_allow: Vec::new(),
            metadata_everything: false,
            state_dir: "/proc/none".into(),
            hold: HOLD,
            token_hop_limit: 1,
        };
        let with = With {
            tokens: self.tokens.clone(),
            metadata: MetadataPolicy::new(&[], false).unwrap(),
            identity: self.identity.clone(),
            policy: watch::channel(Some(Arc::clone(&self.policy))).1,
            broker,
            passthrough: Passthrough::new(Arc::new(Upstream::new(imds.upstream, registry)), registry),
            clock: self.clock.clone(),
            config: imds,
        };
        Door::new(with, registry)
    }

    /// Seconds, as tokens count them.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.clock.now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
    }

    /// Whether somebody still reads: the channels stay open as long as the node lives.
    #[must_use]
    pub fn is_read(&self) -> bool {
        !self.snapshots.is_closed() && !self.node_addresses.is_closed()
    }
}
