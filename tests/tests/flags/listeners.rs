//! Flags of the group "Listeners".

use std::net::SocketAddr;

use rolegate_tests::http::Client;
use rolegate_tests::sts::Fault;
use rolegate_tests::world::{World, arn};

use super::{call, document, ready, start, world};

/// The status that a port of the node answers `path` with; nothing where nobody listens.
fn on_port(world: &World, port: u16, path: &str) -> Option<u16> {
    let to = SocketAddr::from(([127, 0, 0, 1], port));
    Client::new(world.topology.node(), to).get(path).ok().map(|answer| answer.status)
}

#[test]
fn ports_and_pages_are_where_they_are_told() {
    let Some(world) = world("ports_and_pages_are_where_they_are_told") else { return };
    world.namespace("default", &["*"]).unwrap();
    let pod = world.pod("default", "client", |pod| pod.role("MyPodRole")).unwrap();
    let agent = ready(&world, &[], &["--app-port=8282", "--metrics-port=9999", "--debug"]);
    assert_eq!(document(&agent, &pod)["Code"], "Success", "{}", agent.log());
    for (port, path, status) in [
        (8282, "/healthz", Some(200)),
        (8282, "/metrics", Some(404)),
        (8181, "/healthz", None),
        (9999, "/metrics", Some(200)),
        (9999, "/debug/store", Some(200)),
        (9543, "/metrics", None),
    ] {
        assert_eq!(on_port(&world, port, path), status, "{port} {path}");
    }
    drop(agent);

    let agent = start(&world, &[], &["--app-port=8282", "--metrics-port=8282"]);
    agent.wait_for_line("ready", |line| line.text_of("message").as_deref() == Some("ready")).unwrap();
    for (path, status) in [("/healthz", 200), ("/metrics", 200), ("/debug/store", 404)] {
        assert_eq!(on_port(&world, 8282, path), Some(status), "{path}");
    }
}

#[test]
fn connections_are_limited_and_waited_for_as_told() {
    let Some(world) = world("connections_are_limited_and_waited_for_as_told") else { return };
    world.namespace("default", &["*"]).unwrap();
    let pods = ["a", "b", "c"].map(|name| world.pod("default", name, |pod| pod.role("MyPodRole")).unwrap());
    let agent = ready(&world, &[], &["--connections-per-pod=1", "--max-connections=2"]);
    assert_eq!(document(&agent, &pods[0])["Code"], "Success", "{}", agent.log());
    // Open and silent, each takes a place.
    for (limit, held, over) in [("source", &[0][..], 0), ("node", &[0, 1], 2)] {
        let sample = format!(r#"rolegate_connections_turned_away_total{{limit="{limit}"}}"#);
        agent
            .poll(&format!("a connection is over the limit of the {limit}"), || {
                let held: std::io::Result<Vec<_>> =
                    held.iter().map(|pod| pods[*pod].imds().connect()).collect();
                let mut over = pods[over].imds().connect()?;
                let _ = over.is_closed();
                drop(held?);
                Ok(agent.metric(&sample)? > 0.0)
            })
            .unwrap();
    }
    drop(agent);

    // A request is under way when the end comes: it is waited for, or cut off.
    for (flag, answered) in [("--drain-timeout=10s", true), ("--drain-timeout=0", false)] {
        let before = world.sts.calls().len();
        world.sts.faults().of_role("MyPodRole", Some(Fault::Stall));
        let agent = ready(&world, &[], &[flag, "--prefetch=false"]);
        let token = pods[0].imds().imds_token(300).unwrap();
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| pods[0].imds().document("MyPodRole", &token));
            agent
                .poll("STS is asked", || {
                    Ok(world.sts.calls()[before..].iter().any(|call| call.role == arn("MyPodRole")))
                })
                .unwrap();
            agent.sigterm().unwrap();
            let answer = asked.join().unwrap();
            assert_eq!(
                answer.as_ref().is_ok_and(|answer| answer.status == 500),
                answered,
                "{flag} {answer:?}"
            );
        });
        agent.wait().unwrap();
        world.sts.faults().clear();
    }
    let agent = ready(&world, &[], &[]);
    call(&world, &agent, "a call that is answered", |call| call.access_key_id.is_some());
}
