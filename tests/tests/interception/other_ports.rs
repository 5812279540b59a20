//! Whatever is not TCP port 80 of the metadata addresses leads nowhere: not to the real service, not to the host.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use rolegate_tests::netns::NetNs;
use rolegate_tests::siege::Capture;
use rolegate_tests::topology::{IMDS_V4, IMDS_V6, NODE_V4, NODE_V6};
use rolegate_tests::world::{RunningPod, World};

/// Longest that a probe waits for an answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Services of nodes: HTTPS, the kubelet, and what listens at UDP ports.
const PROBES: [Probe; 7] = [
    Probe::Tcp(443),
    Probe::Tcp(10_250),
    Probe::Udp(53),
    Probe::Udp(80),
    Probe::Udp(443),
    Probe::Udp(10_250),
    Probe::Ping,
];

/// What a pod sends.
#[derive(Clone, Copy, Debug)]
enum Probe {
    Tcp(u16),
    Udp(u16),
    Ping,
}

/// Listens at every port of [`PROBES`] and answers with its name.
struct Everywhere {
    asked: Arc<AtomicUsize>,
}

// === impl Probe ===

impl Probe {
    /// What is answered, if anything is.
    fn send(self, from: &NetNs, to: IpAddr) -> Option<String> {
        let mut answer = [0; 64];
        let length = match self {
            Self::Tcp(port) => from.connect((to, port).into(), PATIENCE).ok()?.read(&mut answer).ok()?,
            Self::Udp(port) => {
                let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = from.inside(|| UdpSocket::bind(any)).unwrap().unwrap();
                exchange(&socket, b"?", (to, port).into(), &mut answer)?
            }
            Self::Ping => {
                let echo: [u8; 8] = [if to.is_ipv4() { 8 } else { 128 }, 0, 0, 0, 0, 0, 0, 1];
                let socket = from.inside(|| ping_socket(to)).unwrap();
                exchange(&socket, &echo, (to, 0).into(), &mut answer)?
            }
        };
        Some(String::from_utf8_lossy(&answer[..length]).into_owned())
    }
}

fn exchange(socket: &UdpSocket, sent: &[u8], to: SocketAddr, answer: &mut [u8]) -> Option<usize> {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(sent, to).ok()?;
    Some(socket.recv_from(answer).ok()?.0)
}

fn ping_socket(to: IpAddr) -> UdpSocket {
    let (family, protocol) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol).unwrap().into()
}

// === impl Everywhere ===

impl Everywhere {
    fn listen(ns: &NetNs, at: &[IpAddr], name: &'static str) -> Self {
        let asked = Arc::<AtomicUsize>::default();
        for (ip, probe) in at.iter().flat_map(|ip| PROBES.map(|probe| (*ip, probe))) {
            let counted = Arc::clone(&asked);
            match probe {
                Probe::Tcp(port) => {
                    let listener = ns.listen((ip, port).into()).unwrap();
                    std::thread::spawn(move || {
                        for connection in listener.incoming() {
                            counted.fetch_add(1, Ordering::SeqCst);
                            // Whoever asked may have gone.
                            let _ =
                                connection.and_then(|mut connection| connection.write_all(name.as_bytes()));
                        }
                    });
                }
                Probe::Udp(port) => {
                    let socket = ns.inside(|| UdpSocket::bind((ip, port))).unwrap().unwrap();
                    std::thread::spawn(move || {
                        while let Ok((_, peer)) = socket.recv_from(&mut [0; 8]) {
                            counted.fetch_add(1, Ordering::SeqCst);
                            let _ = socket.send_to(name.as_bytes(), peer);
                        }
                    });
                }
                // The kernel answers.
                Probe::Ping => {}
            }
        }
        Self { asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// Every probe of every pod to these addresses, with what was answered.
fn probe_all(pods: &[RunningPod], addresses: [IpAddr; 2]) -> Vec<(String, Option<String>)> {
    std::thread::scope(|scope| {
        let mut running = Vec::new();
        for pod in pods {
            for to in addresses {
                for probe in PROBES {
                    let row = format!("{} {probe:?} to {to}", pod.net.host_link());
                    running.push((row, scope.spawn(move || probe.send(pod.net.ns(), to))));
                }
            }
        }
        running.into_iter().map(|(row, answer)| (row, answer.join().unwrap())).collect()
    })
}

fn assert_nothing_else(world: &World, capture: Capture) {
    let pods = [
        world.pod("default", "routed", |pod| pod.role("MyPodRole")).unwrap(),
        world.bridged_pod("default", "bridged", |pod| pod.role("MyPodRole")).unwrap(),
    ];
    for ns in pods.iter().map(|pod| pod.net.ns()) {
        ns.sysctl("net/ipv4/ping_group_range", "0 2147483647").unwrap();
    }
    let imds = [IMDS_V4.into(), IMDS_V6.into()];
    let service = Everywhere::listen(world.topology.world(), &imds, "imds");
    let host = Everywhere::listen(world.topology.node(), &[Ipv6Addr::UNSPECIFIED.into()], "host");
    for (addresses, name) in [(imds, "imds"), ([NODE_V4.into(), NODE_V6.into()], "host")] {
        for (row, answer) in probe_all(&pods, addresses) {
            let answered = answer.is_some_and(|answer| row.contains("Ping") || answer == name);
            assert!(answered, "without an agent, {row}");
        }
    }
    let before = (service.asked(), host.asked());
    let agent = capture.agent(world, &[]).unwrap();
    let reached = |state: &str| {
        let answered: Vec<_> =
            probe_all(&pods, imds).into_iter().filter(|(_, answer)| answer.is_some()).collect();
        assert!(answered.is_empty(), "{capture:?}, {state}: {answered:?}");
        assert_eq!((service.asked(), host.asked()), before, "{capture:?}, {state}");
    };
    reached("served");
    for pod in &pods {
        for client in [pod.imds(), pod.imds_v6()] {
            let served = || Ok(client.credentials().is_ok_and(|document| document["Code"] == "Success"));
            agent.poll("port 80 is served", served).unwrap();
        }
    }
    agent.kill9().unwrap();
    reached("killed");
}

/// P7: no other port or protocol of the metadata addresses reaches the real service, nor a socket of the host that listens at all
/// addresses; with an agent or after its end.
#[test]
fn other_ports_and_protocols_reach_neither_the_real_service_nor_the_host() {
    let test = "other_ports_and_protocols_reach_neither_the_real_service_nor_the_host";
    for capture in Capture::ALL {
        let Some(world) = capture.world(test) else { return };
        assert_nothing_else(&world, capture);
    }
}
