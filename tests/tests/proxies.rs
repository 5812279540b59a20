//! Proxies that the agent's environment names, as a node's often does: only TLS to AWS goes through one.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rolegate_tests::agent::Agent;
use rolegate_tests::imds::{NODE_MARKER, TOKEN_MARKER};
use rolegate_tests::topology::WORLD_V4;
use rolegate_tests::world::{Options, World};

const VARIABLES: [&str; 6] =
    ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

/// What came to a proxy: the first bytes of each connection, which it then closes.
fn recorder(listener: TcpListener) -> Arc<Mutex<Vec<String>>> {
    let seen = Arc::<Mutex<Vec<String>>>::default();
    let record = Arc::clone(&seen);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(mut stream), mut bytes) = (stream, [0; 4096]) else { return };
            let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
            let length = stream.read(&mut bytes).unwrap_or_default();
            record.lock().push(String::from_utf8_lossy(&bytes[..length]).into_owned());
        }
    });
    seen
}

/// An agent with proxies in its environment, and what comes to them.
fn proxied(world: &World, sts: &str) -> (Agent, Arc<Mutex<Vec<String>>>) {
    let address = SocketAddr::from((WORLD_V4, 3128));
    let seen = recorder(world.topology.world().listen(address).unwrap());
    let mut environment = world.environment();
    environment.insert("AWS_ENDPOINT_URL_STS".into(), sts.into());
    environment.extend(VARIABLES.map(|name| (name.to_owned(), format!("http://{address}"))));
    environment.insert("NO_PROXY".into(), "unrelated.example".into());
    (Agent::start(world.topology.node(), &world.usual_flags(), &environment).unwrap(), seen)
}

/// K23: proxies of the environment see no request to IMDS or the API server, nor anything else that is not TLS: no token
/// and no credentials.
#[test]
fn proxies_of_the_environment_see_nothing_that_is_plain() {
    let test = "proxies_of_the_environment_see_nothing_that_is_plain";
    let Some(world) = World::for_test(test, &Options::default()) else { return };
    world.namespace("default", &["MyPodRole"]).unwrap();
    let (agent, seen) = proxied(&world, &world.sts.url());
    agent.ready().unwrap();
    let pod = world.pod("default", "aws-cli", |pod| pod.role("MyPodRole")).unwrap();
    let served = || Ok(pod.imds().credentials().is_ok_and(|document| document["Code"] == "Success"));
    agent.poll("the pod has its credentials", served).unwrap();
    for path in ["/latest/meta-data/instance-id", "/latest/meta-data/placement/availability-zone"] {
        assert_eq!(pod.imds().get(path).unwrap().status, 200, "{path}");
    }
    assert!(!world.imds().requests().is_empty() && world.sts.assume_role_calls() > 0);
    assert_eq!(*seen.lock(), Vec::<String>::new(), "{}", agent.log());
}

/// STS may be behind one: it is asked for a tunnel, through which goes TLS.
#[test]
fn proxy_of_the_environment_is_asked_for_a_tunnel_to_sts() {
    let test = "proxy_of_the_environment_is_asked_for_a_tunnel_to_sts";
    let Some(world) = World::for_test(test, &Options::default()) else { return };
    let (agent, seen) = proxied(&world, "https://sts.example");
    agent.poll("the proxy is asked", || Ok(!seen.lock().is_empty())).unwrap();
    for request in &*seen.lock() {
        assert!(request.starts_with("CONNECT sts.example:443 HTTP/1.1\r\n"), "{request}");
        assert!(!request.to_lowercase().contains("authorization"), "{request}");
        assert!(!request.contains(NODE_MARKER) && !request.contains(TOKEN_MARKER), "{request}");
    }
}
