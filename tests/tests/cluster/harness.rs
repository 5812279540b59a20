//! The cluster itself: nodes that end and come back, and what is left of it after a panic.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rolegate_tests::nodes::{BRIDGE, Cluster, Options, ROUTED, nothing_left, tools_pod};

#[test]
fn nodes_end_and_come_back_and_a_panic_leaves_nothing_of_the_cluster() {
    const NAME: &str = "cluster::harness";
    let options = Options { agent_image: false, ..Options::default() };
    let Some(cluster) = Cluster::for_test(NAME, &options) else { return };
    for node in [BRIDGE, ROUTED] {
        cluster.apply(&tools_pod("default", node, node, None)).unwrap();
    }
    for node in [BRIDGE, ROUTED] {
        cluster.ready("default", node).unwrap();
    }
    cluster.say("a pod runs on each node");
    let routed = cluster.pod("default", ROUTED).unwrap()["status"]["podIP"].as_str().unwrap().to_owned();
    // From pod to pod, and to the API server by its service, which kube-proxy may bring later than pods start.
    cluster.exec("default", BRIDGE, &["ping", "-c", "1", "-W", "30", &routed]).unwrap();
    let connects = || cluster.exec("default", BRIDGE, &["nc", "-w", "5", "10.96.0.1", "443", "-e", "true"]);
    cluster.wait_for("the API server's service is reached", || connects().is_ok()).unwrap();

    restart(&cluster, ROUTED, |cluster| cluster.node(ROUTED).kill_everything());
    restart(&cluster, BRIDGE, |cluster| cluster.node(BRIDGE).power_off());

    cluster.stop_api();
    cluster.kubectl(&["get", "nodes"]).unwrap_err();
    cluster.start_api().unwrap();
    cluster.kubectl(&["get", "nodes"]).unwrap();
    cluster.say("the API server is back");

    let panic = catch_unwind(AssertUnwindSafe(|| {
        let _cluster = cluster;
        panic!("on purpose");
    }));
    panic.unwrap_err();
    assert_eq!(nothing_left(NAME), Ok(()));
}

/// Ends a node, starts it again, and waits until its pod's container was made again.
fn restart(cluster: &Cluster, node: &str, end: impl FnOnce(&Cluster)) {
    let restarts =
        || cluster.pod("default", node).unwrap()["status"]["containerStatuses"][0]["restartCount"].clone();
    assert_eq!(restarts(), 0);
    end(cluster);
    cluster.say(&format!("{node} was ended"));
    cluster.node(node).start().unwrap();
    cluster.wait_for("the pod's container is made again", || restarts() == 1).unwrap();
    cluster.ready("default", node).unwrap();
    cluster.say(&format!("{node} is back, and its pod"));
}
