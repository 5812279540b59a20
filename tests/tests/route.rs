//! Redirecting by policy routing: the whole way of a request, without netfilter's translation and without a port.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use rolegate_tests::agent::{Agent, run_to_end};
use rolegate_tests::clients::Client;
use rolegate_tests::imds::ImdsConfig;
use rolegate_tests::topology::{NODE_V4, imds_v4};
use rolegate_tests::traffic::{Got, Traffic};
use rolegate_tests::world::{Options, World};
use tokio::time::Instant;

fn open_world(test: &str) -> Option<World> {
    let imds = ImdsConfig { hop_limit: 64, ..ImdsConfig::default() };
    let world = World::for_test(test, &Options { imds, ..Options::default() })?;
    world.namespace("default", &["MyPodRole", "OtherRole"]).unwrap();
    Some(world)
}

fn flags(world: &World) -> Vec<String> {
    let mut flags = world.usual_flags();
    flags.retain(|flag| flag != "--iptables" && !flag.starts_with("--host-ip"));
    flags.push("--redirect=route".into());
    flags
}

fn start(world: &World) -> Agent {
    let agent = Agent::start(world.topology.node(), &flags(world), &world.environment()).unwrap();
    agent.ready().unwrap();
    agent
}

#[test]
fn pods_of_both_kinds_get_their_own_role_over_both_families() {
    let Some(world) = open_world("pods_of_both_kinds_get_their_own_role_over_both_families") else { return };
    let agent = start(&world);
    let routed = world.pod("default", "routed", |pod| pod.role("MyPodRole")).unwrap();
    let bridged = world.bridged_pod("default", "bridged", |pod| pod.role("OtherRole")).unwrap();
    for (pod, role) in [(&routed, "MyPodRole"), (&bridged, "OtherRole")] {
        for client in [pod.imds(), pod.imds_v6()] {
            let token = client.imds_token(60).unwrap();
            assert_eq!(client.role_list(&token).unwrap().text(), role, "{}", agent.log());
            let document = client.document(role, &token).unwrap().json().unwrap();
            assert_eq!(document["Code"], "Success", "{document}");
        }
    }
    // No port of the node's is open for it, from anywhere.
    for from in [routed.net.ns(), world.topology.outside(), world.topology.node()] {
        for port in [8181, 80] {
            let to = (NODE_V4, port).into();
            assert!(from.connect(to, Duration::from_secs(2)).is_err(), "{port}");
        }
    }
}

#[test]
fn botocore_loads_credentials_by_policy_routing() {
    let test = "botocore_loads_credentials_by_policy_routing";
    let Some(world) = open_world(test) else { return };
    if let Some(why) = Client::Botocore.missing() {
        return rolegate_tests::skip(test, &why);
    }
    let _agent = start(&world);
    let pod = world.pod("default", "aws-cli", |pod| pod.role("MyPodRole")).unwrap();
    Client::Botocore.load(pod.net.ns()).unwrap();
}

#[test]
fn pods_are_captured_or_refused_from_the_first_moment_to_kill_9_and_back() {
    let test = "pods_are_captured_or_refused_from_the_first_moment_to_kill_9_and_back";
    let Some(world) = open_world(test) else { return };
    let pod = world.pod("default", "asking", |pod| pod.role("MyPodRole")).unwrap();
    let traffic = Traffic::start(&pod.net, imds_v4());
    traffic.wait_for(5, |got| got == Got::NodeCredentials).unwrap();
    let mut agent = start(&world);
    let sealed = Instant::now();
    for _ in 0..3 {
        traffic.wait_for(5, |got| matches!(got, Got::Status(_))).unwrap();
        agent.kill9().unwrap();
        traffic.wait_for(2, |got| got == Got::Nothing).unwrap();
        agent = start(&world);
    }
    drop(agent);
    let leaked = traffic.seen().into_iter().filter(|(at, got)| *at > sealed && *got == Got::NodeCredentials);
    assert_eq!(leaked.count(), 0);
    assert!(world.leaks(sealed).is_empty(), "{:?}", world.leaks(sealed));
    let removed = run_to_end(Some(&**world.topology.node()), &["cleanup"]).unwrap();
    assert!(String::from_utf8_lossy(&removed.stdout).contains("removed the policy routing"), "{removed:?}");
    traffic.wait_for(2, |got| got == Got::NodeCredentials).unwrap();
}

#[test]
fn address_that_another_process_listens_at_is_named_and_nothing_is_open() {
    let test = "address_that_another_process_listens_at_is_named_and_nothing_is_open";
    let Some(world) = open_world(test) else { return };
    let pod = world.pod("default", "asking", |pod| pod.role("MyPodRole")).unwrap();
    let traffic = Traffic::start(&pod.net, imds_v4());
    traffic.wait_for(5, |got| got == Got::NodeCredentials).unwrap();
    let taken = world.topology.node().listen("0.0.0.0:80".parse().unwrap()).unwrap();
    let agent = Agent::start(world.topology.node(), &flags(&world), &world.environment()).unwrap();
    let waiting = "waiting: 169.254.169.254:80 (--redirect=route) cannot be listened at";
    agent.wait_for_line(waiting, |line| line.text.contains(waiting)).unwrap();
    agent.wait_for_line("guarded", |line| line.text.contains("the guards stand while")).unwrap();
    let guarded = Instant::now();
    traffic.wait_for(5, |got| got == Got::Nothing).unwrap();
    drop(taken);
    traffic.wait_for(5, |got| matches!(got, Got::Status(_))).unwrap();
    let leaked = traffic.seen().into_iter().filter(|(at, got)| *at > guarded && *got == Got::NodeCredentials);
    assert_eq!(leaked.count(), 0);
}
