//! The agent as a process that is killed, told to end, started twice, or has its clock changed under it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "process/clock.rs"]
mod clock;
#[path = "process/killed.rs"]
mod killed;

use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;
use parking_lot::{Condvar, Mutex};
use rolegate_tests::agent::Agent;
use rolegate_tests::http::{Response, nobody_listens};
use rolegate_tests::topology::{Backend, NODE_V4};
use rolegate_tests::world::{Options, RunningPod, World};

const DOCUMENT: &str = "/latest/meta-data/iam/security-credentials/MyPodRole";
/// Clients that ask in a loop.
const CLIENTS: usize = 6;
/// How often one agent takes over from another.
const HAND_OVERS: usize = 3;

fn world(test: &str) -> Option<World> {
    let world = World::for_test(test, &Options::default())?;
    world.namespace("default", &["MyPodRole", "OtherRole"]).unwrap();
    Some(world)
}

fn is_success(answer: &Response) -> bool {
    answer.status == 200 && answer.json().is_ok_and(|document| document["Code"] == "Success")
}

/// The clients, and what each of their requests came to.
struct Crowd {
    pod: RunningPod,
    stop: AtomicBool,
    seen: Mutex<Vec<(usize, Outcome)>>,
    changed: Condvar,
}

/// Of one request over a connection of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// Nobody listened.
    Refused,
    /// The document, with credentials.
    Served,
    /// A whole answer of another kind.
    Status(u16),
    /// It was connected, and had no whole answer.
    Lost(String),
}

// === impl Crowd ===

impl Crowd {
    /// Asks for the credentials of a pod of its own all the time while `test` runs.
    fn around(world: &World, test: impl FnOnce(&Self)) {
        struct Stop<'c>(&'c Crowd);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.stop.store(true, Ordering::Relaxed);
            }
        }
        let pod = world.pod("default", "busy", |pod| pod.role("MyPodRole")).unwrap();
        let it = Self { pod, stop: AtomicBool::new(false), seen: Mutex::default(), changed: Condvar::new() };
        std::thread::scope(|scope| {
            // Also when the test fails: the scope waits for them.
            let _stop = Stop(&it);
            for client in 0..CLIENTS {
                let it = &it;
                scope.spawn(move || it.ask(client));
            }
            test(&it);
        });
    }

    fn ask(&self, client: usize) {
        let pod = &self.pod;
        while !self.stop.load(Ordering::Relaxed) {
            let outcome = match pod.imds().connect() {
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Outcome::Refused,
                Err(error) => Outcome::Lost(format!("connecting: {error}")),
                Ok(mut open) => match open.exchange(&pod.imds().bytes("GET", DOCUMENT, &[])) {
                    Ok(answer) if is_success(&answer) => Outcome::Served,
                    Ok(answer) => Outcome::Status(answer.status),
                    Err(error) => Outcome::Lost(error.to_string()),
                },
            };
            if outcome == Outcome::Refused {
                // Enough for an agent to start beside those who ask for it.
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            self.seen.lock().push((client, outcome));
            self.changed.notify_all();
        }
    }

    fn so_far(&self) -> usize {
        self.seen.lock().len()
    }

    /// Waits until every client has been served `n` times more; what came since `from`.
    fn served(&self, from: usize, n: usize, agent: &Agent) -> Vec<Outcome> {
        let mut seen = self.seen.lock();
        let enough = |seen: &[(usize, Outcome)]| {
            (0..CLIENTS).all(|client| {
                seen.iter().skip(from).filter(|it| **it == (client, Outcome::Served)).count() >= n
            })
        };
        let patience = std::time::Duration::from_secs(60);
        self.changed.wait_while_for(&mut seen, |seen| !enough(seen), patience);
        assert!(enough(&seen), "{:?}\n{}", &seen[from..], agent.log());
        seen[from..].iter().map(|(_, outcome)| outcome.clone()).collect()
    }
}

/// Connections are refused between one agent and the next; whoever got one has an answer.
#[test]
fn sigterm_under_load_loses_no_request_whose_connection_was_taken() {
    let test = "sigterm_under_load_loses_no_request_whose_connection_was_taken";
    let Some(world) = world(test) else { return };
    let mut agent = world.agent(&[]).unwrap();
    Crowd::around(&world, |crowd| {
        for turn in 0..HAND_OVERS {
            crowd.served(crowd.so_far(), 20, &agent);
            let from = crowd.so_far();
            agent.sigterm().unwrap();
            assert_eq!(agent.wait().unwrap().code(), Some(0), "{}", agent.log());
            let next = world.agent(&[]).unwrap();
            let all = crowd.served(from, 20, &next);
            let lost: Vec<_> = all.iter().filter(|it| matches!(it, Outcome::Lost(_))).collect();
            assert!(lost.is_empty(), "turn {turn}: {lost:?} of {}\n{}", all.len(), agent.log());
            assert!(!agent.log().contains("drain took too long"), "{}", agent.log());
            // An agent that does not know its pods yet says so.
            let other = all.iter().find(|it| matches!(it, Outcome::Status(status) if *status != 500));
            assert_eq!(other, None, "turn {turn}");
            agent = next;
        }
    });
}

/// With the same ports and with others, with a redirect and without: one node, one agent that keeps it. One with the same
/// state directory takes over (suite `handover`).
#[test]
fn second_agent_of_a_node_says_so_and_ends_and_the_first_never_notices() {
    let test = "second_agent_of_a_node_says_so_and_ends_and_the_first_never_notices";
    let Some(world) = world(test) else { return };
    let first = world.agent(&["--reconcile-period=1s"]).unwrap();
    let rules = world.topology.rules(Backend::Nft).unwrap();
    let others = ["--app-port=8282", "--metrics-port=9999"];
    let elsewhere = tempfile::tempdir().unwrap();
    let state_dir = format!("--state-dir={}", elsewhere.path().display());
    Crowd::around(&world, |crowd| {
        crowd.served(0, 1, &first);
        let from = crowd.so_far();
        for flags in [&[][..], &others[..1], &others, &["--iptables=false"]] {
            let second = start_with(&world, &state_dir, flags);
            assert_eq!(second.wait().unwrap().code(), Some(1), "{flags:?}: {}", second.log());
            let said = second.lines().last().unwrap().text.clone();
            assert!(said.contains("keeps the redirect of this node"), "{flags:?}: {said}");
            assert_eq!(world.topology.rules(Backend::Nft).unwrap(), rules, "{flags:?}");
        }
        let all = crowd.served(from, 5, &first);
        assert!(all.iter().all(|it| *it == Outcome::Served), "{all:?}\n{}", first.log());
    });
    assert_eq!(first.admin("/readyz").unwrap().status, 200);
    assert!(!first.log().contains("redirect repaired"), "{}", first.log());

    // Nothing stays of one that was killed.
    first.kill9().unwrap();
    let again = world.agent(&others).unwrap();
    let pod = world.pod("default", "pod", |pod| pod.role("MyPodRole")).unwrap();
    again.poll("the pod is known", || Ok(pod.imds().get(DOCUMENT)?.status == 200)).unwrap();
    assert_eq!(pod.imds().credentials().unwrap()["Code"], "Success", "{}", again.log());
}

/// The usual flags but for the state directory, and these.
fn start_with(world: &World, state_dir: &str, flags: &[&str]) -> Agent {
    let mut all = world.usual_flags();
    all.retain(|flag| !flag.starts_with("--state-dir"));
    all.push(state_dir.to_owned());
    all.extend(flags.iter().map(|flag| (*flag).to_owned()));
    Agent::start(world.topology.node(), &all, &world.environment()).unwrap()
}

/// K7: neither the manifest nor a signal takes the rules away: there is no hook to do it, and the process leaves
/// them in every way of ending.
#[test]
fn no_way_of_ending_takes_the_rules_away() {
    let manifest = include_str!("../../deploy/daemonset.yaml");
    let said: String = manifest
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .map(|line| format!("{line}\n"))
        .collect();
    assert!(said.contains("kind: DaemonSet") && said.contains("rolegate"), "{said}");
    for hook in ["lifecycle", "preStop", "postStart", "initContainers", "cleanup", "-D ", "flush"] {
        assert!(!said.contains(hook), "{hook} is in the manifest");
    }

    let Some(world) = world("no_way_of_ending_takes_the_rules_away") else { return };
    let pod = world.pod("default", "pod", |pod| pod.role("MyPodRole")).unwrap();
    let mut rules = None;
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGABRT, Signal::SIGKILL] {
        let agent = world.agent(&[]).unwrap();
        let before = world.topology.rules(Backend::Nft).unwrap();
        assert!(before.iter().any(|rule| rule.contains(&format!("--to-destination {NODE_V4}:8181"))));
        assert_eq!(rules.get_or_insert_with(|| before.clone()), &before, "{signal}: not made twice");
        agent.signal(signal).unwrap();
        agent.wait().unwrap();
        assert_eq!(world.topology.rules(Backend::Nft).unwrap(), before, "{signal}");
        for client in [pod.imds(), pod.imds_v6()] {
            let error = client.get(DOCUMENT).unwrap_err();
            assert!(nobody_listens(&error), "{signal}: {error}");
        }
    }
}
