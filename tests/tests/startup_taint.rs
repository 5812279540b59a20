//! `--startup-taint`: the taint of a new node goes, and the node's condition is true, once pods are captured and
//! answered.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "startup_taint/hours.rs"]
mod hours;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rolegate_tests::agent::Agent;
use rolegate_tests::cluster::Cluster;
use rolegate_tests::kube_api::{Answer, KubeApi, Request, Resource};
use rolegate_tests::world::{NODE, Options, World};
use rolegate_tests::{netns, skip};
use serde_json::{Value, json};

const FLAG: &str = "--startup-taint";
const KEY: &str = "rolegate/agent-not-ready";
const CONDITION: &str = "rolegate/Ready";

fn ours(effect: &str) -> Value {
    json!({"key": KEY, "effect": effect})
}

fn theirs() -> Value {
    json!({"key": "example.com/gpu", "value": "true", "effect": "NoSchedule"})
}

fn allow(api: &KubeApi) {
    let faults = api.faults();
    for (verb, resource) in
        [("get", Resource::Nodes), ("patch", Resource::Nodes), ("patch", Resource::NodeStatus)]
    {
        faults.allow(verb, resource);
    }
}

/// A world whose API server fails on command, with the optional rights.
fn world(test: &str) -> Option<World> {
    let world = World::for_test_with_faults(test)?;
    world.namespace("default", &["MyPodRole"]).unwrap();
    allow(world.cluster.double().unwrap());
    Some(world)
}

fn taints(world: &World) -> Vec<Value> {
    world.cluster.node(NODE).unwrap()["spec"]["taints"].as_array().cloned().unwrap_or_default()
}

fn condition_of(node: &Value, kind: &str) -> Value {
    let mut conditions = node["status"]["conditions"].as_array().into_iter().flatten();
    conditions.find(|condition| condition["type"] == kind).cloned().unwrap_or_default()
}

fn condition(world: &World) -> Value {
    condition_of(&world.cluster.node(NODE).unwrap(), CONDITION)
}

fn becomes(world: &World, agent: &Agent, status: &str) -> Value {
    agent.poll(&format!("the condition is {status}"), || Ok(condition(world)["status"] == status)).unwrap();
    condition(world)
}

/// Requests about nodes so far.
fn about_nodes(world: &World) -> Vec<Request> {
    let requests = world.cluster.double().unwrap().requests();
    requests.into_iter().filter(|request| request.path.starts_with("/api/v1/nodes")).collect()
}

fn counted(agent: &Agent, request: &str, result: &str) -> f64 {
    let sample = format!("rolegate_node_requests_total{{request=\"{request}\",result=\"{result}\"}}");
    agent.metric(&sample).unwrap()
}

fn tainted(agent: &Agent) -> f64 {
    agent.metric("rolegate_node_startup_taint_present").unwrap()
}

fn serves(world: &World, name: &str) {
    let pod = world.pod("default", name, |pod| pod.role("MyPodRole")).unwrap();
    assert_eq!(pod.imds().credentials().unwrap()["Code"], "Success");
}

/// A new node's startup taint is there until requests of pods are captured and answered, and is never put back;
/// other taints and the kubelet's conditions stay as they are.
#[test]
fn taint_stays_until_pods_are_captured_and_answered() {
    let Some(world) = world("taint_stays_until_pods_are_captured_and_answered") else { return };
    world.cluster.apply_node(NODE, &json!([ours("NoSchedule"), theirs(), ours("NoExecute")])).unwrap();
    let kubelets = condition_of(&world.cluster.node(NODE).unwrap(), "Ready");
    let faults = world.cluster.double().unwrap().faults();
    faults.refuse("list", Resource::Pods);
    world.imds().faults().status(Some(503));

    let agent = world.start_agent(&[FLAG]).unwrap();
    let first = becomes(&world, &agent, "False");
    assert_eq!(first["reason"], "NotIntercepting", "{first}");
    let message = first["message"].as_str().unwrap();
    assert!(
        message.contains("pods: cannot list pods: forbidden") && message.contains("identity: "),
        "{message}"
    );
    assert_eq!((taints(&world).len(), tainted(&agent)), (3, 1.0));

    faults.allow("list", Resource::Pods);
    // Within the longest pause between two tries, 30 s, and what two busy cores add.
    let captured = || Ok(condition(&world)["reason"] == "NotAnswering");
    agent.poll("pods are captured", captured).or_else(|_| agent.poll("pods are captured", captured)).unwrap();
    assert_eq!(taints(&world).len(), 3, "captured, and not answered");
    world.imds().faults().status(None);
    agent.ready().unwrap();
    agent.poll("the taint goes", || Ok(taints(&world) == [theirs()])).unwrap();
    let ready = becomes(&world, &agent, "True");
    assert_eq!(ready["reason"], "Ready");
    assert_ne!(ready["lastTransitionTime"], first["lastTransitionTime"]);
    assert_eq!(condition_of(&world.cluster.node(NODE).unwrap(), "Ready"), kubelets);
    agent.poll("the taint is seen to be gone", || Ok(tainted(&agent) == 0.0)).unwrap();
    let said = |line: &rolegate_tests::agent::Line| line.text_of("taint").as_deref() == Some(KEY);
    agent.wait_for_line("startup taint removed", said).unwrap();
    serves(&world, "first");

    // Lists that fail close the node in the condition alone.
    faults.refuse("list", Resource::Namespaces);
    faults.refuse("watch", Resource::Namespaces);
    faults.break_watches();
    let lost = becomes(&world, &agent, "False");
    assert_eq!(lost["reason"], "NotAnswering", "{lost}");
    assert!(lost["message"].as_str().unwrap().contains("namespaces: cannot watch namespaces"), "{lost}");
    faults.allow("list", Resource::Namespaces);
    faults.allow("watch", Resource::Namespaces);
    agent.ready().or_else(|_| agent.ready()).unwrap();
    becomes(&world, &agent, "True");
    assert_eq!(taints(&world), [theirs()]);
    let patches = about_nodes(&world);
    let patches = patches.iter().filter(|request| request.content_type == "application/json-patch+json");
    assert_eq!(patches.count(), 1, "of the taints, in all this time");
}

/// A directory whose `iptables-nft-restore` fails while a file `broken` is in it.
fn fragile_iptables(dir: &Path) -> String {
    let program = dir.join("iptables-nft-restore");
    let real = netns::run(std::process::Command::new("which").arg("iptables-nft-restore")).unwrap();
    let script =
        format!("#!/bin/sh\n[ -e {0}/broken ] && exit 4\nexec {1} \"$@\"\n", dir.display(), real.trim());
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:{}", dir.display(), std::env::var_os("PATH").unwrap_or_default().to_string_lossy())
}

#[test]
fn rules_that_are_removed_and_stay_away_are_told_until_they_are_back() {
    let test = "rules_that_are_removed_and_stay_away_are_told_until_they_are_back";
    if !netns::on_path("iptables-nft-restore") {
        return skip(test, "iptables-nft is not installed");
    }
    let Some(world) = world(test) else { return };
    world.cluster.apply_node(NODE, &json!([ours("NoSchedule")])).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut env: BTreeMap<String, String> = world.environment();
    env.insert("PATH".into(), fragile_iptables(dir.path()));
    let mut flags = world.usual_flags();
    flags.push(FLAG.into());
    let agent = Agent::start(world.topology.node(), &flags, &env).unwrap();
    becomes(&world, &agent, "True");

    std::fs::write(dir.path().join("broken"), "").unwrap();
    world.topology.node().run("iptables-nft", &["-w", "-t", "nat", "-F"]).unwrap();
    let lost = becomes(&world, &agent, "False");
    assert_eq!(lost["reason"], "NotIntercepting", "{lost}");
    assert!(lost["message"].as_str().unwrap().contains("redirect: "), "{lost}");
    std::fs::remove_file(dir.path().join("broken")).unwrap();
    becomes(&world, &agent, "True");
    assert_eq!(taints(&world), Vec::<Value>::new(), "never put back");
}

#[test]
fn taints_that_somebody_changes_meanwhile_are_read_again() {
    let Some(world) = world("taints_that_somebody_changes_meanwhile_are_read_again") else { return };
    let api = world.cluster.double().unwrap();
    world.cluster.apply_node(NODE, &json!([ours("NoSchedule")])).unwrap();
    api.faults().taints_before_patch(json!([theirs(), ours("NoSchedule")]));
    let agent = world.agent(&[FLAG]).unwrap();
    agent.poll("ours goes, theirs stays", || Ok(taints(&world) == [theirs()])).unwrap();
    assert_eq!(counted(&agent, "taint", "conflict"), 1.0);
    drop(agent);

    // The API server says the same when its own retries are used up.
    world.cluster.apply_node(NODE, &json!([ours("NoSchedule"), theirs()])).unwrap();
    api.faults().answer_patches(Resource::Nodes, 1, Answer::Status(409));
    let agent = world.agent(&[FLAG]).unwrap();
    agent.poll("ours goes, theirs stays", || Ok(taints(&world) == [theirs()])).unwrap();
    assert_eq!(counted(&agent, "taint", "conflict"), 1.0);
}

/// Each right that is missing is named, holds up nothing else, and is used as soon as it is granted.
#[test]
fn missing_rights_are_named_and_hold_up_nothing_else() {
    let Some(world) = world("missing_rights_are_named_and_hold_up_nothing_else") else { return };
    let faults = world.cluster.double().unwrap().faults();
    for (verb, resource, request) in [
        ("get", Resource::Nodes, "read"),
        ("patch", Resource::Nodes, "taint"),
        ("patch", Resource::NodeStatus, "condition"),
    ] {
        world.cluster.apply_node(NODE, &json!([ours("NoSchedule")])).unwrap();
        faults.refuse(verb, resource);
        let agent = world.agent(&[FLAG]).unwrap();
        serves(&world, request);
        let said = format!(
            "cannot {verb} {resource}: forbidden; --startup-taint needs a ClusterRole with get and patch on nodes \
             and patch on nodes/status"
        );
        let logged = |line: &rolegate_tests::agent::Line| {
            line.text_of("error").is_some_and(|error| error.starts_with(&said))
        };
        agent.wait_for_line(&said, logged).unwrap();
        assert!(counted(&agent, request, "forbidden") >= 1.0, "{request}");
        assert_eq!(agent.admin("/readyz").unwrap().status, 200, "{request}");
        match request {
            "taint" => drop(becomes(&world, &agent, "True")),
            "condition" => agent.poll("the taint goes", || Ok(taints(&world).is_empty())).unwrap(),
            _ => assert_eq!(taints(&world).len(), 1),
        }
        faults.allow(verb, resource);
        becomes(&world, &agent, "True");
        agent.poll("the taint goes", || Ok(taints(&world).is_empty())).unwrap();
    }
}

#[test]
fn without_the_flag_nothing_is_asked_of_nodes() {
    let Some(world) = world("without_the_flag_nothing_is_asked_of_nodes") else { return };
    world.cluster.apply_node(NODE, &json!([ours("NoSchedule")])).unwrap();
    let agent = world.agent(&[]).unwrap();
    serves(&world, "pod");
    agent.sigterm().unwrap();
    agent.wait().unwrap();
    assert_eq!(about_nodes(&world), []);
    assert_eq!(taints(&world), [ours("NoSchedule")]);
}

#[test]
fn node_that_registers_late_is_found() {
    let Some(world) = world("node_that_registers_late_is_found") else {
        return;
    };
    let agent = world.agent(&[FLAG]).unwrap();
    let said = |line: &rolegate_tests::agent::Line| {
        line.text_of("error").is_some_and(|error| error.contains("cannot get nodes: 404"))
    };
    agent.wait_for_line("the node is not there", said).unwrap();
    world.cluster.apply_node(NODE, &json!([ours("NoSchedule")])).unwrap();
    agent.poll("the taint goes", || Ok(taints(&world).is_empty())).unwrap();
    becomes(&world, &agent, "True");
}

/// The end is not written: a rolling update is no outage.
#[test]
fn ended_agent_leaves_the_condition_as_it_was() {
    let Some(world) = world("ended_agent_leaves_the_condition_as_it_was") else { return };
    world.cluster.apply_node(NODE, &json!([ours("NoSchedule")])).unwrap();
    let agent = world.agent(&[FLAG]).unwrap();
    becomes(&world, &agent, "True");
    let before = world.cluster.node(NODE).unwrap();
    agent.sigterm().unwrap();
    agent.wait().unwrap();
    assert_eq!(world.cluster.node(NODE).unwrap(), before);
}

/// The rights of `deploy/` are enough, and what is sent is what a real API server takes.
#[test]
fn api_server_takes_what_is_written_with_the_rights_of_the_manifest() {
    let test = "api_server_takes_what_is_written_with_the_rights_of_the_manifest";
    let Some(world) = World::for_test(test, &Options::default()) else { return };
    world.namespace("default", &["MyPodRole"]).unwrap();
    world.cluster.apply_node(NODE, &json!([ours("NoSchedule"), theirs(), ours("NoExecute")])).unwrap();
    let before = taints(&world);
    let dir = tempfile::tempdir().unwrap();
    let mut flags = world.usual_flags();
    flags.push(FLAG.into());
    match &world.cluster {
        Cluster::Double(api) => allow(api),
        Cluster::Real(api) => {
            if !netns::on_path("kubectl") {
                return skip(test, "kubectl is not installed");
            }
            api.apply_manifests(&["daemonset.yaml", "startup-taint.yaml"]).unwrap();
            world.host_pod("kube-system", "rolegate", |pod| pod.service_account("rolegate")).unwrap();
            let token = api.pod_token("kube-system", "rolegate", "rolegate").unwrap();
            let kubeconfig = dir.path().join("kubeconfig");
            std::fs::write(&kubeconfig, api.kubeconfig_with(&token)).unwrap();
            flags.retain(|flag| !flag.starts_with("--kubeconfig"));
            flags.push(format!("--kubeconfig={}", kubeconfig.display()));
        }
    }
    let agent = Agent::start(world.topology.node(), &flags, &world.environment()).unwrap();
    agent.ready().unwrap();
    let others: Vec<Value> = before.into_iter().filter(|taint| taint["key"] != KEY).collect();
    agent.poll("the taint goes", || Ok(taints(&world) == others)).unwrap();
    let told = becomes(&world, &agent, "True");
    assert_eq!((&told["reason"], &told["lastTransitionTime"]), (&json!("Ready"), &told["lastHeartbeatTime"]));
    agent.poll("it is counted", || Ok(counted(&agent, "condition", "ok") >= 1.0)).unwrap();
    if let Cluster::Real(api) = &world.cluster {
        // As the page for operators has it.
        let node = format!("node/{NODE}");
        api.kubectl(&["wait", "--timeout=10s", "--for=condition=rolegate/Ready", &node]).unwrap();
    }
    serves(&world, "pod");
}
