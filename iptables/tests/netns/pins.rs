//! Pins of bridge ports: written once, mended, gone without a trace; and what ports claimed first is remembered.

use std::collections::BTreeSet;
use std::net::{IpAddr, TcpStream};

use rolegate_iptables::pins::first::{FirstSeen, PortKey};
use rolegate_iptables::pins::ports::Ports;
use rolegate_iptables::pins::{Pin, Pins, PinsDrift, cleanup};

use crate::host::{Netns, can_run};

const DAMAGES: [(&str, PinsDrift); 5] = [
    ("nft delete table bridge rolegate", PinsDrift::Missing),
    ("nft flush ruleset", PinsDrift::Missing),
    ("nft flush chain bridge rolegate arp_sender", PinsDrift::Changed),
    ("nft insert rule bridge rolegate prerouting accept", PinsDrift::Changed),
    ("nft add table bridge rolegate '{ flags dormant; }'", PinsDrift::Changed),
];

fn pin(port: &str, addresses: &[&str]) -> Pin {
    Pin { port: port.into(), addresses: addresses.iter().map(|ip| ip.parse().expect("address")).collect() }
}

fn pins(pins: impl IntoIterator<Item = Pin>) -> Pins {
    Pins { pins: pins.into_iter().collect() }
}

fn reconcile(node: &Netns, pins: &Pins) -> Option<PinsDrift> {
    let pins = pins.clone();
    node.block_on(|| async move { pins.reconcile(&|_| {}).await.expect("pins") })
}

fn node() -> Netns {
    let node = Netns::new();
    node.sh("ip link add cbr0 type bridge; ip addr add 10.2.0.1/24 dev cbr0; ip link set cbr0 up; ip addr add fd02::1/64 dev cbr0 nodad");
    node
}

/// A pod on the bridge, by port `veth<n>`, with addresses that end in `n`.
fn pod(node: &Netns, n: u8) -> Netns {
    let pod = Netns::new();
    node.sh(&format!(
        "ip link add veth{n} type veth peer name eth0 netns {}; ip link set veth{n} master cbr0 up",
        pod.path()
    ));
    pod.sh(&format!(
        "ip link set eth0 up; ip addr add 10.2.0.{n}/24 dev eth0; ip addr add fd02::{n}/64 dev eth0 nodad"
    ));
    pod
}

#[test]
fn pins_are_written_once_mended_and_taken_away() {
    if !can_run("pins_are_written_once_mended_and_taken_away", &["nft"]) {
        return;
    }
    let node = node();
    node.sh("nft add table bridge others");
    let before = node.sh("nft list ruleset");
    let two = pins([pin("veth2", &["10.2.0.2", "fd02::2"]), pin("veth3", &["10.2.0.3", "10.2.0.4"])]);
    assert_eq!(reconcile(&node, &two), Some(PinsDrift::Missing));
    assert_eq!(reconcile(&node, &two), None, "nothing is written while all is right");
    for (damage, drift) in DAMAGES {
        node.sh(damage);
        assert_eq!(reconcile(&node, &two), Some(drift), "{damage}");
        assert_eq!(reconcile(&node, &two), None, "{damage}");
    }
    let one = pins([pin("veth2", &["10.2.0.2"])]);
    assert_eq!(reconcile(&node, &one), Some(PinsDrift::Changed));
    assert_eq!(reconcile(&node, &Pins::default()), Some(PinsDrift::Changed), "no pin, no table");
    assert_eq!(reconcile(&node, &Pins::default()), None);
    reconcile(&node, &two);
    node.sh("nft add table bridge others");
    let (removed, errors) = node.block_on(|| async { cleanup().await });
    assert!(errors.is_empty() && removed == ["pins of bridge ports"], "{removed:?} {errors:?}");
    assert_eq!(node.sh("nft list ruleset"), before);
}

#[test]
fn a_full_bridge_is_one_transaction() {
    if !can_run("a_full_bridge_is_one_transaction", &["nft"]) {
        return;
    }
    let node = node();
    let all = (0..1_000).map(|n| {
        pin(&format!("veth{n}"), &[&format!("10.2.{}.{}", n / 250, n % 250), &format!("fd02::{n}")])
    });
    let all = pins(all);
    assert_eq!(reconcile(&node, &all), Some(PinsDrift::Missing));
    assert_eq!(reconcile(&node, &all), None);
}

/// What the kernel remembers, links read afresh.
fn read(node: &Netns, known: Option<&FirstSeen>) -> (FirstSeen, bool) {
    let known = known.cloned();
    node.block_on(|| async move {
        let links = Ports::read().await.expect("links").links;
        FirstSeen::read(known.as_ref(), &links).await.expect("first addresses")
    })
}

fn of(seen: &FirstSeen, name: &str) -> BTreeSet<IpAddr> {
    let claims = seen.claims.iter().filter(|(port, _)| port.name == name);
    claims.flat_map(|(_, addresses)| addresses.iter().copied()).collect()
}

fn addresses(all: &[&str]) -> BTreeSet<IpAddr> {
    all.iter().map(|ip| ip.parse().expect("address")).collect()
}

fn is_older(seen: &FirstSeen, name: &str) -> bool {
    seen.older.iter().any(|port: &PortKey| port.name == name)
}

/// Knocks at the bridge, where nobody listens: the refusal shows that both have found each other.
fn knock(pod: &Netns) {
    let refused = pod.spawn(|| {
        ["10.2.0.1:9", "[fd02::1]:9"].map(|to| TcpStream::connect(to).expect_err("nobody listens").kind())
    });
    assert_eq!(refused.join().expect("thread"), [std::io::ErrorKind::ConnectionRefused; 2]);
}

#[test]
fn the_first_address_of_a_port_is_remembered_and_no_later_one() {
    if !can_run("the_first_address_of_a_port_is_remembered_and_no_later_one", &["nft"]) {
        return;
    }
    let node = node();
    let older = pod(&node, 2);
    let (seen, made) = read(&node, None);
    assert!(made && is_older(&seen, "veth2") && seen.claims.is_empty(), "{seen:?}");
    let newer = pod(&node, 3);
    knock(&older);
    knock(&newer);
    let (seen, made) = read(&node, Some(&seen));
    assert!(!made && is_older(&seen, "veth2") && !is_older(&seen, "veth3"), "{seen:?}");
    assert_eq!(of(&seen, "veth2"), addresses(&["10.2.0.2", "fd02::2"]), "what an older port claims is known");
    assert_eq!(of(&seen, "veth3"), addresses(&["10.2.0.3", "fd02::3"]));

    // Another address, a flap, and another process: all the same.
    newer.sh("ip addr flush dev eth0 scope global; ip addr add 10.2.0.9/24 dev eth0; ip addr add fd02::9/64 dev eth0 nodad");
    knock(&newer);
    node.sh("ip link set veth3 down; ip link set veth3 up");
    knock(&newer);
    assert_eq!(read(&node, None), (seen.clone(), false));

    // A flush: what is known stays, and a port that came meanwhile is older than the new table.
    node.sh("nft flush ruleset");
    let late = pod(&node, 4);
    let (again, made) = read(&node, Some(&seen));
    assert!(made && is_older(&again, "veth4") && again.claims == seen.claims, "{again:?}");
    knock(&late);
    assert_eq!(read(&node, None).0.claims.len(), 3);

    // Plugged anew it is another port.
    node.sh("ip link del veth3");
    drop(newer);
    assert_eq!(of(&read(&node, None).0, "veth3"), [].into(), "what is gone is forgotten");
    knock(&pod(&node, 3));
    let (seen, _) = read(&node, None);
    assert_eq!(of(&seen, "veth3"), addresses(&["10.2.0.3", "fd02::3"]));
    assert!(!is_older(&seen, "veth3"));
}
