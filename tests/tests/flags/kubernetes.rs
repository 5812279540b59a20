//! Flags of the group "Kubernetes".

use std::time::Duration;

use rolegate_tests::cluster::Cluster;
use rolegate_tests::kube_api::Resource;
use rolegate_tests::skip;
use rolegate_tests::world::NODE;
use serde_json::{Value, json};

use super::{ready, start, warns, world};

#[test]
fn api_server_is_reached_with_a_token_and_verified_unless_told_otherwise() {
    let Some(world) = world("api_server_is_reached_with_a_token_and_verified_unless_told_otherwise") else {
        return;
    };
    let without = ["--kubeconfig", "--iptables"];
    let server = format!("--api-server={}", world.cluster.url());
    let token = format!("--api-token={}", world.cluster.token());

    let agent = ready(&world, &without, &[&server, &token, "--insecure"]);
    warns(&agent, "--insecure");
    drop(agent);

    for (flags, said) in [
        (vec![server.as_str(), token.as_str()], "certificate"),
        (vec![&server, "--api-token=wrong", "--insecure"], "unauthorized"),
        // Without any of them, and without --kubeconfig, it takes itself for a pod.
        (vec![], "incluster"),
    ] {
        let agent = start(&world, &without, &flags);
        let line = agent.wait_for_line(&format!("{said} with {flags:?}"), |line| {
            let error = line.text_of("error").unwrap_or_default().to_lowercase();
            error.contains(said)
        });
        line.unwrap();
        assert_ne!(agent.admin("/readyz").unwrap().status, 200, "{flags:?}");
    }
}

#[test]
fn node_is_the_one_named_or_that_of_the_host_ip() {
    let test = "node_is_the_one_named_or_that_of_the_host_ip";
    if Cluster::wants_real() {
        return skip(test, "only the double records requests");
    }
    let Some(world) = world(test) else { return };
    world.host_pod("kube-system", "agent", |pod| pod).unwrap();
    let selectors = || -> Vec<String> {
        let requests = world.cluster.double().unwrap().requests();
        let pods = requests.iter().filter(|request| request.is_list(Resource::Pods));
        pods.filter_map(|request| request.query.get("fieldSelector").cloned()).collect()
    };

    drop(ready(&world, &["--node", "--iptables"], &["--node=node-2.example"]));
    assert_eq!(selectors(), ["spec.nodeName=node-2.example"]);
    // By --host-ip, which every agent here is given.
    drop(ready(&world, &["--node", "--iptables"], &[]));
    let selectors = selectors();
    assert!(selectors.iter().any(|selector| selector.contains("status.podIP=10.0.0.10")), "{selectors:?}");
    assert_eq!(selectors.last().unwrap(), "spec.nodeName=node-1.example");
}

#[test]
fn everything_is_listed_anew_after_the_resync_period() {
    let test = "everything_is_listed_anew_after_the_resync_period";
    if Cluster::wants_real() {
        return skip(test, "only the double records requests");
    }
    let Some(world) = world(test) else { return };
    // A minute is the shortest, and is taken for what is shorter.
    let agent = ready(&world, &["--iptables"], &["--cache-resync-period=1s"]);
    warns(&agent, "--cache-resync-period");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let twice = world.cluster.double().unwrap().wait_for(|requests| {
        let listed = |resource| requests.iter().filter(|request| request.is_list(resource)).count() > 1;
        (listed(Resource::Pods) && listed(Resource::Namespaces)).then_some(())
    });
    let waited = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(180), twice).await });
    assert!(waited.is_ok(), "{}", agent.log());
}

#[test]
fn startup_taint_goes_by_its_key() {
    let test = "startup_taint_goes_by_its_key";
    if Cluster::wants_real() {
        return skip(test, "the suite startup_taint has the rights");
    }
    let Some(world) = world(test) else { return };
    let faults = world.cluster.double().unwrap().faults();
    for (verb, resource) in
        [("get", Resource::Nodes), ("patch", Resource::Nodes), ("patch", Resource::NodeStatus)]
    {
        faults.allow(verb, resource);
    }
    let taint = |key: &str| json!({"key": key, "effect": "NoSchedule"});
    let (usual, other) = (taint("rolegate/agent-not-ready"), taint("example.com/new-node"));
    let taints = || -> Vec<Value> {
        let node = world.cluster.node(NODE).unwrap();
        node["spec"]["taints"].as_array().cloned().unwrap_or_default()
    };
    for (flag, rest) in [("--startup-taint", &other), ("--startup-taint=example.com/new-node", &usual)] {
        world.cluster.apply_node(NODE, &json!([usual, other])).unwrap();
        let agent = ready(&world, &[], &[flag]);
        agent.poll(flag, || Ok(taints() == [rest.clone()])).unwrap();
    }
}
