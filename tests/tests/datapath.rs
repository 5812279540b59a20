//! Real packets through real rules: nobody gets the node's credentials, whatever becomes of the rules, of the
//! agent and of connections older than both.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::time::Duration;

use rolegate_tests::agent::Agent;
use rolegate_tests::http::{Client, Connection, nobody_listens};
use rolegate_tests::imds::{ImdsConfig, Request};
use rolegate_tests::siege::Capture;
use rolegate_tests::topology::{Backend, NODE_V4, imds_v4, imds_v6};
use rolegate_tests::traffic::{Got, Traffic};
use rolegate_tests::world::{NODE_ROLE, Options, RunningPod, World};
use tokio::time::Instant;

const BACKENDS: [Backend; 2] = [Backend::Nft, Backend::Legacy];
const LIST: &str = "/latest/meta-data/iam/security-credentials/";
/// What kube2iam and kiam write for such a node.
const PEERS: [&str; 2] = [
    "-i cali+ -d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.10:8181",
    "! -i eth0 -d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.10:3100",
];

/// As on an instance that nobody has hardened: whatever gets out gets the node's credentials.
fn open_world(test: &str, backend: Backend) -> Option<World> {
    let imds = ImdsConfig { hop_limit: 64, ..ImdsConfig::default() };
    let world = World::for_test(test, &Options { backend, imds, ..Options::default() })?;
    world.namespace("default", &["MyPodRole"]).unwrap();
    Some(world)
}

fn iptables(world: &World, backend: Backend, family: &str, args: &str) {
    let program = format!("{family}-{}", backend.suffix());
    let args: Vec<&str> = std::iter::once("-w").chain(args.split(' ')).collect();
    world.topology.node().run(&program, &args).unwrap();
}

/// Pods of both kinds, each asking both addresses of IMDS all the time.
fn start_traffic(world: &World) -> (Vec<RunningPod>, Vec<Traffic>) {
    let pods = vec![
        world.pod("default", "routed", |pod| pod.role("MyPodRole")).unwrap(),
        world.bridged_pod("default", "bridged", |pod| pod.role("MyPodRole")).unwrap(),
    ];
    let traffic =
        pods.iter().flat_map(|pod| [imds_v4(), imds_v6()].map(|to| Traffic::start(&pod.net, to))).collect();
    (pods, traffic)
}

fn all(traffic: &[Traffic], n: usize, wanted: impl Fn(Got) -> bool) {
    for traffic in traffic {
        traffic.wait_for(n, &wanted).unwrap();
    }
}

fn answered(got: Got) -> bool {
    matches!(got, Got::Status(_))
}

/// Nothing of the node's since `start`: in what pods saw, and in what IMDS saw.
fn assert_sealed(world: &World, traffic: &[Traffic], start: Instant, agent: &Agent) {
    for traffic in traffic {
        let leaked =
            traffic.seen().into_iter().filter(|(at, got)| *at > start && *got == Got::NodeCredentials);
        assert_eq!(leaked.count(), 0, "{}", agent.log());
    }
    assert!(world.leaks(start).is_empty(), "{:?}\n{}", world.leaks(start), agent.log());
}

fn repairs(agent: &Agent) -> f64 {
    let page = agent.admin("/metrics").unwrap().text();
    let samples = page.lines().filter(|line| line.starts_with("rolegate_redirect_repairs_total{"));
    samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

fn rules_are_mended_without_a_leak(test: &str, backend: Backend) {
    let Some(world) = open_world(test, backend) else { return };
    let agent = world.agent(&["--reconcile-period=1s"]).unwrap();
    let start = Instant::now();
    let (_pods, traffic) = start_traffic(&world);
    all(&traffic, 5, answered);
    for damage in [
        "-t nat -F",
        "-t nat -D PREROUTING -m comment --comment rolegate -j ROLEGATE-PREROUTING",
        "-t nat -F ROLEGATE-PREROUTING",
        "-t filter -F FORWARD",
        "-t filter -F ROLEGATE-FORWARD",
        "-t nat -I PREROUTING -j ACCEPT",
    ] {
        let before = repairs(&agent);
        for family in ["iptables", "ip6tables"] {
            iptables(&world, backend, family, damage);
        }
        agent.poll(&format!("{damage} is mended"), || Ok(repairs(&agent) >= before + 2.0)).unwrap();
        all(&traffic, 5, answered);
    }
    agent.ready().unwrap();
    assert_sealed(&world, &traffic, start, &agent);
}

/// K24: rules that others flush, delete or displace are put back, at the head, in both families.
#[test]
fn nft_rules_are_mended_without_a_leak() {
    rules_are_mended_without_a_leak("nft_rules_are_mended_without_a_leak", Backend::Nft);
}

/// K24: the same where nobody is told of changes.
#[test]
fn legacy_rules_are_mended_without_a_leak() {
    rules_are_mended_without_a_leak("legacy_rules_are_mended_without_a_leak", Backend::Legacy);
}

/// Makes connection tracking a part of the node's firewall, as kube-proxy does, and takes or leaves its translation of
/// sources: a node whose pods have addresses of the VPC forwards an answer under way as it is.
fn prepare_tracking(world: &World, backend: Backend, translates: bool) {
    for family in ["iptables", "ip6tables"] {
        iptables(world, backend, family, "-A FORWARD -m conntrack --ctstate INVALID -j DROP");
        if !translates {
            iptables(world, backend, family, "-t nat -F POSTROUTING");
        }
    }
}

/// Nothing of what a pod asked the real service before the agent's start arrives after it.
fn older_connections_bring_nothing(test: &str, capture: Capture, translates: bool) {
    let Some(world) = capture.world(test) else { return };
    prepare_tracking(&world, capture.backend(), translates);
    let pods = [
        world.pod("default", "routed", |pod| pod).unwrap(),
        world.bridged_pod("default", "bridged", |pod| pod).unwrap(),
    ];
    let ways: Vec<_> = pods.iter().flat_map(|pod| [(pod, imds_v4()), (pod, imds_v6())]).collect();
    let ask =
        |pod: &RunningPod, to| Client::new(pod.net.ns(), to).bytes("GET", &format!("{LIST}{NODE_ROLE}"), &[]);
    let open =
        |pod: &RunningPod, to| Connection::new(pod.net.ns().connect(to, Duration::from_secs(3)).unwrap());
    let mut unused: Vec<_> = ways.iter().map(|(pod, to)| open(pod, *to)).collect();
    // Asked before, answered after.
    let services = [world.imds(), world.imds_v6()];
    services.iter().for_each(|imds| imds.faults().hold(true));
    let mut asked: Vec<_> = ways
        .iter()
        .map(|(pod, to)| {
            let mut connection = open(pod, *to);
            connection.send(&ask(pod, *to)).unwrap();
            connection
        })
        .collect();
    for imds in services {
        let both = |seen: &[Request]| seen.iter().filter(|request| request.is_sensitive()).count() == 2;
        imds.wait(Duration::from_secs(10), both).unwrap();
        imds.faults().hold(false);
    }
    let tracked = world.topology.node().run("conntrack", &["-L", "-d", "169.254.169.254"]).unwrap();
    assert!(tracked.contains("ESTABLISHED"), "connections are tracked: {tracked}");

    let agent = capture.start_agent(&world, &[]).unwrap();
    agent.wait_for_line("redirect in force", |line| line.text.contains("redirect in force")).unwrap();
    let start = Instant::now();
    agent.ready().unwrap();
    services.iter().for_each(|imds| imds.faults().release());
    std::thread::scope(|scope| {
        for ((connection, asked), (pod, to)) in unused.iter_mut().zip(&mut asked).zip(&ways) {
            let way = format!("{capture:?}, translates {translates}, {} to {to}", pod.net.host_link());
            scope.spawn(move || {
                let answer = asked.read(false);
                assert!(answer.is_err(), "{way}: the answer under way arrived: {answer:?}");
                assert!(connection.exchange(&ask(pod, *to)).is_err(), "{way}");
            });
        }
    });
    assert!(world.leaks(start).is_empty(), "{capture:?}: {:?}", world.leaks(start));
    // What is opened anew is captured.
    assert_eq!(pods[0].imds().get(LIST).unwrap().status, 404, "a pod without a role");
}

/// K24, P6: connections that are older than the rules are forgotten with their conntrack entries.
#[test]
fn connection_older_than_the_agent_brings_nothing_any_more() {
    for capture in Capture::ALL {
        older_connections_bring_nothing(
            "connection_older_than_the_agent_brings_nothing_any_more",
            capture,
            true,
        );
    }
}

/// K24, P6: the same where an answer under way reaches the pod by plain forwarding.
#[test]
fn connection_older_than_the_agent_brings_nothing_where_sources_are_not_translated() {
    for capture in Capture::ALL {
        older_connections_bring_nothing(
            "connection_older_than_the_agent_brings_nothing_where_sources_are_not_translated",
            capture,
            false,
        );
    }
}

#[test]
fn rule_stands_before_the_api_server_answers() {
    let test = "rule_stands_before_the_api_server_answers";
    let Some(world) = World::for_test_with_faults(test) else { return };
    world.namespace("default", &["MyPodRole"]).unwrap();
    let pod = world.pod("default", "early", |pod| pod.role("MyPodRole")).unwrap();
    world.cluster.double().unwrap().faults().down(true);
    let start = Instant::now();
    let agent = world.start_agent(&[]).unwrap();
    agent.wait_for_line("redirect in force", |line| line.text.contains("redirect in force")).unwrap();
    agent.poll("it answers", || Ok(pod.imds().get(LIST).is_ok())).unwrap();
    for path in [LIST, &format!("{LIST}MyPodRole"), &format!("{LIST}{NODE_ROLE}")] {
        assert_eq!(pod.imds().get(path).unwrap().status, 500, "{path}");
        assert_eq!(pod.imds_v6().get(path).unwrap().status, 500, "{path}");
    }
    assert_eq!(agent.admin("/readyz").unwrap().status, 503);
    assert!(world.leaks(start).is_empty(), "{:?}", world.leaks(start));
    world.cluster.double().unwrap().faults().down(false);
    agent.ready().unwrap();
    assert_eq!(pod.imds().credentials().unwrap()["Code"], "Success");
}

/// K24: a rule that stood before does not win over ours.
#[test]
fn rule_of_kube2iam_or_kiam_is_replaced_without_a_gap() {
    let test = "rule_of_kube2iam_or_kiam_is_replaced_without_a_gap";
    for (backend, theirs) in BACKENDS.into_iter().zip(PEERS).chain([(Backend::Nft, PEERS[1])]) {
        let Some(world) = open_world(test, backend) else { return };
        let pod = world.pod("default", "pod", |pod| pod.role("MyPodRole")).unwrap();
        iptables(&world, backend, "iptables", &format!("-t nat -A PREROUTING {theirs}"));
        let start = Instant::now();
        let traffic = [Traffic::start(&pod.net, imds_v4())];
        all(&traffic, 5, |got| got == Got::Nothing);
        let agent = world.agent(&[]).unwrap();
        all(&traffic, 10, answered);
        let rules = world.topology.rules(backend).unwrap();
        let left: Vec<_> =
            rules.iter().filter(|rule| rule.contains("-A PREROUTING") && rule.contains("DNAT")).collect();
        assert!(left.is_empty(), "{backend:?}: {left:?}");
        assert_sealed(&world, &traffic, start, &agent);
    }
}

/// Where the rules of both families lead.
fn targets(world: &World, backend: Backend) -> BTreeSet<String> {
    ["iptables", "ip6tables"]
        .iter()
        .map(|family| world.topology.node().run(&format!("{family}-{}-save", backend.suffix()), &[]).unwrap())
        .flat_map(|dump| dump.lines().map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|rule| Some(rule.split_once("--to-destination ")?.1.to_owned()))
        .collect()
}

/// K24: after a change of port or address no rule to the old one is left, in front of the new one or behind it.
#[test]
fn changed_port_or_address_leaves_no_rule_to_the_old_one() {
    let test = "changed_port_or_address_leaves_no_rule_to_the_old_one";
    for backend in BACKENDS {
        let Some(world) = open_world(test, backend) else { return };
        let node = world.topology.node();
        node.ip("addr add 10.0.0.77/32 dev lo\naddr add fd00:a::77/128 dev lo nodad\n").unwrap();
        drop(world.agent(&[]).unwrap());
        let start = Instant::now();
        let (pods, traffic) = start_traffic(&world);
        for (hosts, port) in [(["10.0.0.10", "fd00:a::10"], 8282), (["10.0.0.77", "fd00:a::77"], 8181)] {
            let mut args = world.usual_flags();
            args.retain(|flag| !flag.starts_with("--host-ip"));
            args.extend(hosts.map(|host| format!("--host-ip={host}")));
            args.push(format!("--app-port={port}"));
            let agent = Agent::start(node, &args, &world.environment()).unwrap();
            agent.ready().unwrap();
            for pod in &pods {
                agent.poll("the pod is known", || Ok(pod.imds().get(LIST)?.status == 200)).unwrap();
                assert_eq!(pod.imds().credentials().unwrap()["Code"], "Success", "{hosts:?}");
                assert_eq!(pod.imds_v6().credentials().unwrap()["Code"], "Success", "{hosts:?}");
            }
            let wanted = [format!("{}:{port}", hosts[0]), format!("[{}]:{port}", hosts[1])];
            assert_eq!(targets(&world, backend), wanted.into(), "{backend:?}");
            assert_sealed(&world, &traffic, start, &agent);
        }
    }
}

/// K24: an interface need not exist; where pods are behind another, the agent says so, and nothing gets out.
#[test]
fn wrong_interface_is_not_ready_and_lets_nothing_through() {
    let Some(world) = open_world("wrong_interface_is_not_ready_and_lets_nothing_through", Backend::Nft)
    else {
        return;
    };
    let (_pods, traffic) = start_traffic(&world);
    all(&traffic, 2, |got| got == Got::NodeCredentials);
    let agent = world.start_agent(&["--host-interface=docker0"]).unwrap();
    let gate = || agent.admin("/readyz/redirect").map(|answer| answer.text()).unwrap_or_default();
    agent.poll("the gate names both", || Ok(gate().contains("docker0") && gate().contains("cali1"))).unwrap();
    let start = Instant::now();
    all(&traffic, 6, |got| got == Got::Nothing);
    assert_eq!(agent.admin("/readyz").unwrap().status, 503);
    // An answer that was read just before may be noted just after.
    assert!(world.leaks(start).is_empty(), "{:?}\n{}", world.leaks(start), agent.log());
}

/// K24: `!`, lists and patterns of interfaces, of which none is there yet, over both families.
#[test]
fn interface_of_a_pod_that_appears_later_is_captured() {
    for flag in ["--host-interface=auto", "--host-interface=cali+,cbr0", "--host-interface=!eth0"] {
        let test = "interface_of_a_pod_that_appears_later_is_captured";
        let Some(world) = open_world(test, Backend::Nft) else { return };
        let agent = world.agent(&[flag]).unwrap();
        let start = Instant::now();
        let (pods, traffic) = start_traffic(&world);
        for pod in &pods {
            agent.poll("the pod is known", || Ok(pod.imds().get(LIST)?.status == 200)).unwrap();
            assert_eq!(pod.imds().credentials().unwrap()["Code"], "Success", "{flag}");
            assert_eq!(pod.imds_v6().credentials().unwrap()["Code"], "Success", "{flag}");
        }
        assert_sealed(&world, &traffic, start, &agent);
    }
}

/// K7: whatever ends the process, the rules stay: pods are refused, over both families.
#[test]
fn killed_agent_leaves_pods_refused_until_it_is_back() {
    let Some(world) = open_world("killed_agent_leaves_pods_refused_until_it_is_back", Backend::Nft) else {
        return;
    };
    let agent = world.agent(&[]).unwrap();
    let start = Instant::now();
    let pod = world.pod("default", "pod", |pod| pod.role("MyPodRole")).unwrap();
    agent.poll("the pod is known", || Ok(pod.imds().get(LIST)?.status == 200)).unwrap();
    agent.kill9().unwrap();
    for client in [pod.imds(), pod.imds_v6()] {
        let error = client.get(LIST).unwrap_err();
        assert!(nobody_listens(&error), "{error}");
    }
    let again = world.agent(&[]).unwrap();
    assert_eq!(pod.imds().credentials().unwrap()["Code"], "Success");
    assert_eq!(pod.imds_v6().credentials().unwrap()["Code"], "Success");
    assert!(world.leaks(start).is_empty(), "{:?}\n{}", world.leaks(start), again.log());
}

#[test]
fn caller_that_wears_the_nodes_address_is_nobody() {
    let test = "caller_that_wears_the_nodes_address_is_nobody";
    let Some(world) = open_world(test, Backend::Nft) else { return };
    let pod = world.pod("default", "pod", |pod| pod.role("MyPodRole")).unwrap();
    world.host_pod("default", "agent-like", |pod| pod.role("MyPodRole")).unwrap();
    // A node that translates the sources of what its pods send to itself.
    let rule = format!("-t nat -A INPUT -s {} -j SNAT --to-source {NODE_V4}", pod.net.ip4());
    iptables(&world, Backend::Nft, "iptables", &rule);
    let agent = world.agent(&[]).unwrap();
    assert_eq!(pod.imds().get(LIST).unwrap().status, 500, "{}", agent.log());
    let reason =
        |line: &rolegate_tests::agent::Line| line.text_of("reason").as_deref() == Some("node_address");
    agent.wait_for_line("node_address", reason).unwrap();
}

/// Else half of this suite would test the other half twice.
#[test]
fn rules_go_where_the_nodes_own_are() {
    for backend in BACKENDS {
        let Some(world) = open_world("rules_go_where_the_nodes_own_are", backend) else { return };
        let _agent = world.agent(&[]).unwrap();
        for look in BACKENDS {
            let rules = world.topology.rules(look).unwrap();
            let ours = rules.iter().any(|rule| rule.contains("ROLEGATE-PREROUTING"));
            assert_eq!(ours, look == backend, "{backend:?}: {look:?} {rules:?}");
        }
    }
}
