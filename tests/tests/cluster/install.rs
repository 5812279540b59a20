//! The chart as a user installs it.

use rolegate_tests::nodes::{BRIDGE, Cluster, Options, ROUTED, tools_pod};

#[test]
fn pods_run_on_both_nodes() {
    let options = Options { agent_image: false, ..Options::default() };
    let Some(cluster) = Cluster::for_test("cluster::pods_run_on_both_nodes", &options) else { return };
    for node in [BRIDGE, ROUTED] {
        cluster.apply(&tools_pod("default", node, node, None)).unwrap();
    }
    for node in [BRIDGE, ROUTED] {
        cluster.ready("default", node).unwrap();
        cluster.say(&format!("a pod runs on {node}"));
        println!("{}", cluster.exec("default", node, &["ip", "a"]).unwrap());
    }
}
