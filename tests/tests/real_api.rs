//! The real API server behaves for the harness as the double does.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use rolegate_tests::kube_api::Pod;
use rolegate_tests::netns::NetNs;
use rolegate_tests::real_api::RealApi;
use rolegate_tests::{netns, skip};

#[test]
fn pods_and_namespaces_are_made_edited_and_deleted() {
    if let Some(why) = netns::missing().or_else(RealApi::missing) {
        return skip("pods_and_namespaces_are_made_edited_and_deleted", &why);
    }
    let ns = Arc::new(NetNs::create("api").unwrap());
    let api = RealApi::start(&ns, ([127, 0, 0, 1], 6443).into()).unwrap();

    api.apply_namespace("team", &[("iam.amazonaws.com/allowed-roles", "[]")]).unwrap();
    api.apply_namespace("team", &[]).unwrap();
    api.apply_namespace("default", &[("iam.amazonaws.com/allowed-roles", "[\"a\"]")]).unwrap();

    let pod = Pod::new("team", "web").node("node-1").ip("100.96.1.11").ip("fd00:64:1::11").role("MyPodRole");
    let uid = api.apply_pod(&pod).unwrap();
    assert!(!uid.is_empty());
    assert_eq!(api.apply_pod(&pod.clone().role("OtherRole")).unwrap(), uid);
    assert_eq!(api.apply_pod(&pod.clone().deleting()).unwrap(), uid);
    assert!(api.delete_pod("team", "web").unwrap());
    assert!(!api.delete_pod("team", "web").unwrap());
    assert_ne!(api.apply_pod(&pod).unwrap(), uid);
}
