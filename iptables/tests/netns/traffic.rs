//! Real connections from a pod: none reaches the real service once the rules stand, however often they are replaced.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rolegate_iptables::conntrack::delete_imds_entries;
use rolegate_iptables::iptables::{Desired, Outcome};

use crate::host::{Netns, Programs, with_each_backend};
use crate::rules::{desired, look};

pub(crate) const REAL: &[u8; 5] = b"REAL!";
pub(crate) const AGENT: &[u8; 5] = b"AGENT";
pub(crate) const IMDS: [&str; 2] = ["169.254.169.254:80", "[fd00:ec2::254]:80"];
pub(crate) const TARGETS: [&str; 2] = ["10.0.0.10", "fd00:a::10"];

/// Longest that a client waits: connections that are dropped never answer.
const PATIENCE: Duration = Duration::from_millis(300);

/// What others do to the rules, both families, and how it is undone after the repair.
const DAMAGES: [(&str, &str); 6] = [
    ("true", "true"),
    (
        "$ipt -t nat -I PREROUTING -j ACCEPT; $ip6t -t nat -I PREROUTING -j ACCEPT",
        "$ipt -t nat -D PREROUTING -j ACCEPT; $ip6t -t nat -D PREROUTING -j ACCEPT",
    ),
    ("$ipt -t nat -F PREROUTING; $ip6t -t nat -F PREROUTING", "true"),
    ("$ipt -F; $ip6t -F", "true"),
    ("$ipt -t nat -F ROLEGATE-PREROUTING; $ip6t -t nat -F ROLEGATE-PREROUTING", "true"),
    (
        "$ipt -I FORWARD -j ACCEPT; $ip6t -I FORWARD -j ACCEPT",
        "$ipt -D FORWARD -j ACCEPT; $ip6t -D FORWARD -j ACCEPT",
    ),
];

/// A pod behind `cali1`, the node, and outside of it the real service.
pub(crate) struct World {
    pub(crate) pod: Netns,
    pub(crate) node: Netns,
    _outside: Netns,
}

// === impl World ===

impl World {
    pub(crate) fn new() -> Self {
        let (pod, node, outside) = (Netns::new(), Netns::new(), Netns::new());
        node.sh(&format!(
            "ip link add cali1 type veth peer name eth0 netns {}
             ip link add eth0 type veth peer name eth0 netns {}
             ip addr add 10.0.0.10/24 dev eth0; ip -6 addr add fd00:a::10/64 dev eth0 nodad
             ip addr add 10.1.0.1/24 dev cali1; ip -6 addr add fd00:1::1/64 dev cali1 nodad
             ip link set cali1 up; ip link set eth0 up
             echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding",
            pod.path(),
            outside.path()
        ));
        pod.sh(
            "ip addr add 10.1.0.11/24 dev eth0; ip -6 addr add fd00:1::11/64 dev eth0 nodad; ip link set eth0 up
             ip route add default via 10.1.0.1; ip -6 route add default via fd00:1::1",
        );
        outside.sh(
            "ip addr add 10.0.0.1/24 dev eth0; ip -6 addr add fd00:a::1/64 dev eth0 nodad; ip link set eth0 up
             ip addr add 169.254.169.254/32 dev lo; ip -6 addr add fd00:ec2::254/128 dev lo nodad
             ip route add 10.1.0.0/24 via 10.0.0.10; ip -6 route add fd00:1::/64 via fd00:a::10",
        );
        // Routes last: the node's default routes need their gateways.
        node.sh("ip route add default via 10.0.0.1; ip -6 route add default via fd00:a::1");
        for at in IMDS {
            serve(&outside, at.to_owned(), REAL);
        }
        for (target, port) in [(0, 8181), (0, 8182), (1, 8181), (1, 8182)] {
            serve(&node, SocketAddr::new(TARGETS[target].parse().expect("address"), port).to_string(), AGENT);
        }
        let world = Self { pod, node, _outside: outside };
        for imds in IMDS {
            world.wait_for(imds, REAL);
        }
        world
    }

    /// Asks until this is the answer (neighbours are resolved, links come up).
    fn wait_for(&self, imds: &'static str, word: &'static [u8; 5]) {
        let answered = self.pod.spawn(move || (0..100).any(|_| ask(imds).as_ref() == Some(word)));
        assert!(answered.join().expect("client"), "{imds} never answered {:?}", str::from_utf8(word));
    }

    /// Clients that ask again and again until told to stop, and count who answered.
    pub(crate) fn clients(&self, stop: &Arc<AtomicBool>) -> Vec<(Arc<Counts>, JoinHandle<()>)> {
        let client = |imds: &'static str| {
            let (counts, stop) = (Arc::new(Counts::default()), Arc::clone(stop));
            let counting = Arc::clone(&counts);
            let thread = self.pod.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let count = match ask(imds) {
                        Some(word) if &word == AGENT => &counting.agent,
                        Some(_) => &counting.real,
                        None => &counting.none,
                    };
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
            (counts, thread)
        };
        [IMDS[0], IMDS[0], IMDS[1], IMDS[1]].into_iter().map(client).collect()
    }
}

#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) agent: AtomicUsize,
    pub(crate) real: AtomicUsize,
    pub(crate) none: AtomicUsize,
}

// === impl Counts ===

impl Counts {
    /// Until one more connection was answered by the agent.
    pub(crate) fn wait_for_the_agent(&self) {
        let (served, refused) = (self.agent.load(Ordering::Relaxed), self.none.load(Ordering::Relaxed));
        while self.agent.load(Ordering::Relaxed) == served {
            assert!(self.none.load(Ordering::Relaxed) < refused + 50, "nobody answers");
            std::thread::yield_now();
        }
    }
}

/// Answers every byte on every connection with `word`.
fn serve(netns: &Netns, at: String, word: &'static [u8; 5]) {
    serve_on(netns, move || TcpListener::bind(&at).expect(&at), word);
}

/// The same, where the listener is made in another way.
pub(crate) fn serve_on(
    netns: &Netns,
    listener: impl FnOnce() -> TcpListener + Send + 'static,
    word: &'static [u8; 5],
) {
    let (bound, is_bound) = std::sync::mpsc::channel();
    netns.spawn(move || {
        let listener = listener();
        listener.set_nonblocking(false).expect("blocking");
        bound.send(()).expect("test waits");
        for connection in listener.incoming() {
            let mut connection = connection.expect("accepted");
            std::thread::spawn(move || {
                while connection.read_exact(&mut [0]).is_ok() && connection.write_all(word).is_ok() {}
            });
        }
    });
    is_bound.recv().expect("bound");
}

pub(crate) fn open(imds: &str) -> Option<TcpStream> {
    let connection = TcpStream::connect_timeout(&imds.parse().expect(imds), PATIENCE).ok()?;
    connection.set_read_timeout(Some(PATIENCE)).expect("time-out");
    Some(connection)
}

pub(crate) fn ask_on(connection: &mut TcpStream) -> Option<[u8; 5]> {
    let mut word = [0; 5];
    connection.write_all(b"?").ok()?;
    connection.read_exact(&mut word).ok()?;
    Some(word)
}

pub(crate) fn ask(imds: &str) -> Option<[u8; 5]> {
    ask_on(&mut open(imds)?)
}

/// A look and, as the agent does, the end of older connections when something was written.
fn mend(world: &World, programs: &Programs, desired: &Desired) -> Outcome {
    let outcome = look(&world.node, programs, desired);
    assert!(outcome.errors.is_empty(), "{outcome:?}");
    if outcome.changed {
        let targets = desired.targets();
        world.node.block_on(move || async move { delete_imds_entries(&targets).await.expect("conntrack") });
    }
    outcome
}

#[test]
fn no_connection_reaches_the_real_service_while_rules_are_damaged_and_replaced() {
    with_each_backend(
        "no_connection_reaches_the_real_service_while_rules_are_damaged_and_replaced",
        |programs| {
            let world = World::new();
            let ports = [8181, 8182].map(|port| desired("auto", &TARGETS, port));
            mend(&world, programs, &ports[0]);
            let stop = Arc::new(AtomicBool::new(false));
            let clients = world.clients(&stop);
            let mut replaced = 0;
            for (round, (damage, undo)) in DAMAGES.into_iter().cycle().take(30).enumerate() {
                programs.sh(&world.node, damage);
                // The other port: our own chain is replaced in every round, not only mended.
                replaced += mend(&world, programs, &ports[(round + 1) % 2]).causes.len();
                for (counts, _) in &clients {
                    counts.wait_for_the_agent();
                }
                programs.sh(&world.node, undo);
            }
            stop.store(true, Ordering::Relaxed);
            assert!(replaced >= 60, "{replaced} tables replaced");
            for (counts, thread) in clients {
                thread.join().expect("client");
                assert_eq!(counts.real.load(Ordering::Relaxed), 0, "connections reached the real service");
                assert!(counts.agent.load(Ordering::Relaxed) > 30);
            }
        },
    );
}

#[test]
fn a_connection_from_before_the_rules_gets_nothing_more_and_its_successor_is_redirected() {
    let name = "a_connection_from_before_the_rules_gets_nothing_more_and_its_successor_is_redirected";
    with_each_backend(name, |programs| {
        let world = World::new();
        // Conntrack is in use before, as where kube-proxy is.
        programs.sh(
            &world.node,
            "for c in \"$ipt\" \"$ip6t\"; do $c -A FORWARD -m conntrack --ctstate INVALID -j DROP; $c -t nat -A POSTROUTING -o foo -j MASQUERADE; done",
        );
        let before = world.pod.spawn(|| IMDS.map(|imds| open(imds).expect("open")));
        let before = before.join().expect("client").map(|mut connection| {
            assert_eq!(ask_on(&mut connection).as_ref(), Some(REAL));
            connection
        });
        let desired = desired("cali+", &TARGETS, 8181);
        assert!(look(&world.node, programs, &desired).changed);
        let targets = desired.targets();
        let deleted = world
            .node
            .block_on(move || async move { delete_imds_entries(&targets).await.expect("conntrack") });
        assert!(deleted >= 2, "{deleted}");
        for mut connection in before {
            let answer = ask_on(&mut connection);
            assert_ne!(answer.as_ref(), Some(REAL));
        }
        for imds in IMDS {
            world.wait_for(imds, AGENT);
        }
    });
}

#[test]
fn a_redirected_connection_outlives_a_repair() {
    with_each_backend("a_redirected_connection_outlives_a_repair", |programs| {
        let world = World::new();
        let desired = desired("cali+", &TARGETS, 8181);
        mend(&world, programs, &desired);
        let open = world.pod.spawn(|| IMDS.map(|imds| open(imds).expect("open"))).join().expect("client");
        programs.sh(&world.node, "$ipt -t nat -F; $ip6t -t nat -F");
        assert!(mend(&world, programs, &desired).changed);
        for mut connection in open {
            assert_eq!(ask_on(&mut connection).as_ref(), Some(AGENT));
        }
    });
}

#[test]
fn traffic_by_an_interface_that_is_not_meant_is_dropped() {
    with_each_backend("traffic_by_an_interface_that_is_not_meant_is_dropped", |programs| {
        let world = World::new();
        mend(&world, programs, &desired("cbr0", &TARGETS, 8181));
        for imds in IMDS {
            assert_eq!(world.pod.spawn(move || ask(imds)).join().expect("client"), None);
        }
        for interfaces in ["cal+", "!eth0", "eth1,cali1", "auto"] {
            mend(&world, programs, &desired(interfaces, &TARGETS, 8181));
            for imds in IMDS {
                world.wait_for(imds, AGENT);
            }
        }
    });
}
