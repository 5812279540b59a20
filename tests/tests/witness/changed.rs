//! Something else behind the address of a pod that is still there, as far as the API server says.

use rolegate_tests::agent::Agent;
use rolegate_tests::topology::PodNet;
use rolegate_tests::world::{Options, World};

use crate::{
    HASTY, LIST, REFUSED, allow_all, becomes, both, clients, gets_nothing, is_in_the_trail, listed,
    plug_anew, refused,
};

/// P17: before the API server has said that an address is another pod's, what is new behind it gets nothing of the
/// earlier one's; then it gets its own.
#[test]
fn new_interface_behind_an_address_is_refused_until_its_pod_is_known() {
    let test = "new_interface_behind_an_address_is_refused_until_its_pod_is_known";
    let Some(world) = World::for_test(test, &Options::default()) else { return };
    allow_all(&world);
    let agent = world.agent(&[HASTY]).unwrap();
    let earlier = world.pod("default", "earlier", |pod| pod.role("MyPodRole")).unwrap();
    let beside = world.pod("default", "beside", |pod| pod.role("OtherRole")).unwrap();
    becomes(&agent, &earlier.net, &both("MyPodRole"));
    becomes(&agent, &beside.net, &both("OtherRole"));

    let (_, net) = plug_anew(&world, earlier);
    gets_nothing(&agent, &net);
    assert!(refused(&agent, "witness_changed") > 0.0);
    is_in_the_trail(&agent, "earlier", "witness_changed");
    assert_eq!(listed(&beside.net), both("OtherRole"), "who is beside it is served");

    assert!(world.cluster.delete_pod("default", "earlier").unwrap());
    let later = world.run(net, "default", "later", |pod| pod.role("OtherRole")).unwrap();
    becomes(&agent, &later.net, &both("OtherRole"));
}

/// On a bridge the interface is everybody's: the card behind an address tells pods apart.
#[test]
fn new_card_behind_an_address_of_a_bridge_is_refused_until_its_pod_is_known() {
    let test = "new_card_behind_an_address_of_a_bridge_is_refused_until_its_pod_is_known";
    let Some(world) = World::for_test(test, &Options::default()) else { return };
    allow_all(&world);
    let agent = world.agent(&[HASTY]).unwrap();
    let earlier = world.bridged_pod("default", "earlier", |pod| pod.role("MyPodRole")).unwrap();
    let beside = world.bridged_pod("default", "beside", |pod| pod.role("OtherRole")).unwrap();
    becomes(&agent, &earlier.net, &both("MyPodRole"));
    becomes(&agent, &beside.net, &both("OtherRole"));

    let (ip4, ip6) = (earlier.net.ip4(), earlier.net.ip6());
    drop(earlier);
    let net = world.topology.bridged_pod("anew", ip4, ip6).unwrap();
    gets_nothing(&agent, &net);
    is_in_the_trail(&agent, "earlier", "witness_changed");
    assert_eq!(listed(&beside.net), both("OtherRole"), "who is beside it is served");

    assert!(world.cluster.delete_pod("default", "earlier").unwrap());
    let later = world.run(net.into(), "default", "later", |pod| pod.role("OtherRole")).unwrap();
    becomes(&agent, &later.net, &both("OtherRole"));
}

/// What the runtime keeps of a sandbox's network, as libcni writes it.
fn result(uid: &str, ips: &[std::net::IpAddr]) -> String {
    let ips: Vec<_> = ips.iter().map(|ip| serde_json::json!({ "address": format!("{ip}/32") })).collect();
    serde_json::json!({
        "kind": "cniCacheV1", "containerId": "2a", "ifName": "eth0", "networkName": "k8s-pod-network",
        "cniArgs": [["IgnoreUnknown", "1"], ["K8S_POD_UID", uid]],
        "result": { "cniVersion": "1.0.0", "ips": ips },
    })
    .to_string()
}

/// A sandbox that dies is made again for the same pod: where its address stays, the runtime's own record tells.
#[test]
fn sandbox_made_again_with_its_address_is_served_by_the_runtimes_record() {
    let test = "sandbox_made_again_with_its_address_is_served_by_the_runtimes_record";
    let Some(world) = World::for_test(test, &Options::default()) else { return };
    allow_all(&world);
    let dir = tempfile::tempdir().unwrap();
    let agent = world.agent(&[HASTY, &format!("--cni-results={}", dir.path().display())]).unwrap();
    let pod = world.pod("default", "crashing", |pod| pod.role("MyPodRole")).unwrap();
    let record = |name: &str, uid: &str, ips: &[_]| {
        std::fs::write(dir.path().join(format!("k8s-pod-network-{name}-eth0")), result(uid, ips)).unwrap();
    };
    record("first", &pod.uid, &pod.net.ips());
    becomes(&agent, &pod.net, &both("MyPodRole"));

    let (uid, net) = plug_anew(&world, pod);
    gets_nothing(&agent, &net);
    record("stranger", "another-uid", &net.ips());
    let read = || Ok(refused(&agent, "witness_changed") > 0.0 && listed(&net) == REFUSED);
    agent.poll("a stranger's record lets nobody in", read).unwrap();
    record("second", &uid, &net.ips());
    becomes(&agent, &net, &both("MyPodRole"));
}

/// With `--redirect=none` others bring the requests, by a way that the agent does not know: addresses are believed, and
/// each time is counted.
#[test]
fn where_others_redirect_an_address_is_believed_and_that_is_counted() {
    let test = "where_others_redirect_an_address_is_believed_and_that_is_counted";
    let Some(world) = World::for_test(test, &Options::default()) else { return };
    allow_all(&world);
    let rule = "-w -t nat -A PREROUTING -p tcp -d 169.254.169.254 --dport 80 -j DNAT --to-destination 10.0.0.10:8181";
    world.topology.node().run("iptables-nft", &rule.split(' ').collect::<Vec<_>>()).unwrap();
    let mut flags = world.usual_flags();
    flags.retain(|flag| flag != "--iptables");
    flags.extend(["--redirect=none".into(), HASTY.into()]);
    let agent = Agent::start(world.topology.node(), &flags, &world.environment()).unwrap();
    agent.ready().unwrap();
    let pod = world.pod("default", "theirs", |pod| pod.role("MyPodRole")).unwrap();
    let served = |net: &PodNet| Ok(clients(net)[0].get(LIST)?.text() == "MyPodRole");
    agent.poll("it is served", || served(&pod.net)).unwrap();
    let (_, net) = plug_anew(&world, pod);
    agent.poll("so is whoever has its address", || served(&net)).unwrap();
    assert!(agent.metric("rolegate_identity_unwitnessed_total").unwrap() >= 2.0);
}
