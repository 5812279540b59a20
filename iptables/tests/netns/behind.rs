//! Where a connection came in, and what is behind an address, as real kernels tell it.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use rolegate_iptables::Family;
use rolegate_iptables::arrival::Arrival;
use rolegate_iptables::behind::{Behind, Questions, Shared, Surroundings};
use rolegate_iptables::route::listen_at_imds;

use crate::host::{Netns, can_run};

/// A node with a pod behind `cali1` and one on the bridge `cbr0`.
struct World {
    node: Netns,
    routed: Netns,
    bridged: Netns,
}

const ROUTED: [&str; 2] = ["10.1.0.11", "fd00:1::11"];
const BRIDGED: [&str; 2] = ["10.2.0.12", "fd00:2::12"];

// === impl World ===

impl World {
    fn new() -> Self {
        let world = Self { node: Netns::new(), routed: Netns::new(), bridged: Netns::new() };
        world.node.sh("ip link add eth0 type bridge; ip link set eth0 up; ip addr add 10.0.0.10/24 dev eth0
             ip -6 addr add fd00:a::10/64 dev eth0 nodad
             ip route add default via 10.0.0.1; ip -6 route add default dev eth0
             ip link add cbr0 type bridge; ip addr add 10.2.0.1/24 dev cbr0
             ip -6 addr add fd00:2::1/64 dev cbr0 nodad; ip link set cbr0 up
             echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
        world.plug_routed(&world.routed);
        world.plug_bridged(&world.bridged);
        world
    }

    fn plug_routed(&self, pod: &Netns) {
        self.node.sh(&format!(
            "ip link add cali1 type veth peer name eth0 netns {}
             ip -6 addr add fe80::1/64 dev cali1 nodad; ip link set cali1 up
             ip route add 10.1.0.11 dev cali1; ip -6 route add fd00:1::11 dev cali1
             echo 1 > /proc/sys/net/ipv4/conf/cali1/proxy_arp; echo 0 > /proc/sys/net/ipv4/neigh/cali1/proxy_delay",
            pod.path()
        ));
        pod.sh("ip link set eth0 up; ip addr add 10.1.0.11/32 dev eth0
             ip route add 169.254.1.1 dev eth0 scope link; ip route add default via 169.254.1.1
             ip -6 addr add fd00:1::11/128 dev eth0 nodad; ip -6 route add default via fe80::1 dev eth0");
    }

    fn plug_bridged(&self, pod: &Netns) {
        self.node.sh(&format!(
            "ip link add vb1 type veth peer name eth0 netns {}; ip link set vb1 master cbr0 up",
            pod.path()
        ));
        pod.sh("ip link set eth0 up; ip addr add 10.2.0.12/24 dev eth0; ip route add default via 10.2.0.1
             ip -6 addr add fd00:2::12/64 dev eth0 nodad; ip -6 route add default via fd00:2::1");
    }
}

fn index(node: &Netns, link: &str) -> u32 {
    let shown = node.sh(&format!("ip -o link show {link}"));
    shown.split(':').next().and_then(|index| index.parse().ok()).expect("index")
}

fn hardware(pod: &Netns) -> String {
    let shown = pod.sh("ip -o link show eth0");
    shown.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).expect("address").to_owned()
}

/// What a connection of `pod` to the metadata service came in by.
fn came_by(node: &Netns, pod: &Netns, listener: &TcpListener, family: Family, source: &Behind) -> u32 {
    let to = SocketAddr::new(family.imds(), 80);
    let connect = move || TcpStream::connect_timeout(&to, Duration::from_secs(10)).expect("connected");
    let _open = pod.spawn(connect).join().expect("pod");
    let arrival = {
        let (accepted, _) = listener.accept().expect("accepted");
        let at = accepted.local_addr().expect("an address");
        Arrival::of(&accepted, at).expect("interface")
    };
    let source = source.clone();
    let told = node.spawn(move || Surroundings::new().expect("notices").came_in_by(arrival, &source));
    told.join().expect("node")
}

#[test]
fn connection_came_in_by_the_pods_interface_under_either_capture() {
    if !can_run("connection_came_in_by_the_pods_interface_under_either_capture", &[]) {
        return;
    }
    let world = World::new();
    let source =
        |link, shared| Behind { interface: index(&world.node, link), hardware: None, shared, port: None };
    let pods =
        [(&world.routed, source("cali1", Shared::Own)), (&world.bridged, source("cbr0", Shared::Bridge))];
    world.node.sh("ip rule add pref 3 to 169.254.169.254 lookup 43518
         ip route add local 169.254.169.254 dev lo table 43518
         ip -6 rule add pref 3 to fd00:ec2::254 lookup 43518
         ip -6 route add local fd00:ec2::254 dev lo table 43518");
    for family in Family::ALL {
        let listener = world.node.spawn(move || listen_at_imds(family).expect("listener"));
        let listener = listener.join().expect("thread");
        listener.set_nonblocking(false).expect("blocking");
        for (pod, source) in &pods {
            assert_eq!(
                came_by(&world.node, pod, &listener, family, source),
                source.interface,
                "by policy routing, {family}"
            );
        }
    }
    world.node.sh("ip rule del pref 3; ip -6 rule del pref 3
         nft 'add table inet t; add chain inet t p { type nat hook prerouting priority -100; }
              add rule inet t p ip daddr 169.254.169.254 tcp dport 80 dnat ip to 10.0.0.10:8181
              add rule inet t p ip6 daddr fd00:ec2::254 tcp dport 80 dnat ip6 to [fd00:a::10]:8181'");
    for (family, at) in Family::ALL.into_iter().zip(["10.0.0.10:8181", "[fd00:a::10]:8181"]) {
        let listener = world.node.spawn(move || TcpListener::bind(at).expect("listener"));
        let listener = listener.join().expect("thread");
        for (pod, source) in &pods {
            assert_eq!(
                came_by(&world.node, pod, &listener, family, source),
                source.interface,
                "by translation, {family}"
            );
        }
        // Where the gap is: if it closes, so may the exception.
        let calls = world.node.sh("cat /proc/sys/net/bridge/bridge-nf-call-ip6tables || echo 0");
        let forgets = family == Family::V6 && calls.trim() == "1";
        let told = came_by(&world.node, &world.bridged, &listener, family, &source("cbr0", Shared::Own));
        assert_eq!(told, index(&world.node, if forgets { "eth0" } else { "cbr0" }), "{family}");
        let told = came_by(&world.node, &world.routed, &listener, family, &source("cbr0", Shared::Bridge));
        assert_eq!(told, index(&world.node, "cali1"), "no other interface is taken for a bridge");
    }
}

/// Has the node answer: it knows its neighbour then.
fn greet(pod: &Netns) {
    for node in ["10.2.0.1:9", "[fd00:2::1]:9"] {
        let node: SocketAddr = node.parse().expect("address");
        let refused = pod.spawn(move || TcpStream::connect_timeout(&node, Duration::from_secs(10)));
        let refused = refused.join().expect("pod").expect_err("nobody listens");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{node}");
    }
}

/// What is behind an address, and it is remembered: what else is new on the node may need another look.
fn look(around: &mut Surroundings, address: &str) -> Option<Behind> {
    let ip: IpAddr = address.parse().expect("address");
    for _ in 0..100 {
        let asked = around.moment();
        let known = Questions::new().expect("socket").behind(ip).expect("asked")?;
        let behind = known.behind().clone();
        around.learn(asked, ip, known);
        if is_known(around, address) {
            return Some(behind);
        }
    }
    panic!("{address} is never remembered");
}

fn is_known(around: &mut Surroundings, address: &str) -> bool {
    around.known(address.parse().expect("address")).is_some()
}

/// Every change is followed: what was known is not known any more, and what is said then is true.
#[test]
fn what_is_behind_an_address_is_known_until_it_changes() {
    if !can_run("what_is_behind_an_address_is_known_until_it_changes", &[]) {
        return;
    }
    let world = World::new();
    let (node, routed, bridged) = (world.node.clone(), world.routed.clone(), world.bridged.clone());
    for pod in [&routed, &bridged] {
        greet(pod);
    }
    let looking = world.node.spawn(move || {
        let mut around = Surroundings::new().expect("notices");
        for (addresses, link, pod) in [(ROUTED, "cali1", &routed), (BRIDGED, "cbr0", &bridged)] {
            for address in addresses {
                assert!(!is_known(&mut around, address));
                let behind = look(&mut around, address).expect("a route");
                let shared = if link == "cbr0" { Shared::Bridge } else { Shared::Own };
                assert_eq!((behind.interface, behind.shared), (index(&node, link), shared), "{address}");
                assert_eq!(behind.hardware.expect("known").to_string(), hardware(pod), "{address}");
            }
        }
        let mut unchanged = false;
        for _ in 0..5 {
            look(&mut around, BRIDGED[0]);
            node.sh("ip neigh change 10.2.0.12 dev cbr0 nud stale");
            greet(&bridged);
            unchanged |= is_known(&mut around, BRIDGED[0]);
        }
        assert!(unchanged, "a neighbour in another state is the same neighbour");

        bridged.sh("ip link set eth0 address 02:00:00:00:00:99");
        // As a pod that is new on the link: it asks for its gateways.
        bridged.sh("ip neigh flush all");
        greet(&bridged);
        for address in BRIDGED {
            assert!(!is_known(&mut around, address), "another card is behind {address}");
            let behind = look(&mut around, address).expect("a route");
            assert_eq!(behind.hardware.expect("known").to_string(), "02:00:00:00:00:99");
        }
        for change in [
            "ip link add other type bridge; ip link set other up",
            "ip route add 10.3.0.0/16 dev other",
            "ip -6 route add fd00:3::/64 dev other",
            "ip rule add pref 500 to 10.1.0.11 lookup 77; ip route add 10.1.0.11 dev other table 77",
            "ip -6 rule add pref 500 to fd00:1::11 lookup 77; ip -6 route add fd00:1::11 dev other table 77",
            // More than the socket holds.
            "for i in $(seq 500); do echo link set other mtu $((1280 + i)); done | ip -batch -",
        ] {
            look(&mut around, ROUTED[0]);
            node.sh(change);
            assert!(!is_known(&mut around, ROUTED[0]), "after {change}");
        }
        for address in ROUTED {
            let behind = look(&mut around, address).expect("a route");
            assert_eq!(behind.interface, index(&node, "other"), "by the node's rules");
        }
        node.sh("ip route add unreachable 10.4.0.1; ip route add prohibit 10.4.0.2");
        for nowhere in ["10.4.0.1", "10.4.0.2"] {
            assert_eq!(look(&mut around, nowhere), None, "{nowhere}");
        }
    });
    if let Err(panic) = looking.join() {
        std::panic::resume_unwind(panic);
    }
}
