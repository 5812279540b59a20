//! The agent as a client of the metadata service: tokens, failures, the cache, and what discovery reads.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use rolegate::discovery::{DiscoveryError, NodeIdentity};
use rolegate::imds::passthrough::{Passed, Passthrough};
use rolegate::imds::route::{MetadataPath, MetadataPolicy, Route, route};
use rolegate::imds::upstream::{Answer, Text, Upstream, UpstreamError, UpstreamPath};
use rolegate::metrics::Registry;
use rolegate_tests::imds::{Imds, ImdsConfig, Request, TOKEN_MARKER, Tokens};
use tokio::time::Instant;

fn imds(tokens: Tokens) -> Imds {
    Imds::start(listener("127.0.0.1:0"), ImdsConfig { tokens, ..ImdsConfig::default() }).unwrap()
}

fn listener(address: &str) -> TcpListener {
    TcpListener::bind(address).unwrap()
}

fn upstream(address: SocketAddr) -> (Arc<Upstream>, Registry) {
    let registry = Registry::new();
    (Arc::new(Upstream::new(address, &registry)), registry)
}

fn path(target: &str) -> MetadataPath {
    let policy = MetadataPolicy::new(&["spot/*".into()], false).unwrap();
    match route(&Method::GET, target, &policy) {
        Route::Metadata(path) => path,
        other => panic!("{target}: {other:?}"),
    }
}

fn instance_id() -> UpstreamPath {
    UpstreamPath::from(&path("/latest/meta-data/instance-id"))
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

fn found(body: &'static str) -> Text {
    Text { content_type: "text/plain", body: body.into() }
}

fn id() -> Text {
    found("i-0123456789abcdef0")
}

fn count(requests: &[Request], method: &str) -> usize {
    requests.iter().filter(|request| request.method == method).count()
}

fn metric(registry: &Registry, name: &str, result: &str) -> f64 {
    registry
        .gather()
        .iter()
        .filter(|family| family.name() == name)
        .flat_map(|family| family.get_metric())
        .filter(|metric| result.is_empty() || metric.get_label().iter().any(|label| label.value() == result))
        .map(|metric| metric.get_counter().get_value())
        .sum()
}

#[tokio::test]
async fn one_token_serves_many_requests_and_nothing_else_is_sent() {
    let imds = imds(Tokens::Required);
    let (upstream, registry) = upstream(imds.address());
    for _ in 0..3 {
        assert_eq!(upstream.get(&instance_id(), soon()).await, Ok(Answer::Found(id())));
    }
    let requests = imds.requests();
    assert_eq!((count(&requests, "PUT"), count(&requests, "GET")), (1, 3));
    for request in &requests {
        let mut names: Vec<String> =
            request.headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
        names.sort();
        let token = if request.method == "PUT" {
            "x-aws-ec2-metadata-token-ttl-seconds"
        } else {
            "x-aws-ec2-metadata-token"
        };
        // A PUT without a body says so.
        names.retain(|name| name != "content-length");
        assert_eq!(names, ["host", token], "{request:?}");
        assert_eq!(request.header("host"), [imds.address().to_string()]);
    }
    assert!(requests[1].header("x-aws-ec2-metadata-token")[0].starts_with(TOKEN_MARKER));
    assert_eq!(metric(&registry, "rolegate_upstream_requests_total", "ok"), 4.0);
}

#[tokio::test]
async fn a_herd_without_a_token_asks_for_one() {
    let imds = imds(Tokens::Required);
    let (upstream, _) = upstream(imds.address());
    let path = instance_id();
    let answers = futures::future::join_all((0..20).map(|_| upstream.get(&path, soon()))).await;
    assert!(answers.into_iter().all(|answer| answer == Ok(Answer::Found(id()))));
    assert_eq!(count(&imds.requests(), "PUT"), 1);
}

#[tokio::test]
async fn a_lost_token_is_replaced_once_and_the_request_repeated() {
    let imds = imds(Tokens::Optional);
    let (upstream, _) = upstream(imds.address());
    upstream.get(&instance_id(), soon()).await.unwrap();
    imds.faults().forget_tokens();
    assert_eq!(upstream.get(&instance_id(), soon()).await, Ok(Answer::Found(id())));
    assert_eq!((count(&imds.requests(), "PUT"), count(&imds.requests(), "GET")), (2, 3));
    imds.faults().status(Some(401));
    assert_eq!(upstream.get(&instance_id(), soon()).await, Err(UpstreamError::Status(401)));
    assert_eq!((count(&imds.requests(), "PUT"), count(&imds.requests(), "GET")), (3, 4));
}

#[tokio::test]
async fn a_service_without_imdsv2_is_asked_without_a_token() {
    let imds = imds(Tokens::Unsupported);
    let (upstream, _) = upstream(imds.address());
    for _ in 0..2 {
        assert_eq!(upstream.get(&instance_id(), soon()).await, Ok(Answer::Found(id())));
    }
    assert_eq!((count(&imds.requests(), "PUT"), count(&imds.requests(), "GET")), (1, 2));
}

#[tokio::test]
async fn a_failing_token_service_is_no_reason_to_go_without() {
    let imds = imds(Tokens::Optional);
    let (upstream, registry) = upstream(imds.address());
    for status in [400, 401, 429, 500, 503] {
        imds.faults().status(Some(status));
        assert_eq!(upstream.get(&instance_id(), soon()).await, Err(UpstreamError::Status(status)));
    }
    imds.faults().status(None);
    assert_eq!(upstream.get(&instance_id(), soon()).await, Ok(Answer::Found(id())));
    assert_eq!(count(&imds.requests(), "GET"), 1, "no GET went out without a token");
    assert_eq!(metric(&registry, "rolegate_upstream_requests_total", "failed"), 4.0);
}

#[tokio::test]
async fn a_slow_service_is_left_at_the_deadline() {
    let imds = imds(Tokens::Optional);
    let (upstream, _) = upstream(imds.address());
    imds.faults().delay(Duration::from_secs(60));
    let deadline = Instant::now() + Duration::from_millis(100);
    assert_eq!(upstream.get(&instance_id(), deadline).await, Err(UpstreamError::Timeout));
    imds.faults().delay(Duration::ZERO);
    assert_eq!(upstream.get(&instance_id(), soon()).await, Ok(Answer::Found(id())));
}

#[tokio::test]
async fn a_service_that_was_down_is_used_again() {
    // An address of its own, so that its port can be chosen by number.
    let imds = Imds::start(listener("127.83.41.7:18254"), ImdsConfig::default()).unwrap();
    let (upstream, _) = upstream(imds.address());
    imds.faults().down(true).unwrap();
    let refused = upstream.get(&instance_id(), soon()).await;
    assert!(matches!(refused, Err(UpstreamError::Connection(_))), "{refused:?}");
    imds.faults().down(false).unwrap();
    assert_eq!(upstream.get(&instance_id(), soon()).await, Ok(Answer::Found(id())));
}

/// A service that answers the PUT with 404 and the GET with `answer`, byte for byte.
fn raw(answer: Vec<u8>) -> SocketAddr {
    let listener = listener("127.0.0.1:0");
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for answer in [b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec(), answer] {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(&answer);
        }
    });
    address
}

#[tokio::test]
async fn answers_that_are_not_short_texts_are_errors() {
    let sized = |body: &[u8]| {
        [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
    };
    let too_long = sized(&vec![b'x'; 64 * 1024 + 1]);
    let longest = sized(&vec![b'x'; 64 * 1024]);
    let rows: [(&str, Vec<u8>, Option<UpstreamError>); 8] = [
        ("longest", longest, None),
        ("HTTP/1.0", b"HTTP/1.0 200 OK\r\n\r\ni-0123".to_vec(), None),
        ("too long", too_long, Some(UpstreamError::NotText)),
        ("not UTF-8", sized(b"\xff\xfe"), Some(UpstreamError::NotText)),
        ("half", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf".to_vec(), Some(UpstreamError::NotText)),
        (
            "redirect",
            b"HTTP/1.1 301 Moved\r\nLocation: http://evil.example/\r\nContent-Length: 0\r\n\r\n".to_vec(),
            Some(UpstreamError::Status(301)),
        ),
        ("not HTTP", b"SSH-2.0-OpenSSH\r\n".to_vec(), Some(UpstreamError::Connection(String::new()))),
        ("nothing", Vec::new(), Some(UpstreamError::Connection(String::new()))),
    ];
    for (name, answer, error) in rows {
        let (upstream, _) = upstream(raw(answer));
        let got = match upstream.get(&instance_id(), soon()).await {
            Ok(answer) => {
                assert!(matches!(answer, Answer::Found(_)), "{name}: {answer:?}");
                None
            }
            Err(UpstreamError::Connection(_)) => Some(UpstreamError::Connection(String::new())),
            Err(error) => Some(error),
        };
        assert_eq!(got, error, "{name}");
    }
}

#[tokio::test]
async fn content_type_is_plain_or_json_and_nothing_a_browser_runs() {
    for (sent, kept) in [
        ("application/json", "application/json"),
        ("application/json; charset=utf-8", "application/json"),
        ("text/html", "text/plain"),
        ("application/octet-stream", "text/plain"),
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Type: {sent}\r\nContent-Length: 1\r\n\r\nx");
        let (upstream, _) = upstream(raw(answer.into_bytes()));
        let Ok(Answer::Found(text)) = upstream.get(&instance_id(), soon()).await else { panic!("{sent}") };
        assert_eq!(text.content_type, kept);
    }
}

#[tokio::test]
async fn a_herd_of_pods_is_one_request_and_an_outage_goes_unseen() {
    let imds = imds(Tokens::Required);
    let (upstream, registry) = upstream(imds.address());
    let passthrough = Passthrough::new(upstream, &registry);
    let path = path("/2009-04-04//meta-data/placement/%61vailability-zone/");
    let answers = futures::future::join_all((0..50).map(|_| passthrough.get(&path, soon()))).await;
    assert!(answers.into_iter().all(|passed| passed == Passed::Text(found("eu-central-1a"))));
    let requests = imds.requests();
    assert_eq!((count(&requests, "PUT"), count(&requests, "GET")), (1, 1));
    assert_eq!(requests[1].target, "/latest/meta-data/placement/availability-zone");
    assert_eq!(metric(&registry, "rolegate_upstream_cache_hits_total", ""), 49.0);
    imds.faults().status(Some(500));
    assert_eq!(passthrough.get(&path, soon()).await, Passed::Text(found("eu-central-1a")));
}

#[tokio::test]
async fn what_is_not_there_and_what_fails_is_not_asked_again_at_once() {
    let imds = imds(Tokens::Optional);
    let (upstream, registry) = upstream(imds.address());
    let passthrough = Passthrough::new(upstream, &registry);
    let absent = path("/latest/meta-data/placement/group-name");
    for _ in 0..3 {
        assert_eq!(passthrough.get(&absent, soon()).await, Passed::NotFound);
    }
    assert_eq!(count(&imds.requests(), "GET"), 1);
    imds.faults().status(Some(503));
    let failing = path("/latest/meta-data/spot/instance-action");
    let herd = futures::future::join_all((0..20).map(|_| passthrough.get(&failing, soon()))).await;
    assert!(herd.into_iter().all(|passed| passed == Passed::Unavailable));
    assert_eq!(count(&imds.requests(), "GET"), 2);
}

#[tokio::test]
async fn a_client_that_hangs_up_leaves_the_others_served() {
    let imds = imds(Tokens::Optional);
    let (upstream, registry) = upstream(imds.address());
    let passthrough = Passthrough::new(upstream, &registry);
    let path = path("/latest/meta-data/instance-id");
    let mut first = Box::pin(passthrough.get(&path, soon()));
    assert!(futures::poll!(&mut first).is_pending());
    let mut second = Box::pin(passthrough.get(&path, soon()));
    assert!(futures::poll!(&mut second).is_pending());
    drop(first);
    assert_eq!(second.await, Passed::Text(id()));
}

#[tokio::test]
async fn discovery_reads_account_role_and_region_but_not_the_profiles_name() {
    let config = ImdsConfig {
        role_name: Some("corp-node".into()),
        profile_arn: "arn:aws:iam::123456789012:instance-profile/kops-custom-node-role".into(),
        tokens: Tokens::Required,
        ..ImdsConfig::default()
    };
    let imds = Imds::start(listener("127.0.0.1:0"), config).unwrap();
    let (upstream, _) = upstream(imds.address());
    let node = NodeIdentity::discover(&upstream, soon()).await;
    assert_eq!(node.problems, []);
    assert_eq!(node.base.as_ref().map(|base| base.as_str()), Some("arn:aws:iam::123456789012:role/"));
    assert_eq!(node.account(), Some("123456789012"));
    assert_eq!(node.listed_role.as_deref(), Some("corp-node"));
    assert_eq!(node.region.as_deref(), Some("eu-central-1"));
}

#[tokio::test]
async fn discovery_says_what_is_missing_and_what_to_do() {
    let config = ImdsConfig { role_name: None, ..ImdsConfig::default() };
    let imds = Imds::start(listener("127.0.0.1:0"), config).unwrap();
    let (client, _) = upstream(imds.address());
    let node = NodeIdentity::discover(&client, soon()).await;
    assert_eq!(node.region.as_deref(), Some("eu-central-1"));
    assert_eq!((node.base, node.listed_role), (None, None));
    let problems: Vec<String> = node.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "the base ARN of roles is not known: /latest/meta-data/iam/info is not there; give the instance a \
             profile with a role",
            "the node's own role is not known: /latest/meta-data/iam/security-credentials/ is not there; give \
             the instance a profile with a role",
        ]
    );
    imds.faults().status(Some(500));
    let (client, _) = upstream(imds.address());
    let node = NodeIdentity::discover(&client, soon()).await;
    assert_eq!(node.problems.len(), 3);
    assert!(node.problems.iter().all(|problem| matches!(problem, DiscoveryError::Unreachable { .. })));
}

#[tokio::test]
async fn the_double_recognises_sensitive_requests_in_any_spelling() {
    let imds = imds(Tokens::Optional);
    let ask = |target: &str| {
        let mut stream = std::net::TcpStream::connect(imds.address()).unwrap();
        stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    let secrets = [
        "/latest/meta-data%252fiam/security-credentials/nodes.example.cluster.k8s.local",
        "/latest/Meta-Data/IAM;x/security-credentials%20/nodes.example.cluster.k8s.local",
        "/latest/meta-data\\identity-credentials/ec2/security-credentials/ec2-instance",
        "/latest/meta-data/../user-data?x",
    ];
    for target in secrets {
        let answer = ask(target);
        assert!(answer.contains("NODE-ROLE") || answer.contains("USER-DATA-SECRET"), "{target}: {answer}");
        assert!(answer.contains("Server: EC2ws"));
    }
    assert!(ask("/latest/meta-data/instance-id").contains("i-0123456789abcdef0"));
    assert_eq!(imds.sensitive_requests().len(), secrets.len());
}
