//! Descriptors run out: the agent refuses, neither ends nor spins, and comes back by itself.

use std::process::Command;

use rolegate_tests::hostile::{Attack, Force, Hostile};
use rolegate_tests::netns;
use rolegate_tests::skip;
use tokio::time::Instant;

use super::Scene;

/// Descriptors that the agent is left with when they are to run out.
const LEFT: usize = 8;
/// What is opened then: served in turns of [`LEFT`] for the time that a header may take.
const MORE_THAN_LEFT: usize = 2 * LEFT;
/// So many files that few are left for connections: the agent keeps 256 for itself.
const FEW: usize = 320;
/// Accept loops: the IMDS over IPv4 and over IPv6, metrics.
const LOOPS: f64 = 3.0;
/// A loop tries again after 50 ms.
const TRIES_PER_SECOND: f64 = 20.0;
/// One line says it, every ten seconds.
const LINES_PER_SECOND: f64 = 0.1;

/// P39: descriptors run out under the agent.
#[test]
fn agent_without_descriptors_refuses_and_comes_back_by_itself() {
    let test = "agent_without_descriptors_refuses_and_comes_back_by_itself";
    if !netns::on_path("prlimit") {
        return skip(test, "`prlimit` is not installed");
    }
    let Some(scene) = Scene::for_test(test) else { return };
    let agent = &scene.agent;

    let used = std::fs::read_dir(format!("/proc/{}/fd", agent.pid())).unwrap().count();
    let limit = format!("--nofile={0}:{0}", used + LEFT);
    netns::run(Command::new("prlimit").args(["--pid", &agent.pid().to_string(), &limit])).unwrap();
    let start = Instant::now();
    let force = Force { connections: MORE_THAN_LEFT, per_second: 1_000, total: Some(MORE_THAN_LEFT) };
    let _crowd = Hostile::start(&scene.hostile.net, Attack::SlowHeaders, force);
    agent
        .wait_for_line("descriptors", |line| line.text_of("cause").as_deref() == Some("descriptors"))
        .unwrap();
    // The metrics port is in the same trouble: whoever asks there waits as well.
    agent
        .poll("the node's own are answered", || {
            Ok(agent.admin("/livez").is_ok_and(|answer| answer.status == 200))
        })
        .unwrap();
    // Nobody hangs up: their time is limited, and then there is room.
    agent
        .poll("the neighbour is served", || {
            let document = scene.neighbour.imds().credentials();
            Ok(document.is_ok_and(|document| document["Code"] == "Success"))
        })
        .unwrap();
    let failed = agent.metric("rolegate_accept_errors_total{cause=\"descriptors\"}").unwrap();
    let said = agent.lines().iter().filter(|line| line.text.contains("cannot be accepted")).count();
    let seconds = start.elapsed().as_secs_f64();
    assert!(failed >= 1.0 && failed <= LOOPS * (1.0 + TRIES_PER_SECOND * seconds), "{failed} in {seconds} s");
    let most = 1.0 + LINES_PER_SECOND * seconds;
    assert!(f64::from(u32::try_from(said).unwrap()) <= most, "{said} lines in {seconds} s");
    scene.is_served(&scene.hostile);
}

/// P36, P39: an agent that may open few files serves fewer connections, and never runs out of them.
#[test]
fn agent_with_few_descriptors_from_the_start_takes_fewer_connections_and_never_runs_out() {
    let test = "agent_with_few_descriptors_from_the_start_takes_fewer_connections_and_never_runs_out";
    let Some(scene) = Scene::limited(test, FEW) else { return };
    let force = Force { connections: 1_000, per_second: 1_000, total: Some(1_000) };
    let hostile = Hostile::start(&scene.hostile.net, Attack::Idle, force);
    let mut served = 0;
    while hostile.tally().opened < 1_000 || served == 0 {
        scene.is_served(&scene.neighbour);
        served += 1;
    }
    hostile.wait("every connection has ended", |tally| tally.ended == 1_000).unwrap();
    assert!(scene.turned_away() > 0.0);
    assert_eq!(scene.agent.metric("rolegate_accept_errors_total{cause=\"descriptors\"}").unwrap(), 0.0);
    scene.is_served(&scene.hostile);
}
