//! The servers that are counted, on one thread: the agent's own, and the yardstick.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use hyper::header::{HeaderName, HeaderValue};
use rolegate::accept::AcceptErrors;
use rolegate::config;
use rolegate::imds::document::render_session;
use rolegate::imds::handler::Door;
use rolegate::imds::token::LONGEST_TTL_SECONDS;
use rolegate::metrics::Registry;
use rolegate::server::{Answer as Answers, Listeners, Peer, Pool, Queue, Server};
use rolegate::telemetry::Telemetry;
use rolegate_benches::bare::{self, Answer};
use rolegate_benches::cluster::{index, pod};
use rolegate_benches::node::{HOLD, Node, session};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::allocations;

/// Which pod of the node asks.
pub(crate) const POD: usize = 7;
/// Where the yardstick is, on port 80.
pub(crate) const BARE: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 253);
pub(crate) const ROLE: &str = "MyPodRole";
pub(crate) const TOKEN_PATH: &str = "/latest/api/token";
pub(crate) const LIST_PATH: &str = "/latest/meta-data/iam/security-credentials/";
/// What the server's file of counts is written at, for each line that it reads.
pub(crate) const MARK: &str = "*between_two_counts*";
/// A line that asks for the places of allocations from now on.
pub(crate) const RECORD: &str = "record";
const ALLOWED: &str = r#"["reader", "team-*/**", "My*Role"]"#;

/// Serves until standard input ends. For each line there, says how many allocations there were.
pub(crate) fn serve() -> Result<()> {
    let registry = Registry::new();
    let log = config::Log { format: config::LogFormat::Text, level: "info".to_owned() };
    let telemetry = Telemetry::init(&log, &registry)?;
    telemetry.start()?;
    // One thread: the same work in the same order every time.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let tracker = TaskTracker::new();
        let (server, listeners) = agent(&registry, tracker.clone()).await?;
        let (_queue, own) = watch::channel(Queue::Own);
        let errors = AcceptErrors::register(&registry);
        tracker.spawn(server.run(listeners, errors, own, CancellationToken::new()));
        tracker.spawn(bare::serve(TcpListener::bind((BARE, 80)).await?, yardstick()?));
        let (heard, mut lines) = mpsc::unbounded_channel();
        std::thread::spawn(move || std::io::stdin().lines().try_for_each(|line| heard.send(line)));
        say("ready")?;
        while let Some(line) = lines.recv().await {
            between_two_counts();
            say(&format!("{} {:?}", allocations::count(), allocations::sites()))?;
            if line? == RECORD {
                allocations::record();
            }
        }
        Ok(())
    })
}

/// Valgrind knows the way by this function's name.
#[inline(never)]
fn between_two_counts() {
    std::hint::black_box(());
}

fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// As `rolegate run` wires it, but for what is not on the way of a request.
async fn agent(registry: &Registry, tracker: TaskTracker) -> Result<(Server<Door, Nobody>, Listeners)> {
    let node = Node::new(index(ALLOWED).snapshot()).with_witnesses();
    let ip = *pod(POD, ROLE).ips.first().context("a pod has an address")?;
    let (broker, _) = node.broker(ip).await;
    let door = Arc::new(node.door(broker, registry));
    let config = config::Server {
        app_port: 0,
        metrics_port: 0,
        connections_per_pod: 128,
        connections: 4_096,
        drain: Duration::from_secs(1),
    };
    let nobody = Arc::new(Nobody);
    let server = Server::new(&config, HOLD, 65_536, door, nobody, tracker, registry);
    Ok((server, Listeners::bind_at_imds(&Pool::default())?))
}

/// What the agent answers, known beforehand.
fn yardstick() -> Result<Answer> {
    let header = |name: &'static str, value: &str| -> Result<_> {
        Ok((HeaderName::from_static(name), HeaderValue::from_str(value)?))
    };
    let left = LONGEST_TTL_SECONDS.to_string();
    Ok(Answer {
        headers: vec![
            header("server", "EC2ws")?,
            header("content-type", "text/plain")?,
            header("x-aws-ec2-metadata-token-ttl-seconds", &left)?,
            header("connection", "close")?,
        ],
        body: render_session(&session()),
        others: vec![
            (LIST_PATH.to_owned(), ROLE.into()),
            (TOKEN_PATH.to_owned(), "x".repeat(rolegate::imds::token::TOKEN_CHARS).into()),
        ],
    })
}

/// Answers connections that were not captured: there are none.
struct Nobody;

impl Answers for Nobody {
    async fn answer(
        &self,
        _: hyper::Request<hyper::body::Incoming>,
        peer: Peer,
    ) -> hyper::Response<http_body_util::Full<bytes::Bytes>> {
        let where_from = SocketAddr::to_string(&peer.socket);
        hyper::Response::new(http_body_util::Full::new(where_from.into()))
    }
}
