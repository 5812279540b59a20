//! The agent from its start to its end: ports, gates, probes, signals, restarts.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::signal::Signal;
use rolegate_tests::agent::METRICS_PORT;
use rolegate_tests::http::{Client, Response};
use rolegate_tests::imds::NODE_MARKER;
use rolegate_tests::kube_api::Resource;
use rolegate_tests::sts::{Fault, SECRET_MARK, TOKEN_MARK};
use rolegate_tests::topology::NODE_V4;
use rolegate_tests::world::{Options, World};

const DOCUMENT: &str = "/latest/meta-data/iam/security-credentials/MyPodRole";

fn world(test: &str) -> Option<World> {
    let world = World::for_test(test, &Options::default())?;
    world.namespace("default", &["MyPodRole"]).unwrap();
    Some(world)
}

fn code(answer: &Response) -> String {
    answer.json().unwrap()["Code"].as_str().unwrap_or_default().to_owned()
}

/// K21: SIGTERM during a request: it is answered, and the agent ends with 0.
#[test]
fn sigterm_answers_the_request_that_waits_for_sts_and_ends_with_0() {
    let Some(world) = world("sigterm_answers_the_request_that_waits_for_sts_and_ends_with_0") else {
        return;
    };
    let pod = world.pod("default", "waiting", |pod| pod.role("MyPodRole")).unwrap();
    let agent = world.agent(&["--prefetch=false"]).unwrap();
    world.sts.faults().of_role("MyPodRole", Some(Fault::Delay(Duration::from_millis(300))));

    let answer = std::thread::scope(|scope| {
        let asked = scope.spawn(|| pod.imds().get(DOCUMENT));
        agent.poll("STS is asked", || Ok(world.sts.assume_role_calls() > 0)).unwrap();
        agent.sigterm().unwrap();
        asked.join().unwrap()
    });
    let answer = answer.unwrap();
    assert_eq!((answer.status, code(&answer).as_str()), (200, "Success"), "{}", agent.log());
    assert_eq!(agent.wait().unwrap().code(), Some(0), "{}", agent.log());
    agent.wait_for_line("ended", |line| line.text_of("message").as_deref() == Some("ended")).unwrap();
}

/// The kernel completes connections that the agent has not accepted yet: those are started requests, too.
#[test]
fn requests_that_came_before_sigterm_are_answered() {
    let Some(world) = world("requests_that_came_before_sigterm_are_answered") else { return };
    let pod = world.pod("default", "aws-cli", |pod| pod.role("MyPodRole")).unwrap();
    let agent = world.agent(&[]).unwrap();
    assert_eq!(pod.imds().credentials().unwrap()["Code"], "Success");

    agent.signal(Signal::SIGSTOP).unwrap();
    let asked: Vec<_> = (0..20)
        .map(|_| {
            let mut connection = pod.imds().connect().unwrap();
            connection.send(&pod.imds().bytes("GET", DOCUMENT, &[])).unwrap();
            connection
        })
        .collect();
    agent.sigterm().unwrap();
    agent.signal(Signal::SIGCONT).unwrap();
    for (n, mut connection) in asked.into_iter().enumerate() {
        let answer = connection.read(false).unwrap_or_else(|error| panic!("{n}: {error}\n{}", agent.log()));
        assert_eq!((answer.status, code(&answer).as_str()), (200, "Success"), "{n}");
    }
    assert_eq!(agent.wait().unwrap().code(), Some(0), "{}", agent.log());
}

#[test]
fn second_signal_ends_it_at_once() {
    let Some(world) = world("second_signal_ends_it_at_once") else { return };
    let pod = world.pod("default", "slow", |pod| pod.role("MyPodRole")).unwrap();
    let agent = world.agent(&[]).unwrap();
    let mut half = pod.imds().connect().unwrap();
    half.send(b"GET /latest/meta-data/ HTTP/1.1\r\nHost:").unwrap();
    agent.poll("the connection is open", || Ok(agent.metric("rolegate_connections_open")? >= 1.0)).unwrap();

    agent.sigterm().unwrap();
    agent.wait_for_line("ending", |line| line.text.contains("ending: started requests")).unwrap();
    assert_eq!(agent.status(), None, "half a request is waited for");
    agent.sigterm().unwrap();
    assert_eq!(agent.wait().unwrap().code(), Some(0), "{}", agent.log());
    assert!(agent.log().contains("second signal"), "{}", agent.log());
}

#[test]
fn drain_takes_no_longer_than_asked() {
    let Some(world) = world("drain_takes_no_longer_than_asked") else { return };
    let pod = world.pod("default", "slow", |pod| pod.role("MyPodRole")).unwrap();
    let agent = world.agent(&["--drain-timeout=1s"]).unwrap();
    let mut half = pod.imds().connect().unwrap();
    half.send(b"GET /latest/meta-data/ HTTP/1.1\r\nHost:").unwrap();
    agent.poll("the connection is open", || Ok(agent.metric("rolegate_connections_open")? >= 1.0)).unwrap();
    agent.sigterm().unwrap();
    assert_eq!(agent.wait().unwrap().code(), Some(0), "{}", agent.log());
    assert!(agent.log().contains("the drain took too long"), "{}", agent.log());
    assert!(half.is_closed().unwrap());
}

#[test]
fn taken_port_is_named_and_waited_for_and_an_error_in_the_end() {
    let test = "taken_port_is_named_and_waited_for_and_an_error_in_the_end";
    let Some(world) = world(test) else { return };
    for (address, port) in
        [("0.0.0.0:9543", "port 9543"), ("[::]:8181", "port 8181"), ("0.0.0.0:8181", "port 8181")]
    {
        let taken = world.topology.node().listen(address.parse().unwrap()).unwrap();
        let agent = world.start_agent(&[]).unwrap();
        let waiting = format!("waiting: {port} ");
        agent.wait_for_line(port, |line| line.text.contains(&waiting)).unwrap();
        if address == "0.0.0.0:8181" {
            // Longer than the patience of one wait.
            let ended = agent.wait().or_else(|_| agent.wait()).unwrap();
            assert_eq!(ended.code(), Some(1), "{address}: {}", agent.log());
            let said = agent.lines().last().unwrap().text.clone();
            assert!(said.contains(port), "{address}: {said}");
        } else {
            drop(taken);
            agent.ready().unwrap();
        }
    }
}

#[test]
fn restart_gets_its_ports_at_once_whatever_the_end_was() {
    let Some(world) = world("restart_gets_its_ports_at_once_whatever_the_end_was") else { return };
    let pod = world.pod("default", "aws-cli", |pod| pod.role("MyPodRole")).unwrap();
    let agent = world.agent(&[]).unwrap();
    assert_eq!(pod.imds().credentials().unwrap()["Code"], "Success");
    let open = pod.imds().connect().unwrap();
    agent.kill9().unwrap();
    let again = world.agent(&[]).unwrap();
    drop(open);
    assert_eq!(pod.imds().credentials().unwrap()["Code"], "Success");

    let token = pod.imds().imds_token(300).unwrap();
    again.sigterm().unwrap();
    assert_eq!(again.wait().unwrap().code(), Some(0), "{}", again.log());
    assert!(pod.imds().get(DOCUMENT).is_err(), "refused while there is no agent");
    let _third = world.agent(&[]).unwrap();
    assert_eq!(pod.imds().document("MyPodRole", &token).unwrap().status, 200, "a token outlives a restart");
}

#[test]
fn gates_are_named_with_what_they_wait_for() {
    let Some(world) = World::for_test_with_faults("gates_are_named_with_what_they_wait_for") else {
        return;
    };
    let faults = world.cluster.double().unwrap().faults();
    faults.fail_lists(Resource::Pods, usize::MAX, 500);
    let agent = world.start_agent(&[]).unwrap();
    let gate = |name: &str| agent.admin(&format!("/readyz/{name}"));
    agent
        .poll("all is there but the pods, and what is judged by them", || {
            Ok(["namespaces", "identity", "serving"]
                .iter()
                .all(|name| gate(name).is_ok_and(|answer| answer.status == 200)))
        })
        .unwrap();

    let pods = gate("pods").unwrap();
    assert_eq!(pods.status, 503);
    assert!(pods.text().starts_with("[-]pods "), "{}", pods.text());
    let ready = agent.admin("/readyz").unwrap();
    assert_eq!(ready.status, 503);
    for line in ["[-]pods ", "[+]namespaces ok\n", "[-]redirect ", "readyz check failed\n"] {
        assert!(ready.text().contains(line), "{line:?} in {}", ready.text());
    }
    assert_eq!(agent.admin("/livez").unwrap().status, 200);
    assert_eq!(agent.admin("/healthz").unwrap().json().unwrap()["hostIP"], NODE_V4.to_string());
    assert_eq!(gate("nobody").unwrap().status, 404);

    faults.fail_lists(Resource::Pods, 0, 500);
    agent.ready().unwrap();
    let verbose = agent.admin("/readyz?verbose").unwrap().text();
    assert!(verbose.contains("[+]pods ok\n") && !verbose.contains("[-]"), "{verbose}");
    assert_eq!(agent.admin("/readyz").unwrap().text(), "ok\n");
}

/// P40: the debug page has no secret, and nobody but the node's own processes sees it.
#[test]
fn debug_pages_are_for_loopback_and_have_no_secrets() {
    let Some(world) = world("debug_pages_are_for_loopback_and_have_no_secrets") else { return };
    let pod = world.pod("default", "aws-cli", |pod| pod.role("MyPodRole")).unwrap();
    let agent = world.agent(&[]).unwrap();
    assert_eq!(agent.admin("/debug/store").unwrap().status, 404, "without --debug");
    agent.sigterm().unwrap();
    agent.wait().unwrap();

    let agent = world.agent(&["--debug"]).unwrap();
    let document = pod.imds().credentials().unwrap();
    let store = agent.admin("/debug/store").unwrap();
    assert_eq!(store.json().unwrap()["pods"][0]["name"], "aws-cli", "{}", store.text());
    assert!(store.text().contains(document["AccessKeyId"].as_str().unwrap()), "{}", store.text());
    for secret in [SECRET_MARK, TOKEN_MARK, NODE_MARKER, document["SecretAccessKey"].as_str().unwrap()] {
        assert!(!store.text().contains(secret), "{secret} in {}", store.text());
    }
    let admin = SocketAddr::from((NODE_V4, METRICS_PORT));
    for ns in [world.topology.node(), world.topology.outside(), pod.net.ns()] {
        let answer = Client::new(ns, admin).get("/debug/store").unwrap();
        assert_eq!(answer.status, 403, "{}: {}", ns.name(), answer.text());
        let answer = Client::new(ns, admin).request("PUT", "/debug/log-level?level=trace", &[]).unwrap();
        assert_eq!(answer.status, 403, "{}: {}", ns.name(), answer.text());
    }
}
