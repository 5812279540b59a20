//! Addresses that several pods claim, in every order and spelling, or nobody in particular.

use std::net::IpAddr;

use rolegate_tests::http::Client;
use rolegate_tests::topology::{NODE_V4, NODE_V6, PodNet, SNAT_V4};
use rolegate_tests::world::arn;

use crate::scene::{Is, LIST, Scene, texts, v4, v6};

/// P13: an address that is not exactly one live pod's of this node, on the pod network, gets no credentials, nor
/// anything else but a token.
#[test]
fn address_of_anything_but_one_live_pod_of_this_node_gets_nothing() {
    let test = "address_of_anything_but_one_live_pod_of_this_node_gets_nothing";
    let Some(mut scene) = Scene::hasty(test) else { return };
    let rows: [(&str, &[Is], bool); 11] = [
        ("a live pod's", &[Is::Live], true),
        ("a pod's that is not running yet", &[Is::Pending], true),
        ("a terminating pod's", &[Is::Terminating], true),
        ("nobody's", &[], false),
        ("a pod's of another node", &[Is::OnAnotherNode], false),
        ("a pod's of no node", &[Is::Unscheduled], false),
        ("a pod's that has succeeded", &[Is::Succeeded], false),
        ("a pod's that has failed", &[Is::Failed], false),
        ("a pod's of the host's network", &[Is::HostNetwork], false),
        ("of two pods of the host's network", &[Is::HostNetwork, Is::HostNetwork], false),
        ("two live pods'", &[Is::Live, Is::Live], false),
    ];
    let nets: Vec<PodNet> = rows.iter().map(|_| scene.net()).collect();
    for ((row, claims, _), net) in rows.iter().zip(&nets) {
        // Everybody's was a pod's once.
        let name = |n: usize| format!("{}-{n}", net.ns().name().trim_start_matches("rg"));
        scene.apply(&name(0), Is::Live, "MyPodRole", &texts(&net.ips()));
        scene.settle();
        scene.expect(row, v4(net), Some("MyPodRole"));
        scene.delete(&name(0));
        for (n, is) in claims.iter().enumerate() {
            scene.apply(&name(n), *is, "MyPodRole", &texts(&net.ips()));
        }
    }
    scene.settle();
    for ((row, _, served), net) in rows.iter().zip(&nets) {
        for client in [v4(net), v6(net)] {
            scene.expect(row, client, served.then_some("MyPodRole"));
        }
    }
    let calls = scene.world.sts.calls();
    assert!(calls.iter().all(|call| call.role != arn("DefaultRole")), "{calls:?}");
}

/// K9: annotated pods of the host's network are not who asks from the node's address, be it a pod whose source was
/// translated, or a host process; and no pod is that claims the address.
#[test]
fn nodes_own_address_is_nobodys_whatever_claims_it() {
    let Some(mut scene) = Scene::hasty("nodes_own_address_is_nobodys_whatever_claims_it") else { return };
    let net = scene.net();
    scene.apply("pod", Is::Live, "MyPodRole", &texts(&net.ips()));
    scene.settle();
    scene.expect("as itself", v4(&net), Some("MyPodRole"));
    let node = scene.world.topology.node();
    for (program, ip, source) in [
        ("iptables-nft", net.ip4().to_string(), NODE_V4.to_string()),
        ("ip6tables-nft", net.ip6().unwrap().to_string(), NODE_V6.to_string()),
    ] {
        let rule = ["-w", "-t", "nat", "-A", "INPUT", "-s", &ip, "-p", "tcp", "--dport", "8181"];
        node.run(program, &[&rule[..], &["-j", "SNAT", "--to-source", &source]].concat()).unwrap();
    }
    let sample = "rolegate_identity_refused_total{reason=\"node_address\"}";
    let own = [NODE_V4.to_string(), NODE_V6.to_string()];
    let claims =
        [("nobody", None), ("host-network", Some(Is::HostNetwork)), ("on-the-pod-network", Some(Is::Live))];
    for (row, claim) in claims {
        if let Some(is) = claim {
            scene.apply(row, is, "OtherRole", &own);
        }
        scene.settle();
        let before = scene.agent.metric(sample).unwrap();
        for client in [v4(&net), v6(&net)] {
            scene.expect(row, client, None);
        }
        assert!(scene.agent.metric(sample).unwrap() > before, "{row}: {}", scene.agent.log());
        for address in [(IpAddr::V4(NODE_V4), 8181), (NODE_V6.into(), 8181), (SNAT_V4.into(), 8181)] {
            let answer = Client::new(scene.world.topology.node(), address.into()).get(LIST).unwrap();
            assert_eq!(answer.status, 404, "{row}, a host process at {address:?}: {}", answer.text());
        }
    }
    let calls = scene.world.sts.calls();
    assert!(calls.iter().all(|call| call.role != arn("DefaultRole")), "{calls:?}");
}

/// A name, who claims the address, and whose it is.
type Row = (&'static str, &'static [(Is, &'static str)], Option<&'static str>);

const MINE: &str = "MyPodRole";
const OTHER: &str = "OtherRole";

/// P18: two live pods with one address are both refused, but those that are being deleted yield to exactly one that is
/// not; a pod that has ended counts for nothing.
#[test]
fn claimants_of_one_address_are_served_only_where_exactly_one_stays() {
    let Some(mut scene) = Scene::hasty("claimants_of_one_address_are_served_only_where_exactly_one_stays")
    else {
        return;
    };
    let net = scene.net();
    let rows: &[Row] = &[
        ("one", &[(Is::Live, MINE)], Some(MINE)),
        ("two live", &[(Is::Live, MINE), (Is::Live, OTHER)], None),
        ("the first terminates", &[(Is::Terminating, MINE), (Is::Live, OTHER)], Some(OTHER)),
        ("the second terminates", &[(Is::Live, MINE), (Is::Terminating, OTHER)], Some(MINE)),
        ("both terminate", &[(Is::Terminating, MINE), (Is::Terminating, OTHER)], None),
        ("one is left and terminates", &[(Is::Terminating, OTHER)], Some(OTHER)),
        ("one has succeeded", &[(Is::Succeeded, MINE), (Is::Live, OTHER)], Some(OTHER)),
        ("one has failed", &[(Is::Live, MINE), (Is::Failed, OTHER)], Some(MINE)),
        (
            "one has succeeded and terminates",
            &[(Is::SucceededAndTerminating, MINE), (Is::Live, OTHER)],
            Some(OTHER),
        ),
        (
            "one has succeeded, the other terminates",
            &[(Is::Succeeded, MINE), (Is::Terminating, OTHER)],
            Some(OTHER),
        ),
        ("both have ended", &[(Is::Succeeded, MINE), (Is::Failed, OTHER)], None),
        ("one is not running yet", &[(Is::Pending, MINE), (Is::Live, OTHER)], None),
        (
            "two terminate, one stays",
            &[(Is::Terminating, MINE), (Is::Terminating, MINE), (Is::Live, OTHER)],
            Some(OTHER),
        ),
        ("one terminates, two stay", &[(Is::Terminating, MINE), (Is::Live, MINE), (Is::Live, OTHER)], None),
        ("two of one role", &[(Is::Live, MINE), (Is::Live, MINE)], None),
        ("a host-network pod beside it", &[(Is::HostNetwork, MINE), (Is::Live, OTHER)], Some(OTHER)),
        ("a pod of another node beside it", &[(Is::OnAnotherNode, MINE), (Is::Live, OTHER)], Some(OTHER)),
    ];
    for (n, (row, claims, wanted)) in rows.iter().enumerate() {
        let names: Vec<String> = (0..claims.len()).map(|of| format!("row{n}-{of}")).collect();
        for (name, (is, role)) in names.iter().zip(*claims) {
            scene.apply(name, *is, role, &texts(&net.ips()));
        }
        scene.settle();
        for client in [v4(&net), v6(&net)] {
            scene.expect(row, client, *wanted);
        }
        for name in &names {
            scene.delete(name);
        }
    }
}

/// P20: both addresses of a pod give its role, in whatever order and spelling its status has them; what the status does not
/// have is not the pod's.
#[test]
fn addresses_of_a_pod_are_its_own_in_any_order_and_spelling() {
    let Some(mut scene) = Scene::hasty("addresses_of_a_pod_are_its_own_in_any_order_and_spelling") else {
        return;
    };
    let net = scene.net();
    let (ip4, ip6) = (net.ip4(), net.ip6().unwrap());
    let (four, six) = (ip4.to_string(), ip6.to_string());
    let in_full = ip6.segments().map(|segment| format!("{segment:04X}")).join(":");
    let mapped = ip4.to_ipv6_mapped().to_string();
    let in_hex =
        format!("::FFFF:{:x}:{:x}", ip4.to_ipv6_mapped().segments()[6], ip4.to_ipv6_mapped().segments()[7]);
    let rows: [(&str, Vec<String>, bool, bool); 9] = [
        ("IPv4 first", vec![four.clone(), six.clone()], true, true),
        ("IPv6 first", vec![six.clone(), four.clone()], true, true),
        ("IPv4 alone", vec![four.clone()], true, false),
        ("IPv6 alone", vec![six.clone()], false, true),
        ("IPv6 in full", vec![four.clone(), in_full], true, true),
        ("IPv4 mapped", vec![mapped.clone(), six.clone()], true, true),
        ("IPv4 mapped, in hex, last", vec![six.clone(), in_hex], true, true),
        ("IPv4 twice, once mapped", vec![four.clone(), mapped], true, false),
        ("none yet", vec![], false, false),
    ];
    let strict = scene.world.cluster.double().is_err();
    for (n, (row, ips, has_v4, has_v6)) in rows.iter().enumerate() {
        if strict && row.contains("mapped") {
            continue;
        }
        let name = format!("row{n}");
        scene.apply(&name, Is::Live, "MyPodRole", ips);
        scene.settle();
        for (client, has) in [(v4(&net), has_v4), (v6(&net), has_v6)] {
            scene.expect(row, client, has.then_some("MyPodRole"));
        }
        scene.delete(&name);
    }
}

#[test]
fn address_that_two_pods_share_is_neithers_and_their_others_are_theirs() {
    let Some(mut scene) = Scene::hasty("address_that_two_pods_share_is_neithers_and_their_others_are_theirs")
    else {
        return;
    };
    let (one, two) = (scene.net(), scene.net());
    let six = one.ip6().unwrap().to_string();
    scene.apply("one", Is::Live, "MyPodRole", &texts(&one.ips()));
    scene.apply("two", Is::Live, "OtherRole", &[two.ip4().to_string(), six.clone()]);
    scene.settle();
    scene.expect("the first one's own", v4(&one), Some("MyPodRole"));
    scene.expect("the second one's own", v4(&two), Some("OtherRole"));
    scene.expect("the shared one", v6(&one), None);
    scene.expect("nobody's", v6(&two), None);
    // The second one takes it over.
    scene.apply("one", Is::Live, "MyPodRole", &[one.ip4().to_string()]);
    scene.settle();
    scene.expect("the first one's own", v4(&one), Some("MyPodRole"));
    scene.expect("the second one's now", v6(&one), Some("OtherRole"));
}
