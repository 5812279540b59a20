//! Programs on interfaces, as a CNI attaches them, and what looks like them and is not.

use rolegate_iptables::Links;
use rolegate_iptables::dataplane::Dataplane;

use crate::host::{Netns, can_run};
use crate::tcx;

/// A program of two instructions, `return TC_ACT_UNSPEC`.
const PROGRAM: &str = "bpf direct-action bytecode '1,6 0 0 4294967295,'";

fn node() -> Netns {
    let node = Netns::new();
    node.sh("for n in eth0 cali1 cali2; do ip link add $n type bridge; ip link set $n up; done
         ip addr add 10.0.0.10/24 dev eth0; ip route add default via 10.0.0.1");
    node
}

fn look(node: &Netns) -> Dataplane {
    node.block_on(|| async {
        let links = Links::read().await.expect("links");
        Dataplane::read(&links).await.expect("programs")
    })
}

fn programs(node: &Netns) -> Vec<String> {
    look(node).programs.into_iter().collect()
}

/// Whether the kernel and iproute2 can do it here; says by name why not.
fn can_do(test: &str, node: &Netns, script: &str) -> bool {
    let done = node.sh(&format!("({script}) 2>&1 || echo CANNOT"));
    if done.contains("CANNOT") {
        eprintln!("skipped: {test}: {}", done.replace('\n', " "));
    }
    !done.contains("CANNOT")
}

#[test]
fn tc_programs_on_pods_interfaces_are_seen_and_the_uplinks_are_not() {
    let test = "tc_programs_on_pods_interfaces_are_seen_and_the_uplinks_are_not";
    if !can_run(test, &[]) {
        return;
    }
    let node = node();
    assert!(look(&node).is_plain());
    let attach = |link: &str| format!("tc filter add dev {link} ingress {PROGRAM}");
    let discipline = "for n in eth0 cali1; do tc qdisc add dev $n clsact; done";
    if !can_do(test, &node, &format!("{discipline} && {}", attach("eth0"))) {
        return;
    }
    assert!(look(&node).is_plain(), "an empty discipline, and the uplink's program");
    node.sh("tc filter add dev cali1 egress bpf direct-action bytecode '1,6 0 0 4294967295,'");
    assert!(look(&node).is_plain(), "what the pod receives is not what it sends");
    node.sh(&attach("cali1"));
    assert_eq!(programs(&node), ["cali1"]);
    node.sh(&format!("tc qdisc add dev cali2 handle ffff: ingress; {}", attach("cali2")));
    assert_eq!(programs(&node), ["cali1", "cali2"]);
    node.sh("tc qdisc del dev cali1 clsact; tc qdisc del dev cali2 ingress");
    assert!(look(&node).is_plain());
}

#[test]
fn limits_of_bandwidth_are_no_programs_and_a_redirection_is() {
    let test = "limits_of_bandwidth_are_no_programs_and_a_redirection_is";
    if !can_run(test, &[]) {
        return;
    }
    let node = node();
    // As the CNI plugin `bandwidth` does it.
    let limit = "ip link add bwp1 type ifb && ip link set bwp1 up && tc qdisc add dev cali1 ingress && \
        tc filter add dev cali1 parent ffff: protocol all u32 match u32 0 0 action mirred egress redirect dev bwp1";
    if !can_do(test, &node, limit) {
        return;
    }
    assert!(look(&node).is_plain());
    node.sh("tc filter add dev cali1 parent ffff: protocol all u32 match u32 0 0 action mirred egress redirect dev eth0");
    assert_eq!(programs(&node), ["cali1"]);
}

#[test]
fn programs_of_tcx_are_seen() {
    let test = "programs_of_tcx_are_seen";
    if !can_run(test, &[]) {
        return;
    }
    let node = node();
    let shown = node.sh("ip -o link show cali1");
    let index: u32 = shown.split(':').next().and_then(|index| index.parse().ok()).expect("index");
    let attached = node.spawn(move || tcx::attach(index)).join().expect("thread");
    match attached {
        Ok(_program) => assert_eq!(programs(&node), ["cali1"]),
        Err(error) => eprintln!("skipped: {test}: {error}"),
    }
}

#[test]
fn cilium_is_known_by_its_device() {
    if !can_run("cilium_is_known_by_its_device", &[]) {
        return;
    }
    let node = node();
    node.sh("ip link add cilium_host type veth peer name cilium_net");
    let found = look(&node);
    assert!(found.cilium && !found.is_plain());
    assert_eq!(found.to_string(), "the device cilium_host");
}
