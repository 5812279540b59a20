//! What does not run for a while: the API server, a kubelet, an agent that may not read what it needs.

use rolegate_tests::guests::{Asker, Askers};
use rolegate_tests::nodes::{BRIDGE, Cluster, Options, ROUTED};
use rolegate_tests::prometheus::Prometheus;
use rolegate_tests::skip;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::common::NAMESPACE;
use super::outcomes::{agent_is_ready, agent_waits_for, run, served};

/// The rights and the job that it has are those that operators are told.
const PAGE: &str = include_str!("../../../docs/metrics.md");

/// The page's examples, in their order.
fn examples() -> Vec<&'static str> {
    PAGE.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

/// Who Prometheus is by the page.
const PROMETHEUS: &str = "--as=system:serviceaccount:monitoring:prometheus";

/// Prometheus with the job of the page, given what its discovery finds with the rights of the page: Debian's Prometheus
/// is built without that of Kubernetes.
fn prometheus(cluster: &Cluster, dir: &tempfile::TempDir) -> Prometheus {
    let example = |with: &str| examples().into_iter().find(|example| example.contains(with)).unwrap();
    let (rights, job) = (example("kind: ServiceAccount"), example("scrape_configs:"));
    cluster.kubectl(&["create", "namespace", "monitoring"]).unwrap();
    cluster.apply(rights).unwrap();
    let mut config: Value = serde_saphyr::from_str(job).unwrap();
    config["global"] = json!({"scrape_interval": "2s", "scrape_timeout": "2s"});
    let job = &mut config["scrape_configs"][0];
    let discovery = job.as_object_mut().unwrap().remove("kubernetes_sd_configs").unwrap();
    assert_eq!(discovery[0]["role"], "pod");
    let namespace = discovery[0]["namespaces"]["names"][0].as_str().unwrap();
    let found = dir.path().join("found.json");
    std::fs::write(&found, discovered(cluster, namespace).to_string()).unwrap();
    job["file_sd_configs"] = json!([{"files": [found]}]);
    Prometheus::start(cluster.world(), &config.to_string(), &[]).unwrap()
}

/// The targets that `role: pod` has in a namespace: one for each container, with a port where it declares one.
fn discovered(cluster: &Cluster, namespace: &str) -> Value {
    let may_watch = ["auth", "can-i", "watch", "pods", PROMETHEUS, "--namespace", namespace];
    assert_eq!(cluster.kubectl(&may_watch).unwrap().trim(), "yes");
    let pods =
        cluster.kubectl(&["get", "pods", PROMETHEUS, "--namespace", namespace, "--output=json"]).unwrap();
    let pods: Value = serde_json::from_str(&pods).unwrap();
    let mut targets = Vec::new();
    for pod in pods["items"].as_array().unwrap() {
        let mut labels = json!({
            "__meta_kubernetes_pod_name": pod["metadata"]["name"],
            "__meta_kubernetes_pod_node_name": pod["spec"]["nodeName"],
            "__meta_kubernetes_pod_ip": pod["status"]["podIP"],
        });
        for kind in ["label", "annotation"] {
            for (name, value) in pod["metadata"][format!("{kind}s")].as_object().into_iter().flatten() {
                let name = name.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
                labels[format!("__meta_kubernetes_pod_{kind}_{name}")] = value.clone();
            }
        }
        for (kind, init) in [("containers", "false"), ("initContainers", "true")] {
            for container in pod["spec"][kind].as_array().into_iter().flatten() {
                let port = container.pointer("/ports/0/containerPort").map(|port| format!(":{port}"));
                let address =
                    format!("{}{}", pod["status"]["podIP"].as_str().unwrap(), port.unwrap_or_default());
                let mut labels = labels.clone();
                labels["__meta_kubernetes_pod_container_init"] = json!(init);
                targets.push(json!({"targets": [address], "labels": labels}));
            }
        }
    }
    json!(targets)
}

/// Every node's agent, and nothing else, is scraped, under its node's name.
fn both_agents_are_scraped(prometheus: &Prometheus) {
    let nodes = |prometheus: &Prometheus| {
        let up = prometheus.query("up{job=\"rolegate\"} == 1")?;
        let mut nodes: Vec<_> = up.iter().filter_map(|sample| sample.labels.get("node").cloned()).collect();
        nodes.sort();
        Ok((nodes == [BRIDGE, ROUTED]).then_some(()))
    };
    prometheus.wait_for("both agents are scraped", nodes).unwrap();
    let series = prometheus.query("count by (node) (rolegate_build_info)").unwrap();
    assert_eq!(series.len(), 2);
    assert_eq!(prometheus.targets().unwrap().len(), 2, "{:?}", prometheus.targets().unwrap());
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

fn node_is(cluster: &Cluster, node: &str, status: &str) {
    let condition = format!("--for=condition=Ready={status}");
    cluster.kubectl(&["wait", &condition, &format!("node/{node}"), "--timeout=120s"]).unwrap();
}

/// The API server is away for longer than the agent takes its word for: the agents are not ready, and go on serving the
/// pods they know.
fn known_pods_are_served_without_the_api_server(cluster: &Cluster, askers: &Askers, prometheus: &Prometheus) {
    cluster.stop_api();
    let begin = Instant::now();
    for node in [BRIDGE, ROUTED] {
        agent_waits_for(cluster, node, "[-]pods ");
    }
    assert!(begin.elapsed().as_secs() > 30, "what is known stays in force for 75 s");
    cluster.say("without the API server agents are not ready");
    askers.served(5).unwrap();
    // Found before, and scraped on.
    both_agents_are_scraped(prometheus);
    let age = prometheus.query("min(rolegate_kubernetes_last_event_age_seconds)").unwrap();
    assert!(age[0].value > 60.0, "{age:?}");
    cluster.start_api().unwrap();
    cluster.say("the API server is there again");
}

/// P17: pods that are known are served while the kubelet of their node is stopped, and while the API server is away for so
/// long that agents are not ready; an agent that is not ready is shown so by the kubelet; all the while Prometheus scrapes
/// the agents by the job of the page on metrics.
#[test]
fn known_pods_are_served_while_kubelet_and_api_server_are_away() {
    const NAME: &str = "cluster::outages";
    let missing = Cluster::helm_missing().or_else(Asker::missing).or_else(Prometheus::missing);
    if let Some(why) = missing {
        return skip(NAME, &why);
    }
    let Some(cluster) = Cluster::for_test(NAME, &Options::default()) else { return };
    cluster.namespace("default", &["MyPodRole"]).unwrap();
    cluster.install(&[]).unwrap();
    let closed = Instant::now();
    let askers = Askers::on_all_nodes(&cluster).unwrap();
    askers.served(3).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let prometheus = prometheus(&cluster, &dir);
    both_agents_are_scraped(&prometheus);
    cluster.say("Prometheus scrapes both agents");

    cluster.node(ROUTED).stop_kubelet().unwrap();
    agent_that_is_not_ready_is_shown_so(&cluster, BRIDGE);
    cluster.say("the kubelet showed an agent that was not ready");
    node_is(&cluster, ROUTED, "Unknown");
    cluster.say("a kubelet is missed");
    askers.served(1).unwrap();
    let mark = askers.mark();
    known_pods_are_served_without_the_api_server(&cluster, &askers, &prometheus);
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
    both_agents_are_scraped(&prometheus);
    let leaks = cluster.leaks(closed);
    assert!(leaks.is_empty(), "requests of pods that reached IMDS: {leaks:#?}");
}
