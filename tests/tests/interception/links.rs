//! Interfaces of pods that come, go and change their names under a running agent.

use rolegate_tests::agent::Agent;
use rolegate_tests::siege::{Capture, Siege};
use rolegate_tests::traffic::Got;
use rolegate_tests::world::RunningPod;

/// Names that no pattern of a CNI has, some of which mean something else elsewhere.
const NAMES: [&str; 4] = ["eth0.7", "lo1", "any+", "!x"];

/// Gives the pod's link another name, and the node's routes to the pod again: a link that is taken down loses them.
fn rename_routed(siege: &Siege, pod: &RunningPod, from: &str, to: &str) {
    let (ip4, ip6) = (pod.net.ip4(), pod.net.ip6().unwrap());
    siege
        .world
        .topology
        .node()
        .ip(&format!(
            "link set {from} down\nlink set {from} name {to}\nlink set {to} up\n\
             addr replace fe80::1/64 dev {to} nodad\n\
             route replace {ip4}/32 dev {to}\nroute replace {ip6}/128 dev {to}\n"
        ))
        .unwrap();
}

/// The same for the bridge, which has addresses, and for a port of it.
fn rename_bridge(siege: &Siege, port: &str, from: &str, to: &str) {
    let other = format!("p{to}");
    siege
        .world
        .topology
        .node()
        .ip(&format!(
            "link set {from} down\nlink set {from} name {to}\nlink set {to} up\n\
             addr replace fd00:64:1::1/64 dev {to} nodad\n\
             link set {port} down\nlink set {port} name {other}\nlink set {other} up\n\
             link set {other} down\nlink set {other} name {port}\nlink set {port} up\n"
        ))
        .unwrap();
}

fn assert_captured(siege: &Siege, agent: &Agent, what: &str) {
    let all =
        siege.everybody_gets(2, |got| matches!(got, Got::Status(_))).and_then(|()| siege.nothing_leaked());
    all.unwrap_or_else(|error| panic!("{what}: {error:#}\n{}", agent.log()));
}

fn names_change_nothing(test: &str, capture: Capture, flags: &[&str]) {
    let Some(mut siege) = Siege::for_test(test, capture) else { return };
    let agent = siege.agent(flags).unwrap();
    siege.seal().unwrap();
    let port = siege.pods[1].net.host_link().to_owned();
    let (mut link, mut bridge) = (siege.pods[0].net.host_link().to_owned(), "cbr0".to_owned());
    for name in NAMES {
        rename_routed(&siege, &siege.pods[0], &link, name);
        rename_bridge(&siege, &port, &bridge, &format!("b{name}"));
        (link, bridge) = (name.to_owned(), format!("b{name}"));
        assert_captured(&siege, &agent, &format!("{capture:?} {flags:?}, renamed to {name}"));
        // One that comes under this name's likeness.
        let late = siege.world.pod("default", "late", |pod| pod.role("MyPodRole")).unwrap();
        let other = format!("{name}2");
        rename_routed(&siege, &late, late.net.host_link(), &other);
        for client in [late.imds(), late.imds_v6()] {
            let served = || Ok(client.credentials().is_ok_and(|document| document["Code"] == "Success"));
            agent.poll(&format!("{capture:?} {flags:?}, {other} is served"), served).unwrap();
        }
        rename_routed(&siege, &late, &other, late.net.host_link());
        siege.world.delete(&late).unwrap();
    }
    agent.ready().unwrap();
    rename_routed(&siege, &siege.pods[0], &link, siege.pods[0].net.host_link());
}

/// P9: under policy routing.
#[test]
fn no_name_of_an_interface_matters_under_policy_routing() {
    names_change_nothing("no_name_of_an_interface_matters_under_policy_routing", Capture::Route, &[]);
}

/// P9: under iptables, with the interfaces that are taken by default, and where the uplink is excepted by its name.
#[test]
fn no_name_of_an_interface_matters_under_iptables() {
    for flags in [&[][..], &["--host-interface=!eth0"]] {
        names_change_nothing("no_name_of_an_interface_matters_under_iptables", Capture::IptablesNft, flags);
    }
}
