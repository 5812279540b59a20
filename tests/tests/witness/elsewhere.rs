//! Who comes by another interface than the one that its source is routed by.

use std::time::Duration;

use rolegate_tests::agent::Agent;
use rolegate_tests::netns::NetNs;
use rolegate_tests::topology::{IMDS_V4, IMDS_V6, NODE_V4, NODE_V6, PodNet, imds_v4, imds_v6};
use rolegate_tests::world::{Options, World};

use crate::{HASTY, LIST, allow_all, becomes, both, clients, is_in_the_trail, listed, refused};

/// Another namespace that has the pod's addresses, behind `cali99`; nothing is routed to it.
fn impostor(world: &World, pod: &PodNet) -> NetNs {
    let (node, ns) = (world.topology.node(), NetNs::create("impostor").unwrap());
    let (ip4, ip6) = (pod.ip4(), pod.ip6().unwrap());
    node.ip(&format!(
        "link add cali99 type veth peer name eth0 netns {}\naddr add fe80::1/64 dev cali99 nodad\nlink set cali99 up\n",
        ns.name()
    ))
    .unwrap();
    node.sysctl("net/ipv4/conf/cali99/proxy_arp", "1").unwrap();
    node.sysctl("net/ipv4/neigh/cali99/proxy_delay", "0").unwrap();
    ns.ip(&format!(
        "link set eth0 up\naddr add {ip4}/32 dev eth0\nroute add 169.254.1.1 dev eth0 scope link\n\
         route add default via 169.254.1.1\naddr add {ip6}/128 dev eth0 nodad\nroute add ::/0 via fe80::1 dev eth0\n"
    ))
    .unwrap();
    ns
}

/// Answers for the pod's addresses go to the impostor, whatever the node's route to them is; `verb`: add or del.
fn answers_go_astray(world: &World, pod: &PodNet, verb: &str) {
    let node = world.topology.node();
    let families = [
        ("-4", pod.ip4().to_string(), [IMDS_V4.to_string(), NODE_V4.to_string()]),
        ("-6", pod.ip6().unwrap().to_string(), [IMDS_V6.to_string(), NODE_V6.to_string()]),
    ];
    for (family, to, froms) in families {
        node.run("ip", &[family, "route", verb, &to, "dev", "cali99", "table", "99"]).unwrap();
        for from in froms {
            let rule = ["pref", "90", "from", &from, "to", &to, "lookup", "99"];
            node.run("ip", &[&[family, "rule", verb][..], &rule].concat()).unwrap();
        }
    }
}

/// P14: under either capture, over both families, who comes by another interface than its source is routed by gets
/// nothing: the kernel drops it by the guard; and where the node's rules send answers to it, so that the guard lets it
/// pass and it is connected, the agent refuses.
#[test]
fn connection_from_elsewhere_than_the_route_to_its_source_gets_nothing() {
    let test = "connection_from_elsewhere_than_the_route_to_its_source_gets_nothing";
    for redirect in ["--redirect=iptables", "--redirect=route"] {
        let Some(world) = World::for_test(test, &Options::default()) else { return };
        allow_all(&world);
        let pod = world.pod("default", "honest", |pod| pod.role("MyPodRole")).unwrap();
        let mut flags = world.usual_flags();
        flags.retain(|flag| flag != "--iptables");
        flags.extend([redirect.into(), HASTY.into()]);
        let agent = Agent::start(world.topology.node(), &flags, &world.environment()).unwrap();
        agent.ready().unwrap();
        becomes(&agent, &pod.net, &both("MyPodRole"));

        let rogue = impostor(&world, &pod.net);
        for imds in [imds_v4(), imds_v6()] {
            assert!(rogue.connect(imds, Duration::from_secs(1)).is_err(), "{redirect}: the guard drops it");
        }
        assert_eq!(refused(&agent, "wrong_interface"), 0.0);

        answers_go_astray(&world, &pod.net, "add");
        for client in
            [rolegate_tests::http::Client::imds(&rogue), rolegate_tests::http::Client::new(&rogue, imds_v6())]
        {
            let token = client.imds_token(60).unwrap();
            for path in ["", "MyPodRole"].map(|path| format!("{LIST}{path}")) {
                for answer in [client.get(&path).unwrap(), client.get_v2(&path, &token).unwrap()] {
                    assert_eq!(
                        (answer.status, answer.text().as_str()),
                        (500, ""),
                        "{redirect}: {}",
                        agent.log()
                    );
                }
            }
        }
        assert_eq!(refused(&agent, "wrong_interface"), 8.0, "{redirect}");
        is_in_the_trail(&agent, "honest", "wrong_interface");

        answers_go_astray(&world, &pod.net, "del");
        assert_eq!(listed(&pod.net), both("MyPodRole"), "{redirect}: who is where it was is served");
        for client in clients(&pod.net) {
            assert_eq!(client.credentials().unwrap()["Code"], "Success");
        }
    }
}
