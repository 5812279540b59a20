//! Nobody gets the node's credentials: traffic runs from before the agent's start until after its end by force.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use rolegate_tests::imds::ImdsConfig;
use rolegate_tests::skip;
use rolegate_tests::topology::{Backend, imds_v4, imds_v6};
use rolegate_tests::traffic::{Got, Traffic};
use rolegate_tests::world::{Options, World};
use tokio::time::Instant;

fn captures_running_traffic(backend: Backend, test: &str) {
    if let Some(why) = World::missing() {
        return skip(test, &why);
    }
    // As on an instance that nobody has hardened: whatever gets out gets the node's credentials.
    let imds = ImdsConfig { hop_limit: 64, ..ImdsConfig::default() };
    let world = World::with(&Options { backend, imds, ..Options::default() }).unwrap();
    world.namespace("default", &[]).unwrap();
    let pods = [
        world.pod("default", "routed", |pod| pod).unwrap(),
        world.bridged_pod("default", "bridged", |pod| pod).unwrap(),
    ];
    let traffic: Vec<Traffic> =
        pods.iter().flat_map(|pod| [imds_v4(), imds_v6()].map(|to| Traffic::start(&pod.net, to))).collect();
    for traffic in &traffic {
        traffic.wait_for(4, |got| got == Got::NodeCredentials).unwrap();
    }

    let agent = world.agent(&[]).unwrap();
    let captured = Instant::now();
    for traffic in &traffic {
        traffic.wait_for(20, |_| true).unwrap();
    }
    agent.kill9().unwrap();
    for traffic in &traffic {
        traffic.wait_for(20, |got| got == Got::Nothing).unwrap();
    }
    let again = world.agent(&[]).unwrap();
    for traffic in &traffic {
        traffic.wait_for(20, |got| matches!(got, Got::Status(_))).unwrap();
    }

    for traffic in &traffic {
        let leaked: Vec<_> = traffic
            .seen()
            .into_iter()
            .filter(|(at, got)| *at > captured && *got == Got::NodeCredentials)
            .collect();
        // An answer read just before may be noted just after: the record of IMDS has the last word.
        assert!(leaked.len() <= 1, "{} answers\n{}", leaked.len(), again.log());
    }
    assert!(world.leaks(captured).is_empty(), "{:?}", world.leaks(captured));
}

/// K7, K24: traffic that runs before, during and after an agent's life and death never gets past the rules once they stood.
#[test]
fn running_traffic_is_captured_and_stays_so_after_kill_9() {
    captures_running_traffic(Backend::Nft, "running_traffic_is_captured_and_stays_so_after_kill_9");
}

/// K7, K24: the same on a node with legacy rules.
#[test]
fn running_traffic_is_captured_on_a_node_with_legacy_rules() {
    captures_running_traffic(Backend::Legacy, "running_traffic_is_captured_on_a_node_with_legacy_rules");
}
