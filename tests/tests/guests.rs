//! What asks all the while in the scenarios of a cluster sees what it is there to see.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use rolegate_tests::clients::Client;
use rolegate_tests::guests::{Got, Kind, Local};
use rolegate_tests::imds::ImdsConfig;
use rolegate_tests::skip;
use rolegate_tests::world::{Options, World};

#[test]
fn who_asks_all_the_while_sees_the_nodes_credentials_and_sessions_and_outages() {
    let test = "who_asks_all_the_while_sees_the_nodes_credentials_and_sessions_and_outages";
    if let Some(why) = Client::Botocore.missing() {
        return skip(test, &why);
    }
    for kind in [Kind::Raw, Kind::Boto] {
        // A pod's tokens live for the hop to it: else each request of its would first wait for one in vain.
        let imds = ImdsConfig { hop_limit: 64, ..ImdsConfig::default() };
        let options = Options { imds, ..Options::default() };
        let Some(world) = World::for_test(test, &options) else { return };
        world.namespace("default", &["MyPodRole"]).unwrap();
        let pod = world.pod("default", "aws-cli", |pod| pod.role("MyPodRole")).unwrap();
        let asker = Local::start(pod.net.ns(), kind).unwrap();
        // Nobody stands between it and the metadata service.
        asker.wait_for(2, |got| *got == Got::NodeCredentials).unwrap();
        assert!(asker.node_credentials() >= 2);
        let agent = world.agent(&[]).unwrap();
        agent.ready().unwrap();
        asker.served(4).unwrap();
        drop(agent);
        asker.wait_for(2, |got| matches!(got, Got::Failed(_))).unwrap();
        let before = asker.count();
        asker.wait_for(2, |_| true).unwrap();
        assert!(!asker.failed_since(before).is_empty());
    }
}
