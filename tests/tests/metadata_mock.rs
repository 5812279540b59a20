//! AWS's own double of IMDS answers the harness.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use rolegate_tests::http::Client;
use rolegate_tests::metadata_mock::MetadataMock;
use rolegate_tests::netns::NetNs;
use rolegate_tests::world::{World, arn};
use rolegate_tests::{netns, skip};

#[test]
fn metadata_is_answered_with_a_token_only() {
    if let Some(why) = netns::missing().or_else(MetadataMock::missing) {
        return skip("metadata_is_answered_with_a_token_only", &why);
    }
    let ns = Arc::new(NetNs::create("mock").unwrap());
    let mock = MetadataMock::start(&ns, ([127, 0, 0, 1], 1338).into(), true).unwrap();
    let client = Client::new(&ns, mock.address());
    let path = "/latest/meta-data/placement/availability-zone";
    assert_eq!(client.get(path).unwrap().status, 401);
    let token = client.imds_token(60).unwrap();
    let answer = client.get_v2(path, &token).unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "us-east-1a"));
}

/// The agent asks AWS's double instead of ours: region, zone and identity come from it.
#[test]
fn agent_passes_on_what_the_mock_says() {
    let test = "agent_passes_on_what_the_mock_says";
    if let Some(why) = World::missing().or_else(MetadataMock::missing) {
        return skip(test, &why);
    }
    let world = World::start().unwrap();
    world.namespace("default", &[&arn("MyPodRole")]).unwrap();
    let mock = MetadataMock::start(world.topology.node(), ([127, 0, 0, 1], 1338).into(), true).unwrap();
    let upstream = format!("--metadata-addr={}", mock.address());
    let agent = world.agent(&[&upstream]).unwrap();
    // The mock's account is another than ours.
    let pod = world.pod("default", "client", |pod| pod.role(&arn("MyPodRole"))).unwrap();
    let known = || Ok(pod.imds().get("/latest/meta-data/iam/security-credentials/")?.status == 200);
    agent.poll("the pod is known", known).unwrap();
    for (path, text) in [
        ("/latest/meta-data/placement/availability-zone", "us-east-1a"),
        ("/latest/meta-data/placement/region", "us-east-1"),
        ("/latest/meta-data/instance-id", "i-1234567890abcdef0"),
    ] {
        let answer = pod.imds().get(path).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, text), "{path} {}", agent.log());
    }
    let identity = pod.imds().get("/latest/dynamic/instance-identity/document").unwrap();
    assert_eq!(identity.json().unwrap()["region"], "us-east-1", "{identity:?}");
    assert_eq!(pod.imds().get("/latest/user-data").unwrap().status, 404);
}
