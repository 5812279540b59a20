//! Flags of the group "Metadata".

use rolegate_tests::agent::Agent;
use rolegate_tests::imds::{Imds, ImdsConfig};
use rolegate_tests::topology::WORLD_V4;
use rolegate_tests::world::RunningPod;

use super::{call, document, ready, served, status, warns, world};

/// Neither the default nor what the kernel sets.
const HOPS: u8 = 7;

#[test]
fn metadata_is_asked_for_passed_on_and_guarded_as_told() {
    let Some(world) = world("metadata_is_asked_for_passed_on_and_guarded_as_told") else { return };
    world.namespace("default", &["*"]).unwrap();
    let address = (WORLD_V4, 1338).into();
    let config = ImdsConfig { region: "us-west-2".into(), ..ImdsConfig::default() };
    let imds = Imds::start(world.topology.world().listen(address).unwrap(), config).unwrap();
    let state = tempfile::tempdir().unwrap();
    let state_dir = format!("--state-dir={}", state.path().display());
    let agent = ready(
        &world,
        &["--state-dir"],
        &[
            "--metadata-addr=10.0.0.1:1338",
            "--metadata-allow=public-ipv4,tags/instance/*",
            "--metadata-allow=network/**",
            "--imds-v1=deny",
            &format!("--token-hop-limit={HOPS}"),
            &state_dir,
            "--backoff-max-interval=1s",
        ],
    );
    warns(&agent, "--backoff-max-interval");
    let pod = world.pod("default", "reader", |pod| pod.role("MyPodRole")).unwrap();
    let count = |option: &str| {
        let rule = format!("-{option} INPUT -s 169.254.169.254 -m ttl --ttl-eq {HOPS}");
        pod.net.ns().run("iptables-nft", &rule.split(' ').collect::<Vec<_>>()).unwrap();
    };
    count("A");
    assert!(served(&agent, &pod), "{}", agent.log());
    let counted = pod.net.ns().run("iptables-nft", &["-nvxL", "INPUT"]).unwrap();
    let rule = counted.lines().find(|line| line.contains("169.254.169.254")).unwrap();
    assert_ne!(rule.split_whitespace().next(), Some("0"), "no packet with TTL {HOPS}\n{counted}");

    let token = pod.imds().imds_token(300).unwrap();
    for (path, status) in [
        ("public-ipv4", 200),
        ("network/interfaces/macs/0e:49:61:0f:c3:11/subnet-id", 200),
        ("public-keys/0/openssh-key", 404),
    ] {
        let got = pod.imds().get_v2(&format!("/latest/meta-data/{path}"), &token).unwrap();
        assert_eq!(got.status, status, "{path}\n{}", agent.log());
    }
    assert_eq!(status(&agent, &pod, "/latest/meta-data/instance-id"), 401);
    // A namespace may say otherwise.
    let allowed = [("iam.amazonaws.com/imds-v1", "allow")];
    world.cluster.apply_namespace("first-version", &allowed).unwrap();
    let old = world.pod("first-version", "old", |pod| pod).unwrap();
    agent
        .poll("a request without a token is answered", || {
            Ok(old.imds().get("/latest/meta-data/instance-id")?.status == 200)
        })
        .unwrap();
    // The region is what the other service says; the usual one was never asked.
    assert_eq!(call(&world, &agent, "a call", |_| true).region, "us-west-2");
    assert!(!imds.requests().is_empty() && world.imds().requests().is_empty());
    drop(agent);

    // A token is good for an agent with the same key, and for no other.
    let listed = |agent: &Agent, pod: &RunningPod| {
        assert!(served(agent, pod), "{}", agent.log());
        pod.imds().role_list(&token).unwrap().status
    };
    let again = ready(&world, &["--state-dir"], &[&state_dir]);
    assert_eq!(listed(&again, &pod), 200);
    drop(again);
    let other = tempfile::tempdir().unwrap();
    let agent = ready(&world, &["--state-dir"], &[&format!("--state-dir={}", other.path().display())]);
    assert_eq!(listed(&agent, &pod), 401);
}

#[test]
fn request_waits_for_its_pod_as_long_as_told_and_no_longer_than_sdks() {
    let Some(world) = world("request_waits_for_its_pod_as_long_as_told_and_no_longer_than_sdks") else {
        return;
    };
    world.namespace("default", &["*"]).unwrap();
    let stranger = world.topology.routed_pod("stranger", "100.96.1.200".parse().unwrap(), None).unwrap();
    let known = world.pod("default", "known", |pod| pod.role("MyPodRole")).unwrap();
    for (flag, least, most) in [
        ("--backoff-max-elapsed-time=2s", 900_000, u64::MAX),
        // The shortest of a few: one of them was not held up by anything else.
        ("--backoff-max-elapsed-time=100ms", 100_000, 899_999),
    ] {
        let agent = ready(&world, &[], &[flag]);
        assert_eq!(document(&agent, &known)["Code"], "Success");
        for _ in 0..4 {
            let refused =
                rolegate_tests::http::Client::imds(stranger.ns()).get("/latest/meta-data/").unwrap();
            assert_eq!(refused.status, 500);
        }
        let waited: Vec<u64> = agent
            .lines()
            .iter()
            .filter(|line| line.text_of("peer").is_some_and(|peer| peer.starts_with("100.96.1.200:")))
            .filter_map(|line| line.field("duration_us")?.as_u64())
            .collect();
        let shortest = waited.iter().min().unwrap();
        assert!((least..=most).contains(shortest), "{flag}: {waited:?}");
        if most == u64::MAX {
            warns(&agent, "--backoff-max-elapsed-time");
        }
    }
}
