//! One connection: bytes in, answers out. From hyper to the policy everything is the agent's own; the client, STS and the
//! real metadata service are scripts, and nothing waits for a clock or a socket.

mod answers;
mod scripts;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::HOST;
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use parking_lot::Mutex;
use rolegate::cluster::index::{Event, Index};
use rolegate::cluster::{PodRecord, Snapshot};
use rolegate::config;
use rolegate::credentials::Broker;
use rolegate::identity::Identity;
use rolegate::imds::document::render_session;
use rolegate::imds::handler::{Door, With};
use rolegate::imds::passthrough::Passthrough;
use rolegate::imds::token::TokenKey;
use rolegate::imds::upstream::Upstream;
use rolegate::metrics::Registry;
use rolegate::policy::{NodeRole, PatternFormat, Policy};
use rolegate::server::{Answer, Destination, Peer, serve};
use rolegate::types::{Clock, PodIp, PodUid};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::answers::Answered;
use self::scripts::{Client, Service, Sts, check_upstream};
use super::{ACCOUNT, NODE_ROLE, facts, metadata_policies, naive_segments, names_the_service, rules};

/// The pod that asks, its role, and the others of its namespace.
const POD: [u8; 4] = [100, 96, 1, 11];
const OWN_ROLE: &str = "arn:aws:iam::123456789012:role/team/MyPodRole";
const NEIGHBOUR: [u8; 4] = [100, 96, 1, 12];
const OTHER_ROLE: &str = "arn:aws:iam::123456789012:role/OtherRole";
const NOW: u64 = 1_800_000_000;
const TOKEN: &str = "x-aws-ec2-metadata-token";
/// A connection's, as the server has it.
const LIFE: Duration = Duration::from_secs(10);
/// What a request may be answered with (PROTOCOL.md 1.5) where pod, STS and metadata service are all well.
const STATUSES: [u16; 6] = [200, 400, 401, 403, 404, 405];
/// hyper's own for what is no request.
const NO_REQUEST: [u16; 2] = [400, 431];

/// What the first byte of an input chooses.
struct Choice {
    /// In how many pieces the rest arrives.
    pieces: usize,
    /// All metadata that can be opened is.
    open: bool,
    /// Requests without a token are refused.
    tokens_required: bool,
}

/// What all connections have in common.
struct World {
    runtime: Runtime,
    tokens: TokenKey,
    clock: Clock,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    node_addresses: watch::Receiver<Arc<HashSet<PodIp>>>,
    policy: watch::Receiver<Option<Arc<Policy>>>,
}

/// The door, and what came to it.
struct Witness {
    door: Door,
    seen: Mutex<Vec<Parts>>,
}

/// Answers nobody: no connection of this target is one that was not captured.
struct Nobody;

// === impl Witness, Nobody ===

impl Answer for Witness {
    async fn answer(&self, request: Request<Incoming>, peer: Peer) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        self.seen.lock().push(head.clone());
        self.door.answer(Request::from_parts(head, body), peer).await
    }
}

impl Answer for Nobody {
    async fn answer(&self, _: Request<Incoming>, _: Peer) -> Response<Full<Bytes>> {
        panic!("the connection was captured");
    }
}

// === the property ===

/// The first byte chooses the world (see the README), the rest is sent. What comes back is nothing or one well-formed
/// answer with a status of the closed set; credentials are of the pod's own role and come to whoever asked for them by
/// one of its names; of the metadata service only allowed paths were asked, byte for byte; nothing of the node's comes
/// out.
pub fn connection(input: &[u8]) {
    let (first, sent) = input.split_first().map_or((&0, &[][..]), |(first, rest)| (first, rest));
    let choice =
        Choice { pieces: usize::from(first & 7) + 1, open: first & 8 != 0, tokens_required: first & 64 != 0 };
    let world = world();
    let sent = with_tokens(sent, &world.tokens);
    world.runtime.block_on(one_connection(world, &choice, &sent));
}

async fn one_connection(world: &World, choice: &Choice, sent: &[u8]) {
    let (service, sts, tasks) = (Service::default(), Arc::new(Sts::new(&world.clock)), TaskTracker::new());
    let door = door(world, choice, &service, &sts, &tasks);
    let witness = Arc::new(Witness { door, seen: Mutex::default() });
    let (client, written) = Client::new(sent, choice.pieces);
    let socket = SocketAddr::from((POD, 40_000));
    let peer = Peer { socket, ip: PodIp::new(socket.ip()), destination: Destination::Imds, arrival: None };
    let (deadline, shutdown) = (Instant::now() + LIFE, CancellationToken::new());
    serve(client, peer, &*witness, &Nobody, deadline, &shutdown, Duration::ZERO).await;
    tasks.close();
    tasks.wait().await;

    let asked = service.asked();
    let paths = check_upstream(&asked, choice.open);
    assert!(sts.asked().iter().all(|role| role.as_str() == OWN_ROLE), "{:?}", sts.asked());
    let written = std::mem::take(&mut *written.lock());
    scripts::check_marks(&written, OWN_ROLE);
    let seen = witness.seen.lock();
    assert!(seen.len() <= 1, "{} requests on one connection", seen.len());
    let head = seen.first();
    let answered = answers::read(&written, head.is_some_and(|head| head.method == Method::HEAD));
    match (head, answered) {
        (_, None) => {}
        (None, Some(answered)) => check_no_request(&answered),
        (Some(head), Some(answered)) => check_answer(world, choice, head, &answered, &paths),
    }
}

fn check_no_request(answered: &Answered) {
    assert!(NO_REQUEST.contains(&answered.status), "{answered:?}");
    assert!(answered.body.is_empty(), "{answered:?}");
}

fn check_answer(world: &World, choice: &Choice, head: &Parts, answered: &Answered, paths: &[String]) {
    assert!(STATUSES.contains(&answered.status), "{head:?} {answered:?}");
    assert_eq!(answered.header("server"), Some("EC2ws"), "{head:?} {answered:?}");
    assert_eq!(answered.header("connection"), Some("close"), "{head:?} {answered:?}");
    if answered.status != 200 {
        assert_eq!(answered.header("content-length"), Some("0"), "{head:?} {answered:?}");
        assert!(answered.body.is_empty(), "{head:?} {answered:?}");
        return;
    }
    assert!(host_is_right(head), "{head:?} {answered:?}");
    let proven = bears_good_token(world, &head.headers);
    let forwarded = head.headers.contains_key("x-forwarded-for");
    if head.method == Method::PUT {
        assert!(!forwarded && paths.is_empty(), "{head:?} {answered:?}");
        assert!(is_token(world, &answered.body), "{head:?} {answered:?}");
        return;
    }
    assert!(head.method == Method::GET || head.method == Method::HEAD, "{head:?} {answered:?}");
    let bears_token = head.headers.contains_key(TOKEN);
    assert!(proven || !bears_token && !choice.tokens_required, "{head:?} {answered:?}");
    assert!(!forwarded || !bears_token, "{head:?} {answered:?}");
    if answered.text().contains("SecretAccessKey") {
        assert!(asks_for_own_role(head), "{head:?}");
    }
    if let Some(path) = answered.text().strip_prefix(scripts::METADATA_OF) {
        assert_eq!(paths, [path], "{head:?}");
    }
}

fn host_is_right(head: &Parts) -> bool {
    let mut values = head.headers.get_all(HOST).iter();
    match (values.next(), values.next()) {
        (None, _) => head.version == Version::HTTP_10,
        (Some(only), None) => names_the_service(only.as_bytes()),
        (Some(_), Some(_)) => false,
    }
}

fn bears_good_token(world: &World, headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(TOKEN).iter();
    match (values.next(), values.next()) {
        (Some(only), None) => is_token(world, only.as_bytes()),
        _ => false,
    }
}

fn is_token(world: &World, token: &[u8]) -> bool {
    world.tokens.verify(token, ip(POD), world.clock.unix_seconds()).is_ok()
}

/// A careless reading of the target ends in one of the names that the pod's own role has.
fn asks_for_own_role(head: &Parts) -> bool {
    let segments = naive_segments(&head.uri.to_string());
    let Some((prefix, role)) = segments.split_at_checked(4) else { return false };
    let role = role.join("/");
    let names = ["MyPodRole", "team/MyPodRole", OWN_ROLE];
    prefix[1..] == ["meta-data", "iam", "security-credentials"]
        && names.iter().any(|name| name.eq_ignore_ascii_case(&role))
}

// === the world ===

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let node_role = NodeRole::new(Some(ACCOUNT), [NODE_ROLE]);
        let policy = Policy::new(rules(PatternFormat::Glob), Some(node_role));
        World {
            runtime: runtime.unwrap_or_else(|error| panic!("{error}")),
            // No directory: the key lives in memory.
            tokens: TokenKey::load_or_create(Path::new("/dev/null/none")).0,
            clock: Clock::anchored(SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)),
            snapshots: fixed(snapshot()),
            node_addresses: fixed(Arc::default()),
            policy: fixed(Some(Arc::new(policy))),
        }
    })
}

fn door(world: &World, choice: &Choice, service: &Service, sts: &Arc<Sts>, tasks: &TaskTracker) -> Door {
    let registry = Registry::new();
    let address = SocketAddr::from(([169, 254, 169, 254], 80));
    let upstream = Arc::new(Upstream::dialling(Box::new(service.clone()), address, &registry));
    let sts: Arc<Sts> = Arc::clone(sts);
    let with = With {
        tokens: world.tokens.clone(),
        metadata: metadata_policies()[usize::from(choice.open)].0.clone(),
        identity: Identity::new(world.snapshots.clone(), world.node_addresses.clone(), &registry),
        policy: world.policy.clone(),
        broker: Broker::new(
            sts,
            credentials(),
            world.clock.clone(),
            tasks.clone(),
            render_session,
            &registry,
        ),
        passthrough: Passthrough::new(upstream, &registry),
        clock: world.clock.clone(),
        config: config::Imds {
            upstream: address,
            allow_v1: !choice.tokens_required,
            metadata_allow: Vec::new(),
            metadata_everything: choice.open,
            state_dir: "/dev/null/none".into(),
            hold: Duration::from_millis(900),
            token_hop_limit: 1,
        },
    };
    Door::new(with, &registry)
}

fn credentials() -> config::Credentials {
    config::Credentials {
        refresh_age: Duration::from_secs(900),
        error_ttl: None,
        calls_in_flight: 32,
        calls_burst: 50,
        calls_per_second: 5,
        prefetch: false,
        region: None,
        regional_endpoint: true,
    }
}

/// Two pods of one namespace, which may have all roles.
fn snapshot() -> Arc<Snapshot> {
    let pod = |address, role| PodRecord {
        facts: facts(role),
        ips: vec![ip(address)],
        terminal: false,
        deleting: false,
        host_network: false,
        unreadable: false,
    };
    let mut neighbour = pod(NEIGHBOUR, OTHER_ROLE);
    (neighbour.facts.uid, neighbour.facts.name) = (PodUid::new("9c2e"), Arc::from("neighbour"));
    let mut index = Index::new();
    for event in [
        Event::PodsInit,
        Event::PodInitApply(pod(POD, OWN_ROLE)),
        Event::PodInitApply(neighbour),
        Event::PodsInitDone,
        Event::NamespacesInit,
        Event::NamespaceInitApply(super::namespace(Some(r#"["**"]"#), None)),
        Event::NamespacesInitDone,
    ] {
        index.apply(event);
    }
    index.snapshot()
}

/// A channel whose value never changes.
fn fixed<T>(value: T) -> watch::Receiver<T> {
    watch::channel(value).1
}

fn ip(octets: [u8; 4]) -> PodIp {
    super::pod_ip(octets)
}

/// `sent` with a good token, a neighbour's and one that is over in place of their names: no input can have one.
fn with_tokens(sent: &[u8], key: &TokenKey) -> Vec<u8> {
    let tokens = [
        (&b"{token}"[..], key.issue(ip(POD), 21_600, NOW)),
        (b"{neighbour}", key.issue(ip(NEIGHBOUR), 21_600, NOW)),
        (b"{expired}", key.issue(ip(POD), 1, NOW - 10)),
    ];
    let mut result = Vec::with_capacity(sent.len() + 64);
    let mut rest = sent;
    while let Some((byte, after)) = rest.split_first() {
        let named = tokens.iter().find_map(|(name, token)| Some((rest.strip_prefix(*name)?, token)));
        match named {
            Some((after, token)) => {
                result.extend(token.as_bytes());
                rest = after;
            }
            None => {
                result.push(*byte);
                rest = after;
            }
        }
    }
    result
}
