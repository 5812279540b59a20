//! Whose a bridge port is: by the CNI's result, else by what it claimed first after it was plugged in; else nobody's.

use std::time::Duration;

use rolegate_tests::agent::{Agent, Line, run_to_end};
use rolegate_tests::http::Client;
use rolegate_tests::kube_api::Pod;
use rolegate_tests::topology::{PodNet, imds_v4};
use rolegate_tests::world::{NODE, RunningPod, World};

use super::lab::{DOCUMENT, attacker, open, served, status, successful, victim};

fn restart(agent: Agent, world: &World) -> Agent {
    agent.kill9().unwrap();
    drop(agent);
    world.agent(&[]).unwrap()
}

fn refused(agent: &Agent, pod: &RunningPod, reason: &str) {
    let sample = format!("rolegate_identity_refused_total{{reason=\"{reason}\"}}");
    for client in [pod.imds(), pod.imds_v6()] {
        let before = agent.metric(&sample).unwrap();
        let answer = client.get(DOCUMENT).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (500, ""), "{}", agent.log());
        assert!(agent.metric(&sample).unwrap() > before, "{}", agent.log());
    }
    let trail = |line: &Line| {
        line.text_of("target").as_deref() == Some("rolegate::audit")
            && line.text_of("reason").as_deref() == Some(reason)
            && line.text_of("uid").as_deref() == Some(&*pod.uid)
    };
    agent.wait_for_line("an audit line of the pod", trail).unwrap();
}

fn says_of_port(agent: &Agent, pod: &RunningPod, reason: &str) {
    let port = pod.net.host_link();
    let says = |line: &Line| line.text_of("port").as_deref() == Some(port) && line.text.contains(reason);
    agent.wait_for_line(reason, says).unwrap();
}

/// P15: a port that is older than the agent and that no result names is pinned to nothing, and its pod gets nothing.
#[test]
fn older_port_without_a_result_is_refused_and_a_newer_one_is_pinned_by_its_first_address() {
    let test = "older_port_without_a_result_is_refused_and_a_newer_one_is_pinned_by_its_first_address";
    let Some(world) = open(test) else { return };
    let known = victim(&world);
    let older = world.bridged_pod_without_result("default", "older", |pod| pod.role("MyPodRole")).unwrap();
    let agent = world.agent(&[]).unwrap();
    served(&agent, &known);
    refused(&agent, &older, "unpinned");
    says_of_port(&agent, &older, "older than the agent");

    let newer = world.bridged_pod_without_result("default", "newer", |pod| pod.role("MyPodRole")).unwrap();
    served(&agent, &newer);
    let (attacker, attacks) = (attacker(&world), ["arp", "mac", "ndp"]);
    assert_eq!(successful(&world, &attacker, &newer, &attacks, 2), [""; 0], "{}", agent.log());

    // The next agent knows what this one knew, and believes nobody more.
    let agent = restart(agent, &world);
    served(&agent, &newer);
    served(&agent, &known);
    refused(&agent, &older, "unpinned");

    // A result may still come.
    older.net.leave_result(world.cni_results(), ["default", "older"], None).unwrap();
    served(&agent, &older);
}

/// A pod that is plugged in, and claims its neighbour's address before its own.
fn thief_of(world: &World, victim: &RunningPod) -> PodNet {
    let (own, _) = world.next_addresses();
    let thief = world.topology.bridged_pod("thief", own, None).unwrap();
    let stolen = victim.net.ip4();
    let steal = format!(
        "addr del {own}/24 dev eth0\naddr add {stolen}/24 dev eth0\nroute add default via 100.96.1.1\n"
    );
    thief.ns().ip(&steal).unwrap();
    // It is let through when the address is nobody's, and refused with words.
    let _ = thief.ns().connect(imds_v4(), Duration::from_secs(1));
    thief
}

/// P15: an address whose owner has not said a word is not given to the first port that claims it.
#[test]
fn claim_is_not_believed_before_everybody_was_asked() {
    let Some(world) = open("claim_is_not_believed_before_everybody_was_asked") else { return };
    let silent = world.bridged_pod_without_result("default", "silent", |pod| pod.role("MyPodRole")).unwrap();
    let agent = world.agent(&[]).unwrap();
    let thief = thief_of(&world, &silent);
    for _ in 0..3 {
        let answer = Client::imds(thief.ns()).get(DOCUMENT);
        assert!(answer.is_err() || answer.unwrap().status == 500, "{}", agent.log());
    }
    agent.wait_for_line("who is disputed", |line| line.text.contains("several bridge ports")).unwrap();
}

/// P15: two ports that claim one address have it neither.
#[test]
fn address_that_two_ports_claim_first_is_neithers() {
    let Some(world) = open("address_that_two_ports_claim_first_is_neithers") else { return };
    let agent = world.agent(&[]).unwrap();
    let pod = world.bridged_pod_without_result("default", "victim", |pod| pod.role("MyPodRole")).unwrap();
    served(&agent, &pod);
    let thief = thief_of(&world, &pod);
    agent.wait_for_line("who is disputed", |line| line.text.contains("several bridge ports")).unwrap();
    agent.poll("neither has it", || Ok(agent.metric("rolegate_pods_doubted")? > 0.0)).unwrap();
    for of in [pod.net.ns(), thief.ns()] {
        let answer = Client::imds(of).get(DOCUMENT);
        assert!(answer.is_err() || answer.unwrap().status == 500, "{}", agent.log());
    }
    drop(thief);
    served(&agent, &pod);
}

/// P15: pins outlive a port's flap.
#[test]
fn pins_survive_a_flap() {
    let Some(world) = open("pins_survive_a_flap") else { return };
    let agent = world.agent(&[]).unwrap();
    let (victim, attacker) = (victim(&world), attacker(&world));
    let without =
        world.bridged_pod_without_result("default", "without", |pod| pod.role("MyPodRole")).unwrap();
    for pod in [&victim, &without] {
        served(&agent, pod);
        let link = pod.net.host_link();
        for _ in 0..3 {
            world.topology.node().ip(&format!("link set {link} down\nlink set {link} up\n")).unwrap();
            assert_eq!(successful(&world, &attacker, pod, &["arp"], 1), [""; 0], "{}", agent.log());
        }
        served(&agent, pod);
    }
}

/// P15: a pod that is plugged in anew is pinned anew, and served where the runtime says that it was: another port is
/// another witness.
#[test]
fn pod_that_is_plugged_in_anew_is_served_by_the_word_of_the_runtime() {
    let Some(world) = open("pod_that_is_plugged_in_anew_is_served_by_the_word_of_the_runtime") else {
        return;
    };
    let agent = world.agent(&[]).unwrap();
    let (victim, attacker) = (victim(&world), attacker(&world));
    let without =
        world.bridged_pod_without_result("default", "without", |pod| pod.role("MyPodRole")).unwrap();
    for (name, pod) in [("victim", &victim), ("without", &without)] {
        served(&agent, pod);
        pod.net.replug().unwrap();
        // Until the next look the port that has gone is taken for the pod's.
        let witness = "rolegate_identity_refused_total{reason=\"witness_changed\"}";
        let before = agent.metric(witness).unwrap();
        let refused = || Ok(pod.imds().get(DOCUMENT)?.status == 500 && agent.metric(witness)? > before);
        agent.poll("another port is another pod's", refused).unwrap();
        assert_eq!(successful(&world, &attacker, pod, &["arp", "ndp"], 1), [""; 0], "{}", agent.log());

        pod.net.leave_result(world.cni_results(), ["default", name], Some(&pod.uid)).unwrap();
        served(&agent, pod);
        assert_eq!(successful(&world, &attacker, pod, &["arp", "ndp"], 1), [""; 0], "{}", agent.log());
        served(&agent, pod);
    }
}

/// P15: what is flushed is mended, and what was learnt is not lost with it.
#[test]
fn flushed_pins_are_mended_and_what_ports_claimed_first_is_still_known() {
    let Some(world) = open("flushed_pins_are_mended_and_what_ports_claimed_first_is_still_known") else {
        return;
    };
    let agent = world.agent(&[]).unwrap();
    let attacker = attacker(&world);
    let victim = world.bridged_pod_without_result("default", "victim", |pod| pod.role("MyPodRole")).unwrap();
    served(&agent, &victim);
    let repairs = "rolegate_redirect_repairs_total{cause=\"pins_changed\"}";
    for (n, flush) in ["flush ruleset", "delete table bridge rolegate", "delete table bridge rolegate_first"]
        .into_iter()
        .enumerate()
    {
        let before = agent.metric(repairs).unwrap();
        let arguments: Vec<&str> = flush.split(' ').collect();
        world.topology.node().run("nft", &arguments).unwrap();
        if n < 2 {
            agent.poll("pins are mended", || Ok(agent.metric(repairs)? > before)).unwrap();
        }
        agent
            .poll("both tables are there", || {
                let tables = world.topology.node().run("nft", &["list", "tables"])?;
                Ok(tables.lines().filter(|line| line.starts_with("table bridge rolegate")).count() == 2)
            })
            .unwrap();
        served(&agent, &victim);
        assert_eq!(
            successful(&world, &attacker, &victim, &["arp", "ndp"], 1),
            [""; 0],
            "{flush}: {}",
            agent.log()
        );
    }
    drop(agent);
    let ended = run_to_end(Some(world.topology.node()), &["cleanup"]).unwrap();
    assert!(ended.status.success(), "{ended:?}");
    let tables = world.topology.node().run("nft", &["list", "tables"]).unwrap();
    assert!(!tables.contains("bridge rolegate"), "{tables}");
}

#[test]
fn shared_interfaces_are_refused_or_believed_where_told() {
    let Some(world) = open("shared_interfaces_are_refused_or_believed_where_told") else { return };
    let routed = world.pod("default", "routed", |pod| pod.role("MyPodRole")).unwrap();
    let bridged = victim(&world);
    let refusing = world.agent(&["--shared-l2=refuse"]).unwrap();
    served(&refusing, &routed);
    refused(&refusing, &bridged, "shared_l2");
    refusing
        .wait_for_line("which are shared", |line| line.text_of("interfaces").as_deref() == Some("cbr0"))
        .unwrap();
    drop(refusing);

    let older = world.bridged_pod_without_result("default", "older", |pod| pod.role("MyPodRole")).unwrap();
    let believing = world.agent(&["--shared-l2=allow"]).unwrap();
    for pod in [&routed, &bridged, &older] {
        served(&believing, pod);
    }
    drop(believing);

    // Two pods behind one link that is no bridge: there is nothing to pin.
    let second = world.bridged_pod("default", "second", |pod| pod.role("MyPodRole")).unwrap();
    let link = routed.net.host_link();
    let (ip4, ip6) = world.next_addresses();
    world
        .topology
        .node()
        .ip(&format!("route add {ip4}/32 dev {link}\nroute add {ip6}/128 dev {link}\n"))
        .unwrap();
    let behind = Pod::new("default", "behind").node(NODE);
    world.cluster.apply_pod(&behind.ip(&ip4.to_string()).ip(&ip6.to_string())).unwrap();
    let pinning = world.agent(&[]).unwrap();
    served(&pinning, &second);
    refused(&pinning, &routed, "shared_l2");
    world.cluster.delete_pod("default", "behind").unwrap();
    served(&pinning, &routed);
    assert_eq!(status(second.imds()), 200);
}
