//! A new version, the former one again, one that does not work, and the end: with pods that ask all the while.

use rolegate_tests::guests::{Asker, Askers, Got};
use rolegate_tests::nodes::{AGENT, Cluster, Options};
use rolegate_tests::skip;
use serde_json::Value;
use tokio::time::Instant;

use super::common::{NAMESPACE, RELEASE, agents, left_on, rolled_out};

/// The tag of the next version: the same binary.
const NEXT: &str = "next";

/// P2, P11: through an update, one that does not work, a rollback and the removal, with real kubelets and a real controller.
#[test]
fn agents_are_updated_and_rolled_back_while_no_call_of_a_pod_fails() {
    const NAME: &str = "cluster::rollout";
    if let Some(why) = Cluster::helm_missing().or_else(Asker::missing) {
        return skip(NAME, &why);
    }
    let Some(cluster) = Cluster::for_test(NAME, &Options::default()) else { return };
    let next = AGENT.replace(env!("CARGO_PKG_VERSION"), NEXT);
    for node in cluster.nodes() {
        assert_eq!(left_on(node), "", "{}", node.name());
        node.ctr(&["images", "tag", AGENT, &next]).unwrap();
    }
    cluster.namespace("default", &["MyPodRole"]).unwrap();
    cluster.install(&[]).unwrap();
    rolled_out(&cluster);
    let installed = Instant::now();
    let askers = Askers::on_all_nodes(&cluster).unwrap();
    askers.served(3).unwrap();
    cluster.say("pods ask on both nodes");

    new_version_refuses_nothing(&cluster, &askers, &next);
    broken_version_stops_the_update(&cluster, &askers);
    former_version_refuses_nothing(&cluster, &askers);
    assert!(cluster.leaks(installed).is_empty(), "{:#?}", cluster.leaks(installed));
    removal_leaves_pods_refused_and_then_nothing(&cluster, &askers);
}

fn new_version_refuses_nothing(cluster: &Cluster, askers: &Askers, next: &str) {
    let mark = askers.mark();
    cluster.install(&["--set", &format!("image.tag={NEXT}")]).unwrap();
    rolled_out(cluster);
    askers.served(3).unwrap();
    assert_eq!(agents(cluster).iter().filter(|agent| image(agent) == next).count(), 2);
    assert_eq!(askers.failed_since(&mark), []);
    cluster.say("updated to the next version: no call failed");
}

/// Sessions that would end before they are refreshed, which no schema of values sees: exit code 64.
fn broken_version_stops_the_update(cluster: &Cluster, askers: &Askers) {
    let mark = askers.mark();
    let args = ["upgrade", RELEASE, &super::common::chart(), "--namespace", NAMESPACE, "--reuse-values"];
    cluster.helm(&[&args[..], &["--set", "iamRoleSessionTtl=2h,sessionDuration=1h"]].concat()).unwrap();
    // Started again and again, it ends each time as it did the first.
    let ends_with_64 = |agent: &Value| {
        ["state", "lastState"].iter().any(|state| {
            let code = agent.pointer(&format!("/status/containerStatuses/0/{state}/terminated/exitCode"));
            code.and_then(Value::as_i64) == Some(64)
        })
    };
    cluster.wait_for("a new agent ends with 64", || agents(cluster).iter().any(ends_with_64)).unwrap();
    askers.served(10).unwrap();
    let ready = || agents(cluster).iter().filter(|agent| !ends_with_64(agent) && is_ready(agent)).count();
    cluster.wait_for("the agents of before are ready", || ready() == 2).unwrap();
    assert_eq!(agents(cluster).len(), 3, "and only one node has a new one");
    assert_eq!(askers.failed_since(&mark), []);
    cluster.say("an update that does not work stopped at its first node: no call failed");
}

/// Two revisions back: the one before is the broken one's.
fn former_version_refuses_nothing(cluster: &Cluster, askers: &Askers) {
    let mark = askers.mark();
    cluster.helm(&["rollback", RELEASE, "1", "--namespace", NAMESPACE, "--wait", "--timeout=180s"]).unwrap();
    rolled_out(cluster);
    askers.served(3).unwrap();
    assert_eq!(agents(cluster).iter().filter(|agent| image(agent) == AGENT).count(), 2);
    assert_eq!(askers.failed_since(&mark), []);
    assert_eq!(askers.node_credentials(), []);
    cluster.say("rolled back: no call failed");
}

fn removal_leaves_pods_refused_and_then_nothing(cluster: &Cluster, askers: &Askers) {
    let begin = Instant::now();
    cluster.helm(&["uninstall", RELEASE, "--namespace", NAMESPACE, "--wait", "--timeout=120s"]).unwrap();
    cluster.wait_for("no agent is left", || agents(cluster).is_empty()).unwrap();
    askers.wait_for(3, |got| matches!(got, Got::Failed(_))).unwrap();
    assert_eq!(askers.node_credentials(), []);
    assert!(cluster.leaks(begin).is_empty(), "{:#?}", cluster.leaks(begin));
    for node in cluster.nodes() {
        assert_ne!(left_on(node), "", "{}: what refuses is still there", node.name());
    }
    cluster.say("uninstalled: pods are refused");
    cluster.install(&["--set=cleanup.enabled=true"]).unwrap();
    rolled_out(cluster);
    cluster.helm(&["uninstall", RELEASE, "--namespace", NAMESPACE, "--wait", "--timeout=120s"]).unwrap();
    for node in cluster.nodes() {
        assert_eq!(left_on(node), "", "{}", node.name());
    }
    // Where nothing is left, nobody stands before the metadata service.
    askers.wait_for(1, |got| *got == Got::NodeCredentials).unwrap();
    cluster.say("cleaned up: nothing is left in the kernel");
}

fn image(agent: &Value) -> &str {
    agent.pointer("/spec/containers/0/image").and_then(Value::as_str).unwrap_or_default()
}

fn is_ready(agent: &Value) -> bool {
    agent.pointer("/status/containerStatuses/0/ready") == Some(&Value::Bool(true))
}
