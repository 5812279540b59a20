//! From a running kube2iam to rolegate and back, as docs/migrating.md says, with pods that ask all the while. This
//! kube2iam is a double, which has its flags, its manifest, its rule and its port.

use rolegate_tests::guests::{Asker, Askers, kube2iam};
use rolegate_tests::http::Client;
use rolegate_tests::nodes::{BRIDGE, Cluster, Node, Options};
use rolegate_tests::skip;
use serde_json::json;
use tokio::time::Instant;

use super::common::{NAMESPACE, RELEASE, agents, clean_up, left_on};

/// kube2iam has 8181.
const PORT: &str = "--set=host.port=8182";
/// Of a pod's turns when rolegate takes over. kube2iam passes requests for tokens on: who is between such a token of the
/// real service and its credentials gets 401, on which some SDKs ask for a new token, and botocore comes back at its next
/// turn. The turn after may wait for longer than its client does, where the node is busy.
const MOST_FAILED: usize = 2;
const AUDIT: &str = "--set=profile=kube2iam,namespaceRestrictions=audit";

#[test]
fn from_kube2iam_to_rolegate_and_back_no_pod_gets_the_nodes_credentials_and_hardly_a_call_fails() {
    const NAME: &str = "cluster::migration";
    if let Some(why) = Cluster::helm_missing().or_else(Asker::missing) {
        return skip(NAME, &why);
    }
    let Some(cluster) = Cluster::for_test(NAME, &Options::default()) else { return };
    kube2iam_runs(&cluster);
    let askers = Askers::on_all_nodes(&cluster).unwrap();
    askers.served(3).unwrap();
    assert_eq!(askers.node_credentials(), []);
    let begin = Instant::now();
    cluster.say("pods ask on both nodes, and kube2iam answers");

    rolegate_takes_over(&cluster, &askers);
    restrictions_are_seen_and_then_enforced(&cluster, &askers);
    assert!(cluster.leaks(begin).is_empty(), "{:#?}", cluster.leaks(begin));
    kube2iam_takes_over(&cluster, &askers);
    assert_eq!(askers.node_credentials(), []);
}

/// Beside kube2iam, at a port of its own; then kube2iam goes.
fn rolegate_takes_over(cluster: &Cluster, askers: &Askers) {
    let mark = askers.mark();
    cluster.install(&[PORT, AUDIT]).unwrap();
    askers.served(3).unwrap();
    let failed = askers.failed_since(&mark);
    for (who, _) in &failed {
        assert!(failed.iter().filter(|(other, _)| other == who).count() <= MOST_FAILED, "{failed:?}");
    }
    cluster.say(&format!("rolegate answers beside kube2iam; at the moment of the change failed {failed:?}"));

    let mark = askers.mark();
    for node in cluster.nodes() {
        assert_eq!(rules_of_kube2iam(node), "", "{}", node.name());
        let name = daemonset(node);
        cluster.kubectl(&["delete", "daemonset", &name, "--namespace", kube2iam::NAMESPACE]).unwrap();
    }
    no_kube2iam_is_left(cluster);
    askers.served(3).unwrap();
    assert_eq!(askers.failed_since(&mark), []);
    cluster.say("kube2iam is gone: no call failed");
}

/// What `enforce` would deny is in the log, with the line that allows it.
fn restrictions_are_seen_and_then_enforced(cluster: &Cluster, askers: &Askers) {
    let mark = askers.mark();
    for node in cluster.nodes() {
        let log = cluster.agent_log(node.name(), NAMESPACE, RELEASE).unwrap();
        assert!(log.contains("kubectl annotate namespace default"), "{log}");
    }
    let allow = r#"iam.amazonaws.com/allowed-roles=["MyPodRole"]"#;
    cluster.kubectl(&["annotate", "namespace", "default", allow]).unwrap();
    cluster.install(&[PORT, "--set=profile=kube2iam,namespaceRestrictions=enforce"]).unwrap();
    askers.served(3).unwrap();
    assert_eq!(askers.failed_since(&mark), []);
    cluster.say("restrictions are enforced: no call failed");
}

/// First the agents go, then kube2iam comes, and then the rules go.
fn kube2iam_takes_over(cluster: &Cluster, askers: &Askers) {
    let begin = Instant::now();
    cluster.helm(&["uninstall", RELEASE, "--namespace", NAMESPACE, "--wait", "--timeout=120s"]).unwrap();
    cluster.wait_for("no agent is left", || agents(cluster).is_empty()).unwrap();
    kube2iam_runs(cluster);
    clean_up(cluster);
    askers.served(3).unwrap();
    for node in cluster.nodes() {
        let left = left_on(node);
        assert!(left.lines().all(|line| line.contains("8181")), "{}: {left}", node.name());
        assert_ne!(rules_of_kube2iam(node), "", "{}", node.name());
    }
    assert!(cluster.leaks(begin).is_empty(), "{:#?}", cluster.leaks(begin));
    cluster.say("kube2iam answers again, and rolegate's rules are gone");
}

/// One DaemonSet for each kind of node, since pods are behind other interfaces there.
fn kube2iam_runs(cluster: &Cluster) {
    for node in cluster.nodes() {
        let interface = if node.name() == BRIDGE { "cbr0" } else { "veth+" };
        let mut manifest = kube2iam::manifest("kube2iam", interface);
        let name = daemonset(node);
        kube2iam::for_nodes(&mut manifest, &name, &json!({"kubernetes.io/hostname": node.name()}));
        kube2iam::as_double(&mut manifest, &cluster.sts.url());
        cluster.apply(&manifest.to_string()).unwrap();
    }
    for node in cluster.nodes() {
        let ns = node.ns().unwrap();
        let client = Client::new(&ns, (node.place().address(), 8181).into());
        let answers = || client.get("/healthz").is_ok_and(|answer| answer.status == 200);
        cluster.wait_for("kube2iam answers", answers).unwrap();
    }
}

fn daemonset(node: &Node) -> String {
    format!("{}-{}", kube2iam::NAME, node.name())
}

fn no_kube2iam_is_left(cluster: &Cluster) {
    let pods = || {
        let pods = cluster.kubectl(&["get", "pods", "--namespace", kube2iam::NAMESPACE, "--output=name"]);
        pods.unwrap()
    };
    cluster.wait_for("no kube2iam is left", || !pods().contains(kube2iam::NAME)).unwrap();
}

fn rules_of_kube2iam(node: &Node) -> String {
    let rules = node.run("iptables-save", &["-t", "nat"]).unwrap();
    rules.lines().filter(|rule| rule.starts_with("-A PREROUTING") && rule.contains(":8181")).collect()
}
