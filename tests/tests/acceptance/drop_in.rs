//! kube2iam's own manifest with only the image changed: its arguments and its environment, in a container with a
//! service account, on nodes of either kind.

use std::collections::BTreeMap;

use base64::Engine as _;
use rolegate_tests::agent::{Agent, Line};
use rolegate_tests::imds::NODE_MARKER;
use rolegate_tests::topology::{NODE_V4, WORLD_V4, imds_v4, imds_v6};
use rolegate_tests::traffic::{Got, Traffic};
use rolegate_tests::world::{NODE_ROLE, RunningPod, World, arn};
use tokio::time::Instant;

use super::{served, world};

/// Where the kubelet mounts a service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What the manifest has beside the interface: `--host-ip=$(HOST_IP)`, `HOST_IP` from `status.podIP`.
fn start(world: &World, interface: &str) -> Agent {
    let args = [
        "--auto-discover-base-arn".to_owned(),
        format!("--host-interface={interface}"),
        format!("--host-ip={NODE_V4}"),
        "--iptables=true".to_owned(),
    ];
    let mut env = BTreeMap::from([
        ("HOST_IP".to_owned(), NODE_V4.to_string()),
        ("KUBERNETES_SERVICE_HOST".to_owned(), WORLD_V4.to_string()),
        ("KUBERNETES_SERVICE_PORT".to_owned(), "6443".to_owned()),
    ]);
    env.extend(world.environment());
    Agent::start_contained(world.topology.node(), &service_account(world), &args, &env).unwrap()
}

/// A script that mounts what the kubelet mounts.
fn service_account(world: &World) -> String {
    let kubeconfig = world.cluster.kubeconfig();
    let ca = regex::Regex::new(r#"certificate-authority-data"?: *"?([A-Za-z0-9+/=]+)"#).unwrap();
    let ca = base64::engine::general_purpose::STANDARD.decode(&ca.captures(&kubeconfig).unwrap()[1]).unwrap();
    let (ca, token) = (String::from_utf8(ca).unwrap(), world.cluster.token());
    format!(
        "mkdir -p {ACCOUNT}; cd {ACCOUNT}; printf %s kube-system > namespace; printf %s '{token}' > token
cat > ca.crt <<'END'\n{ca}\nEND\ncd /"
    )
}

/// The agent's own pod, which is how it finds its node.
fn own_pod(world: &World) {
    world.host_pod("kube-system", "kube2iam-7x2lq", |pod| pod.service_account("kube2iam")).unwrap();
}

/// Its log is text, as kube2iam's is by default.
fn says(agent: &Agent, what: &str) {
    agent.wait_for_line(what, |line| line.text.contains(what)).unwrap();
}

/// `/readyz` is not 200 and says why.
fn is_not_ready_because(agent: &Agent, why: &str) {
    let not_ready = || {
        let ready = agent.admin("/readyz");
        Ok(ready.is_ok_and(|ready| ready.status != 200 && ready.text().contains(why)))
    };
    agent.poll(why, not_ready).unwrap();
}

/// The line that says that it is ready: time, level, target, `ready`.
fn is_ready(line: &Line) -> bool {
    line.text.trim_end().ends_with(": ready")
}

/// The manifest on a node whose pod is made by `make`: served, and nobody gets the node's credentials.
fn serves(test: &str, interface: &str, make: impl Fn(&World) -> RunningPod) {
    let Some(world) = world(test) else { return };
    own_pod(&world);
    world.namespace("default", &["MyPodRole"]).unwrap();
    world.topology.bridge().unwrap();
    let begin = Instant::now();
    let agent = start(&world, interface);
    agent.ready().unwrap();
    let pod = make(&world);
    served(&world, &agent, &pod, "MyPodRole");

    agent.wait_for_line("it is ready", is_ready).unwrap();
    says(&agent, "namespace restrictions in force");
    says(&agent, "enforce: a namespace without the annotation allows nothing");
    says(&agent, "node found");
    let own =
        agent.wait_for_line("the node's own role", |line| line.text.contains("trust_statement")).unwrap();
    assert!(own.text.contains(&arn(NODE_ROLE)), "{own:?}");
    let statement = own.text.replace('\\', "");
    let principal = format!(r#""Principal":{{"AWS":"{}"}}"#, arn(NODE_ROLE));
    for part in [r#""Effect":"Allow""#, r#""Action":"sts:AssumeRole""#, &principal] {
        assert!(statement.contains(part), "{statement}");
    }
    // The manifest knows of no IPv6: what is not redirected is dropped.
    let traffic = Traffic::start(&pod.net, imds_v6());
    traffic.wait_for(3, |_| true).unwrap();
    assert!(traffic.seen().iter().all(|(_, got)| *got == Got::Nothing), "{:?}", traffic.seen());
    assert!(world.leaks(begin).is_empty(), "{:?}", world.leaks(begin));
}

#[test]
fn manifest_serves_on_a_node_with_cbr0() {
    serves("drop_in::manifest_serves_on_a_node_with_cbr0", "cbr0", |world| {
        world.bridged_pod("default", "aws-cli", |pod| pod.role("MyPodRole")).unwrap()
    });
}

#[test]
fn manifest_serves_on_a_routed_node_with_cali() {
    serves("drop_in::manifest_serves_on_a_routed_node_with_cali", "cali+", |world| {
        world.pod("default", "aws-cli", |pod| pod.role("MyPodRole")).unwrap()
    });
}

#[test]
fn manifest_serves_on_a_routed_node_with_cal() {
    serves("drop_in::manifest_serves_on_a_routed_node_with_cal", "cal+", |world| {
        world.pod("default", "aws-cli", |pod| pod.role("MyPodRole")).unwrap()
    });
}

#[test]
fn cbr0_on_a_routed_node_is_not_ready_and_no_pod_gets_the_nodes_credentials() {
    let test = "drop_in::cbr0_on_a_routed_node_is_not_ready_and_no_pod_gets_the_nodes_credentials";
    let Some(world) = world(test) else { return };
    own_pod(&world);
    world.namespace("default", &["MyPodRole"]).unwrap();
    let pod = world.pod("default", "aws-cli", |pod| pod.role("MyPodRole")).unwrap();
    let begin = Instant::now();
    let agent = start(&world, "cbr0");
    let link = pod.net.host_link();
    let mismatch = format!("--host-interface=cbr0 matches no interface, but pods are routed by {link}");
    is_not_ready_because(&agent, &mismatch);

    for imds in [imds_v4(), imds_v6()] {
        let traffic = Traffic::start(&pod.net, imds);
        traffic.wait_for(6, |_| true).unwrap();
        assert!(traffic.seen().iter().all(|(_, got)| *got == Got::Nothing), "{:?}", traffic.seen());
    }
    assert_ne!(agent.admin("/readyz").unwrap().status, 200);
    assert!(!agent.lines().iter().any(is_ready), "{}", agent.log());
    assert!(world.leaks(begin).is_empty(), "{:?}", world.leaks(begin));
    assert!(!agent.log().contains(NODE_MARKER));
}

#[test]
fn without_its_own_pod_it_says_so_and_never_watches_all_pods() {
    let test = "drop_in::without_its_own_pod_it_says_so_and_never_watches_all_pods";
    let Some(world) = world(test) else { return };
    world.namespace("default", &["MyPodRole"]).unwrap();
    world.pod("default", "aws-cli", |pod| pod.role("MyPodRole")).unwrap();
    let agent = start(&world, "cali+");
    says(&agent, "node not found");
    is_not_ready_because(&agent, "set --node");

    // Found as soon as the pod is there; until then pods were only ever asked for by the node's address.
    let asked = |world: &World| {
        let requests = world.cluster.double().map(|api| api.requests()).unwrap_or_default();
        let pods = requests.into_iter().filter(|request| request.path == "/api/v1/pods");
        pods.map(|request| request.query.get("fieldSelector").cloned().unwrap_or_default())
            .collect::<Vec<_>>()
    };
    let by_address = format!("status.podIP={NODE_V4}");
    assert!(asked(&world).iter().all(|selector| *selector == by_address), "{:?}", asked(&world));
    own_pod(&world);
    agent.ready().unwrap();
    let by_node = format!("spec.nodeName={}", rolegate_tests::world::NODE);
    assert!(
        asked(&world).iter().all(|selector| [&by_address, &by_node].contains(&selector)),
        "{:?}",
        asked(&world)
    );
}
