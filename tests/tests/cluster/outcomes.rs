//! What pods of a cluster get, and how its agents say that they are.

use rolegate_tests::agent::METRICS_PORT;
use rolegate_tests::http::{Client, Response};
use rolegate_tests::netns::NetNs;
use rolegate_tests::nodes::{Cluster, tools_pod};
use rolegate_tests::world::arn;
use serde_json::Value;

/// The list of a pod's roles.
pub(super) const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
/// The `Code` of a document that refuses.
pub(super) const REFUSED: &str = "AssumeRoleUnauthorizedAccess";

/// Makes a pod of the namespace `default` and waits until it runs.
pub(super) fn run(cluster: &Cluster, name: &str, node: &str, role: Option<&str>) {
    cluster.apply(&tools_pod("default", name, node, role)).unwrap();
    cluster.ready("default", name).unwrap();
}

/// The network of a pod, as soon as the agent knows whose its address is: the kubelet may publish that later than the pod's
/// first process starts. Until then the answer is 500 and nothing else.
pub(super) fn known_net(cluster: &Cluster, namespace: &str, pod: &str) -> NetNs {
    let net = cluster.pod_net(namespace, pod).unwrap();
    let client = Client::imds(&net);
    let known = || {
        client.get(ROLES).is_ok_and(|answer| {
            let unknown = answer.status == 500;
            assert!(!unknown || answer.text().is_empty(), "{pod}: {}", answer.text());
            !unknown
        })
    };
    cluster.wait_for(&format!("the agent knows {pod}"), known).unwrap();
    net
}

/// The document that an SDK in a pod of `default` gets, each request of it answered by 200.
pub(super) fn document(cluster: &Cluster, pod: &str) -> Value {
    let net = known_net(cluster, "default", pod);
    Client::imds(&net).credentials().unwrap_or_else(|error| panic!("{pod}: {error:#}"))
}

/// A pod of `default` gets a session of this role; its access key.
pub(super) fn served(cluster: &Cluster, pod: &str, role: &str) -> String {
    let document = document(cluster, pod);
    let key = document["AccessKeyId"].as_str().unwrap_or_else(|| panic!("{pod}: {document}"));
    let issued = cluster.sts.issued(key).unwrap_or_else(|| panic!("{pod}: {key} is no session"));
    assert_eq!(issued.role, arn(role), "{pod}");
    key.to_owned()
}

/// A pod of `default` is told that it may not have its role.
pub(super) fn refused(cluster: &Cluster, pod: &str) {
    let document = document(cluster, pod);
    assert_eq!(document["Code"], REFUSED, "{pod}: {document}");
    assert!(document.get("AccessKeyId").is_none(), "{pod}: {document}");
}

/// A pod of `default` without a role is answered so.
pub(super) fn has_no_role(cluster: &Cluster, pod: &str) {
    let net = known_net(cluster, "default", pod);
    let client = Client::imds(&net);
    let token = client.imds_token(60).unwrap();
    let answer = client.role_list(&token).unwrap();
    assert_eq!((answer.status, answer.text()), (404, String::new()), "{pod}");
}

/// A page of the agent's port for metrics and probes, asked for on the node.
pub(super) fn page(cluster: &Cluster, node: &str, path: &str) -> Option<Response> {
    let ns = cluster.node(node).ns().ok()?;
    Client::new(&ns, ([127, 0, 0, 1], METRICS_PORT).into()).get(path).ok()
}

/// Waits until the agent of a node is ready.
pub(super) fn agent_is_ready(cluster: &Cluster, node: &str) {
    let ready = || page(cluster, node, "/readyz").is_some_and(|page| page.status == 200);
    cluster.wait_for(&format!("the agent of {node} is ready"), ready).unwrap();
}

/// Waits until the agent of a node is not ready, and says this.
pub(super) fn agent_waits_for(cluster: &Cluster, node: &str, why: &str) {
    let mut last = None;
    let waited = cluster.wait_for(&format!("the agent of {node} says: {why}"), || {
        last = page(cluster, node, "/readyz?verbose").map(|page| (page.status, page.text()));
        last.as_ref().is_some_and(|(status, text)| *status == 503 && text.contains(why))
    });
    assert!(waited.is_ok(), "{waited:?}; at last it said {last:?}");
}

/// Kills the agent's processes on a node, none of which can do anything about it.
pub(super) fn kill_agent(cluster: &Cluster, node: &str) {
    cluster.node(node).run("sh", &["-c", "kill -9 $(pidof rolegate)"]).unwrap();
}
