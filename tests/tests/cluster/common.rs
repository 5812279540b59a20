//! What several scenarios do with a release of the chart, and what it leaves on a node.

use std::path::Path;

use rolegate_tests::nodes::{AGENT, Cluster, Node};
use serde_json::Value;

/// Where the chart is installed.
pub(crate) const NAMESPACE: &str = "kube-system";
/// As what.
pub(crate) const RELEASE: &str = "rolegate";

/// The chart's directory.
pub(crate) fn chart() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/helm/rolegate").display().to_string()
}

/// The agents' pods that are there, those that end among them.
pub(crate) fn agents(cluster: &Cluster) -> Vec<Value> {
    let selector = "app.kubernetes.io/name=rolegate,app.kubernetes.io/component=agent";
    let listed = cluster
        .kubectl(&["get", "pods", "--namespace", NAMESPACE, "--selector", selector, "--output=json"])
        .unwrap();
    let mut listed: Value = serde_json::from_str(&listed).unwrap();
    match listed["items"].take() {
        Value::Array(pods) => pods,
        _ => Vec::new(),
    }
}

/// `rolegate cleanup` with these flags on every node, as deploy/README.md says.
pub(crate) fn clean_up(cluster: &Cluster, flags: &[&str]) {
    for node in cluster.nodes() {
        let on = format!("node/{}", node.name());
        let debug = ["debug", &on, "--namespace", NAMESPACE, "--image", AGENT, "--profile=netadmin"];
        let run = ["--image-pull-policy=IfNotPresent", "--", "rolegate", "cleanup"];
        let said = cluster.kubectl(&[&debug[..], &run, flags].concat()).unwrap();
        let pod = said.split_whitespace().find(|word| word.starts_with("node-debugger-")).unwrap();
        let ended = "--for=jsonpath={.status.phase}=Succeeded";
        let pod = format!("pod/{pod}");
        let waited = cluster.kubectl(&["wait", "--namespace", NAMESPACE, ended, &pod, "--timeout=60s"]);
        let printed = cluster.kubectl(&["logs", "--namespace", NAMESPACE, &pod]).unwrap();
        assert!(waited.is_ok(), "{waited:?}: {printed}");
        assert!(printed.contains("removed"), "{printed}");
        cluster.kubectl(&["delete", "--namespace", NAMESPACE, &pod, "--wait=false"]).unwrap();
    }
}

/// What of rolegate's, or about IMDS at all, is in the kernel of a node.
pub(crate) fn left_on(node: &Node) -> String {
    let marks = ["rolegate", "169.254.169.254", "fd00:ec2::254"];
    let mut left = String::new();
    for command in [
        "nft list ruleset",
        "iptables-save",
        "ip6tables-save",
        "ip -4 rule",
        "ip -6 rule",
        "ip -4 route show table all",
        "ip -6 route show table all",
        "ip address",
    ] {
        let mut words = command.split(' ');
        let (program, args) = (words.next().unwrap(), words.collect::<Vec<_>>());
        let printed = node.run(program, &args).unwrap();
        let found = printed.lines().filter(|line| {
            let line = line.to_lowercase();
            marks.iter().any(|mark| line.contains(mark))
        });
        for line in found {
            left.push_str(&format!("{command}: {line}\n"));
        }
    }
    left
}
