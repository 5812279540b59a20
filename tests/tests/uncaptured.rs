//! Who connects to the agent's own port, past the rules, is told that it lives and nothing else.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rolegate_tests::agent::METRICS_PORT;
use rolegate_tests::http::Client;
use rolegate_tests::topology::{NODE_V4, NODE_V6, SNAT_V4, SNAT_V6};
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

/// P12: where the operator made the two ports one there is `/metrics` as well, and nothing else.
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

/// What the agent shows operators.
const PAGES: [&str; 8] = [
    "/healthz",
    "/livez",
    "/readyz",
    "/readyz/pods",
    "/readyz/identity",
    "/metrics",
    "/debug/store",
    "/debug/log-level",
];

/// The ports that somebody listens on in the node's namespace: all are the agent's, since nothing else runs there.
fn listening(world: &World) -> BTreeSet<u16> {
    let list = world.topology.node().run("ss", &["-Hltun"]).unwrap();
    let port = |line: &str| line.split_whitespace().nth(4)?.rsplit_once(':')?.1.parse().ok();
    list.lines().map(|line| port(line).unwrap_or_else(|| panic!("{line}"))).collect()
}

/// P12: at every address of the node but those of IMDS, none of the agent's sockets serves credentials or tokens to a pod, the
/// node or another host, and its own port has `/healthz` alone; also to a connection that another rule brought there.
#[test]
fn no_socket_of_the_agent_serves_credentials_at_an_address_of_the_node() {
    let test = "no_socket_of_the_agent_serves_credentials_at_an_address_of_the_node";
    let Some(world) = world(test) else { return };
    let bridged = world.bridged_pod("default", "bridged", |pod| pod.role("MyPodRole")).unwrap();
    let routed = world.pod("default", "routed", |pod| pod.role("MyPodRole")).unwrap();
    let agent = world.agent(&["--debug"]).unwrap();
    for pod in [&bridged, &routed] {
        let served = || Ok(pod.imds().credentials().is_ok_and(|document| document["Code"] == "Success"));
        agent.poll("credentials are there to be had", served).unwrap();
    }
    assert_eq!(listening(&world), BTreeSet::from([APP_PORT, METRICS_PORT]));
    let issued = agent.metric("rolegate_credentials_issued_total").unwrap();

    // Another's rule for a port of the node.
    let rule =
        ["-w", "-t", "nat", "-I", "PREROUTING", "-d", &SNAT_V4.to_string(), "-p", "tcp", "--dport", "80"];
    let target = ["-j", "DNAT", "--to-destination", &format!("{NODE_V4}:{APP_PORT}")];
    world.topology.node().run("iptables-nft", &[&rule[..], &target].concat()).unwrap();

    let eth0: [IpAddr; 4] = [NODE_V4.into(), NODE_V6.into(), SNAT_V4.into(), SNAT_V6.into()];
    let bridge: [IpAddr; 2] = [Ipv4Addr::new(100, 96, 1, 1).into(), "fd00:64:1::1".parse().unwrap()];
    let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let clients = [
        ("routed pod", routed.net.ns(), [&eth0[..], &bridge].concat()),
        ("bridged pod", bridged.net.ns(), [&eth0[..], &bridge].concat()),
        ("outside", world.topology.outside(), eth0.to_vec()),
        ("node", &**world.topology.node(), [&eth0[..], &bridge, &loopback].concat()),
    ];
    for (who, ns, addresses) in clients {
        for address in addresses {
            let row = format!("{who} at {address}");
            assert_no_door(&row, Client::new(ns, (address, APP_PORT).into()));
            let admin = Client::new(ns, (address, METRICS_PORT).into());
            for path in PATHS.iter().filter(|path| path.starts_with("/latest")) {
                let answer = admin.get(path).unwrap();
                assert_eq!(answer.status, 404, "{row}, {path}: {}", answer.text());
            }
            let ttl = [("X-aws-ec2-metadata-token-ttl-seconds", "60"), ("Content-Length", "0")];
            assert_ne!(admin.request("PUT", "/latest/api/token", &ttl).unwrap().status, 200, "{row}");
        }
        if who != "node" {
            assert_no_door(&format!("{who} by another rule"), Client::new(ns, (SNAT_V4, 80).into()));
        }
    }
    assert_eq!(agent.metric("rolegate_credentials_issued_total").unwrap(), issued);
}

/// P16: health, metrics and debug pages are not on the captured socket, whatever the flags; and what of them a pod can read on
/// the node's address by default has no role's ARN and no pod's address.
#[test]
fn pages_for_operators_are_not_on_the_captured_socket_and_tell_a_pod_nothing() {
    let test = "pages_for_operators_are_not_on_the_captured_socket_and_tell_a_pod_nothing";
    let Some(world) = world(test) else { return };
    let pod = world.pod("default", "pod", |pod| pod.role("MyPodRole")).unwrap();
    for flags in [&[][..], &["--debug"], &["--debug", "--metrics-port=8181"]] {
        let agent = world.start_agent(flags).unwrap();
        let served = || Ok(pod.imds().credentials().is_ok_and(|document| document["Code"] == "Success"));
        agent.poll("the pod is served", served).unwrap();
        for path in PAGES {
            for client in [pod.imds(), pod.imds_v6()] {
                let answer = client.get(path).unwrap();
                assert_eq!((answer.status, answer.text().as_str()), (404, ""), "{flags:?}, {path}");
            }
        }
        if flags.is_empty() {
            let mut told = String::new();
            for port in [APP_PORT, METRICS_PORT] {
                for address in [IpAddr::from(NODE_V4), NODE_V6.into()] {
                    let client = Client::new(pod.net.ns(), (address, port).into());
                    told.extend(PAGES.map(|path| client.get(path).unwrap().text()));
                }
            }
            assert!(told.contains("rolegate_requests_total"), "what a pod can read: {told}");
            let mut secrets: Vec<String> = pod.net.ips().iter().map(IpAddr::to_string).collect();
            secrets.extend(["arn:aws", "MyPodRole", NODE_ROLE, "123456789012"].map(str::to_owned));
            for secret in secrets {
                let line = told.lines().find(|line| line.contains(&secret));
                assert_eq!(line, None, "{secret}");
            }
        }
        agent.kill9().unwrap();
    }
}
