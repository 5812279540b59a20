//! The chart as a user installs it, on both nodes.

use rolegate_tests::http::Client;
use rolegate_tests::nodes::{BRIDGE, Cluster, Options, ROUTED, python, sdk_pod, tools_pod};
use rolegate_tests::skip;
use rolegate_tests::topology::imds_v6;
use rolegate_tests::world::{NODE_ROLE, arn};
use serde_json::Value;

use super::outcomes::{ROLES, known_net};

const BOTO3: &str =
    "import boto3; print(boto3.Session().get_credentials().get_frozen_credentials().access_key)";

#[test]
fn chart_installed_with_helm_gives_pods_of_both_nodes_their_roles_and_nothing_else() {
    const NAME: &str = "cluster::install";
    if let Some(why) = Cluster::helm_missing() {
        return skip(NAME, &why);
    }
    let options = Options { dual_stack: true, ..Options::default() };
    let Some(cluster) = Cluster::for_test(NAME, &options) else { return };
    cluster.namespace("shop", &["MyPodRole"]).unwrap();
    // Before the agent: it finds pods that run already.
    for node in [BRIDGE, ROUTED] {
        cluster.apply(&sdk_pod("shop", &format!("mine-{node}"), node, Some("MyPodRole"))).unwrap();
        cluster.apply(&tools_pod("shop", &format!("none-{node}"), node, None)).unwrap();
    }
    cluster.install(&["--set=host.ip=$(HOST_IPS)"]).unwrap();
    let closed = tokio::time::Instant::now();
    cluster.say("agents are ready");
    for node in [BRIDGE, ROUTED] {
        cluster.apply(&tools_pod("shop", &format!("other-{node}"), node, Some("OtherRole"))).unwrap();
        let host = tools_pod("shop", &format!("host-{node}"), node, Some("MyPodRole"));
        let mut host: Value = serde_json::from_str(&host).unwrap();
        host["spec"]["hostNetwork"] = true.into();
        cluster.apply(&host.to_string()).unwrap();
    }
    for node in [BRIDGE, ROUTED] {
        pod_gets_its_role(&cluster, &format!("mine-{node}"));
        pods_get_their_refusals(&cluster, node);
        host_network_pod_gets_nothing_of_the_agent(&cluster, node);
        cluster.say(&format!("pods of {node} got what is theirs"));
    }
    let said = cluster.helm(&["test", "rolegate", "--namespace=kube-system", "--logs"]).unwrap();
    assert!(said.contains("Phase:          Succeeded"), "{said}");
    cluster.say("helm test has passed");
    let leaks = cluster.leaks(closed);
    assert!(leaks.is_empty(), "requests of pods that reached IMDS: {leaks:#?}");
}

fn pod_gets_its_role(cluster: &Cluster, pod: &str) {
    cluster.ready("shop", pod).unwrap();
    let net = known_net(cluster, "shop", pod);
    // Of itself boto3 asks once, and waits for a second.
    let mut last = None;
    let waited = cluster.wait_for(&format!("{pod} has credentials"), || {
        last.insert(cluster.exec("shop", pod, &[&python(), "-c", BOTO3])).is_ok()
    });
    assert!(waited.is_ok(), "{waited:?}: {last:?}");
    let key = last.unwrap().unwrap();
    let issued = cluster.sts.issued(key.trim()).unwrap_or_else(|| panic!("{pod}: {key:?} is no session"));
    assert_eq!(issued.role, arn("MyPodRole"), "{pod}");
    let over_v6 = Client::new(&net, imds_v6()).get(ROLES).unwrap();
    assert_eq!((over_v6.status, &*over_v6.text()), (200, "MyPodRole"), "{pod}");
}

fn pods_get_their_refusals(cluster: &Cluster, node: &str) {
    let (none, other) = (format!("none-{node}"), format!("other-{node}"));
    cluster.ready("shop", &none).unwrap();
    let net = known_net(cluster, "shop", &none);
    for client in [Client::imds(&net), Client::new(&net, imds_v6())] {
        let answer = client.get(ROLES).unwrap();
        assert_eq!((answer.status, answer.text()), (404, String::new()), "{none}");
    }

    cluster.ready("shop", &other).unwrap();
    let net = known_net(cluster, "shop", &other);
    let answer = Client::imds(&net).get(&format!("{ROLES}OtherRole")).unwrap();
    assert_eq!(answer.json().unwrap()["Code"], "AssumeRoleUnauthorizedAccess", "{other}");
    assert!(answer.text().contains("kubectl annotate namespace shop"), "{}", answer.text());
}

/// It is the node to IMDS, which is what the host's network means; of the agent it gets no door.
fn host_network_pod_gets_nothing_of_the_agent(cluster: &Cluster, node: &str) {
    let pod = format!("host-{node}");
    cluster.ready("shop", &pod).unwrap();
    let net = cluster.pod_net("shop", &pod).unwrap();
    let list = Client::imds(&net).get(ROLES).unwrap();
    assert_eq!(list.text(), NODE_ROLE, "{pod}");
    let agent = (cluster.node(node).place().address(), 8181).into();
    let answer = Client::new(&net, agent).get(&format!("{ROLES}MyPodRole")).unwrap();
    assert_eq!((answer.status, &*answer.text()), (404, "not found\n"), "{pod}");
}
