//! The real API server behaves for the harness as the double does.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
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

#[test]
fn manifest_is_taken_by_a_real_api_server() {
    let test = "manifest_is_taken_by_a_real_api_server";
    let kubectl = || (!netns::on_path("kubectl")).then(|| "kubectl is not installed".to_owned());
    if let Some(why) = netns::missing().or_else(RealApi::missing).or_else(kubectl) {
        return skip(test, &why);
    }
    let ns = Arc::new(NetNs::create("api").unwrap());
    let api = RealApi::start(&ns, ([127, 0, 0, 1], 6443).into()).unwrap();
    let mut kubeconfig = tempfile::NamedTempFile::new().unwrap();
    kubeconfig.write_all(api.admin_kubeconfig().as_bytes()).unwrap();
    api.apply_namespace("kube-system", &[]).unwrap();

    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/daemonset.yaml");
    let applied = ns
        .command("kubectl")
        .arg("--kubeconfig")
        .arg(kubeconfig.path())
        .args(["apply", "--validate=strict", "-f"])
        .arg(manifest)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&applied.stdout);
    assert!(applied.status.success(), "{said}{}", String::from_utf8_lossy(&applied.stderr));
    assert!(said.contains("daemonset.apps/rolegate created"), "{said}");
}
