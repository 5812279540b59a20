//! Scripts that forge: nothing where ports are pinned, and the neighbour's credentials where they are not.

use rolegate_tests::agent::Agent;
use rolegate_tests::world::World;

use super::lab::{attacker, open, served, successful, victim};

/// Every way of claiming, and what it has to do to fail here: end, where nothing is pinned.
const ATTACKS: [&str; 7] = ["arp", "vlan", "mac", "ndp", "ndp-options", "ndp-solicit", "ndp-router"];
/// What gets nothing anywhere: the answer goes to whose address it is.
const BLIND: [&str; 2] = ["source", "source6"];

fn flags(world: &World, redirect: &str) -> Vec<String> {
    let mut flags = world.usual_flags();
    if redirect == "route" {
        flags.retain(|flag| flag != "--iptables" && !flag.starts_with("--host-ip"));
        flags.push("--redirect=route".into());
    }
    flags
}

fn run(world: &World, redirect: &str, shared_l2: &str) -> Agent {
    let mut flags = flags(world, redirect);
    flags.push(format!("--shared-l2={shared_l2}"));
    let agent = Agent::start(world.topology.node(), &flags, &world.environment()).unwrap();
    agent.ready().unwrap();
    agent
}

fn nothing_with_pins_and_credentials_without(world: &World, redirect: &str) {
    let (victim, attacker) = (victim(world), attacker(world));
    let agent = run(world, redirect, "pin");
    served(&agent, &victim);
    let all: Vec<&str> = ATTACKS.into_iter().chain(BLIND).collect();
    assert_eq!(successful(world, &attacker, &victim, &all, 2), [""; 0], "{}", agent.log());
    served(&agent, &victim);
    drop(agent);

    let agent = run(world, redirect, "allow");
    served(&agent, &victim);
    assert_eq!(successful(world, &attacker, &victim, &BLIND, 1), [""; 0]);
    // Without pins the card that was seen under the pod's UID still stands against the others: not against this.
    let without = successful(world, &attacker, &victim, &["mac"], 20);
    assert_eq!(without, ["mac"], "the script works: {}", agent.log());
    agent
        .wait_for_line("who is believed", |line| {
            line.text_of("interfaces").as_deref() == Some("cbr0") && line.text.contains("allow")
        })
        .unwrap();
}

/// P15: on a bridge whose ports are pinned, scripts that forge ARP, neighbour discovery, hardware and source addresses get nothing.
#[test]
fn forged_frames_get_nothing_by_translation_where_ports_are_pinned() {
    let Some(world) = open("forged_frames_get_nothing_by_translation_where_ports_are_pinned") else { return };
    nothing_with_pins_and_credentials_without(&world, "iptables");
}

/// P15: the same where policy routing redirects.
#[test]
fn forged_frames_get_nothing_by_policy_routing_where_ports_are_pinned() {
    let Some(world) = open("forged_frames_get_nothing_by_policy_routing_where_ports_are_pinned") else {
        return;
    };
    nothing_with_pins_and_credentials_without(&world, "route");
}
