//! What one pod can do with many connections: its neighbours are served, each of its connections ends by itself, and the
//! agent stays within bounds.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rolegate_tests::hostile::{Attack, Force, Hostile};
use rolegate_tests::skip;
use rolegate_tests::usage::{Usage, Watch};

use super::Scene;

/// Descriptors of this process beside its connections: doubles, pipes, namespaces.
const OTHERS: u64 = 1_000;

fn withstands(test: &str, attack: Attack, force: Force) {
    let wanted = OTHERS + u64::try_from(force.connections).unwrap();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    if hard < wanted {
        return skip(test, &format!("only {hard} open files are allowed here"));
    }
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(wanted), hard).unwrap();
    let Some(scene) = Scene::for_test(test) else { return };
    let quiet = Usage::of(scene.agent.pid()).unwrap();
    let watch = Watch::start(scene.agent.pid());
    let hostile = Hostile::start(&scene.hostile.net, attack, force);
    let total = force.total.unwrap();
    let mut served = 0;
    let start = tokio::time::Instant::now();
    while hostile.tally().opened < total {
        scene.is_served(&scene.neighbour);
        served += 1;
    }
    let opened = start.elapsed();
    scene
        .agent
        .poll("every connection has ended", || {
            scene.is_served(&scene.neighbour);
            served += 1;
            Ok(scene.agent.metric("rolegate_connections_open")? < 1.0)
        })
        .unwrap();
    let after = Usage::of(scene.agent.pid()).unwrap();
    let most = watch.most().unwrap();
    eprintln!(
        "{attack:?} {force:?}\n tally {:?}\n opened in {opened:?}, ended {:?} served {served}\n turned away {}\n {quiet:?}\n {most:?}\n {after:?}",
        hostile.tally(),
        start.elapsed(),
        scene.turned_away()
    );
    let states = scene.world.topology.node().run("ss", &["-Htan", "sport = :8181"]).unwrap();
    let mut count = std::collections::BTreeMap::<String, usize>::new();
    for line in states.lines() {
        *count.entry(line.split_whitespace().next().unwrap().into()).or_default() += 1;
    }
    eprintln!("{count:?}");
    scene.is_served(&scene.hostile);
}

const ONCE: Force = Force { connections: 6_000, per_second: 6_000, total: Some(6_000) };

#[test]
fn idle() {
    withstands("idle", Attack::Idle, ONCE);
}
#[test]
fn slow_headers() {
    withstands("slow_headers", Attack::SlowHeaders, Force { total: Some(2000), ..ONCE });
}
#[test]
fn long_headers() {
    withstands("long_headers", Attack::LongHeaders, Force { total: Some(2000), ..ONCE });
}
#[test]
fn slow_bodies() {
    withstands("slow_bodies", Attack::SlowBodies, Force { total: Some(2000), ..ONCE });
}
#[test]
fn slow_readers() {
    withstands("slow_readers", Attack::SlowReaders, Force { total: Some(2000), ..ONCE });
}
#[test]
fn requests() {
    withstands("requests", Attack::Requests, Force { per_second: 2_000, total: Some(10_000), ..ONCE });
}
