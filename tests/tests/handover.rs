//! One agent takes over from another: nothing is refused, nothing is lost, and there is one at a time.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "handover/load.rs"]
mod load;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use nix::sys::signal::Signal;
use rolegate_tests::agent::Agent;
use rolegate_tests::http::Response;
use rolegate_tests::kube_api::Resource;
use rolegate_tests::topology::Backend;
use rolegate_tests::world::{Options, RunningPod, World};

use load::Load;

const DOCUMENT: &str = "/latest/meta-data/iam/security-credentials/MyPodRole";
/// The name that one agent of a node has at a time (`app::handover::keeper`).
const KEEPER: &str = "rolegate/redirect";

fn open_world(test: &str) -> Option<World> {
    let world = World::for_test(test, &Options::default())?;
    prepare(&world);
    Some(world)
}

fn faulty_world(test: &str) -> Option<World> {
    let world = World::for_test_with_faults(test)?;
    prepare(&world);
    Some(world)
}

fn prepare(world: &World) {
    world.namespace("default", &["MyPodRole", "OtherRole"]).unwrap();
}

fn start(world: &World, capture: &str) -> Agent {
    let mut flags = world.usual_flags();
    flags.retain(|flag| flag != "--iptables");
    flags.push(format!("--redirect={capture}"));
    Agent::start(world.topology.node(), &flags, &world.environment()).unwrap()
}

fn says(agent: &Agent, what: &str) {
    agent.wait_for_line(what, |line| line.text.contains(what)).unwrap();
}

/// The agent says so itself: its admin port may be answered by another one.
fn is_ready(agent: &Agent) {
    agent.wait_for_line("ready", |line| line.text_of("message").as_deref() == Some("ready")).unwrap();
}

fn is_served(pod: &RunningPod) {
    for client in [pod.imds(), pod.imds_v6()] {
        let answer: Response = client.get(DOCUMENT).unwrap();
        assert_eq!(answer.json().unwrap()["Code"], "Success", "{}", answer.text());
    }
}

/// As a process of the node has it, from now on.
fn hold_name(world: &World) -> UnixListener {
    let name = SocketAddr::from_abstract_name(KEEPER).unwrap();
    world.topology.node().inside(|| UnixListener::bind_addr(&name)).unwrap().unwrap()
}

/// No thread of it runs, or waits for something that could make it run.
fn stands_still(agent: &Agent) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{}/task", agent.pid())).unwrap();
    threads.flatten().all(|thread| {
        let status = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("State:\tT"))
    })
}

fn is_refused(pod: &RunningPod) {
    for client in [pod.imds(), pod.imds_v6()] {
        assert!(client.get(DOCUMENT).is_err(), "nobody is there");
    }
}

/// `n` agents, each of which takes over from the one before.
fn hand_over(test: &str, capture: &str, n: usize) {
    let Some(world) = open_world(test) else { return };
    let routed = world.pod("default", "routed", |pod| pod.role("MyPodRole")).unwrap();
    let bridged = world.bridged_pod("default", "bridged", |pod| pod.role("OtherRole")).unwrap();
    let mut agent = start(&world, capture);
    agent.ready().unwrap();
    let pods = [(&routed, "MyPodRole"), (&bridged, "OtherRole")];
    let answered = Load::around(&pods, |load| {
        for turn in 0..n {
            load.served_more(1, &agent);
            let next = start(&world, capture);
            says(&agent, "its sockets are given to it");
            // In every fourth turn the old one is to end before the new one is ready.
            if turn % 4 == 3 {
                agent.sigterm().unwrap();
            }
            is_ready(&next);
            says(&next, "taken over: the agent before this one is relieved");
            load.served_more(1, &next);
            if turn % 4 != 3 {
                agent.sigterm().unwrap();
            }
            assert_eq!(agent.wait().unwrap().code(), Some(0), "turn {turn}: {}", agent.log());
            agent = next;
        }
    });
    for (role, access_key_id) in answered {
        let calls = world.sts.calls();
        let issued = calls.iter().find(|call| call.access_key_id.as_ref() == Some(&access_key_id)).unwrap();
        assert!(issued.role.ends_with(&format!("/{role}")), "{role} got keys of {}", issued.role);
    }
}

#[test]
fn seventy_hand_overs_under_load_refuse_and_lose_nothing_by_policy_routing() {
    hand_over("seventy_hand_overs_under_load_refuse_and_lose_nothing_by_policy_routing", "route", 70);
}

#[test]
fn thirty_hand_overs_under_load_refuse_and_lose_nothing_with_iptables() {
    hand_over("thirty_hand_overs_under_load_refuse_and_lose_nothing_with_iptables", "iptables", 30);
}

#[test]
fn agent_with_another_state_directory_ends_at_once_and_names_both() {
    let Some(world) = open_world("agent_with_another_state_directory_ends_at_once_and_names_both") else {
        return;
    };
    let pod = world.pod("default", "pod", |pod| pod.role("MyPodRole")).unwrap();
    let first = world.agent(&[]).unwrap();
    let directory =
        world.usual_flags().into_iter().find_map(|flag| Some(flag.strip_prefix("--state-dir=")?.to_owned()));
    let (ours, theirs) = (tempfile::tempdir().unwrap(), directory.unwrap());
    let elsewhere = format!("--state-dir={}", ours.path().display());
    for flags in [&["--app-port=8282", "--metrics-port=9999"][..], &["--iptables=false"], &[]] {
        let mut all = world.usual_flags();
        all.retain(|flag| !flag.starts_with("--state-dir"));
        all.push(elsewhere.clone());
        all.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let second = Agent::start(world.topology.node(), &all, &world.environment()).unwrap();
        assert_eq!(second.wait().unwrap().code(), Some(1), "{flags:?}: {}", second.log());
        let said = second.lines().last().unwrap().text.clone();
        let first_pid = format!("process {}", first.pid());
        for part in [theirs.as_str(), &ours.path().display().to_string(), &first_pid] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
    is_served(&pod);
    assert!(!first.log().contains("takes over"), "{}", first.log());
}

#[test]
fn version_that_cannot_hand_over_is_waited_for_and_pods_are_refused_meanwhile() {
    let test = "version_that_cannot_hand_over_is_waited_for_and_pods_are_refused_meanwhile";
    let Some(world) = open_world(test) else { return };
    let pod = world.pod("default", "pod", |pod| pod.role("MyPodRole")).unwrap();
    // What an agent that is killed leaves behind: rules, guards, and a socket in the state directory.
    world.agent(&[]).unwrap().kill9().unwrap();
    is_refused(&pod);
    let name = hold_name(&world);
    let agent = world.start_agent(&[]).unwrap();
    says(&agent, "waiting: another rolegate keeps the redirect of this node and does not answer");
    is_refused(&pod);
    // Its name is gone, and a port is still there.
    let port: TcpListener = world.topology.node().listen("0.0.0.0:8181".parse().unwrap()).unwrap();
    drop(name);
    says(&agent, "waiting: port 8181 (--app-port) cannot be bound");
    is_refused(&pod);
    // It can be told to end while it waits.
    agent.sigterm().unwrap();
    assert_eq!(agent.wait().unwrap().code(), Some(1), "{}", agent.log());
    assert!(
        agent.lines().last().unwrap().text.contains("SIGTERM while waiting: port 8181"),
        "{}",
        agent.log()
    );
    let agent = world.start_agent(&[]).unwrap();
    says(&agent, "waiting: port 8181 (--app-port) cannot be bound");
    drop(port);
    agent.ready().unwrap();
    is_served(&pod);
}

#[test]
fn agent_that_dies_before_it_is_ready_leaves_everything_to_the_one_before() {
    let test = "agent_that_dies_before_it_is_ready_leaves_everything_to_the_one_before";
    let Some(world) = faulty_world(test) else { return };
    let pod = world.pod("default", "pod", |pod| pod.role("MyPodRole")).unwrap();
    let old = world.agent(&[]).unwrap();
    let faults = world.cluster.double().unwrap().faults();
    for turn in 1..=3 {
        Load::around(&[(&pod, "MyPodRole")], |load| {
            faults.fail_lists(Resource::Pods, usize::MAX, 500);
            let new = world.start_agent(&[]).unwrap();
            says(&old, "its sockets are given to it");
            new.poll("the new one answers probes: it does not know its pods", || {
                Ok(new.admin("/readyz/pods").is_ok_and(|answer| answer.status == 503))
            })
            .unwrap();
            load.served_more(2, &old);
            new.kill9().unwrap();
            faults.fail_lists(Resource::Pods, 0, 500);
            let resumed = r#"rolegate_handovers_total{outcome="resumed",side="old"}"#;
            old.poll("it is in charge again", || Ok(old.metric(resumed).is_ok_and(|n| n == f64::from(turn))))
                .unwrap();
            old.ready().unwrap();
            load.served_more(2, &old);
        });
        let rules = world.topology.rules(Backend::Nft).unwrap();
        world.topology.node().run("iptables-nft", &["-w", "-t", "nat", "-F", "PREROUTING"]).unwrap();
        old.poll("the redirect is mended", || Ok(world.topology.rules(Backend::Nft)? == rules)).unwrap();
        old.ready().unwrap();
        is_served(&pod);
    }
    // And one that lives takes over all the same.
    let next = world.start_agent(&[]).unwrap();
    says(&old, "relieved: another agent serves this node");
    assert_eq!(next.admin("/readyz").unwrap().status, 200);
    drop(old);
    is_served(&pod);
}

#[test]
fn agent_that_is_to_end_serves_until_the_new_one_is_ready() {
    let Some(world) = faulty_world("agent_that_is_to_end_serves_until_the_new_one_is_ready") else { return };
    let pod = world.pod("default", "pod", |pod| pod.role("MyPodRole")).unwrap();
    let old = world.agent(&[]).unwrap();
    let faults = world.cluster.double().unwrap().faults();
    faults.fail_lists(Resource::Pods, usize::MAX, 500);
    Load::around(&[(&pod, "MyPodRole")], |load| {
        let new = world.start_agent(&[]).unwrap();
        says(&old, "its sockets are given to it");
        old.sigterm().unwrap();
        says(&old, "ending: the agent that takes over is not ready yet");
        load.served_more(20, &old);
        assert_eq!(old.status(), None, "{}", old.log());
        faults.fail_lists(Resource::Pods, 0, 500);
        is_ready(&new);
        assert_eq!(old.wait().unwrap().code(), Some(0), "{}", old.log());
        load.served_more(5, &new);
        assert_eq!(new.metric(r#"rolegate_handovers_total{outcome="completed",side="new"}"#).unwrap(), 1.0);
        load.finish();
        drop(new);
    });
}

#[test]
fn agent_whose_predecessor_is_killed_has_its_connections() {
    let Some(world) = faulty_world("agent_whose_predecessor_is_killed_has_its_connections") else { return };
    let pod = world.pod("default", "pod", |pod| pod.role("MyPodRole")).unwrap();
    let old = world.agent(&[]).unwrap();
    let faults = world.cluster.double().unwrap().faults();
    faults.fail_lists(Resource::Pods, usize::MAX, 500);
    let new = world.start_agent(&[]).unwrap();
    says(&old, "its sockets are given to it");
    says(&new, "the sockets of the agent that is there are taken over");
    // Connected, and taken by nobody: the old one stands still, and the new one does not take them yet.
    old.signal(Signal::SIGSTOP).unwrap();
    old.poll("all its threads stand still", || Ok(stands_still(&old))).unwrap();
    let asked: Vec<_> = (0..10)
        .map(|_| {
            let mut connection = pod.imds().connect().unwrap();
            connection.send(&pod.imds().bytes("GET", DOCUMENT, &[])).unwrap();
            connection
        })
        .collect();
    old.kill9().unwrap();
    says(&new, "the agent before this one ended before this one was ready");
    for mut connection in asked {
        // Held for its pods, whom it does not know: an answer all the same.
        assert_eq!(connection.read(false).unwrap().status, 500, "{}", new.log());
    }
    faults.fail_lists(Resource::Pods, 0, 500);
    new.ready().unwrap();
    is_served(&pod);
}

#[test]
fn three_agents_in_a_row_and_the_one_in_the_middle_ends_first() {
    let Some(world) = open_world("three_agents_in_a_row_and_the_one_in_the_middle_ends_first") else {
        return;
    };
    let pod = world.pod("default", "pod", |pod| pod.role("MyPodRole")).unwrap();
    let first = world.agent(&[]).unwrap();
    Load::around(&[(&pod, "MyPodRole")], |load| {
        let second = world.start_agent(&[]).unwrap();
        says(&first, "relieved: another agent serves this node");
        let third = world.start_agent(&[]).unwrap();
        says(&second, "relieved: another agent serves this node");
        second.sigterm().unwrap();
        assert_eq!(second.wait().unwrap().code(), Some(0), "{}", second.log());
        load.served_more(5, &third);
        let asked = r#"rolegate_handovers_total{outcome="completed",side="new"}"#;
        assert_eq!(third.metric(asked).unwrap(), 1.0, "the third is in charge");
        assert!(!first.log().contains("this one goes on"), "{}", first.log());
        load.finish();
        drop(third);
    });
}

#[test]
fn agent_with_another_capture_takes_over_with_sockets_of_its_own() {
    let Some(world) = open_world("agent_with_another_capture_takes_over_with_sockets_of_its_own") else {
        return;
    };
    let pod = world.pod("default", "pod", |pod| pod.role("MyPodRole")).unwrap();
    let mut agent = start(&world, "route");
    agent.ready().unwrap();
    is_served(&pod);
    for capture in ["iptables", "route", "auto"] {
        let next = start(&world, capture);
        says(&next, "taken over: the agent before this one is relieved");
        is_served(&pod);
        agent.sigterm().unwrap();
        assert_eq!(agent.wait().unwrap().code(), Some(0), "{}", agent.log());
        is_served(&pod);
        agent = next;
    }
}

#[test]
fn agent_that_took_over_and_ends_gives_back_without_a_loss() {
    let Some(world) = open_world("agent_that_took_over_and_ends_gives_back_without_a_loss") else { return };
    let pod = world.pod("default", "pod", |pod| pod.role("MyPodRole")).unwrap();
    let old = world.agent(&[]).unwrap();
    Load::around(&[(&pod, "MyPodRole")], |load| {
        for turn in 1..=3 {
            let new = world.start_agent(&[]).unwrap();
            says(&new, "taken over: the agent before this one is relieved");
            load.served_more(2, &new);
            new.sigterm().unwrap();
            assert_eq!(new.wait().unwrap().code(), Some(0), "{}", new.log());
            let resumed = r#"rolegate_handovers_total{outcome="resumed",side="old"}"#;
            old.poll("it is in charge again", || Ok(old.metric(resumed).is_ok_and(|n| n == f64::from(turn))))
                .unwrap();
            load.served_more(2, &old);
        }
        load.finish();
    });
}

#[test]
fn question_of_another_protocol_is_refused_and_no_question_changes_nothing() {
    let test = "question_of_another_protocol_is_refused_and_no_question_changes_nothing";
    let Some(world) = open_world(test) else { return };
    let pod = world.pod("default", "pod", |pod| pod.role("MyPodRole")).unwrap();
    let agent = world.agent(&[]).unwrap();
    let flags = world.usual_flags();
    let socket = flags.iter().find_map(|flag| flag.strip_prefix("--state-dir=")).unwrap().to_owned()
        + "/handover.sock";
    agent.poll("it listens", || Ok(std::fs::exists(&socket)?)).unwrap();
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let later = r#"{"ask":{"protocol":2,"version":"9.9.9","wants":[],"more":true}}"#;
    for (line, answer) in
        [(later, "9.9.9 takes over by 2"), ("GET / HTTP/1.1", "was not asked"), ("{}", "was not asked")]
    {
        let mut asking = UnixStream::connect(&socket).unwrap();
        writeln!(asking, "{line}").unwrap();
        let mut said = String::new();
        asking.read_to_string(&mut said).unwrap();
        assert!(said.starts_with(r#"{"refuse":"#) && said.contains(answer), "{line}: {said}");
    }
    let refused = r#"rolegate_handovers_total{outcome="refused",side="old"}"#;
    assert_eq!(agent.metric(refused).unwrap(), 3.0);
    agent.ready().unwrap();
    is_served(&pod);
    assert!(!agent.log().contains("its sockets are given to it"), "{}", agent.log());

    // One that says more than is known is heard all the same, and left alone as long as it lives.
    let mut asking = UnixStream::connect(&socket).unwrap();
    writeln!(asking, r#"{{"ask":{{"protocol":1,"version":"9.9.9","wants":[]}}}}"#).unwrap();
    let mut given = [0; 512];
    let length = asking.read(&mut given).unwrap();
    assert!(given[..length].starts_with(br#"{"give":"#), "{:?}", String::from_utf8_lossy(&given[..length]));
    writeln!(asking, r#"{{"weather":"fine"}}"#).unwrap();
    writeln!(asking, r#"{{"ready":{{"listeners":[]}}}}"#).unwrap();
    says(&agent, "relieved: another agent serves this node");
    is_served(&pod);
    drop(asking);
    says(&agent, "the agent that was to take over ended: this one goes on");
    agent.ready().unwrap();
}
