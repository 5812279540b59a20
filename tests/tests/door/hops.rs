//! How far a token goes: its packets end at the first router, which for a pod is whatever it routes for.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use rolegate_tests::agent::Agent;
use rolegate_tests::http::Client;
use rolegate_tests::netns::NetNs;
use rolegate_tests::topology::{imds_v4, imds_v6};
use rolegate_tests::world::RunningPod;

use crate::lab::{Lab, ROLES, TTL};

/// For a connection within one machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A container network of the pod's own behind its address, as Docker in a pod has it.
fn nested(pod: &RunningPod) -> NetNs {
    let (outer, inner) = (pod.net.ns(), NetNs::create("nested").unwrap());
    outer
        .ip(&format!(
            "link add docker0 type veth peer name eth0 netns {}\n\
             addr add 172.17.0.1/24 dev docker0\n\
             addr add fd00:17::1/64 dev docker0 nodad\n\
             link set docker0 up\n",
            inner.name()
        ))
        .unwrap();
    inner
        .ip("link set eth0 up\n\
             addr add 172.17.0.2/24 dev eth0\n\
             addr add fd00:17::2/64 dev eth0 nodad\n\
             route add default via 172.17.0.1\n\
             route add ::/0 via fd00:17::1\n")
        .unwrap();
    for (forwarding, program) in
        [("net/ipv4/ip_forward", "iptables-nft"), ("net/ipv6/conf/all/forwarding", "ip6tables-nft")]
    {
        outer.sysctl(forwarding, "1").unwrap();
        let rule = ["-w", "-t", "nat", "-A", "POSTROUTING", "-o", "eth0", "-j", "MASQUERADE"];
        outer.run(program, &rule).unwrap();
    }
    // A host that begins to route forgets what a router once told it.
    let gateway = "route replace default via 169.254.1.1\nroute replace ::/0 via fe80::1 dev eth0\n";
    outer.ip(gateway).unwrap();
    inner
}

/// Packets that have ended in here because they had come far enough.
fn expired(ns: &NetNs, v4: bool) -> u64 {
    let (file, name) = if v4 { ("snmp", "InHdrErrors") } else { ("snmp6", "Ip6InHdrErrors") };
    let page =
        ns.inside(|| std::fs::read_to_string(format!("/proc/thread-self/net/{file}"))).unwrap().unwrap();
    let count = if v4 {
        let mut lines = page.lines().filter(|line| line.starts_with("Ip:"));
        let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
        names.split(' ').zip(values.split(' ')).find_map(|(it, value)| (it == name).then_some(value))
    } else {
        page.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
    };
    count.unwrap().parse().unwrap()
}

/// The pod has its token, and what is behind it waits for one in vain: its packets are seen to end.
fn token_ends_at_the_pod(agent: &Agent, pod: &RunningPod, inner: &NetNs, imds: SocketAddr) {
    let behind = Client::new(inner, imds);
    assert_eq!(behind.get(ROLES).unwrap().text(), "MyPodRole", "it is the pod to the agent");
    let outer = pod.net.ns();
    assert_eq!(Client::new(outer, imds).imds_token(60).unwrap().len(), 56);
    let before = expired(outer, imds.is_ipv4());
    let mut stream = inner.connect(imds, PATIENCE).unwrap();
    let put = behind.bytes("PUT", "/latest/api/token", &[(TTL, "60")]);
    stream.write_all(&put).unwrap();
    let ended = || Ok(expired(outer, imds.is_ipv4()) > before);
    agent.poll("the token's packets have ended at the pod", ended).unwrap();
    stream.set_nonblocking(true).unwrap();
    let nothing = stream.read(&mut [0; 1]).unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::WouldBlock, "{imds}: {nothing}");
}

/// P28: a token's packets have a TTL or hop limit of 1: the pod itself gets it, a network nested behind its address does not;
/// with a limit of 2 it does.
#[test]
fn token_reaches_the_pod_and_no_network_behind_it_unless_configured() {
    let Some(mut lab) = Lab::own(&[]) else { return };
    let pod = lab.pod("own");
    let inner = nested(&pod);
    for imds in [imds_v4(), imds_v6()] {
        token_ends_at_the_pod(&lab.agent, &pod, &inner, imds);
    }
    lab.agent.kill9().unwrap();
    lab.agent = lab.world.agent(&["--token-hop-limit=2"]).unwrap();
    for imds in [imds_v4(), imds_v6()] {
        let token = Client::new(&inner, imds).imds_token(60).unwrap();
        assert_eq!(token.len(), 56, "{imds}");
    }
}
