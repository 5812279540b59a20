//! What an operator of a kOps cluster tries first, where a real kubelet starts the agent.

use rolegate_tests::clients::Client;
use rolegate_tests::guests::{Got, Kind, Local, kube2iam};
use rolegate_tests::imds::{ImdsConfig, NODE_MARKER, Tokens};
use rolegate_tests::nodes::{AGENT, BRIDGE, Cluster, NodeOptions, Options, PodNetwork, ROUTED};
use rolegate_tests::skip;
use rolegate_tests::world::{NODE_ROLE, TRUST, arn};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::outcomes::{
    agent_is_ready, agent_waits_for, document, has_no_role, kill_agent, refused, run, served,
};

/// kube2iam's own manifest, with our image, and where STS is.
fn manifest(cluster: &Cluster, interface: &str) -> Value {
    let mut manifest = kube2iam::manifest(AGENT, interface);
    let env = manifest.pointer_mut("/items/3/spec/template/spec/containers/0/env").unwrap();
    let sts = json!({"name": "AWS_ENDPOINT_URL_STS", "value": cluster.sts.url()});
    env.as_array_mut().unwrap().push(sts);
    manifest
}

/// Gives the node's end of a pod's link the name that Calico would give it.
fn rename_link(cluster: &Cluster, node: &str, pod: &str, name: &str) {
    let object = cluster.pod("default", pod).unwrap();
    let address = object["status"]["podIP"].as_str().unwrap();
    // The routes of a link go when it is down.
    let script = format!(
        "set -e; old=$(ip -o route get {address} | sed 's/.* dev \\([^ ]*\\).*/\\1/')
         routes=$(ip route show dev \"$old\"); ip link set \"$old\" down; ip link set \"$old\" name {name}
         ip link set {name} up; echo \"$routes\" | while read -r route; do ip route replace $route dev {name}; done"
    );
    cluster.node(node).run("sh", &["-c", &script]).unwrap();
}

/// What an agent on a node said, from its first word.
fn log(cluster: &Cluster, node: &str) -> String {
    cluster.agent_log(node, kube2iam::NAMESPACE, kube2iam::NAME).unwrap()
}

fn start_says_what_an_operator_needs(log: &str) {
    for said in [
        "namespace restrictions in force",
        "enforce: a namespace without the annotation allows nothing",
        "node found",
        "trust_statement",
        &arn(NODE_ROLE),
    ] {
        assert!(log.contains(said), "{said}:\n{log}");
    }
    assert!(!log.contains(NODE_MARKER), "{log}");
}

/// Whoever asks in these pods gets nothing, and nothing of theirs reaches the metadata service.
fn get_nothing(cluster: &Cluster, pods: &[&str]) {
    let begin = Instant::now();
    let ask = |pod: &&str| Local::start(&cluster.pod_net("default", pod).unwrap(), Kind::Raw).unwrap();
    let askers: Vec<Local> = pods.iter().map(ask).collect();
    for (asker, pod) in askers.iter().zip(pods) {
        asker.wait_for(2, |_| true).unwrap();
        let got = asker.got();
        assert!(got.iter().all(|got| matches!(got, Got::Failed(_))), "{pod}: {got:?}");
    }
    assert!(cluster.leaks(begin).is_empty(), "{:?}", cluster.leaks(begin));
}

/// kube2iam's manifest with only the image changed: served on a node with `cbr0` and on a routed node with `cali+` and
/// with `cal+`; with another's interface it is not ready, names the mismatch, and no pod gets the node's credentials.
#[test]
fn manifest_of_kube2iam_works_with_only_the_image_changed() {
    const NAME: &str = "cluster::manifest_of_kube2iam";
    let Some(cluster) = Cluster::for_test(NAME, &Options::default()) else { return };
    cluster.namespace("default", &["MyPodRole"]).unwrap();
    for node in [BRIDGE, ROUTED] {
        run(&cluster, &format!("aws-cli-{node}"), node, Some("MyPodRole"));
        run(&cluster, &format!("none-{node}"), node, None);
    }
    rename_link(&cluster, ROUTED, "aws-cli-routed", "cali1a");
    rename_link(&cluster, ROUTED, "none-routed", "cali1b");

    let mut closed = None;
    for (interface, right, wrong, pods_are_at) in [
        ("cbr0", BRIDGE, ROUTED, "cali1a"),
        ("cali+", ROUTED, BRIDGE, "cbr0"),
        ("cal+", ROUTED, BRIDGE, "cbr0"),
    ] {
        cluster.apply(&manifest(&cluster, interface).to_string()).unwrap();
        agent_is_ready(&cluster, right);
        if right == BRIDGE {
            // kube2iam's manifest does not mount what the CNI says of a bridge's ports: docs/migrating.md.
            get_nothing(&cluster, &["aws-cli-bridge", "none-bridge"]);
            for (pod, role) in [("aws-cli-bridge", Some("MyPodRole")), ("none-bridge", None)] {
                cluster.kubectl(&["delete", "pod", pod]).unwrap();
                run(&cluster, pod, BRIDGE, role);
            }
        }
        served(&cluster, &format!("aws-cli-{right}"), "MyPodRole");
        has_no_role(&cluster, &format!("none-{right}"));
        start_says_what_an_operator_needs(&log(&cluster, right));

        let mismatch = format!(
            "--host-interface={interface} matches no interface, but pods are routed by {pods_are_at}"
        );
        agent_waits_for(&cluster, wrong, &mismatch);
        closed.get_or_insert_with(Instant::now);
        get_nothing(&cluster, &[&format!("aws-cli-{wrong}"), &format!("none-{wrong}")]);
        cluster.say(&format!("{interface}: {right} is served, {wrong} is not"));
        let delete = ["delete", "daemonset", kube2iam::NAME, "-n", kube2iam::NAMESPACE];
        cluster.kubectl(&[&delete[..], &["--cascade=foreground", "--timeout=120s"]].concat()).unwrap();
    }
    let leaks = cluster.leaks(closed.unwrap());
    assert!(leaks.is_empty(), "requests of pods that reached IMDS: {leaks:#?}");
}

/// The name of the role of control-plane nodes.
const MASTERS: &str = "masters.example.cluster.k8s.local";

/// Instances that insist on tokens, whose tokens live for one hop; the second is of the control plane.
fn control_plane() -> Options {
    let imds = ImdsConfig { tokens: Tokens::Required, hop_limit: 1, ..ImdsConfig::default() };
    let nodes = [
        NodeOptions::new(BRIDGE, PodNetwork::Bridge),
        NodeOptions::new(ROUTED, PodNetwork::Routed)
            .role(MASTERS)
            .taint("node-role.kubernetes.io/control-plane", "NoSchedule"),
    ];
    let nodes = nodes.into_iter().map(|node| NodeOptions { imds: imds.clone(), ..node }).collect();
    Options { nodes, ..Options::default() }
}

/// A refusal by the trust policy: few calls, whatever the pod tries, and an audit line with what STS said.
fn is_refused_by_trust(cluster: &Cluster, node: &str, pod: &str, role: &str) {
    let calls = |cluster: &Cluster| {
        let calls = cluster.sts.calls();
        calls.iter().filter(|it| it.role == arn(role) && it.error.is_some()).count()
    };
    let before = calls(cluster);
    let begin = Instant::now();
    for _ in 0..20 {
        refused(cluster, pod);
    }
    if begin.elapsed().as_secs() < 10 {
        assert!(calls(cluster) <= before + 2, "{pod}: {}", calls(cluster) - before);
    }
    let said = || {
        let log = cluster.agent_log(node, "kube-system", "rolegate").unwrap_or_default();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut refusals = lines.filter(|line| line["target"] == "rolegate::audit" && line["pod"] == pod);
        refusals.any(|line| {
            line["role_arn"] == arn(role)
                && line["detail"].to_string().contains("is not authorized to perform: sts:AssumeRole")
        })
    };
    cluster.wait_for(&format!("the refusal of {pod} is written"), said).unwrap();
}

/// The SDK in a pod with a web identity and the annotation takes its web identity, and asks the agent for nothing.
fn web_identity_is_none_of_ours(cluster: &Cluster, node: &str, pod: &str) {
    let net = cluster.pod_net("default", pod).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "header.claims.signature").unwrap();
    let env = [
        ("AWS_ROLE_ARN", arn("OtherRole")),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.display().to_string()),
        ("AWS_STS_REGIONAL_ENDPOINTS", "regional".to_owned()),
        ("AWS_ENDPOINT_URL_STS", cluster.sts.url()),
    ];
    let env = env.each_ref().map(|(name, value)| (*name, value.as_str()));
    let loaded = Client::Botocore.start(&net, &env).unwrap().load().unwrap();
    assert_eq!(cluster.sts.issued(&loaded.access_key_id).unwrap().role, arn("OtherRole"), "{pod}");
    let asked = |pod: &str| {
        let log = cluster.agent_log(node, "kube-system", "rolegate").unwrap();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["target"] == "rolegate::access" && line["pod"] == pod).count()
    };
    assert_eq!(asked(pod), 0, "{pod}");
    // The line is one that is written: the same pod asks us.
    document(cluster, pod);
    cluster.wait_for("its request is written", || asked(pod) > 0).unwrap();
}

/// Nobody gets the instance's role: on a node and on a tainted control-plane node with a role of its own, pods get
/// nothing or what trusts that node; not even while the agent is killed does a request of a pod reach the metadata
/// service.
#[test]
fn nobody_gets_the_role_of_a_node_or_of_the_control_plane() {
    const NAME: &str = "cluster::control_plane";
    if let Some(why) = Cluster::helm_missing() {
        return skip(NAME, &why);
    }
    let Some(cluster) = Cluster::for_test(NAME, &control_plane()) else { return };
    cluster.namespace("default", &["MyPodRole", "MastersPodRole"]).unwrap();
    cluster.role("MastersPodRole", &TRUST.replace(&arn(NODE_ROLE), &arn(MASTERS))).unwrap();
    cluster.install(&["--set=logLevel=debug"]).unwrap();
    let closed = Instant::now();
    cluster.say("agents are ready");
    for node in [BRIDGE, ROUTED] {
        run(&cluster, &format!("none-{node}"), node, None);
        run(&cluster, &format!("mine-{node}"), node, Some("MyPodRole"));
        run(&cluster, &format!("masters-{node}"), node, Some("MastersPodRole"));
        run(&cluster, &format!("web-{node}"), node, Some("MyPodRole"));
    }
    for (node, trusting, other) in [
        (BRIDGE, ("mine", "MyPodRole"), ("masters", "MastersPodRole")),
        (ROUTED, ("masters", "MastersPodRole"), ("mine", "MyPodRole")),
    ] {
        has_no_role(&cluster, &format!("none-{node}"));
        served(&cluster, &format!("{}-{node}", trusting.0), trusting.1);
        is_refused_by_trust(&cluster, node, &format!("{}-{node}", other.0), other.1);
        match Client::Botocore.missing() {
            Some(why) => skip(NAME, &why),
            None => web_identity_is_none_of_ours(&cluster, node, &format!("web-{node}")),
        }
        cluster.say(&format!("pods of {node} got what trusts it"));
    }

    let names = ["none-bridge", "mine-bridge", "none-routed", "masters-routed"];
    let askers = names.map(|pod| Local::start(&cluster.pod_net("default", pod).unwrap(), Kind::Raw).unwrap());
    let before = askers.each_ref().map(|asker| asker.count());
    for node in [BRIDGE, ROUTED] {
        kill_agent(&cluster, node);
    }
    for (asker, before) in askers.iter().zip(before) {
        asker.wait_beyond(before, 3, |got| matches!(got, Got::Failed(_))).unwrap();
    }
    for node in [BRIDGE, ROUTED] {
        agent_is_ready(&cluster, node);
    }
    for asker in [&askers[1], &askers[3]] {
        asker.served(3).unwrap();
    }
    for asker in &askers {
        assert_eq!(asker.node_credentials(), 0);
    }
    cluster.say("agents were killed, and serve again");
    let leaks = cluster.leaks(closed);
    assert!(leaks.is_empty(), "requests of pods that reached IMDS: {leaks:#?}");
}
