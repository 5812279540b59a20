//! The harness's own network: who reaches whom before any agent runs.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rolegate_tests::netns::{self, NetNs};
use rolegate_tests::topology::{
    Backend, NODE_V4, NODE_V6, OUTSIDE_V4, SNAT_V4, SNAT_V6, Topology, imds_v4, imds_v6,
};

const TIMEOUT: Duration = Duration::from_secs(5);

/// Answers each of `n` connections with the peer's address.
fn echo_peer(ns: &NetNs, addr: SocketAddr, n: usize) {
    let listener = ns.listen(addr).unwrap();
    std::thread::spawn(move || {
        for _ in 0..n {
            let (mut stream, peer) = listener.accept().unwrap();
            write!(stream, "{}", peer.ip()).unwrap();
        }
    });
}

fn seen_as(from: &NetNs, addr: SocketAddr) -> IpAddr {
    let mut text = String::new();
    from.connect(addr, TIMEOUT).unwrap().read_to_string(&mut text).unwrap();
    text.parse().unwrap()
}

fn topology(test: &str, backend: Backend) -> Option<Topology> {
    match netns::missing() {
        Some(why) => {
            rolegate_tests::skip(test, &why);
            None
        }
        None => Some(Topology::with_backend(backend).unwrap()),
    }
}

fn pods_reach_imds(backend: Backend, test: &str) {
    let Some(topology) = topology(test, backend) else { return };
    let routed = topology
        .routed_pod("routed", "100.96.1.11".parse().unwrap(), Some("fd00:64:1::11".parse().unwrap()))
        .unwrap();
    let bridged = topology
        .bridged_pod("bridged", "100.96.1.12".parse().unwrap(), Some("fd00:64:1::12".parse().unwrap()))
        .unwrap();
    echo_peer(topology.world(), imds_v4(), 3);
    echo_peer(topology.world(), imds_v6(), 3);
    for ns in [routed.ns(), bridged.ns()] {
        assert_eq!(seen_as(ns, imds_v4()), IpAddr::V4(SNAT_V4), "{}", ns.name());
        assert_eq!(seen_as(ns, imds_v6()), IpAddr::V6(SNAT_V6), "{}", ns.name());
    }
    assert_eq!(seen_as(topology.node(), imds_v4()), IpAddr::V4(NODE_V4));
    assert_eq!(seen_as(topology.node(), imds_v6()), IpAddr::V6(NODE_V6));
    let tracked = topology.node().run("conntrack", &["-L"]).unwrap();
    assert!(tracked.contains("dst=169.254.169.254"), "{tracked}");
}

#[test]
fn without_an_agent_every_pod_reaches_imds_with_a_node_address() {
    pods_reach_imds(Backend::Nft, "without_an_agent_every_pod_reaches_imds_with_a_node_address");
}

#[test]
fn with_legacy_iptables_every_pod_reaches_imds_with_a_node_address() {
    pods_reach_imds(Backend::Legacy, "with_legacy_iptables_every_pod_reaches_imds_with_a_node_address");
}

#[test]
fn outside_host_reaches_pods_and_sees_the_node() {
    let Some(topology) = topology("outside_host_reaches_pods_and_sees_the_node", Backend::Nft) else {
        return;
    };
    let pod = topology.routed_pod("pod", "100.96.1.11".parse().unwrap(), None).unwrap();
    let addr = SocketAddr::from((pod.ip4(), 8080));
    echo_peer(pod.ns(), addr, 1);
    assert_eq!(seen_as(topology.outside(), addr), IpAddr::V4(OUTSIDE_V4));
}

#[test]
fn removed_pod_leaves_no_link_and_no_namespace() {
    let Some(topology) = topology("removed_pod_leaves_no_link_and_no_namespace", Backend::Nft) else {
        return;
    };
    let pod = topology.routed_pod("gone", "100.96.1.11".parse().unwrap(), None).unwrap();
    let (file, link) = (pod.ns().path(), pod.host_link().to_owned());
    assert!(file.exists());
    drop(pod);
    assert!(!file.exists());
    assert!(!topology.node().run("ip", &["-o", "link"]).unwrap().contains(&link));
}

#[test]
fn namespaces_of_dead_processes_are_removed() {
    if let Some(why) = netns::missing() {
        return rolegate_tests::skip("namespaces_of_dead_processes_are_removed", &why);
    }
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let name = format!("rg{}x0stale", child.id());
    child.wait().unwrap();
    netns::run(std::process::Command::new("ip").args(["netns", "add", &name])).unwrap();
    netns::remove_stale();
    assert!(!std::path::Path::new("/run/netns").join(name).exists());
}
