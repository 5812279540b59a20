//! Proxies that the agent's environment names, as a node's often does: only TLS to AWS goes through one.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rolegate_tests::agent::Agent;
use rolegate_tests::imds::{NODE_MARKER, TOKEN_MARKER};
use rolegate_tests::topology::WORLD_V4;
use rolegate_tests::world::{NODE_ROLE, Options, World};

/// The proxy's, beside STS and the API server.
const PORT: u16 = 3128;
const VARIABLES: [&str; 6] =
    ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

/// What comes to a proxy: the first bytes of each connection, which it then closes.
fn recorder(world: &World) -> Arc<Mutex<Vec<String>>> {
    let listener = world.topology.world().listen((WORLD_V4, PORT).into()).unwrap();
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

/// An agent with the recorder as every proxy of its environment.
fn proxied(world: &World, sts: &str, flags: &[&str]) -> Agent {
    let mut environment = world.environment();
    environment.insert("AWS_ENDPOINT_URL_STS".into(), sts.into());
    environment.extend(VARIABLES.map(|name| (name.to_owned(), format!("http://{WORLD_V4}:{PORT}"))));
    environment.insert("NO_PROXY".into(), "unrelated.example".into());
    let flags = [world.usual_flags(), flags.iter().map(|flag| (*flag).to_owned()).collect()].concat();
    Agent::start(world.topology.node(), &flags, &environment).unwrap()
}

/// K23: proxies of the environment see no request to IMDS or the API server, nor anything else that is not TLS: no token
/// and no credentials.
#[test]
fn proxies_of_the_environment_see_nothing_that_is_plain() {
    let test = "proxies_of_the_environment_see_nothing_that_is_plain";
    let Some(world) = World::for_test(test, &Options::default()) else { return };
    world.namespace("default", &["MyPodRole"]).unwrap();
    let pod = world.pod("default", "aws-cli", |pod| pod.role("MyPodRole")).unwrap();
    let seen = recorder(&world);
    for (flags, imds) in [(&[][..], world.imds()), (&["--metadata-addr=[fd00:ec2::254]:80"], world.imds_v6())]
    {
        let agent = proxied(&world, &world.sts.url(), flags);
        agent.ready().unwrap();
        let served = || Ok(pod.imds().credentials().is_ok_and(|document| document["Code"] == "Success"));
        agent.poll("the pod has its credentials", served).unwrap();
        for path in ["/latest/meta-data/instance-id", "/latest/meta-data/placement/availability-zone"] {
            assert_eq!(pod.imds().get(path).unwrap().status, 200, "{path}");
        }
        let own = imds.sensitive_requests();
        assert!(
            own.iter().any(|request| request.target.ends_with(NODE_ROLE)),
            "its own credentials: {own:?}"
        );
        assert_eq!(*seen.lock(), Vec::<String>::new(), "{flags:?}: {}", agent.log());
        agent.kill9().unwrap();
    }
    assert!(world.sts.assume_role_calls() >= 2);
}

/// STS may be behind one: it is asked for a tunnel, through which goes TLS.
#[test]
fn proxy_of_the_environment_is_asked_for_a_tunnel_to_sts() {
    let test = "proxy_of_the_environment_is_asked_for_a_tunnel_to_sts";
    let Some(world) = World::for_test(test, &Options::default()) else { return };
    let seen = recorder(&world);
    let agent = proxied(&world, "https://sts.example", &[]);
    agent.poll("the proxy is asked", || Ok(!seen.lock().is_empty())).unwrap();
    for request in &*seen.lock() {
        assert!(request.starts_with("CONNECT sts.example:443 HTTP/1.1\r\n"), "{request}");
        assert!(!request.to_lowercase().contains("authorization"), "{request}");
        assert!(!request.contains(NODE_MARKER) && !request.contains(TOKEN_MARKER), "{request}");
    }
}
