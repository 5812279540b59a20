//! Who connects to the agent's own port, past the rules, is told that it lives and nothing else.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::net::SocketAddr;

use rolegate_tests::http::Client;
use rolegate_tests::topology::{NODE_V4, NODE_V6};
use rolegate_tests::world::{NODE_ROLE, Options, World};

const APP_PORT: u16 = 8181;
const PATHS: [&str; 8] = [
    "/",
    "/latest/",
    "/latest/meta-data/iam/security-credentials/",
    "/latest/meta-data/iam/security-credentials/MyPodRole",
    "/latest/meta-data/placement/region",
    "/latest/user-data",
    "/readyz",
    "/debug/store",
];

fn world(test: &str) -> Option<World> {
    let world = World::for_test(test, &Options::default())?;
    world.namespace("default", &["MyPodRole"]).unwrap();
    Some(world)
}

/// Every client there is, straight to the agent's port: a pod, another host, the node, and over IPv6.
fn everybody(world: &World, each: impl Fn(&str, Client<'_>)) {
    let pod = world.pod("default", "aws-cli", |pod| pod.role("MyPodRole")).unwrap();
    let (v4, v6) = (SocketAddr::from((NODE_V4, APP_PORT)), SocketAddr::from((NODE_V6, APP_PORT)));
    let topology = &world.topology;
    for (who, ns) in [("pod", pod.net.ns()), ("outside", topology.outside()), ("node", &**topology.node())] {
        each(who, Client::new(ns, v4));
        each(who, Client::new(ns, v6));
    }
    each("loopback", Client::new(topology.node(), ([127, 0, 0, 1], APP_PORT).into()));
}

fn assert_no_door(who: &str, client: Client<'_>) {
    for path in PATHS {
        // As the SDKs ask, whose Host is IMDS whatever they connect to.
        for headers in [&[][..], &[("X-aws-ec2-metadata-token", "any")]] {
            let answer = client.request("GET", path, headers).unwrap();
            assert_eq!(answer.status, 404, "{who} {path}: {}", answer.text());
        }
        let spoofed =
            format!("GET {path} HTTP/1.1\r\nHost: 169.254.169.254\r\nX-Forwarded-For: 127.0.0.1\r\n\r\n");
        assert_eq!(client.raw(spoofed.as_bytes()).unwrap().status, 404, "{who} {path}");
    }
    let ttl = [("X-aws-ec2-metadata-token-ttl-seconds", "60"), ("Content-Length", "0")];
    let token = client.request("PUT", "/latest/api/token", &ttl).unwrap();
    assert_eq!((token.status, token.text().len() < 20), (404, true), "{who}: {}", token.text());
    assert_eq!(client.get("/healthz").unwrap().status, 200, "{who}");
}

#[test]
fn connection_past_the_rules_gets_healthz_and_404() {
    let Some(world) = world("connection_past_the_rules_gets_healthz_and_404") else { return };
    let agent = world.agent(&["--debug"]).unwrap();
    everybody(&world, |who, client| {
        assert_no_door(who, client);
        assert_eq!(client.get("/metrics").unwrap().status, 404, "{who}");
    });
    assert_eq!(agent.metric("rolegate_credentials_issued_total").unwrap(), 0.0);
}

#[test]
fn metrics_are_there_too_where_both_ports_are_one() {
    let Some(world) = world("metrics_are_there_too_where_both_ports_are_one") else { return };
    // Readiness has no page there.
    let agent = world.start_agent(&["--metrics-port=8181", "--debug"]).unwrap();
    agent.poll("it lives", || Ok(agent.admin("/healthz").is_ok_and(|answer| answer.status == 200))).unwrap();
    everybody(&world, |who, client| {
        assert_no_door(who, client);
        let page = client.get("/metrics").unwrap();
        assert!(page.text().contains("\nrolegate_connections_total{"), "{who}: {}", page.text());
    });
}

#[test]
fn pod_of_the_hosts_network_gets_nothing_of_the_agent() {
    let Some(world) = world("pod_of_the_hosts_network_gets_nothing_of_the_agent") else { return };
    world.node_asks();
    world.host_pod("default", "host-pod", |pod| pod.role("MyPodRole")).unwrap();
    let pod = world.pod("default", "pod", |pod| pod.role("MyPodRole")).unwrap();
    let agent = world.agent(&[]).unwrap();
    assert_eq!(pod.imds().credentials().unwrap()["Code"], "Success", "{}", agent.log());
    // It is the node to IMDS, which is what hostNetwork means; of the agent it gets no door.
    let node = world.topology.node();
    assert_eq!(Client::imds(node).role_list("").unwrap().status, 401, "the real service, not the agent");
    let list = Client::imds(node).get("/latest/meta-data/iam/security-credentials/").unwrap();
    assert_eq!(list.text(), NODE_ROLE);
    assert_no_door("host pod", Client::new(node, (NODE_V4, APP_PORT).into()));
    let calls = world.sts.calls();
    let prefetched = calls.iter().filter(|call| call.session_name.contains("host")).count();
    assert_eq!(prefetched, 0, "{calls:?}");
}
