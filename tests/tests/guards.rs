//! The guards stand before the first start, beside the rules and after the end: whatever others flush, nobody gets the
//! node's credentials.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use rolegate_tests::agent::{Agent, run_to_end};
use rolegate_tests::http::Client;
use rolegate_tests::imds::{ImdsConfig, NODE_MARKER};
use rolegate_tests::topology::{Backend, imds_v4, imds_v6};
use rolegate_tests::traffic::{Got, Traffic};
use rolegate_tests::world::{NODE_ROLE, Options, RunningPod, World};
use tokio::time::Instant;

const LIST: &str = "/latest/meta-data/iam/security-credentials/";
/// Requests of each pod and family that are looked at after each flush.
const ROUND: usize = 5;
/// What others run: firewalls that reload, network daemons that restart, operators who tidy up. The tables of one back
/// end at once, and what the other guard is made of.
const FLUSHES: [&str; 7] = [
    "nft flush ruleset",
    "for f in iptables-nft ip6tables-nft; do $f -w -t nat -F; $f -w -F; done",
    "for f in iptables-legacy ip6tables-legacy; do $f -w -t nat -F; $f -w -F; done",
    "for f in ip ip6; do printf '*nat\\nCOMMIT\\n*filter\\nCOMMIT\\n' | ${f}tables-nft-restore; done",
    "for f in ip ip6; do printf '*nat\\nCOMMIT\\n*filter\\nCOMMIT\\n' | ${f}tables-legacy-restore; done",
    "for f in -4 -6; do for p in 2 4 6; do ip $f rule del pref $p; done; done",
    "conntrack -F",
];

/// As on an instance that nobody has hardened: whatever gets out gets the node's credentials.
fn open_world(test: &str, backend: Backend) -> Option<World> {
    let imds = ImdsConfig { hop_limit: 64, ..ImdsConfig::default() };
    let world = World::for_test(test, &Options { backend, imds, ..Options::default() })?;
    world.namespace("default", &["MyPodRole"]).unwrap();
    Some(world)
}

fn pods(world: &World) -> Vec<RunningPod> {
    vec![
        world.pod("default", "routed", |pod| pod.role("MyPodRole")).unwrap(),
        world.bridged_pod("default", "bridged", |pod| pod.role("MyPodRole")).unwrap(),
    ]
}

/// Each pod asks both addresses of IMDS all the time.
fn start_traffic(pods: &[RunningPod]) -> Vec<Traffic> {
    pods.iter().flat_map(|pod| [imds_v4(), imds_v6()].map(|to| Traffic::start(&pod.net, to))).collect()
}

fn all(traffic: &[Traffic], wanted: impl Fn(Got) -> bool) {
    for traffic in traffic {
        traffic.wait_for(ROUND, &wanted).unwrap();
    }
}

fn assert_sealed(world: &World, traffic: &[Traffic], start: Instant, log: &str) {
    for traffic in traffic {
        let leaked =
            traffic.seen().into_iter().filter(|(at, got)| *at > start && *got == Got::NodeCredentials);
        assert_eq!(leaked.count(), 0, "{log}");
    }
    assert!(world.leaks(start).is_empty(), "{:?}\n{log}", world.leaks(start));
}

fn host_asks(world: &World) {
    for to in [imds_v4(), imds_v6()] {
        let answer = Client::new(world.topology.node(), to).get(&format!("{LIST}{NODE_ROLE}")).unwrap();
        assert!(answer.text().contains(NODE_MARKER), "{to}: {} {}", answer.status, answer.text());
    }
}

/// Runs it; what is not installed here, or finds nothing to flush, flushes nothing.
fn flush(world: &World, command: &str) {
    let _ = world.topology.node().run("sh", &["-c", command]);
}

#[test]
fn node_is_closed_by_the_guards_before_the_agent_has_ever_run() {
    let test = "node_is_closed_by_the_guards_before_the_agent_has_ever_run";
    let Some(world) = open_world(test, Backend::Nft) else { return };
    world.node_asks();
    let pods = pods(&world);
    let traffic = start_traffic(&pods);
    all(&traffic, |got| got == Got::NodeCredentials);
    let node = Some(&**world.topology.node());
    let said = run_to_end(node, &["guard"]).unwrap();
    assert!(said.status.success(), "{said:?}");
    assert!(String::from_utf8_lossy(&said.stdout).contains("the guards stand now"), "{said:?}");
    let start = Instant::now();
    all(&traffic, |got| got == Got::Nothing);
    host_asks(&world);
    let again = run_to_end(node, &["guard", "--output=json"]).unwrap();
    assert_eq!(String::from_utf8_lossy(&again.stdout).trim(), r#"{"errors":[],"mended":[]}"#);

    let agent = world.agent(&[]).unwrap();
    all(&traffic, |got| matches!(got, Got::Status(_)));
    assert_sealed(&world, &traffic, start, &agent.log());
}

/// An agent that redirects in this way, and is ready.
fn agent(world: &World, redirect: &str) -> Agent {
    let mut flags = world.usual_flags();
    flags.retain(|flag| flag != "--iptables");
    flags.extend([redirect, "--reconcile-period=1s"].map(str::to_owned));
    let agent = Agent::start(world.topology.node(), &flags, &world.environment()).unwrap();
    agent.ready().unwrap();
    agent
}

fn flushed_and_mended(test: &str, backend: Backend, redirect: &str) {
    let Some(world) = open_world(test, backend) else { return };
    world.node_asks();
    let agent = agent(&world, redirect);
    let start = Instant::now();
    let pods = pods(&world);
    let traffic = start_traffic(&pods);
    for command in FLUSHES {
        flush(&world, command);
        all(&traffic, |got| matches!(got, Got::Status(_)));
        host_asks(&world);
    }
    agent.ready().unwrap();
    assert_sealed(&world, &traffic, start, &agent.log());
    killed(&world, &traffic, agent);
}

/// Nobody mends any more: one guard is left after each flush.
fn killed(world: &World, traffic: &[Traffic], agent: Agent) {
    agent.kill9().unwrap();
    drop(agent);
    let start = Instant::now();
    for command in &FLUSHES[..FLUSHES.len() - 2] {
        flush(world, command);
        all(traffic, |got| got == Got::Nothing);
    }
    host_asks(world);
    assert_sealed(world, traffic, start, "");
}

#[test]
fn flushes_on_a_node_with_nft_rules_open_nothing() {
    flushed_and_mended("flushes_on_a_node_with_nft_rules_open_nothing", Backend::Nft, "--redirect=iptables");
}

#[test]
fn flushes_on_a_node_with_legacy_rules_open_nothing() {
    flushed_and_mended(
        "flushes_on_a_node_with_legacy_rules_open_nothing",
        Backend::Legacy,
        "--redirect=iptables",
    );
}

#[test]
fn flushes_open_nothing_where_policy_routing_redirects() {
    flushed_and_mended(
        "flushes_open_nothing_where_policy_routing_redirects",
        Backend::Nft,
        "--redirect=route",
    );
}
