//! The life of a node: new and tainted, with an agent that does not start, in service, and started again.

use rolegate_tests::agent;
use rolegate_tests::guests::{Asker, Got, Kind};
use rolegate_tests::imds::NODE_MARKER;
use rolegate_tests::nodes::{AGENT, BRIDGE, Cluster, Node, Options, ROUTED, TOOLS, agent_image};
use rolegate_tests::skip;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::common::{NAMESPACE, RELEASE, agents, chart};
use super::outcomes::agent_is_ready;

const TAINT: &str = "rolegate/agent-not-ready";
const ROLE: &str = "http://169.254.169.254/latest/meta-data/iam/security-credentials/MyPodRole";
/// The unit that closes a node before its kubelet starts.
const UNIT: &str = include_str!("../../../deploy/node/rolegate-guard.service");

/// Nodes that register with the startup taint.
fn tainted() -> Options {
    let options = Options::default();
    let nodes = options.nodes.into_iter().map(|node| node.taint(TAINT, "NoSchedule")).collect();
    Options { nodes, ..options }
}

/// A pod for the scheduler, which may run on that node alone, and asks with its first breath, and, as any SDK does, again
/// if that fails: the kubelet may publish a pod's address later than its first process starts.
fn scheduled_pod(node: &str) -> Value {
    let asks = format!("for n in $(seq 120); do wget -q -O - {ROLE} && exit 0; sleep 1; done; exit 1");
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": "default", "name": format!("scheduled-{node}"),
            "annotations": {"iam.amazonaws.com/role": "MyPodRole"},
        },
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node},
            "terminationGracePeriodSeconds": 0,
            "restartPolicy": "Never",
            "containers": [{
                "name": "asks", "image": TOOLS, "imagePullPolicy": "Never",
                "command": ["sh", "-c", asks],
            }],
        },
    })
}

fn is_held_back_by_the_taint(cluster: &Cluster, node: &str) {
    let pod = format!("scheduled-{node}");
    let held = || {
        let object = cluster.pod("default", &pod).unwrap();
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions
            .iter()
            .any(|it| it["reason"] == "Unschedulable" && it["message"].to_string().contains("taint"))
    };
    cluster.wait_for(&format!("{pod} is held back"), held).unwrap();
    assert_eq!(cluster.pod("default", &pod).unwrap()["spec"]["nodeName"], Value::Null);
    assert!(taints(cluster, node).contains(TAINT), "{}", taints(cluster, node));
}

fn taints(cluster: &Cluster, node: &str) -> String {
    cluster.kubectl(&["get", "node", node, "--output=jsonpath={.spec.taints}"]).unwrap()
}

/// Both agents end with 64, after this code of their pods' guards, if there are any.
fn agents_fail(cluster: &Cluster, guard: Option<i64>) -> bool {
    let fails = |pod: &&Value| {
        let ended = |status: &str, state: &str| {
            let code = pod.pointer(&format!("/status/{status}/0/{state}/terminated/exitCode"));
            code.and_then(Value::as_i64)
        };
        ended("initContainerStatuses", "state") == guard
            && ["state", "lastState"].iter().any(|state| ended("containerStatuses", state) == Some(64))
    };
    agents(cluster).iter().filter(fails).count() == 2
}

/// The chart with sessions that would end before they are refreshed, and with this value.
fn install_broken(cluster: &Cluster, value: &str) {
    let (repository, tag) = AGENT.rsplit_once(':').unwrap();
    let image = format!("image.repository={repository},image.tag={tag},image.pullPolicy=Never");
    let args = ["upgrade", "--install", RELEASE, &chart(), "--namespace", NAMESPACE];
    let values = ["--set", &image, "--set", "startupTaint.enabled=true", "--set", "sessionDuration=15m"];
    cluster.helm(&[&args[..], &values, &["--set", value]].concat()).unwrap();
}

/// What the guard of the init container is for: pods of the very same release without it get the node's own credentials.
fn without_guards_pods_get_the_nodes_own(cluster: &Cluster) {
    install_broken(cluster, "guard.enabled=false");
    let start = |node| {
        Asker::start(cluster, node, &format!("unguarded-{node}"), Kind::Raw, Some("MyPodRole")).unwrap()
    };
    let askers = [BRIDGE, ROUTED].map(start);
    cluster.wait_for("agents fail", || agents_fail(cluster, None)).unwrap();
    for asker in &askers {
        asker.wait_for(1, |got| *got == Got::NodeCredentials).unwrap();
    }
    cluster.kubectl(&["delete", "pods", "--selector=app=asker"]).unwrap();
    cluster.helm(&["uninstall", RELEASE, "--namespace", NAMESPACE, "--wait", "--timeout=120s"]).unwrap();
    cluster.wait_for("no agent is left", || agents(cluster).is_empty()).unwrap();
    cluster.say("without guards pods get the node's own credentials");
}

/// These askers fail twice from now on.
fn get_nothing(askers: &[&Asker]) {
    for asker in askers {
        asker.wait_for(2, |got| matches!(got, Got::Failed(_))).unwrap();
    }
}

fn no_node_credentials(cluster: &Cluster, askers: &[&Asker], closed: Instant) {
    for asker in askers {
        assert_eq!(asker.node_credentials(), 0, "{}", asker.name());
    }
    let leaks = cluster.leaks(closed);
    assert!(leaks.is_empty(), "requests of pods that reached IMDS: {leaks:#?}");
}

/// A pod that the scheduler was free to place got credentials.
fn was_served(cluster: &Cluster, node: &str) {
    let pod = format!("scheduled-{node}");
    let ended = "--for=jsonpath={.status.phase}=Succeeded";
    cluster.kubectl(&["wait", ended, &format!("pod/{pod}"), "--timeout=120s"]).unwrap();
    let printed = cluster.logs(node, "default", &pod).unwrap();
    assert!(printed.contains("\"Success\"") && !printed.contains(NODE_MARKER), "{printed}");
}

/// A new node holds back pods until its agent stands between them and the node's credentials; an agent that does not
/// start leaves the guards of its init container; a node whose processes were killed, and one that was powered off and
/// had its guards put up by the unit, gives pods that start before the agent nothing of its own. Without the guard and
/// without the unit the same pods get the node's credentials.
#[test]
fn pods_of_a_node_that_is_new_or_starts_again_get_nothing_before_its_agent_serves() {
    const NAME: &str = "cluster::lifecycle";
    if let Some(why) = Cluster::helm_missing().or_else(Asker::missing) {
        return skip(NAME, &why);
    }
    let Some(cluster) = Cluster::for_test(NAME, &tainted()) else { return };
    cluster.namespace("default", &["MyPodRole"]).unwrap();
    for node in [BRIDGE, ROUTED] {
        cluster.apply(&scheduled_pod(node).to_string()).unwrap();
        is_held_back_by_the_taint(&cluster, node);
    }
    without_guards_pods_get_the_nodes_own(&cluster);
    install_broken(&cluster, "guard.enabled=true");
    cluster.wait_for("guards stand and agents fail", || agents_fail(&cluster, Some(0))).unwrap();
    let closed = Instant::now();
    cluster.say("guards stand, and no agent does");
    // Past the scheduler, as pods of a DaemonSet come that tolerate everything.
    let bridge = Asker::start(&cluster, BRIDGE, "mine-bridge", Kind::Raw, Some("MyPodRole")).unwrap();
    let routed = Asker::start(&cluster, ROUTED, "mine-routed", Kind::Raw, Some("MyPodRole")).unwrap();
    let none = Asker::start(&cluster, ROUTED, "none-routed", Kind::Raw, None).unwrap();
    let all = [&bridge, &routed, &none];
    get_nothing(&all);
    no_node_credentials(&cluster, &all, closed);
    for node in [BRIDGE, ROUTED] {
        is_held_back_by_the_taint(&cluster, node);
    }

    cluster.install(&["--set=startupTaint.enabled=true"]).unwrap();
    for node in [BRIDGE, ROUTED] {
        was_served(&cluster, node);
        let condition = ["wait", "--for=condition=rolegate/Ready", "--timeout=120s"];
        cluster.kubectl(&[&condition[..], &[&format!("node/{node}")]].concat()).unwrap();
        assert!(!taints(&cluster, node).contains(TAINT), "{}", taints(&cluster, node));
    }
    for asker in [&bridge, &routed] {
        asker.served(2).unwrap();
    }
    cluster.say("taints are gone, and pods are served");

    killed_node_starts_again(&cluster, &[&routed, &none]);
    routed.served(2).unwrap();
    cluster.say("a node whose processes were killed serves again");
    powered_off_node_starts_again(&cluster, &[&bridge]);
    bridge.served(2).unwrap();
    cluster.say("a node that was powered off serves again");
    no_node_credentials(&cluster, &all, closed);

    powered_off(&cluster).start().unwrap();
    bridge.wait_for(1, |got| *got == Got::NodeCredentials).unwrap();
    cluster.say("without the unit pods of a node that was powered off get its own credentials");
}

/// Every process of the node ends at one stroke and its rules stay. Pods start before the agent, whose image is gone.
fn killed_node_starts_again(cluster: &Cluster, askers: &[&Asker]) {
    let node = cluster.node(ROUTED);
    node.kill_everything();
    node.start_containerd().unwrap();
    node.ctr(&["images", "remove", "--sync", AGENT]).unwrap();
    node.start().unwrap();
    get_nothing(askers);
    cluster.say("its pods run, and its agent does not");
    node.import(&agent_image()).unwrap();
    agent_is_ready(cluster, ROUTED);
}

/// A node whose network is gone with all rules, as after a power failure, and the agent's image, too. Its kubelet does not
/// run as yet.
fn powered_off(cluster: &Cluster) -> &Node {
    let node = cluster.node(BRIDGE);
    node.power_off();
    node.start_containerd().unwrap();
    node.ctr(&["images", "remove", "--sync", AGENT]).unwrap();
    node
}

/// The unit runs before the kubelet.
fn powered_off_node_starts_again(cluster: &Cluster, askers: &[&Asker]) {
    let node = powered_off(cluster);
    let command = UNIT.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let (program, args) = command.split_once(' ').unwrap();
    assert!(program.ends_with("/rolegate") && UNIT.contains("\nBefore=network-pre.target kubelet.service\n"));
    let binary = agent::binary().unwrap();
    node.run(binary.to_str().unwrap(), &args.split(' ').collect::<Vec<_>>()).unwrap();
    node.start().unwrap();
    get_nothing(askers);
    cluster.say("its pods run, and its agent does not");
    node.import(&agent_image()).unwrap();
    agent_is_ready(cluster, BRIDGE);
}
