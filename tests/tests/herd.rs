//! Everybody at once: 250 pods of 25 session keys ask a cold agent in the same moment.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Barrier;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use rolegate_tests::kube_api::Pod;
use rolegate_tests::sts::Fault;
use rolegate_tests::topology::{IMDS_V4, PodNet};
use rolegate_tests::world::{NODE, Options, TRUST, World, arn};

const PODS: u8 = 250;
const ROLES: u8 = 25;

/// One namespace with the addresses of many pods: to the agent they are as many pods.
struct Crowd {
    net: std::sync::Arc<PodNet>,
}

// === impl Crowd ===

impl Crowd {
    fn new(world: &World) -> Self {
        let net = world.topology.routed_pod("crowd", Ipv4Addr::new(100, 96, 2, 0), None).unwrap();
        let addresses: String =
            (1..=PODS).map(|n| format!("addr add {}/32 dev eth0\n", address(n))).collect();
        net.ns().ip(&addresses).unwrap();
        let link = net.host_link();
        let routes: String =
            (1..=PODS).map(|n| format!("route add {}/32 dev {link}\n", address(n))).collect();
        world.topology.node().ip(&routes).unwrap();
        for n in 1..=PODS {
            let pod = Pod::new("default", &format!("pod-{n}"))
                .node(NODE)
                .ip(&address(n).to_string())
                .service_account(&format!("account-{}", n % ROLES))
                .role(&role(n));
            world.cluster.apply_pod(&pod).unwrap();
        }
        Self { net: std::sync::Arc::new(net) }
    }

    /// Each pod's answer to a request for its document, all sent at once.
    fn ask_at_once(&self) -> Vec<(u8, String)> {
        let sockets: Vec<(u8, OwnedFd)> =
            self.net.ns().inside(|| (1..=PODS).map(|n| (n, bound_to(address(n)))).collect()).unwrap();
        let start = Barrier::new(usize::from(PODS));
        std::thread::scope(|scope| {
            let askers: Vec<_> = sockets
                .into_iter()
                .map(|(n, socket)| {
                    let start = &start;
                    scope.spawn(move || {
                        start.wait();
                        (n, ask(socket, &role(n)))
                    })
                })
                .collect();
            askers.into_iter().map(|asker| asker.join().unwrap()).collect()
        })
    }
}

fn address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(100, 96, 2, n)
}

fn role(n: u8) -> String {
    format!("Role{}", n % ROLES)
}

fn bound_to(address: Ipv4Addr) -> OwnedFd {
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(30)).unwrap();
    bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(address, 0))).unwrap();
    fd
}

fn ask(socket: OwnedFd, role: &str) -> String {
    connect(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(IMDS_V4, 80))).unwrap();
    let mut stream = TcpStream::from(socket);
    let path = format!("/latest/meta-data/iam/security-credentials/{role}");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {IMDS_V4}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn crowded(test: &str) -> Option<(World, Crowd)> {
    let world = World::for_test(test, &Options::default())?;
    world.namespace("default", &["Role*"]).unwrap();
    for n in 0..ROLES {
        world.role(&role(n), TRUST).unwrap();
    }
    let crowd = Crowd::new(&world);
    Some((world, crowd))
}

/// Every pod has keys of its own role.
fn all_served(world: &World, answers: &[(u8, String)], log: &str) {
    let calls = world.sts.calls();
    for (n, answer) in answers {
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let document: serde_json::Value =
            serde_json::from_str(body).unwrap_or_else(|error| panic!("pod-{n}: {error}: {answer}\n{log}"));
        let issued = calls
            .iter()
            .find(|call| call.access_key_id.as_deref() == document["AccessKeyId"].as_str())
            .unwrap_or_else(|| panic!("pod-{n}: {document}"));
        assert_eq!(issued.role, arn(&role(*n)), "pod-{n}");
    }
}

#[test]
fn two_hundred_and_fifty_cold_pods_of_twenty_five_keys_cost_twenty_five_calls() {
    let test = "two_hundred_and_fifty_cold_pods_of_twenty_five_keys_cost_twenty_five_calls";
    let Some((world, crowd)) = crowded(test) else { return };
    let agent = world.agent(&["--prefetch=false", "--log-level=info"]).unwrap();
    world.sts.faults().every(Some(Fault::Delay(Duration::from_millis(150))));
    let answers = crowd.ask_at_once();
    all_served(&world, &answers, &agent.log());
    assert_eq!(world.sts.assume_role_calls(), usize::from(ROLES));
    // Again, from memory.
    all_served(&world, &crowd.ask_at_once(), &agent.log());
    assert_eq!(world.sts.assume_role_calls(), usize::from(ROLES));
}

#[test]
fn a_role_that_hangs_and_one_that_is_refused_hold_up_nobody_of_a_crowd() {
    let test = "a_role_that_hangs_and_one_that_is_refused_hold_up_nobody_of_a_crowd";
    let Some((world, crowd)) = crowded(test) else { return };
    let agent = world.agent(&["--prefetch=false", "--log-level=info"]).unwrap();
    world.sts.faults().of_role("Role1", Some(Fault::Stall));
    world.role("Role2", r#"{"Version":"2012-10-17","Statement":[]}"#).unwrap();
    let (special, others): (Vec<_>, Vec<_>) =
        crowd.ask_at_once().into_iter().partition(|(n, _)| matches!(n % ROLES, 1 | 2));
    all_served(&world, &others, &agent.log());
    for (n, answer) in special {
        match n % ROLES {
            1 => assert!(answer.starts_with("HTTP/1.1 500"), "pod-{n}: {answer}"),
            _ => assert!(answer.contains("AssumeRoleUnauthorizedAccess"), "pod-{n}: {answer}"),
        }
    }
}
