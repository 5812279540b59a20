//! One agent takes over from another: nothing is refused, nothing is lost, and there is one at a time.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "handover/load.rs"]
mod load;

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

use rolegate_tests::agent::Agent;
use rolegate_tests::http::Response;
use rolegate_tests::imds::ImdsConfig;
use rolegate_tests::kube_api::Resource;
use rolegate_tests::world::{Options, RunningPod, World};

use load::Load;

const DOCUMENT: &str = "/latest/meta-data/iam/security-credentials/MyPodRole";
/// What one agent of a node has (its documentation, "What one agent of a node has alone").
const KEEPER: &str = "rolegate/redirect";

fn open_world(test: &str) -> Option<World> {
    let world = World::for_test(test, &Options::default())?;
    prepare(&world);
    Some(world)
}

fn faulty_world(test: &str) -> Option<World> {
    let world = World::for_test_with_faults(test)?;
    prepare(&world);
    Some(world)
}

fn prepare(world: &World) {
    world.namespace("default", &["MyPodRole", "OtherRole"]).unwrap();
}

fn start(world: &World, capture: &str) -> Agent {
    let mut flags = world.usual_flags();
    flags.retain(|flag| flag != "--iptables");
    flags.push(format!("--redirect={capture}"));
    Agent::start(world.topology.node(), &flags, &world.environment()).unwrap()
}

fn says(agent: &Agent, what: &str) {
    agent.wait_for_line(what, |line| line.text.contains(what)).unwrap();
}

/// The agent says so itself: its admin port may be answered by another one.
fn is_ready(agent: &Agent) {
    agent.wait_for_line("ready", |line| line.text_of("message").as_deref() == Some("ready")).unwrap();
}

fn is_served(pod: &RunningPod) {
    for client in [pod.imds(), pod.imds_v6()] {
        let answer: Response = client.get(DOCUMENT).unwrap();
        assert_eq!(answer.json().unwrap()["Code"], "Success", "{}", answer.text());
    }
}

/// `n` agents, each of which takes over from the one before.
fn hand_over(test: &str, capture: &str, n: usize) {
    let Some(world) = open_world(test) else { return };
    let routed = world.pod("default", "routed", |pod| pod.role("MyPodRole")).unwrap();
    let bridged = world.bridged_pod("default", "bridged", |pod| pod.role("OtherRole")).unwrap();
    let mut agent = start(&world, capture);
    agent.ready().unwrap();
    let pods = [(&routed, "MyPodRole"), (&bridged, "OtherRole")];
    let answered = Load::around(&pods, |load| {
        for turn in 0..n {
            load.served_more(1, &agent);
            let next = start(&world, capture);
            // In every fourth turn the old one is to end before the new one is ready.
            if turn % 4 == 3 {
                says(&agent, "its sockets are given to it");
                agent.sigterm().unwrap();
            }
            is_ready(&next);
            says(&next, "taken over: the agent before this one is relieved");
            load.served_more(1, &next);
            agent.sigterm().unwrap();
            assert_eq!(agent.wait().unwrap().code(), Some(0), "turn {turn}: {}", agent.log());
            agent = next;
        }
    });
    for (role, access_key_id) in answered {
        let calls = world.sts.calls();
        let issued = calls.iter().find(|call| call.access_key_id.as_ref() == Some(&access_key_id)).unwrap();
        assert!(issued.role.ends_with(&format!("/{role}")), "{role} got keys of {}", issued.role);
    }
}

#[test]
fn seventy_hand_overs_under_load_refuse_and_lose_nothing_by_policy_routing() {
    hand_over("seventy_hand_overs_under_load_refuse_and_lose_nothing_by_policy_routing", "route", 70);
}

#[test]
fn thirty_hand_overs_under_load_refuse_and_lose_nothing_with_iptables() {
    hand_over("thirty_hand_overs_under_load_refuse_and_lose_nothing_with_iptables", "iptables", 30);
}
