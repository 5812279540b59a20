//! Pods that come and go: a hundred at once, completed, evicted, replaced at the same address, deleted by force.

use std::collections::BTreeSet;

use rolegate_tests::http::Client;
use rolegate_tests::imds::NODE_MARKER;
use rolegate_tests::nodes::{BRIDGE, Cluster, Options, ROUTED, TOOLS};
use rolegate_tests::skip;
use rolegate_tests::world::arn;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::outcomes::{has_no_role, run, served};

/// What a node of a common size takes.
const CROWD: usize = 110;
const PHASES: &str = "--output=jsonpath={.items[*].status.phase}";
const LIST: &str = "http://169.254.169.254/latest/meta-data/iam/security-credentials/";

/// A pod that runs this in a shell, once.
fn shell_pod(name: &str, node: &str, role: &str, script: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": "default", "name": name, "labels": {"app": name.split('-').next()},
            "annotations": {"iam.amazonaws.com/role": role},
        },
        "spec": {
            "nodeName": node, "restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "shell", "image": TOOLS, "imagePullPolicy": "Never",
                "command": ["sh", "-c", script],
            }],
        },
    })
}

/// A pod that asks until it is served, as an SDK with its retries does, and ends. (With -T Debian's busybox crashes.)
fn asking_pod(n: usize, role: &str) -> Value {
    let script = format!(
        "for n in $(seq 400); do wget -q -O - {LIST}{role} && echo && echo served after $n && exit 0; sleep 1; done
         exit 1"
    );
    shell_pod(&format!("crowd-{n}"), BRIDGE, role, &script)
}

fn role_of(n: usize) -> &'static str {
    if n.is_multiple_of(2) { "MyPodRole" } else { "OtherRole" }
}

/// As many pods as a node takes start at once: each gets a session of its own role, and STS is called no more often than
/// there are sessions.
fn crowd_is_served(cluster: &Cluster) {
    let calls = cluster.sts.assume_role_calls();
    let crowd: Vec<Value> = (0..CROWD).map(|n| asking_pod(n, role_of(n))).collect();
    cluster.apply(&json!({"apiVersion": "v1", "kind": "List", "items": crowd}).to_string()).unwrap();
    let served = || {
        let phases = cluster.kubectl(&["get", "pods", "--selector=app=crowd", PHASES]).unwrap();
        assert!(!phases.contains("Failed"), "{phases}");
        phases.matches("Succeeded").count() == CROWD
    };
    // They start side by side: on a slow machine nearly all of them take until the end.
    let waited = (0..3).any(|_| cluster.wait_for("all are served", served).is_ok());
    assert!(waited, "{}", cluster.kubectl(&["get", "pods", "--output=wide"]).unwrap());
    let mut first = 0;
    for n in 0..CROWD {
        let printed = cluster.logs(BRIDGE, "default", &format!("crowd-{n}_")).unwrap();
        assert!(!printed.contains(NODE_MARKER), "crowd-{n}: {printed}");
        first += usize::from(printed.contains("served after 1\n"));
        // Refusals before it, if there were any, have no braces.
        let (begin, end) = (printed.find('{').unwrap(), printed.rfind('}').unwrap());
        let document: Value =
            serde_json::from_str(&printed[begin..=end]).unwrap_or_else(|_| panic!("{printed}"));
        let issued = cluster.sts.issued(document["AccessKeyId"].as_str().unwrap()).unwrap();
        assert_eq!(issued.role, arn(role_of(n)), "crowd-{n}");
    }
    // One role each for two, of one service account.
    assert_eq!(cluster.sts.assume_role_calls() - calls, 2);
    cluster.say(&format!("{CROWD} pods are served, {first} of them at their first request"));
}

fn address_of(cluster: &Cluster, pod: &str) -> String {
    cluster.pod("default", pod).unwrap()["status"]["podIP"].as_str().unwrap().to_owned()
}

/// Has the network plugin of a node give this address next, as soon as it is free.
fn next_address(cluster: &Cluster, node: &str, address: &str) {
    let plugin = cluster.node(node).dir().join("lib/cni/networks/pods");
    cluster.wait_for(&format!("{address} is free"), || !plugin.join(address).exists()).unwrap();
    let (net, last) = address.rsplit_once('.').unwrap();
    let before = format!("{net}.{}", last.parse::<u8>().unwrap() - 1);
    std::fs::write(plugin.join("last_reserved_ip.0"), before).unwrap();
}

/// The address of a pod that has completed, is evicted or deleted goes to another pod at once, which gets what is its
/// own: another role, or none.
fn addresses_go_to_other_pods(cluster: &Cluster, node: &str) {
    let phase = |pod: &str| cluster.pod("default", pod).unwrap()["status"]["phase"].clone();
    // Completed: its object stays, and has the address.
    let first = format!("completed-{node}");
    let script = format!(
        "wget -q -O - {LIST}MyPodRole; for n in $(seq 600); do [ -e /tmp/end ] && exit 0; sleep 1; done"
    );
    cluster.apply(&shell_pod(&first, node, "MyPodRole", &script).to_string()).unwrap();
    cluster.ready("default", &first).unwrap();
    served(cluster, &first, "MyPodRole");
    let address = address_of(cluster, &first);
    cluster.exec("default", &first, &["touch", "/tmp/end"]).unwrap();
    cluster.wait_for("it has completed", || phase(&first) == "Succeeded").unwrap();
    let second = format!("evicted-{node}");
    next_address(cluster, node, &address);
    let mut pod = shell_pod(&second, node, "OtherRole", "sleep 2147483647");
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "scratch", "mountPath": "/scratch"}]);
    pod["spec"]["volumes"] = json!([{"name": "scratch", "emptyDir": {"sizeLimit": "1Mi"}}]);
    cluster.apply(&pod.to_string()).unwrap();
    cluster.ready("default", &second).unwrap();
    assert_eq!(address_of(cluster, &second), address);
    served(cluster, &second, "OtherRole");

    // Evicted by the kubelet: it failed, and its object stays.
    cluster
        .exec("default", &second, &["dd", "if=/dev/zero", "of=/scratch/file", "bs=1M", "count=8"])
        .unwrap();
    let evicted = || cluster.pod("default", &second).unwrap()["status"]["reason"] == "Evicted";
    cluster.wait_for("it is evicted", evicted).unwrap();
    let third = format!("none-{node}");
    next_address(cluster, node, &address);
    run(cluster, &third, node, None);
    assert_eq!(address_of(cluster, &third), address);
    has_no_role(cluster, &third);

    // Deleted, and made again by the same name with another role.
    cluster.kubectl(&["delete", "pod", &third]).unwrap();
    next_address(cluster, node, &address);
    run(cluster, &third, node, Some("MyPodRole"));
    assert_eq!(address_of(cluster, &third), address);
    served(cluster, &third, "MyPodRole");
    cluster.say(&format!("{address} of {node} was four pods', each of which got its own"));
}

/// A pod that was deleted by force runs on until its kubelet hears of it: it gets 500 and nothing else, and its address
/// is nobody's.
fn force_deleted_pod_gets_nothing(cluster: &Cluster, node: &str) {
    let name = format!("forced-{node}");
    run(cluster, &name, node, Some("MyPodRole"));
    served(cluster, &name, "MyPodRole");
    let net = cluster.pod_net("default", &name).unwrap();
    let client = Client::imds(&net);
    cluster.node(node).stop_kubelet().unwrap();
    cluster.kubectl(&["delete", "pod", &name, "--force", "--grace-period=0"]).unwrap();
    let refused =
        || client.get("/latest/meta-data/iam/security-credentials/").is_ok_and(|it| it.status == 500);
    cluster.wait_for("it is nobody", refused).unwrap();
    let mut answers = BTreeSet::new();
    for path in ["", "MyPodRole", "OtherRole"] {
        let answer = client.get(&format!("/latest/meta-data/iam/security-credentials/{path}")).unwrap();
        answers.insert((answer.status, answer.text()));
    }
    assert_eq!(answers, BTreeSet::from([(500, String::new())]));
    cluster.node(node).start_kubelet().unwrap();
    cluster.node(node).wait_for_kubelet().unwrap();
    cluster.wait_for("its containers end", || client.connect().is_err()).unwrap();
    cluster.say(&format!("a pod of {node} that was deleted by force got nothing"));
}

/// P13, P18: a hundred pods at once are served each its own; an address is the live pod's that has it now, whatever became
/// of those before; a pod deleted by force gets nothing while it still runs.
#[test]
fn pods_that_come_and_go_get_their_own_and_never_what_was_anothers() {
    const NAME: &str = "cluster::pods";
    if let Some(why) = Cluster::helm_missing() {
        return skip(NAME, &why);
    }
    let Some(cluster) = Cluster::for_test(NAME, &Options::default()) else { return };
    cluster.namespace("default", &["MyPodRole", "OtherRole"]).unwrap();
    cluster.install(&[]).unwrap();
    let closed = Instant::now();
    crowd_is_served(&cluster);
    // Most of the time is spent waiting for kubelets.
    std::thread::scope(|scope| {
        for node in [BRIDGE, ROUTED] {
            let cluster = &cluster;
            scope.spawn(move || {
                addresses_go_to_other_pods(cluster, node);
                force_deleted_pod_gets_nothing(cluster, node);
            });
        }
    });
    let leaks = cluster.leaks(closed);
    assert!(leaks.is_empty(), "requests of pods that reached IMDS: {leaks:#?}");
}
