//! Look-ups for pods' packets, of routed pods and bridged ones, in both families.

use std::collections::HashMap;
use std::net::IpAddr;

use rolegate_iptables::Links;
use rolegate_iptables::guard::{DEFAULT_PREFERENCE, Guard};
use rolegate_iptables::route::{DEFAULT_TABLE, Route};
use rolegate_iptables::selftest::{Detour, detours, routed_addresses};

use crate::host::{Netns, can_run};

/// `cali1` has no IPv4 address, as Calico's and the VPC CNI's have none; `cbr0` is a bridge.
const NODE: &str = "
    ip link add eth0 type bridge; ip link add cali1 type veth peer name peer1; ip link add cbr0 type bridge
    ip link add vb1 type veth peer name peer2; ip link set vb1 master cbr0
    for n in eth0 cali1 peer1 cbr0 vb1 peer2; do ip link set $n up; done
    ip addr add 10.0.0.10/24 dev eth0; ip -6 addr add fd00:a::10/64 dev eth0 nodad
    ip addr add 10.2.0.1/24 dev cbr0; ip -6 addr add fd00:2::1/64 dev cbr0 nodad
    ip route add default via 10.0.0.1; ip -6 route add default via fd00:a::1
    ip route add 10.1.0.11 dev cali1; ip -6 route add fd00:1::11 dev cali1
    ip route add 10.9.0.0/16 via 10.2.0.9; ip route add 10.3.0.3 dev eth0
    echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding";

/// By interface, an address behind it and where its packets go; nothing: all come here.
type Found = Vec<(String, String, String)>;

fn node() -> Netns {
    let node = Netns::new();
    node.sh(NODE);
    node
}

fn capture(node: &Netns) {
    node.block_on(|| async {
        let guards = Guard::new(DEFAULT_PREFERENCE).reconcile(&|_| {}).await;
        assert!(guards.errors.is_empty(), "{guards:?}");
        Route::new(DEFAULT_PREFERENCE, DEFAULT_TABLE).reconcile(&|| {}).await.expect("route");
    });
}

fn detours_of(node: &Netns, pods: &[(&'static str, &'static str)]) -> Found {
    let pods = pods.to_vec();
    node.block_on(|| async move {
        let links = Links::read().await.expect("links");
        let index = |name: &str| links.names.iter().find(|(_, is)| *is == name).map(|(index, _)| *index);
        let pods: HashMap<IpAddr, u32> = pods
            .iter()
            .map(|(ip, name)| (ip.parse().expect("address"), index(name).expect("link")))
            .collect();
        let found = detours(&pods).await.expect("look-ups");
        let named = found.into_iter().map(|(link, (pod, detour))| {
            assert!(matches!(detour, Detour::Forwarded(_) | Detour::Refused(_)));
            (links.names[&link].clone(), pod.to_string(), detour.describe(&links))
        });
        named.collect()
    })
}

const PODS: [(&str, &str); 4] =
    [("10.1.0.11", "cali1"), ("fd00:1::11", "cali1"), ("10.2.0.11", "cbr0"), ("fd00:2::11", "cbr0")];

#[test]
fn packets_of_routed_and_bridged_pods_come_here_whatever_the_source_check() {
    let test = "packets_of_routed_and_bridged_pods_come_here_whatever_the_source_check";
    if !can_run(test, &[]) {
        return;
    }
    let node = node();
    let before = detours_of(&node, &PODS);
    assert_eq!(before.len(), 2, "{before:?}");
    assert!(before.iter().all(|(_, _, goes)| goes == "goes out by eth0"), "{before:?}");
    capture(&node);
    for check in ["0", "1", "2"] {
        node.sh(&format!("for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo {check} > $f; done"));
        assert_eq!(detours_of(&node, &PODS), Found::new(), "rp_filter={check}");
    }
}

#[test]
fn rule_of_somebody_else_that_goes_first_is_seen_and_so_is_what_is_missing() {
    let test = "rule_of_somebody_else_that_goes_first_is_seen_and_so_is_what_is_missing";
    if !can_run(test, &[]) {
        return;
    }
    let node = node();
    capture(&node);
    let found = |link: &str, pod: &str, goes: &str| (link.to_owned(), pod.to_owned(), goes.to_owned());
    for (wrong, undo, expected) in [
        (
            "ip rule add pref 1 from 10.2.0.11 lookup main",
            "ip rule del pref 1",
            found("cbr0", "10.2.0.11", "goes out by eth0"),
        ),
        (
            "ip -6 rule add pref 1 iif cali1 ipproto tcp dport 80 lookup main",
            "ip -6 rule del pref 1",
            found("cali1", "fd00:1::11", "goes out by eth0"),
        ),
        (
            "ip rule del pref 3; ip rule add pref 1 from 10.2.0.0/24 iif cbr0 goto 3; ip rule add pref 3 iif cali1 lookup 43518",
            "ip rule del pref 1; ip rule del pref 3; ip rule add pref 3 to 169.254.169.254 lookup 43518 protocol kernel",
            found("cbr0", "10.2.0.11", "is refused (Permission denied (os error 13))"),
        ),
    ] {
        node.sh(wrong);
        assert_eq!(detours_of(&node, &PODS), [expected], "{wrong}");
        node.sh(undo);
        assert_eq!(detours_of(&node, &PODS), Found::new(), "{undo}");
    }
}

#[test]
fn addresses_to_look_up_are_those_behind_pod_side_interfaces() {
    if !can_run("addresses_to_look_up_are_those_behind_pod_side_interfaces", &[]) {
        return;
    }
    let found = node().block_on(|| async {
        let links = Links::read().await.expect("links");
        let found = routed_addresses(&links).await.expect("routes");
        let mut found: Vec<String> =
            found.into_iter().map(|(address, link)| format!("{address} {}", links.names[&link])).collect();
        found.sort_unstable();
        found
    });
    assert_eq!(found, ["10.1.0.11 cali1", "10.2.0.2 cbr0", "fd00:1::11 cali1", "fd00:2::2 cbr0"]);
}
