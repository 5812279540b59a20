//! AWS's own double of IMDS answers the harness.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use rolegate_tests::http::Client;
use rolegate_tests::metadata_mock::MetadataMock;
use rolegate_tests::netns::NetNs;
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
