//! What pods can do with many connections: their neighbours are served, each of their connections ends by itself, and the
//! agent stays within its bounds.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rolegate_tests::bounds::{self, KIB_PER_SERVED};
use rolegate_tests::crowd::{Crowd, PODS, address};
use rolegate_tests::hostile::{Attack, Force, Hostile};
use rolegate_tests::skip;
use rolegate_tests::usage::{Usage, Watch};

use super::Scene;

/// Descriptors of this process beside those of an attack: doubles, pipes, namespaces.
const OTHERS: usize = 1_000;
/// What the neighbour asks for during an attack, at least.
const REQUESTS: usize = 10;
/// Everything as fast as it goes.
const AT_ONCE: u32 = 10_000;
/// Connections that are served at once, of as many sources: fewer than the node's 4,096 places.
const IN_ALL: usize = 4_000;
/// States of a socket (`/proc/net/tcp`): what a closed connection leaves for a minute, and the listener itself.
const TIME_WAIT: &str = "06";
const LISTEN: &str = "0A";

/// Connections of one pod, opened as fast as they are accepted.
fn at_once(connections: usize) -> Force {
    Force { connections, per_second: AT_ONCE, total: Some(connections) }
}

fn may_open(test: &str, connections: usize) -> bool {
    let wanted = u64::try_from(OTHERS + connections).unwrap();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    if hard < wanted {
        skip(test, &format!("only {hard} open files are allowed here"));
        return false;
    }
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(wanted), hard).unwrap();
    true
}

/// The neighbour is served during the attack, whose connections all end by themselves; then the hostile pod is served
/// again. Meanwhile the agent stays within the bounds for one source.
fn withstands(test: &str, attack: Attack, force: Force) {
    if !may_open(test, force.connections) {
        return;
    }
    let Some(scene) = Scene::for_test(test) else { return };
    let quiet = Usage::of(scene.agent.pid()).unwrap();
    let watch = Watch::start(scene.agent.pid());
    let hostile = Hostile::start(&scene.hostile.net, attack, force);
    let mut served = 0;
    while served < REQUESTS || hostile.tally().opened < force.total.unwrap() {
        scene.is_served(&scene.neighbour);
        served += 1;
    }
    scene.ends_by_itself();
    if attack != Attack::SlowReaders {
        hostile.wait("every connection has ended", |tally| tally.ended == tally.opened).unwrap();
    }
    let tally = hostile.tally();
    assert_eq!(tally.failed, 0, "{tally:?}");
    assert!(
        attack == Attack::Requests || scene.turned_away() >= 1.0,
        "more than one pod may have: {tally:?}"
    );
    scene.is_served(&scene.hostile);
    scene.is_served(&scene.neighbour);
    assert_eq!(scene.agent.admin("/livez").unwrap().status, 200);

    let most = watch.most().unwrap();
    println!("{test}: {tally:?}, neighbour served {served} times; before {quiet:?}, at most {most:?}");
    assert!(
        most.descriptors <= quiet.descriptors + bounds::descriptors_for_one_source(),
        "{quiet:?} {most:?}"
    );
    let bound = u64::try_from(bounds::kib_for_one_source()).unwrap();
    assert!(most.anonymous_kib <= quiet.anonymous_kib + bound, "{quiet:?} {most:?}");
    assert!(most.high_water_kib <= quiet.high_water_kib + bound, "{quiet:?} {most:?}");
}

impl Scene {
    /// No connection is left, neither with the agent nor with the kernel behind it.
    fn ends_by_itself(&self) {
        self.agent
            .poll("no connection is open", || Ok(self.agent.metric("rolegate_connections_open")? < 1.0))
            .unwrap();
        let table = format!("/proc/{}/net/tcp", self.agent.pid());
        self.agent
            .poll("the kernel keeps no answer", || {
                let table = std::fs::read_to_string(&table)?;
                let states = table.lines().filter_map(|line| {
                    let mut fields = line.split_whitespace().skip(1);
                    // 8181, where the agent listens.
                    fields.next()?.ends_with(":1FF5").then(|| fields.nth(1))?
                });
                Ok(states.filter(|state| ![TIME_WAIT, LISTEN].contains(state)).count() == 0)
            })
            .unwrap();
    }
}

/// K21, P36, P37: six thousand connections of one pod that say nothing.
#[test]
fn six_thousand_idle_connections_of_one_pod_keep_nobody_out_and_end() {
    let test = "six_thousand_idle_connections_of_one_pod_keep_nobody_out_and_end";
    withstands(test, Attack::Idle, at_once(6_000));
}

/// K21, P36, P37: headers that come a byte at a time.
#[test]
fn two_thousand_slow_headers_of_one_pod_keep_nobody_out_and_end() {
    let test = "two_thousand_slow_headers_of_one_pod_keep_nobody_out_and_end";
    withstands(test, Attack::SlowHeaders, at_once(2_000));
}

/// K21, P36, P37: the longest headers that are read, without an end.
#[test]
fn two_thousand_endless_headers_of_one_pod_keep_nobody_out_and_end() {
    let test = "two_thousand_endless_headers_of_one_pod_keep_nobody_out_and_end";
    withstands(test, Attack::LongHeaders, at_once(2_000));
}

/// K21, P36, P37: bodies that were announced and never come, or a byte at a time, with and without chunks.
#[test]
fn two_thousand_slow_bodies_of_one_pod_keep_nobody_out_and_end() {
    let test = "two_thousand_slow_bodies_of_one_pod_keep_nobody_out_and_end";
    withstands(test, Attack::SlowBodies, at_once(2_000));
}

/// K21, P36, P37: the largest answers, of which nothing is read. The kernel forgets them as well.
#[test]
fn two_thousand_slow_readers_of_one_pod_keep_nobody_out_and_end() {
    let test = "two_thousand_slow_readers_of_one_pod_keep_nobody_out_and_end";
    withstands(test, Attack::SlowReaders, at_once(2_000));
}

/// P36: two thousand requests a second of one pod.
#[test]
fn two_thousand_requests_a_second_of_one_pod_fail_nobody_elses() {
    let test = "two_thousand_requests_a_second_of_one_pod_fail_nobody_elses";
    withstands(test, Attack::Requests, Force { connections: 6_000, per_second: 2_000, total: Some(6_000) });
}

/// P37: a header that is not complete costs less than 16 KiB, and its connection little more, however many there are.
#[test]
fn four_thousand_incomplete_headers_of_many_pods_cost_what_is_stated_each() {
    let test = "four_thousand_incomplete_headers_of_many_pods_cost_what_is_stated_each";
    if !may_open(test, IN_ALL) {
        return;
    }
    let Some(scene) = Scene::for_test(test) else { return };
    let crowd = Crowd::join(&scene.world).unwrap();
    scene.world.namespace("default", &["MyPodRole", "OtherRole"]).unwrap();
    let quiet = Usage::of(scene.agent.pid()).unwrap();
    let watch = Watch::start(scene.agent.pid());
    let everybody = (1..=PODS).map(address).collect();
    let hostile = Hostile::start_from(crowd.net(), everybody, Attack::LongHeaders, at_once(IN_ALL));
    hostile.wait("all are open", |tally| tally.opened == IN_ALL).unwrap();
    scene.is_served(&scene.neighbour);
    scene.ends_by_itself();
    let most = watch.most().unwrap();
    let grown = most.anonymous_kib - quiet.anonymous_kib;
    println!("{test}: {:?}; before {quiet:?}, at most {most:?}", hostile.tally());
    // Where the machine is slow the first have ended before the last are there.
    assert!(most.descriptors >= quiet.descriptors + IN_ALL / 4, "there were few at once: {most:?}");
    assert!(grown <= u64::try_from(IN_ALL * KIB_PER_SERVED).unwrap(), "{grown} KiB for {IN_ALL} connections");
    assert_eq!(scene.turned_away(), 0.0);
}

/// All that pods can make the agent take fits into what its manifest allows it.
#[test]
fn the_bounds_for_the_node_fit_into_the_manifests_limit() {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/daemonset.yaml");
    let manifest = std::fs::read_to_string(manifest).unwrap();
    let (_, limits) = manifest.split_once("limits:").unwrap();
    let limit = limits.lines().find_map(|line| line.trim().strip_prefix("memory: ")?.strip_suffix("Mi"));
    let limit_kib = limit.unwrap().parse::<usize>().unwrap() * 1_024;
    assert!(bounds::KIB_AT_REST + bounds::kib_for_the_node() <= limit_kib);
}
