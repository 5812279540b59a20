//! One pod's connections are not its neighbour's trouble, and what runs out comes back.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rolegate_tests::agent::Agent;
use rolegate_tests::netns;
use rolegate_tests::skip;
use rolegate_tests::topology::imds_v4;
use rolegate_tests::world::{Options, RunningPod, World};

/// What the hostile pod opens.
const CONNECTIONS: usize = 2_000;
/// Descriptors of this process beside those: its doubles, pipes, namespaces.
const OTHERS: u64 = 600;
/// Descriptors that the agent is left with when they are to run out.
const LEFT: usize = 8;
/// What is opened then: served in turns of [`LEFT`] for the five seconds that a header may take.
const MORE_THAN_LEFT: usize = 2 * LEFT;

fn world(test: &str) -> Option<World> {
    let world = World::for_test(test, &Options::default())?;
    world.namespace("default", &["MyPodRole", "OtherRole"]).unwrap();
    Some(world)
}

/// Connections from a pod, every second of which has sent half a request.
fn crowd(pod: &RunningPod, n: usize) -> Vec<TcpStream> {
    let open = || -> std::io::Result<Vec<TcpStream>> {
        (0..n)
            .map(|i| {
                let mut stream = TcpStream::connect(imds_v4())?;
                stream.set_read_timeout(Some(Duration::from_secs(30)))?;
                if i % 2 == 0 {
                    // It may have been closed already: too many of this pod wait.
                    let _ =
                        stream.write_all(b"GET /latest/meta-data/ HTTP/1.1\r\nHost: 169.254.169.254\r\nX-");
                }
                Ok(stream)
            })
            .collect()
    };
    pod.net.ns().inside(open).unwrap().unwrap()
}

/// Waits until the agent has closed it; what it said before is not asked.
fn is_closed(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

fn turned_away(agent: &Agent) -> f64 {
    ["waiting", "source"]
        .map(|limit| {
            agent.metric(&format!("rolegate_connections_turned_away_total{{limit=\"{limit}\"}}")).unwrap()
        })
        .iter()
        .sum()
}

#[test]
fn crowd_of_one_pods_connections_does_not_keep_its_neighbour_out() {
    let test = "crowd_of_one_pods_connections_does_not_keep_its_neighbour_out";
    let wanted = OTHERS + u64::try_from(CONNECTIONS).unwrap();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    if hard < wanted {
        return skip(test, &format!("only {hard} open files are allowed here"));
    }
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(wanted), hard).unwrap();
    let Some(world) = world(test) else { return };
    let hostile = world.pod("default", "hostile", |pod| pod.role("OtherRole")).unwrap();
    let neighbour = world.pod("default", "neighbour", |pod| pod.role("MyPodRole")).unwrap();
    let agent = world.agent(&[]).unwrap();
    assert_eq!(neighbour.imds().credentials().unwrap()["Code"], "Success");

    let mut crowd = crowd(&hostile, CONNECTIONS);
    for _ in 0..20 {
        assert_eq!(neighbour.imds().credentials().unwrap()["Code"], "Success", "{}", agent.log());
    }
    assert!(turned_away(&agent) >= 1.0, "more than one pod may have");
    let open = crowd.iter_mut().filter_map(|stream| (!is_closed(stream)).then_some(())).count();
    assert_eq!(open, 0, "every connection ends without a request");
    agent.poll("all are gone", || Ok(agent.metric("rolegate_connections_open")? < 1.0)).unwrap();
    assert_eq!(hostile.imds().credentials().unwrap()["Code"], "Success", "it has its places back");
    assert_eq!(agent.admin("/livez").unwrap().status, 200);
}

#[test]
fn agent_without_descriptors_refuses_and_comes_back_by_itself() {
    let test = "agent_without_descriptors_refuses_and_comes_back_by_itself";
    if !netns::on_path("prlimit") {
        return skip(test, "`prlimit` is not installed");
    }
    let Some(world) = world(test) else { return };
    let hostile = world.pod("default", "hostile", |pod| pod.role("OtherRole")).unwrap();
    let neighbour = world.pod("default", "neighbour", |pod| pod.role("MyPodRole")).unwrap();
    let agent = world.agent(&[]).unwrap();
    assert_eq!(neighbour.imds().credentials().unwrap()["Code"], "Success");

    let used = std::fs::read_dir(format!("/proc/{}/fd", agent.pid())).unwrap().count();
    let limit = format!("--nofile={0}:{0}", used + LEFT);
    netns::run(std::process::Command::new("prlimit").args(["--pid", &agent.pid().to_string(), &limit]))
        .unwrap();
    let crowd = crowd(&hostile, MORE_THAN_LEFT);
    agent
        .wait_for_line("descriptors", |line| line.text_of("cause").as_deref() == Some("descriptors"))
        .unwrap();
    // Nobody hangs up: their time is limited, and then there is room.
    agent
        .poll("the neighbour is served", || {
            Ok(neighbour.imds().credentials().is_ok_and(|document| document["Code"] == "Success"))
        })
        .unwrap();
    drop(crowd);
    agent
        .poll("the failed accepts are counted", || {
            let sample = "rolegate_accept_errors_total{cause=\"descriptors\"}";
            Ok(agent.metric(sample).is_ok_and(|count| count >= 1.0))
        })
        .unwrap();
    let said =
        agent.lines().iter().filter(|line| line.text.contains("connections cannot be accepted")).count();
    assert!(said < 10, "{said} lines of one trouble");
    assert_eq!(hostile.imds().credentials().unwrap()["Code"], "Success");
}
