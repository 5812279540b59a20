//! The world without an agent: what its parts say to each other, and what an agent is there to prevent.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use rolegate_tests::clients::{Client, aws_cli};
use rolegate_tests::imds::ImdsConfig;
use rolegate_tests::moto::Moto;
use rolegate_tests::topology::imds_v4;
use rolegate_tests::traffic::{Got, Traffic};
use rolegate_tests::world::{Options, World, arn};
use rolegate_tests::{imds, skip};

/// A world whose tokens reach pods, as on an instance that nobody has hardened.
fn open_world(test: &str) -> Option<World> {
    if let Some(why) = World::missing() {
        skip(test, &why);
        return None;
    }
    let imds = ImdsConfig { hop_limit: 64, ..ImdsConfig::default() };
    Some(World::with(&Options { imds, ..Options::default() }).unwrap())
}

fn loads_what_imds_has(client: Client, test: &str) {
    if let Some(why) = client.missing() {
        return skip(test, &why);
    }
    let Some(world) = open_world(test) else { return };
    let pod = world.pod("default", "client", |pod| pod).unwrap();
    let loaded = client.load(pod.net.ns()).unwrap();
    assert!(loaded.access_key_id.contains(imds::NODE_MARKER), "{loaded:?}");
    assert!(loaded.expiration.is_some());

    let mut running = client.start(pod.net.ns(), &[]).unwrap();
    assert_eq!(running.load().unwrap().access_key_id, loaded.access_key_id);
    assert_eq!(running.load().unwrap().access_key_id, loaded.access_key_id);
}

#[test]
fn botocore_loads_credentials_in_a_pod() {
    loads_what_imds_has(Client::Botocore, "botocore_loads_credentials_in_a_pod");
}

#[test]
fn javascript_loads_credentials_in_a_pod() {
    loads_what_imds_has(Client::JavaScript, "javascript_loads_credentials_in_a_pod");
}

#[test]
fn go_loads_credentials_in_a_pod() {
    loads_what_imds_has(Client::Go, "go_loads_credentials_in_a_pod");
}

#[test]
fn rust_loads_credentials_in_a_pod() {
    loads_what_imds_has(Client::Rust, "rust_loads_credentials_in_a_pod");
}

#[test]
fn client_without_imds_says_so_in_its_own_words() {
    let test = "client_without_imds_says_so_in_its_own_words";
    let Some(world) = open_world(test) else { return };
    let pod = world.pod("default", "client", |pod| pod).unwrap();
    world.imds().faults().status(Some(404));
    assert!(Client::Rust.load(pod.net.ns()).is_err());
    match Client::Botocore.missing() {
        Some(why) => skip(test, &why),
        None => assert_eq!(Client::Botocore.load(pod.net.ns()).unwrap_err(), "Unable to locate credentials"),
    }
}

#[test]
fn traffic_without_an_agent_gets_the_nodes_credentials_and_is_seen_to() {
    let Some(world) = open_world("traffic_without_an_agent_gets_the_nodes_credentials_and_is_seen_to") else {
        return;
    };
    let start = tokio::time::Instant::now();
    let net = Arc::new(world.topology.routed_pod("old", "100.96.1.200".parse().unwrap(), None).unwrap());
    assert!(world.leaks(start).is_empty());
    let traffic = Traffic::start(&net, imds_v4());
    traffic.wait_for(10, |got| got == Got::NodeCredentials).unwrap();
    assert!(world.leaks(start).len() >= 10);
}

/// Trust is the STS double's to judge, permissions are moto's, and a session is good for both.
#[test]
fn session_granted_by_sts_is_known_to_s3() {
    let test = "session_granted_by_sts_is_known_to_s3";
    if let Some(why) = Moto::missing() {
        return skip(test, &why);
    }
    let Some(world) = open_world(test) else { return };
    let moto = Arc::new(Moto::start(world.topology.world()).unwrap());
    moto.create_bucket("bucket-one").unwrap();
    moto.create_role("MyPodRole").unwrap();
    moto.attach_policy("MyPodRole", "arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess").unwrap();
    world.issue_by(&moto);

    let node = world.topology.node();
    let role = arn("MyPodRole");
    let assumed = aws_cli(
        node,
        &["sts", "assume-role", "--role-session-name=default.default", "--output=json", "--role-arn", &role],
        &[("AWS_ENDPOINT_URL_STS", &world.sts.url())],
    )
    .unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&assumed.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&assumed.stderr)));
    let text = |name: &str| answer["Credentials"][name].as_str().unwrap().to_owned();
    let listed = aws_cli(
        node,
        &["s3", "ls"],
        &[
            ("AWS_ENDPOINT_URL_S3", &Moto::endpoint()),
            ("AWS_ACCESS_KEY_ID", &text("AccessKeyId")),
            ("AWS_SECRET_ACCESS_KEY", &text("SecretAccessKey")),
            ("AWS_SESSION_TOKEN", &text("SessionToken")),
        ],
    )
    .unwrap();
    assert!(String::from_utf8_lossy(&listed.stdout).contains("bucket-one"), "{listed:?}");
    assert_eq!(world.sts.calls().last().unwrap().access_key_id, Some(text("AccessKeyId")));
}
