//! Links, uplinks and pods' routes as the kernel has them.

use std::net::IpAddr;

use futures::FutureExt;
use rolegate_iptables::links::pod_links;
use rolegate_iptables::{InterfaceSpec, LinkWatch, Links};

use crate::host::{Netns, can_run};

fn read(netns: &Netns) -> Links {
    netns.block_on(|| async { Links::read().await.expect("links") })
}

#[test]
fn uplinks_are_the_devices_of_default_routes_of_both_families() {
    if !can_run("uplinks_are_the_devices_of_default_routes_of_both_families", &[]) {
        return;
    }
    let netns = Netns::new();
    assert!(read(&netns).uplinks.is_empty());
    netns.sh(
        "for i in 0 1 2 3 4; do ip link add up$i type bridge; ip addr add 10.9.$i.2/24 dev up$i; ip link set up$i up; done
         ip route add default nexthop via 10.9.0.1 dev up0 nexthop via 10.9.1.1 dev up1
         ip -6 addr add fd00:9::2/64 dev up2 nodad; ip -6 route add default via fd00:9::1 dev up2
         ip route add default via 10.9.3.1 dev up3 table 100
         ip route add 10.0.0.0/8 via 10.9.4.1 dev up4; ip route add unreachable default metric 999",
    );
    let uplinks: Vec<String> = read(&netns).uplinks.into_iter().collect();
    assert_eq!(uplinks, ["up0", "up1", "up2"]);
}

#[test]
fn pods_are_found_by_the_route_that_the_node_has_to_them() {
    if !can_run("pods_are_found_by_the_route_that_the_node_has_to_them", &[]) {
        return;
    }
    let netns = Netns::new();
    netns.sh(
        "for n in cali1 cali2 eth0; do ip link add $n type bridge; ip link set $n up; done
         ip addr add 10.0.0.10/24 dev eth0; ip route add default via 10.0.0.1
         ip route add 10.1.0.1 dev cali1; ip -6 route add fd00:1::2 dev cali2; ip route add prohibit 10.1.0.7",
    );
    let pods = ["10.1.0.1", "fd00:1::2", "10.1.0.7", "10.1.0.8", "10.0.0.10", "2001:db8::1"];
    let pods: Vec<IpAddr> = pods.iter().map(|pod| pod.parse().expect("address")).collect();
    let report = |spec: &'static str| {
        let pods = pods.clone();
        netns.block_on(move || async move {
            let (links, routed) =
                (Links::read().await.expect("links"), pod_links(&pods).await.expect("routes"));
            links.report(&InterfaceSpec::parse(spec).expect("spec"), &routed)
        })
    };
    let wrong = report("cbr0");
    assert!(wrong.matching.is_empty());
    assert_eq!(
        wrong.elsewhere.into_iter().collect::<Vec<_>>(),
        [("cali1".to_owned(), 1), ("cali2".to_owned(), 1)]
    );
    let right = report("cal+");
    assert_eq!(right.matching, ["cali1", "cali2"]);
    assert!(right.elsewhere.is_empty());
}

#[test]
fn a_burst_of_changes_is_told_once_and_routes_and_rules_are_told_too() {
    if !can_run("a_burst_of_changes_is_told_once_and_routes_and_rules_are_told_too", &[]) {
        return;
    }
    let netns = Netns::new();
    let changing = netns.clone();
    netns.block_on(move || async move {
        let mut watch = LinkWatch::new().expect("watch");
        assert!(watch.changed().now_or_never().is_none(), "nothing has changed");
        for change in [
            "for i in 1 2 3 4 5 6 7 8; do ip link add d$i type bridge; done",
            "ip link del d1",
            "ip addr add 10.5.0.1/24 dev lo",
            "ip -6 route add fd00:5::/64 dev lo",
            "ip rule add pref 5 lookup main",
            "ip -6 rule add pref 5 lookup main",
        ] {
            changing.sh(change);
            watch.changed().await.expect("told");
            assert!(watch.changed().now_or_never().is_none(), "told twice: {change}");
        }
    });
}
