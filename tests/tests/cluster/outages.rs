//! What does not run for a while: the API server, a kubelet, an agent that may not read what it needs or hangs.

use std::collections::BTreeSet;

use rolegate_tests::guests::{Asker, Askers, Got};
use rolegate_tests::nodes::{BRIDGE, Cluster, Options, ROUTED};
use rolegate_tests::prometheus::{Prometheus, Sample};
use rolegate_tests::skip;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::common::{NAMESPACE, agents};
use super::outcomes::{agent_is_ready, agent_waits_for, run, served};

/// The rights and the job that it has are those that operators are told.
const PAGE: &str = include_str!("../../../docs/metrics.md");

/// The page's examples, in their order.
fn examples() -> Vec<&'static str> {
    PAGE.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

/// Prometheus in a pod, with the rights and the job of the page; none, and the word on why, where it could not be built.
fn prometheus(cluster: &Cluster) -> Option<Prometheus> {
    if let Some(why) = Prometheus::discovery_missing() {
        skip("cluster::discovery", &why);
        return None;
    }
    let example = |with: &str| examples().into_iter().find(|example| example.contains(with)).unwrap();
    cluster.kubectl(&["create", "namespace", "monitoring"]).unwrap();
    cluster.apply(example("kind: ServiceAccount")).unwrap();
    let mut config: Value = serde_saphyr::from_str(example("scrape_configs:")).unwrap();
    config["global"] = json!({"scrape_interval": "2s", "scrape_timeout": "2s"});
    Some(Prometheus::in_pod(cluster, BRIDGE, "monitoring", "prometheus", &config.to_string()).unwrap())
}

/// A node and the agent's pod on it.
type NodeAndPod = (String, String);

fn agents_now(cluster: &Cluster) -> BTreeSet<NodeAndPod> {
    let text = |agent: &Value, pointer: &str| agent.pointer(pointer).unwrap().as_str().unwrap().to_owned();
    agents(cluster).iter().map(|it| (text(it, "/spec/nodeName"), text(it, "/metadata/name"))).collect()
}

/// These agents are scraped, each by the names of its node and its pod, and nothing else: what was found before and is no
/// more there is forgotten.
fn scrapes(prometheus: &Prometheus, agents: &BTreeSet<NodeAndPod>) {
    assert_eq!(agents.len(), 2, "{agents:?}");
    let mut last = None;
    let waited = prometheus.wait_for("the agents that there are, and no others, are scraped", |prometheus| {
        let label = |sample: &Sample, name: &str| sample.labels.get(name).cloned().unwrap_or_default();
        let up = prometheus.query("up{job=\"rolegate\"} == 1")?;
        let up: BTreeSet<_> = up.iter().map(|it| (label(it, "node"), label(it, "pod"))).collect();
        let targets = prometheus.targets()?;
        let all = up == *agents && targets.len() == agents.len();
        last = Some((up, targets));
        Ok(all.then_some(()))
    });
    assert!(waited.is_ok(), "{waited:?}; at last {last:?}");
    let series = prometheus.query("count by (node) (rolegate_build_info)").unwrap();
    assert_eq!(series.len(), 2);
}

fn ready_condition(cluster: &Cluster, pod: &str) -> Value {
    let object = cluster.pod(NAMESPACE, pod).unwrap();
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|it| it["type"] == "Ready").unwrap_or_default()
}

/// Has the agent's ClusterRole grant this and nothing else.
fn set_rights(cluster: &Cluster, rules: &Value) {
    let patch = json!({"rules": rules}).to_string();
    cluster.kubectl(&["patch", "clusterrole", "rolegate", "--type=merge", "--patch", &patch]).unwrap();
}

/// An agent that is not ready is shown so by the kubelet, whose probes ask it, and is not started again for it.
fn agent_that_is_not_ready_is_shown_so(cluster: &Cluster, node: &str) {
    let rule =
        |resource: &str| json!({"apiGroups": [""], "resources": [resource], "verbs": ["list", "watch"]});
    set_rights(cluster, &json!([rule("pods")]));
    let former = cluster.agent_pod(node).unwrap();
    cluster.kubectl(&["delete", "pod", "-n", NAMESPACE, &former]).unwrap();
    agent_waits_for(cluster, node, "[-]namespaces cannot list namespaces: forbidden");
    let agent = cluster.agent_pod(node).unwrap();
    let not_ready = || {
        let ready = ready_condition(cluster, &agent);
        ready["status"] == "False" && ready["reason"] == "ContainersNotReady"
    };
    cluster.wait_for("the kubelet shows it", not_ready).unwrap();
    let unhealthy = || {
        let object = format!("--field-selector=involvedObject.name={agent},reason=Unhealthy");
        let events = ["get", "events", "-n", NAMESPACE, &object, "--output=jsonpath={.items[*].message}"];
        cluster
            .kubectl(&events)
            .unwrap()
            .contains("Readiness probe failed: HTTP probe failed with statuscode: 503")
    };
    cluster.wait_for("an event says so", unhealthy).unwrap();

    set_rights(cluster, &json!([rule("pods"), rule("namespaces")]));
    let name = format!("pod/{agent}");
    cluster.kubectl(&["wait", "-n", NAMESPACE, "--for=condition=Ready", &name, "--timeout=120s"]).unwrap();
    let object = cluster.pod(NAMESPACE, &agent).unwrap();
    assert_eq!(object.pointer("/status/containerStatuses/0/restartCount"), Some(&json!(0)));
}

/// An agent that hangs is killed and started again, as the chart's liveness probe has it; pods of its node get nothing until
/// then.
fn agent_that_hangs_is_started_again(cluster: &Cluster, askers: &Askers, node: &str) {
    let agent = cluster.agent_pod(node).unwrap();
    let container = || cluster.pod(NAMESPACE, &agent).unwrap()["status"]["containerStatuses"][0].clone();
    assert_eq!(container()["restartCount"], 0);
    let mark: Vec<_> = askers.on(node).map(|asker| (asker, asker.count())).collect();
    let begin = Instant::now();
    cluster.node(node).run("sh", &["-c", "kill -STOP $(pidof rolegate)"]).unwrap();
    for (asker, before) in mark {
        asker.wait_beyond(before, 2, |got| matches!(got, Got::Failed(_))).unwrap();
    }
    cluster.wait_for("the agent is started again", || container()["restartCount"] == 1).unwrap();
    cluster.say(&format!("an agent that hung was started again after {} s", begin.elapsed().as_secs()));
    let ended = container()["lastState"]["terminated"]["exitCode"].clone();
    assert_eq!(ended, 128 + 9, "it could not end by itself");
    agent_is_ready(cluster, node);
    for asker in askers.on(node) {
        asker.served(3).unwrap();
        assert_eq!(asker.node_credentials(), 0, "{}", asker.name());
    }
}

fn node_is(cluster: &Cluster, node: &str, status: &str) {
    let condition = format!("--for=condition=Ready={status}");
    cluster.kubectl(&["wait", &condition, &format!("node/{node}"), "--timeout=120s"]).unwrap();
}

/// The API server is away for longer than the agent takes its word for: the agents are not ready, and go on serving the
/// pods they know.
fn known_pods_are_served_without_the_api_server(
    cluster: &Cluster,
    askers: &Askers,
    prometheus: Option<&Prometheus>,
) {
    let agents = agents_now(cluster);
    cluster.stop_api();
    let begin = Instant::now();
    for node in [BRIDGE, ROUTED] {
        agent_waits_for(cluster, node, "[-]pods ");
    }
    assert!(begin.elapsed().as_secs() > 30, "what is known stays in force for 75 s");
    cluster.say("without the API server agents are not ready");
    askers.served(5).unwrap();
    if let Some(prometheus) = prometheus {
        // Found before, and scraped on.
        scrapes(prometheus, &agents);
        let age = prometheus.query("min(rolegate_kubernetes_last_event_age_seconds)").unwrap();
        assert!(age[0].value > 60.0, "{age:?}");
    }
    cluster.start_api().unwrap();
    cluster.say("the API server is there again");
}

/// P17: pods that are known are served while the kubelet of their node is stopped, and while the API server is away for so
/// long that agents are not ready; an agent that is not ready is shown so by the kubelet, and one that hangs is started
/// again by it; all the while Prometheus finds and scrapes the agents with the rights and by the job of the page on metrics.
#[test]
fn known_pods_are_served_while_kubelet_and_api_server_are_away() {
    const NAME: &str = "cluster::outages";
    if let Some(why) = Cluster::helm_missing().or_else(Asker::missing) {
        return skip(NAME, &why);
    }
    let Some(cluster) = Cluster::for_test(NAME, &Options::default()) else { return };
    cluster.namespace("default", &["MyPodRole"]).unwrap();
    cluster.install(&[]).unwrap();
    let closed = Instant::now();
    let askers = Askers::on_all_nodes(&cluster).unwrap();
    askers.served(3).unwrap();
    let prometheus = prometheus(&cluster);
    let scrapes_all = || prometheus.iter().for_each(|it| scrapes(it, &agents_now(&cluster)));
    scrapes_all();
    cluster.say("Prometheus has found and scrapes both agents");

    cluster.node(ROUTED).stop_kubelet().unwrap();
    agent_that_is_not_ready_is_shown_so(&cluster, BRIDGE);
    cluster.say("the kubelet showed an agent that was not ready");
    scrapes_all();
    agent_that_hangs_is_started_again(&cluster, &askers, BRIDGE);
    node_is(&cluster, ROUTED, "Unknown");
    cluster.say("a kubelet is missed");
    askers.served(1).unwrap();
    let mark = askers.mark();
    known_pods_are_served_without_the_api_server(&cluster, &askers, prometheus.as_ref());
    cluster.node(ROUTED).start_kubelet().unwrap();
    cluster.node(ROUTED).wait_for_kubelet().unwrap();
    for node in [BRIDGE, ROUTED] {
        agent_is_ready(&cluster, node);
    }
    cluster.say("agents are ready");
    for node in [BRIDGE, ROUTED] {
        node_is(&cluster, node, "True");
    }
    cluster.say("nodes are Ready");
    assert_eq!(askers.failed_since(&mark), [], "nobody was refused in all that time");
    for node in [BRIDGE, ROUTED] {
        run(&cluster, &format!("new-{node}"), node, Some("MyPodRole"));
        served(&cluster, &format!("new-{node}"), "MyPodRole");
    }
    scrapes_all();
    assert_eq!(askers.node_credentials(), []);
    let leaks = cluster.leaks(closed);
    assert!(leaks.is_empty(), "requests of pods that reached IMDS: {leaks:#?}");
}
