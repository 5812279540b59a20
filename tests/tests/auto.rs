//! The way of redirecting that `--redirect=auto` chooses, what it is proved by, and what happens where nothing is proved.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::net::SocketAddr;
use std::process::Stdio;

use rolegate_tests::agent::{Agent, run_to_end};
use rolegate_tests::imds::ImdsConfig;
use rolegate_tests::skip;
use rolegate_tests::topology::{imds_v4, imds_v6};
use rolegate_tests::traffic::{Got, Traffic};
use rolegate_tests::world::{Options, RunningPod, World};
use tokio::time::Instant;

/// A program that lets everything on, as `tc` takes it without a compiler.
const PROGRAM: &str = "bpf direct-action bytecode '1,6 0 0 4294967295,'";
/// Requests of each pod and family that are looked at at a time.
const ROUND: usize = 4;

/// As on an instance that nobody has hardened: whatever gets out gets the node's credentials.
fn open_world(test: &str) -> Option<World> {
    if !rolegate_tests::has_other_users() {
        skip(test, "root of a user namespace may not ask for programs of tcx, and auto decides nothing");
        return None;
    }
    let imds = ImdsConfig { hop_limit: 64, ..ImdsConfig::default() };
    let world = World::for_test(test, &Options { imds, ..Options::default() })?;
    world.namespace("default", &["MyPodRole"]).unwrap();
    Some(world)
}

/// The usual flags without the capture and without these, with `redirect`.
fn flags(world: &World, without: &str, redirect: &[&str]) -> Vec<String> {
    let mut flags = world.usual_flags();
    flags.retain(|flag| flag != "--iptables" && (without.is_empty() || !flag.starts_with(without)));
    flags.push("--reconcile-period=1s".to_owned());
    flags.extend(redirect.iter().map(|flag| (*flag).to_owned()));
    flags
}

fn start(world: &World, flags: &[String]) -> Agent {
    Agent::start(world.topology.node(), flags, &world.environment()).unwrap()
}

fn sh(world: &World, script: &str) -> String {
    world.topology.node().run("sh", &["-ec", script]).unwrap()
}

/// Waits until the redirect's gate is closed for this reason.
fn closed(agent: &Agent, reason: &str) {
    agent
        .poll(&format!("the redirect waits for: {reason}"), || {
            let gate = agent.admin("/readyz/redirect");
            Ok(gate.is_ok_and(|answer| answer.status == 503 && answer.text().contains(reason)))
        })
        .unwrap();
}

fn mode(agent: &Agent) -> Vec<&'static str> {
    let is_on =
        |mode: &&str| agent.metric(&format!("rolegate_redirect_mode{{mode=\"{mode}\"}}")).unwrap() > 0.0;
    ["iptables", "none", "route", "undecided"].into_iter().filter(is_on).collect()
}

fn pods(world: &World) -> Vec<RunningPod> {
    vec![
        world.pod("default", "routed", |pod| pod.role("MyPodRole")).unwrap(),
        world.bridged_pod("default", "bridged", |pod| pod.role("MyPodRole")).unwrap(),
    ]
}

/// Each pod asks both addresses of IMDS all the time.
fn start_traffic(pods: &[RunningPod]) -> Vec<Traffic> {
    pods.iter().flat_map(|pod| [imds_v4(), imds_v6()].map(|to| Traffic::start(&pod.net, to))).collect()
}

fn all(traffic: &[Traffic], wanted: impl Fn(Got) -> bool) {
    for traffic in traffic {
        traffic.wait_for(ROUND, &wanted).unwrap();
    }
}

fn assert_served(agent: &Agent, pods: &[RunningPod]) {
    for pod in pods {
        for client in [pod.imds(), pod.imds_v6()] {
            assert_eq!(client.credentials().unwrap()["Code"], "Success", "{}", agent.log());
        }
    }
}

fn assert_sealed(world: &World, start: Instant, log: &str) {
    assert!(world.leaks(start).is_empty(), "{:?}\n{log}", world.leaks(start));
}

#[test]
fn policy_routing_is_chosen_where_it_works_and_proved_for_every_pod() {
    let test = "policy_routing_is_chosen_where_it_works_and_proved_for_every_pod";
    let Some(world) = open_world(test) else { return };
    let agent = start(&world, &flags(&world, "--host-ip", &["--redirect=auto"]));
    agent.ready().unwrap();
    let sealed = Instant::now();
    assert_eq!(mode(&agent), ["route"], "{}", agent.log());
    let pods = pods(&world);
    assert_served(&agent, &pods);
    // Others' rules that go before ours: of one pod, of an interface, of a family.
    let routed = pods[0].net.host_link();
    for (family, rule, interface) in [
        ("-4", format!("from {} lookup main", pods[0].net.ip4()), routed),
        ("-4", "iif cbr0 ipproto tcp dport 80 lookup main".to_owned(), "cbr0"),
        ("-6", format!("iif {routed} lookup main"), routed),
    ] {
        sh(&world, &format!("ip {family} rule add pref 1 {rule}"));
        closed(&agent, &format!("what comes in by {interface} "));
        let refused =
            [&pods[0], &pods[1]].map(|pod| [pod.imds().get("/latest/"), pod.imds_v6().get("/latest/")]);
        assert!(refused.iter().flatten().any(Result::is_err), "{rule}: {refused:?}");
        sh(&world, &format!("ip {family} rule del pref 1"));
        agent.ready().unwrap();
    }
    assert_served(&agent, &pods);
    assert_sealed(&world, sealed, &agent.log());
}

#[test]
fn iptables_is_chosen_where_port_80_or_the_way_to_it_is_somebody_elses() {
    let test = "iptables_is_chosen_where_port_80_or_the_way_to_it_is_somebody_elses";
    let Some(world) = open_world(test) else { return };
    let pods = pods(&world);
    let traffic = start_traffic(&pods);
    all(&traffic, |got| got == Got::NodeCredentials);
    let taken = world.topology.node().listen(SocketAddr::from(([0, 0, 0, 0], 80))).unwrap();
    // Without an address to translate to there is nothing to fall back to: both are said, and the node is closed.
    let without = start(&world, &flags(&world, "--host-ip", &["--redirect=auto"]));
    assert_eq!(without.wait().unwrap().code(), Some(1), "{}", without.log());
    let said = without.lines().last().unwrap().text.clone();
    assert!(said.contains("169.254.169.254:80") && said.contains("--host-ip"), "{said}");
    let sealed = Instant::now();
    all(&traffic, |got| got == Got::Nothing);

    let agent = start(&world, &flags(&world, "", &["--redirect=auto"]));
    agent.ready().unwrap();
    assert_eq!(mode(&agent), ["iptables"], "{}", agent.log());
    agent.wait_for_line("why", |line| line.text_of("why").is_some_and(|why| why.contains(":80"))).unwrap();
    all(&traffic, |got| matches!(got, Got::Status(_)));
    drop((agent, taken));

    sh(&world, "ip rule add pref 1 iif cbr0 lookup main");
    let agent = start(&world, &flags(&world, "", &["--redirect=auto"]));
    agent.ready().unwrap();
    assert_eq!(mode(&agent), ["iptables"], "{}", agent.log());
    let why = |why: String| why.contains("what comes in by cbr0 ") && why.contains("goes out by eth0");
    agent.wait_for_line("why", |line| line.text_of("why").is_some_and(why)).unwrap();
    all(&traffic, |got| matches!(got, Got::Status(_)));
    assert_sealed(&world, sealed, &agent.log());
    let rules = sh(&world, "ip rule; ip -6 rule");
    assert!(!rules.contains("43518"), "nothing is left of what did not do: {rules}");
}

#[test]
fn where_others_forward_nothing_is_chosen_until_the_operator_does() {
    let test = "where_others_forward_nothing_is_chosen_until_the_operator_does";
    let Some(world) = open_world(test) else { return };
    let pods = pods(&world);
    let traffic = start_traffic(&pods);
    all(&traffic, |got| got == Got::NodeCredentials);
    sh(&world, "ip link add cilium_host type veth peer name cilium_net");
    let agent = start(&world, &flags(&world, "", &["--redirect=auto"]));
    closed(&agent, "the device cilium_host");
    for choice in ["--redirect=route", "--redirect=iptables", "--redirect=none", "CiliumLocalRedirectPolicy"]
    {
        closed(&agent, choice);
    }
    let sealed = Instant::now();
    assert_eq!(mode(&agent), ["undecided"]);
    // The guards hold what the host's own routing and netfilter see.
    agent.poll("both guards stand", || Ok(agent.metric("rolegate_guards_present")? > 0.0)).unwrap();
    all(&traffic, |got| got == Got::Nothing);
    agent.kill9().unwrap();

    // What was chosen is taken, and what that means is said.
    let agent = start(&world, &flags(&world, "", &["--redirect=route"]));
    agent.ready().unwrap();
    assert_eq!(mode(&agent), ["route"]);
    let said = |line: &rolegate_tests::agent::Line| {
        line.text_of("level").as_deref() == Some("WARN") && line.text_of("found").is_some()
    };
    agent.wait_for_line("a warning", said).unwrap();
    assert_eq!(agent.metric("rolegate_redirect_unproved_interfaces").unwrap(), 1.0);
    all(&traffic, |got| matches!(got, Got::Status(_)));
    agent.kill9().unwrap();

    let agent = start(&world, &flags(&world, "", &["--redirect=none"]));
    agent.ready().unwrap();
    assert_eq!(mode(&agent), ["none"]);
    agent
        .wait_for_line("CiliumLocalRedirectPolicy", |line| said(line) && line.text.contains("deploy/cilium"))
        .unwrap();
    assert_eq!(agent.metric("rolegate_redirect_unproved_interfaces").unwrap(), 1.0);
    assert_sealed(&world, sealed, &agent.log());
}

#[test]
fn programs_that_come_later_close_the_gate_of_auto_and_of_nobody_who_chose() {
    let test = "programs_that_come_later_close_the_gate_of_auto_and_of_nobody_who_chose";
    let Some(world) = open_world(test) else { return };
    let pod = world.pod("default", "pod", |pod| pod.role("MyPodRole")).unwrap();
    let link = pod.net.host_link();
    let attach = format!("tc qdisc add dev {link} clsact && tc filter add dev {link} ingress {PROGRAM}");
    let detach = format!("tc qdisc del dev {link} clsact");
    if let Err(error) = world.topology.node().run("sh", &["-ec", &format!("{attach} && {detach}")]) {
        return skip(test, &format!("{error:#}"));
    }
    for (redirect, proved) in [("--redirect=auto", true), ("--redirect=route", false)] {
        let agent = start(&world, &flags(&world, "", &[redirect]));
        agent.ready().unwrap();
        sh(&world, &attach);
        let metric = "rolegate_redirect_unproved_interfaces";
        agent.poll("they are seen", || Ok(agent.metric(metric)? > 0.0)).unwrap();
        if proved {
            closed(&agent, &format!("tc programs on {link}"));
        }
        assert_served(&agent, std::slice::from_ref(&pod));
        assert_eq!(agent.admin("/readyz").unwrap().status == 200, !proved, "{}", agent.log());
        sh(&world, &detach);
        agent.poll("they are gone", || Ok(agent.metric(metric)? == 0.0)).unwrap();
        agent.ready().unwrap();
    }
}

#[test]
fn the_redirect_of_an_earlier_start_goes_once_the_new_one_stands() {
    let test = "the_redirect_of_an_earlier_start_goes_once_the_new_one_stands";
    let Some(world) = open_world(test) else { return };
    let pods = pods(&world);
    let agent = start(&world, &flags(&world, "", &["--redirect=iptables"]));
    agent.ready().unwrap();
    let sealed = Instant::now();
    let traffic = start_traffic(&pods);
    all(&traffic, |got| matches!(got, Got::Status(_)));
    let foreign = sh(&world, "iptables-nft-save; ip6tables-nft-save | grep SNAT");
    assert!(foreign.contains("ROLEGATE-PREROUTING") && foreign.contains("SNAT"), "{foreign}");
    let mut last = agent;
    for (redirect, rules, left) in [
        ("--redirect=route", "iptables-nft-save; ip6tables-nft-save", "ROLEGATE"),
        ("--redirect=iptables", "ip rule; ip -6 rule; ip route show table all", "43518"),
        ("--redirect=auto", "iptables-nft-save; ip6tables-nft-save", "ROLEGATE"),
    ] {
        last.kill9().unwrap();
        all(&traffic, |got| got == Got::Nothing);
        last = start(&world, &flags(&world, "", &[redirect]));
        last.ready().unwrap();
        let found = sh(&world, rules);
        assert!(!found.contains(left), "{redirect}: {found}\n{}", last.log());
        assert_served(&last, &pods);
        all(&traffic, |got| matches!(got, Got::Status(_)));
    }
    assert!(sh(&world, "iptables-nft-save").contains("SNAT"), "what is not ours stays");
    assert_sealed(&world, sealed, &last.log());
}

/// P10: an agent that cannot set up its capture, or one of the guards, is never ready and says which.
#[test]
fn agent_without_its_capture_or_a_guard_is_never_ready_and_says_which() {
    let test = "agent_without_its_capture_or_a_guard_is_never_ready_and_says_which";
    let Some(world) = open_world(test) else { return };
    let pods = pods(&world);
    let said = run_to_end(Some(&**world.topology.node()), &["guard"]).unwrap();
    assert!(said.status.success(), "{said:?}");
    let sealed = Instant::now();
    // The kernel takes a rule for the opposite for the same when ours is to be added. The first is for all other traffic.
    let rule = |preference: u32, action: &str| {
        let rule = format!("pref {preference} not to 169.254.169.254 {action} protocol kernel");
        (
            format!(
                "ip rule add pref 1 not to 169.254.169.254 lookup main; ip rule del pref {preference} || true; ip rule add {rule}"
            ),
            format!("ip rule del {rule}; ip rule del pref 1"),
        )
    };
    for (redirect, (damage, undo), missing) in [
        ("--redirect=route", rule(4, "prohibit table 0"), "guard_rules"),
        ("--redirect=iptables", rule(4, "prohibit table 0"), "guard_rules"),
        ("--redirect=route", rule(3, "lookup 43518"), "policy routing"),
    ] {
        sh(&world, &damage);
        never_ready(&world, redirect, missing);
        sh(&world, &undo);
    }
    // A table of our name that another process owns: nobody else can write it.
    sh(&world, "nft delete table inet rolegate");
    let mut owner = world.topology.node().command("nft");
    let mut owner = owner.arg("-i").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut commands = owner.stdin.take().unwrap();
    std::io::Write::write_all(&mut commands, b"add table inet rolegate { flags owner; }\n").unwrap();
    let owned = (0..1_000).any(|_| sh(&world, "nft list tables").contains("rolegate"));
    assert!(owned, "nft did not make a table that it owns");
    for redirect in ["--redirect=route", "--redirect=iptables", "--redirect=auto"] {
        never_ready(&world, redirect, "guard of nftables");
    }
    drop(commands);
    owner.wait().unwrap();
    // With nothing in its way it is ready.
    let agent = start(&world, &flags(&world, "", &["--redirect=auto"]));
    agent.ready().unwrap();
    assert_served(&agent, &pods);
    assert_sealed(&world, sealed, &agent.log());
}

/// Three looks after the start it has still not been ready.
fn never_ready(world: &World, redirect: &str, missing: &str) {
    let agent = start(world, &flags(world, "", &[redirect]));
    closed(&agent, missing);
    let before = agent.metric("rolegate_redirect_errors_total").unwrap();
    agent
        .poll("three more looks", || Ok(agent.metric("rolegate_redirect_errors_total")? >= before + 3.0))
        .unwrap();
    closed(&agent, missing);
    assert!(
        !agent.lines().iter().any(|line| line.text_of("message").as_deref() == Some("ready")),
        "{}",
        agent.log()
    );
}

/// A manifest's documents.
fn manifest(name: &str) -> Vec<serde_json::Value> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name);
    serde_saphyr::from_multiple(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn policies_for_cilium_name_the_addresses_and_the_agents_own_pods_and_port() {
    let agent = manifest("daemonset.yaml").into_iter().find(|it| it["kind"] == "DaemonSet").unwrap();
    let redirects = manifest("cilium/local-redirect-policy.yaml");
    let frontends: Vec<&str> = redirects
        .iter()
        .map(|it| it["spec"]["redirectFrontend"]["addressMatcher"]["ip"].as_str().unwrap())
        .collect();
    assert_eq!(frontends, ["169.254.169.254", "fd00:ec2::254"]);
    for redirect in &redirects {
        assert_eq!(redirect["apiVersion"], "cilium.io/v2");
        assert_eq!(redirect["kind"], "CiliumLocalRedirectPolicy");
        assert_eq!(redirect["metadata"]["namespace"], agent["metadata"]["namespace"]);
        let spec = &redirect["spec"];
        let port = |port: &str| serde_json::json!([{"port": port, "protocol": "TCP"}]);
        assert_eq!(spec["redirectFrontend"]["addressMatcher"]["toPorts"], port("80"));
        assert_eq!(spec["redirectBackend"]["toPorts"], port("8181"));
        assert_eq!(spec["skipRedirectFromBackend"], true);
        let (selected, labels) = (
            spec["redirectBackend"]["localEndpointSelector"]["matchLabels"].as_object().unwrap(),
            agent["spec"]["template"]["metadata"]["labels"].as_object().unwrap(),
        );
        assert!(!selected.is_empty() && selected.iter().all(|(name, value)| labels.get(name) == Some(value)));
    }
    let [deny] = &manifest("cilium/deny-metadata.yaml")[..] else { panic!("one policy") };
    assert_eq!(
        (&deny["apiVersion"], &deny["kind"]),
        (&"cilium.io/v2".into(), &"CiliumClusterwideNetworkPolicy".into())
    );
    assert_eq!(deny["spec"]["endpointSelector"], serde_json::json!({}));
    assert_eq!(
        deny["spec"]["egressDeny"],
        serde_json::json!([{"toCIDR": ["169.254.169.254/32", "fd00:ec2::254/128"]}])
    );
    assert_eq!(deny["spec"]["enableDefaultDeny"], serde_json::json!({"ingress": false, "egress": false}));
}
