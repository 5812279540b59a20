//! Honest pods on a bridge notice nothing of pins: neither in what they ask the agent, nor in anything else.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rolegate_tests::agent::Agent;
use rolegate_tests::netns::NetNs;
use rolegate_tests::topology::WORLD_V4;
use rolegate_tests::world::{RunningPod, World};
use tokio::time::Instant;

use super::lab::{DOCUMENT, attacker, end, open, served, start, victim};

/// How long pods ask and come and go; the figures are printed. A quiet hour is `ROLEGATE_SOAK_SECONDS=3600`.
const SOAK_SECONDS: &str = "ROLEGATE_SOAK_SECONDS";
const SHORT_SOAK: Duration = Duration::from_secs(8);
const PATIENCE: Duration = Duration::from_secs(10);

/// A word from one namespace to an address of another, over TCP.
fn talk(from: &NetNs, to: &NetNs, at: SocketAddr, link_scoped: bool) {
    let listener = to.listen(at).unwrap();
    let mut at = listener.local_addr().unwrap();
    if let (SocketAddr::V6(v6), true) = (&mut at, link_scoped) {
        v6.set_scope_id(index(from));
    }
    let mut client = from.connect(at, PATIENCE).unwrap_or_else(|error| panic!("{at}: {error}"));
    let (mut server, _) = listener.accept().unwrap();
    client.write_all(b"word").unwrap();
    let mut word = [0; 4];
    server.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"word", "{at}");
}

/// The index of `eth0`.
fn index(of: &NetNs) -> u32 {
    let shown = of.run("ip", &["-o", "link", "show", "dev", "eth0"]).unwrap();
    shown.split(':').next().unwrap().parse().unwrap()
}

fn link_local(of: &NetNs) -> Ipv6Addr {
    let shown = of.run("ip", &["-o", "-6", "addr", "show", "dev", "eth0", "scope", "link"]).unwrap();
    let address = shown.split_whitespace().skip_while(|word| *word != "inet6").nth(1).unwrap();
    address.split('/').next().unwrap().parse().unwrap()
}

/// Adds an address that is looked for first (duplicate address detection), and tells whether it was free.
fn add_if_free(pod: &RunningPod, address: &str) -> bool {
    let ns = pod.net.ns();
    ns.sysctl("net/ipv6/conf/eth0/accept_dad", "1").unwrap();
    ns.ip(&format!("addr add {address}/64 dev eth0\n")).unwrap();
    let until = Instant::now() + PATIENCE;
    loop {
        let shown = ns.run("ip", &["-o", "-6", "addr", "show", "dev", "eth0", "to", address]).unwrap();
        if shown.contains("dadfailed") {
            return false;
        }
        if !shown.contains("tentative") {
            return true;
        }
        assert!(Instant::now() < until, "{shown}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn other_traffic_on_the_bridge_is_as_it_was() {
    let Some(world) = open("other_traffic_on_the_bridge_is_as_it_was") else { return };
    let agent = world.agent(&[]).unwrap();
    let (one, other) = (victim(&world), attacker(&world));
    for pod in [&one, &other] {
        agent.poll("it is pinned", || Ok(pod.imds().get("/")?.status == 200)).unwrap();
    }
    // What was known of neighbours is forgotten: everything is asked for anew.
    for ns in [one.net.ns(), other.net.ns(), &**world.topology.node()] {
        ns.run("ip", &["neigh", "flush", "all"]).unwrap();
    }
    let (from, to) = (other.net.ns(), one.net.ns());
    talk(from, to, (one.net.ip4(), 7001).into(), false);
    talk(from, to, (one.net.ip6().unwrap(), 7002).into(), false);
    let at = SocketAddrV6::new(link_local(to), 7003, 0, index(to));
    talk(from, to, at.into(), true);
    // Off the node: the world has no listener there, and says so.
    let refused = from.connect((WORLD_V4, 9).into(), PATIENCE).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    talk(world.topology.node(), to, (one.net.ip4(), 7004).into(), false);

    // Whether an address is free is asked without one, and answered.
    assert_eq!(end(start(from, "probe", IpAddr::V4(one.net.ip4()), 10)), "in use");
    assert!(add_if_free(&one, "fe80::7"));
    assert!(!add_if_free(&other, "fe80::7"), "somebody else has it");
    assert!(add_if_free(&other, "fe80::8"));
}

/// While pins are there, and one pod forges, no request of a pod that was served once is refused.
#[test]
fn honest_pods_are_never_refused_while_others_come_go_and_forge() {
    let Some(world) = open("honest_pods_are_never_refused_while_others_come_go_and_forge") else { return };
    let seconds = std::env::var_os(SOAK_SECONDS).and_then(|seconds| seconds.to_str()?.parse().ok());
    let soak = seconds.map_or(SHORT_SOAK, Duration::from_secs);
    let agent = world.agent(&[]).unwrap();
    let attacker = attacker(&world);
    let by_result = victim(&world);
    let by_claim = world.bridged_pod_without_result("default", "claim", |pod| pod.role("MyPodRole")).unwrap();
    for pod in [&by_result, &by_claim] {
        served(&agent, pod);
    }
    let over = AtomicBool::new(false);
    let (asked, others) = std::thread::scope(|scope| {
        let asking: Vec<_> = [&by_result, &by_claim].map(|pod| scope.spawn(|| ask_until(pod, &over))).into();
        let _ends = Ends(&over);
        let others = come_and_go(&world, &agent, [&attacker, &by_result], soak);
        over.store(true, Ordering::Relaxed);
        (asking.into_iter().map(|asking| asking.join().unwrap()).sum::<usize>(), others)
    });
    println!("{} s: {asked} requests, all answered; {others} pods came and went", soak.as_secs());
    assert!(asked > 10 && others > 0, "{asked} {others}");
    let refused =
        |reason| agent.metric(&format!("rolegate_identity_refused_total{{reason=\"{reason}\"}}")).unwrap();
    println!("unknown addresses {}, unpinned {}", refused("unknown_address"), refused("unpinned"));
    assert!(refused("shared_l2") < 1.0, "{}", agent.log());
}

/// Ends what goes on besides, whatever becomes of the test.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Requests over both families, each of which has to be answered with the document.
fn ask_until(pod: &RunningPod, over: &AtomicBool) -> usize {
    let mut asked = 0;
    while !over.load(Ordering::Relaxed) {
        for client in [pod.imds(), pod.imds_v6()] {
            let answer = client.get(DOCUMENT).unwrap();
            assert_eq!(answer.status, 200, "{}", answer.text());
            asked += 1;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    asked
}

/// Other pods come to the bridge, are served, and go, while one forges.
fn come_and_go(world: &World, agent: &Agent, [attacker, victim]: [&RunningPod; 2], soak: Duration) -> usize {
    let until = Instant::now() + soak;
    let mut others = 0;
    while Instant::now() < until {
        let attack = ["arp", "ndp", "vlan", "ndp-router"][others % 4];
        let of = if attack.starts_with("ndp") {
            IpAddr::V6(victim.net.ip6().unwrap())
        } else {
            IpAddr::V4(victim.net.ip4())
        };
        let forging = start(attacker.net.ns(), attack, of, 1);
        let (ip4, ip6) = (std::net::Ipv4Addr::new(100, 96, 1, 250), "fd00:64:1::250".parse().unwrap());
        let name = format!("other-{others}");
        let net = world.topology.bridged_pod(&name, ip4, Some(ip6)).unwrap();
        net.leave_result(world.cni_results(), ["default", &name], None).unwrap();
        let other = world.run(net.into(), "default", &name, |pod| pod.role("OtherRole")).unwrap();
        let path = DOCUMENT.replace("MyPodRole", "OtherRole");
        // On a busy machine the watch, or a look at links, may take longer than a request is held: who is new asks again.
        let served = || Ok(other.imds().get(&path)?.status == 200);
        agent.poll("it is served", served).unwrap();
        world.delete(&other).unwrap();
        drop(other);
        assert_eq!(end(forging), "");
        others += 1;
    }
    others
}
