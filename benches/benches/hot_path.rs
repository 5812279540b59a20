//! Every step that a request takes in memory, one benchmark each, in the order in which they are taken:
//! route, token, look-up of the address, decision, answer, and all of them together behind hyper; and what
//! happens beside it: parsing a role when an annotation arrives, publishing a snapshot.
//!
//! A new step gets a function below and its line in [`criterion_group`].
#![expect(clippy::unwrap_used, reason = "a bench ends at the first thing that fails")]

#[path = "hot_path/door.rs"]
mod door;
#[path = "hot_path/hostile.rs"]
mod hostile;

use std::hint::black_box;
use std::net::IpAddr;
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue, SERVER};
use hyper::{Method, Response};
use rolegate::cluster::index::Event;
use rolegate::imds::document::render_session;
use rolegate::imds::route::{self, MetadataPolicy};
use rolegate::policy::{PatternFormat, Policy};
use rolegate::types::{PodIp, RoleArn, RoleArnBase};

use rolegate_benches::cluster::{NAMESPACES, PODS, index, namespace, pod};
use rolegate_benches::node::{Node, rules, session};

use door::{Exchange, runtime};

/// Three entries, the last of which matches.
const GLOBS: &str = r#"["reader", "team-*/**", "My*Role"]"#;
const REGEXPS: &str = r#"["reader", "team-[a-z]+/.*", "My[A-Z][a-z]+Role"]"#;
const DOCUMENT: &str = "/latest/meta-data/iam/security-credentials/MyPodRole";
const TOKEN_TTL_SECONDS: u32 = 21_600;

fn pod_ip(c: &mut Criterion) {
    let mapped: IpAddr = "::ffff:100.96.1.7".parse().unwrap();
    c.bench_function("pod_ip/v4_mapped", |b| b.iter(|| PodIp::new(black_box(mapped))));
}

fn routes(c: &mut Criterion) {
    let policy = MetadataPolicy::new(&[], false).unwrap();
    let everything = MetadataPolicy::new(&[], true).unwrap();
    let hostile = format!("/latest/{}", "%2e%2e/./;x/%75ser-data%2F".repeat(300));
    let list = "/latest/meta-data/iam/security-credentials/";
    let mut group = c.benchmark_group("route");
    for (name, method, target, policy) in [
        ("token", Method::PUT, "/latest/api/token", &policy),
        ("list", Method::GET, list, &policy),
        ("document", Method::GET, DOCUMENT, &policy),
        ("metadata", Method::GET, "/latest/meta-data/placement/availability-zone", &policy),
        ("metadata_unlisted", Method::GET, "/latest/meta-data/network/interfaces/macs/", &everything),
        ("hostile", Method::GET, &hostile, &policy),
    ] {
        group.bench_function(name, |b| b.iter(|| route::route(&method, black_box(target), policy)));
    }
    group.finish();
}

fn tokens(c: &mut Criterion) {
    let node = Node::new(index(GLOBS).snapshot());
    let (ip, now) = (address(7), node.now());
    let token = node.tokens.issue(ip, TOKEN_TTL_SECONDS, now);
    let mut group = c.benchmark_group("token");
    group.bench_function("issue", |b| b.iter(|| node.tokens.issue(black_box(ip), TOKEN_TTL_SECONDS, now)));
    group.bench_function("verify", |b| b.iter(|| node.tokens.verify(black_box(token.as_bytes()), ip, now)));
    group.bench_function("verify_foreign", |b| {
        b.iter(|| node.tokens.verify(black_box(token.as_bytes()), address(8), now));
    });
    group.finish();
}

fn identity(c: &mut Criterion) {
    let snapshot = index(GLOBS).snapshot();
    let ips: Vec<PodIp> = (0..PODS).map(address).collect();
    let mut group = c.benchmark_group("identity");
    // Another pod each time, as on a node.
    let mut turn = ips.iter().cycle();
    group.bench_function("owner", |b| b.iter(|| snapshot.owner(*turn.next().unwrap()).is_some()));
    let node = Node::new(std::sync::Arc::clone(&snapshot));
    group.bench_function("look_up", |b| b.iter(|| node.identity.look_up(*turn.next().unwrap()).unwrap()));
    let stranger = "100.96.9.9".parse().unwrap();
    group.bench_function("stranger", |b| b.iter(|| node.identity.look_up(black_box(stranger)).is_some()));
    assert!(node.is_read());
    group.finish();
}

fn decide(c: &mut Criterion) {
    let mut group = c.benchmark_group("decide");
    for (name, format, list) in
        [("globs", PatternFormat::Glob, GLOBS), ("regexps", PatternFormat::Regexp, REGEXPS)]
    {
        let policy = Policy::new(rules(format), None);
        let (namespace, pod, stranger) = (namespace(7, list), pod(7, "MyPodRole"), pod(7, "OtherRole_"));
        assert!(policy.decide(&pod.facts, &namespace).outcome.is_ok());
        assert!(policy.decide(&stranger.facts, &namespace).outcome.is_err());
        group.bench_function(format!("{name}_granted"), |b| {
            b.iter(|| policy.decide(black_box(&pod.facts), &namespace));
        });
        group.bench_function(format!("{name}_denied"), |b| {
            b.iter(|| policy.decide(black_box(&stranger.facts), &namespace));
        });
    }
    group.finish();
}

fn respond(c: &mut Criterion) {
    let node = Node::new(index(GLOBS).snapshot());
    let (broker, key) = runtime().block_on(node.broker(address(7)));
    let mut group = c.benchmark_group("respond");
    group.bench_function("cached", |b| b.iter(|| broker.cached(black_box(&key)).unwrap()));
    let fresh = session();
    group.bench_function("render_session", |b| b.iter(|| render_session(black_box(&fresh))));
    group.finish();
}

/// Bytes in, bytes out, over a connection in memory that is kept: what hyper alone takes for it (`bare`), and
/// what the door adds.
fn exchange(c: &mut Criterion) {
    let node = Node::new(index(GLOBS).snapshot());
    let ip = address(7);
    let token = node.tokens.issue(ip, TOKEN_TTL_SECONDS, node.now());
    let get = |target: &str| {
        format!("GET {target} HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token: {token}\r\n\r\n")
    };
    let put = "PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\n\
               X-aws-ec2-metadata-token-ttl-seconds: 21600\r\nContent-Length: 0\r\n\r\n";
    let mut group = c.benchmark_group("exchange");
    for (name, request) in [
        ("token", put.to_owned()),
        ("list", get("/latest/meta-data/iam/security-credentials/")),
        ("document", get(DOCUMENT)),
    ] {
        let mut door = Exchange::of(&node, ip);
        door.ask(request.as_bytes());
        let body = door.body();
        let mut bare = Exchange::new(runtime(), move |_| {
            let mut response = Response::new(Full::new(body.clone()));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            response
                .headers_mut()
                .insert("x-aws-ec2-metadata-token-ttl-seconds", HeaderValue::from(TOKEN_TTL_SECONDS));
            response.headers_mut().insert(SERVER, HeaderValue::from_static("EC2ws"));
            async { response }
        });
        assert_eq!(bare.ask(request.as_bytes()), door.ask(request.as_bytes()), "the same answer");
        group.bench_function(format!("{name}_bare"), |b| b.iter(|| bare.ask(request.as_bytes())));
        group.bench_function(format!("{name}_door"), |b| b.iter(|| door.ask(request.as_bytes())));
    }
    group.finish();
}

fn role_arn(c: &mut Criterion) {
    let base = RoleArnBase::of_account("aws", "123456789012").unwrap();
    let mut group = c.benchmark_group("role_arn");
    group.bench_function("name", |b| b.iter(|| RoleArn::resolve(black_box("MyPodRole"), Some(&base))));
    let arn = "arn:aws:iam::123456789012:role/team-a/MyPodRole";
    group.bench_function("arn", |b| b.iter(|| RoleArn::resolve(black_box(arn), None)));
    let hostile = "a".repeat(65_536);
    group.bench_function("hostile", |b| b.iter(|| RoleArn::resolve(black_box(&hostile), Some(&base))));
    group.finish();
}

/// An event taken in and the snapshot given out, while readers still hold the snapshot before.
fn publish(c: &mut Criterion) {
    let mut group = c.benchmark_group("publish");
    group.sample_size(20);
    let mut index = index(GLOBS);
    let mut published = index.snapshot();
    // Another value each time: an event that changes nothing is not published.
    let mut roles = ["OtherRole", "MyPodRole"].into_iter().cycle();
    group.bench_function(format!("pod_event_{PODS}_pods"), |b| {
        b.iter_batched(
            || pod(7, roles.next().unwrap()),
            |pod| {
                assert!(index.apply(Event::PodApply(pod)));
                published = index.snapshot();
            },
            BatchSize::PerIteration,
        );
    });
    let mut lists = [REGEXPS, GLOBS].into_iter().cycle();
    group.bench_function(format!("namespace_event_{NAMESPACES}_namespaces"), |b| {
        b.iter_batched(
            || namespace(7, lists.next().unwrap()),
            |namespace| {
                assert!(index.apply(Event::NamespaceApply(namespace)));
                published = index.snapshot();
            },
            BatchSize::PerIteration,
        );
    });
    assert!(published.synced());
    group.finish();
}

fn address(n: usize) -> PodIp {
    *pod(n, "MyPodRole").ips.first().unwrap()
}

/// Short: ratios within a run are what is read from it.
fn config() -> Criterion {
    Criterion::default()
        .without_plots()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1_200))
        .sample_size(50)
}

criterion_group! {
    name = hot_path;
    config = config();
    targets = pod_ip, routes, tokens, identity, decide, hostile::lists, respond, exchange, role_arn, publish
}
criterion_main!(hot_path);
