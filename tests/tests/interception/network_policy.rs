//! What a network policy about the metadata addresses means under each capture. Policies are what a CNI makes of them:
//! filters of iptables for what comes in by the pod's interface, whether it is for the host or forwarded.

use std::net::IpAddr;
use std::time::Duration;

use rolegate_tests::agent::METRICS_PORT;
use rolegate_tests::http::Client;
use rolegate_tests::siege::Capture;
use rolegate_tests::topology::{NODE_V4, NODE_V6, imds_v4, imds_v6};
use rolegate_tests::world::{RunningPod, World};

/// Longest that a connection is waited for that a policy may drop.
const PATIENCE: Duration = Duration::from_secs(1);
const FAMILIES: [(&str, &str); 2] =
    [("iptables-nft", "169.254.169.254/32"), ("ip6tables-nft", "fd00:ec2::254/128")];

/// What the policy says of the metadata service's addresses.
#[derive(Clone, Copy, Debug)]
enum Policy {
    /// Egress to them, and to nothing else.
    OnlyThem,
    /// No egress to them.
    AllButThem,
}

/// Writes the policy for what comes in by an interface, in both families.
fn apply(world: &World, interface: &str, policy: Policy) {
    for (program, imds) in FAMILIES {
        let rules = match policy {
            // Neighbours have to be found whatever a policy says.
            Policy::OnlyThem => vec![format!("-d {imds} -j ACCEPT"), "! -p ipv6-icmp -j DROP".to_owned()],
            Policy::AllButThem => vec![format!("-d {imds} -j DROP")],
        };
        for chain in ["INPUT", "FORWARD"] {
            for rule in &rules {
                let rule = format!("-w -A {chain} -i {interface} {rule}");
                world.topology.node().run(program, &rule.split(' ').collect::<Vec<_>>()).unwrap();
            }
        }
    }
}

fn lift(world: &World) {
    for chain in ["INPUT", "FORWARD"] {
        for (program, _) in FAMILIES {
            let script =
                format!("{program} -w -S {chain} | grep -e '-i ' | sed 's/^-A/{program} -w -D/' | sh -e");
            world.topology.node().run("sh", &["-c", &script]).unwrap();
        }
    }
}

/// Whether the pod is served over IPv4 and over IPv6.
fn is_served(pod: &RunningPod) -> [bool; 2] {
    [imds_v4(), imds_v6()].map(|to| {
        let open = pod.net.ns().connect(to, PATIENCE);
        open.is_ok() && Client::new(pod.net.ns(), to).credentials().is_ok_and(|it| it["Code"] == "Success")
    })
}

/// A port of the node's that every pod reaches while no policy says otherwise.
fn reaches_the_node(pod: &RunningPod) -> [bool; 2] {
    [IpAddr::from(NODE_V4), NODE_V6.into()]
        .map(|node| pod.net.ns().connect((node, METRICS_PORT).into(), PATIENCE).is_ok())
}

/// What each policy leaves pods of the metadata service.
fn served_under(test: &str, capture: Capture, expected: [(Policy, [bool; 2]); 2]) {
    let Some(world) = capture.world(test) else { return };
    let pods = [
        (world.pod("default", "routed", |pod| pod.role("MyPodRole")).unwrap(), "cali1"),
        (world.bridged_pod("default", "bridged", |pod| pod.role("MyPodRole")).unwrap(), "cbr0"),
    ];
    let agent = capture.agent(&world, &[]).unwrap();
    for (pod, interface) in &pods {
        agent.poll("the pod is served", || Ok(is_served(pod) == [true, true])).unwrap();
        for (policy, served) in expected {
            apply(&world, interface, policy);
            let others = [matches!(policy, Policy::AllButThem); 2];
            assert_eq!(reaches_the_node(pod), others, "{capture:?}, {interface}, {policy:?}: other egress");
            assert_eq!(is_served(pod), served, "{capture:?}, {interface}, {policy:?}");
            lift(&world);
        }
        assert_eq!(is_served(pod), [true, true], "{capture:?}, {interface}: no policy any more");
    }
}

#[test]
fn network_policies_mean_what_they_say_under_policy_routing() {
    let expected = [(Policy::OnlyThem, [true, true]), (Policy::AllButThem, [false, false])];
    served_under("network_policies_mean_what_they_say_under_policy_routing", Capture::Route, expected);
}

/// Filters see the address of the node that a packet was redirected to: the meaning is turned round. This is what
/// everybody has who redirects in this way.
#[test]
fn network_policies_mean_the_opposite_under_iptables() {
    let expected = [(Policy::OnlyThem, [false, false]), (Policy::AllButThem, [true, true])];
    served_under("network_policies_mean_the_opposite_under_iptables", Capture::IptablesNft, expected);
}
