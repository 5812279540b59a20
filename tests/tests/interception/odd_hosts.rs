//! Hosts whose network daemon tidies up policy rules, and hosts without IPv6.

use std::sync::Arc;

use rolegate_tests::agent::Agent;
use rolegate_tests::siege::{Capture, Siege};
use rolegate_tests::traffic::Got;
use rolegate_tests::world::World;

/// What systemd-networkd does at a restart or reload: every rule goes that is not its own, but those of protocol kernel
/// (ManageForeignRoutingPolicyRules=, networkd.conf(5); systemd issue 19287).
const TIDY_UP: &str = "for f in -4 -6; do
  ip -d $f rule | grep -v 'proto kernel' | cut -d: -f1 | while read pref; do ip $f rule del pref $pref; done
done";

#[test]
fn rules_of_ours_are_none_that_a_network_daemon_tidies_up() {
    let test = "rules_of_ours_are_none_that_a_network_daemon_tidies_up";
    let Some(mut siege) = Siege::for_test(test, Capture::Route) else { return };
    let agent = siege.agent(&[]).unwrap();
    siege.seal().unwrap();
    siege.on_node("ip rule add pref 7 lookup main protocol static").unwrap();
    let ours = siege.ours().unwrap();
    let rules = || siege.on_node("ip rule").unwrap();
    assert!(rules().contains("\n7:\t"), "{}", rules());
    siege.on_node(TIDY_UP).unwrap();
    assert!(!rules().contains("\n7:\t"), "{}", rules());
    assert_eq!(siege.ours().unwrap(), ours);
    // Not because the agent was quick.
    let repaired = agent.lines().iter().any(|line| line.text_of("message").as_deref() == Some("repaired"));
    assert!(!repaired, "{}", agent.log());
    siege.everybody_gets(2, |got| matches!(got, Got::Status(_))).unwrap();
    siege.nothing_leaked().unwrap();
}

/// An agent on a host whose IPv6 is switched off, with no address of it.
fn agent_without_ipv6(world: &World, capture: Capture, contained: bool) -> Agent {
    let mut flags = world.usual_flags();
    flags.retain(|flag| flag != "--iptables" && !flag.starts_with("--host-ip=fd"));
    flags.push(if capture == Capture::Route { "--redirect=route" } else { "--redirect=iptables" }.into());
    let (node, environment) = (world.topology.node(), world.environment());
    let agent = if contained {
        // What tells a kernel without it from one with.
        Agent::start_contained(node, "mount -t tmpfs tmpfs /proc/sys/net", &flags, &environment)
    } else {
        Agent::start(node, &flags, &environment)
    };
    let agent = agent.unwrap();
    agent.ready().unwrap();
    agent
}

fn serves_without_ipv6(test: &str, contained: bool) {
    for capture in [Capture::IptablesNft, Capture::Route] {
        let Some(world) = capture.world(test) else { return };
        // Nor do its pods have any.
        let net = world.topology.routed_pod("pod", [100, 96, 1, 200].into(), None).unwrap();
        let pod = world.run(Arc::new(net), "default", "pod", |pod| pod.role("MyPodRole")).unwrap();
        if !contained {
            for setting in ["all", "default", "lo"] {
                let setting = format!("net/ipv6/conf/{setting}/disable_ipv6");
                world.topology.node().sysctl(&setting, "1").unwrap();
            }
        }
        let agent = agent_without_ipv6(&world, capture, contained);
        let start = tokio::time::Instant::now();
        let served = || Ok(pod.imds().credentials().is_ok_and(|document| document["Code"] == "Success"));
        agent.poll("the pod is served", served).unwrap();
        let problems: Vec<_> = agent
            .lines()
            .into_iter()
            .filter(|line| line.text_of("level").as_deref() == Some("ERROR"))
            .collect();
        assert!(problems.is_empty(), "{capture:?}: {problems:?}");
        assert_eq!(agent.metric("rolegate_redirect_errors_total").unwrap(), 0.0, "{}", agent.log());
        assert!(world.leaks(start).is_empty(), "{capture:?}: {:?}", world.leaks(start));
    }
}

#[test]
fn host_whose_ipv6_is_switched_off_is_served_over_ipv4() {
    serves_without_ipv6("host_whose_ipv6_is_switched_off_is_served_over_ipv4", false);
}

#[test]
fn kernel_without_ipv6_is_no_error() {
    serves_without_ipv6("kernel_without_ipv6_is_no_error", true);
}
