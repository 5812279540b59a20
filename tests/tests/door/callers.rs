//! Who is asking: addresses that are not known yet, that several pods claim, or that are no pod's of their own.

use std::io;
use std::sync::Arc;

use rolegate_tests::agent::Agent;
use rolegate_tests::http::{Client, Response};
use rolegate_tests::kube_api::Resource;
use rolegate_tests::topology::NODE_V4;
use rolegate_tests::world::RunningPod;

use crate::lab::{Lab, OWN_DOCUMENT, ROLES, Wrong};

/// With a default role, so that an answer to an unknown address would be seen.
const FLAGS: [&str; 2] = ["--default-role=MyPodRole", "--prefetch=false"];

fn asks(pod: &RunningPod) -> io::Result<Response> {
    pod.imds().get(ROLES)
}

/// Runs `meanwhile` while a request of `pod` is open at the agent.
fn during_a_request(agent: &Agent, pod: &RunningPod, meanwhile: impl FnOnce()) -> io::Result<Response> {
    std::thread::scope(|scope| {
        let request = scope.spawn(|| asks(pod));
        let open = || Ok(request.is_finished() || agent.metric("rolegate_connections_open")? >= 1.0);
        agent.poll("the request is open", open).unwrap();
        meanwhile();
        request.join().unwrap()
    })
}

/// Held until the event, answered at once then; with the event too late, 500. Several attempts, since a loaded machine
/// may bring the event after the agent has given up.
fn held(lab: &Lab, resource: Resource, make: impl Fn(u32) -> RunningPod) {
    let api = lab.world.cluster.double().unwrap();
    let answered = (0..10).any(|attempt| {
        api.faults().hold(resource);
        let pod = make(attempt);
        let answer = during_a_request(&lab.agent, &pod, || api.faults().release(resource)).unwrap();
        assert!([200, 500].contains(&answer.status), "{answer:?}");
        assert_eq!(answer.body, if answer.status == 200 { &b"MyPodRole"[..] } else { b"" });
        answer.status == 200
    });
    assert!(answered, "never answered after the event: {}", lab.agent.log());
    let held = lab.agent.metric("rolegate_identity_held_total{outcome=\"answered\"}").unwrap();
    assert!(held >= 1.0, "{}", lab.agent.log());
}

#[test]
fn request_of_an_unknown_address_is_held_and_answered_when_the_pod_is_seen() {
    let Some(lab) = Lab::own(&FLAGS) else { return };
    if lab.world.cluster.double().is_err() {
        return rolegate_tests::skip("held", "only the double holds events back");
    }
    held(&lab, Resource::Pods, |attempt| {
        lab.world.pod("default", &format!("late{attempt}"), |pod| pod.role("MyPodRole")).unwrap()
    });
}

#[test]
fn request_of_a_pod_whose_namespace_is_unknown_is_held_and_answered_when_it_is_seen() {
    let Some(lab) = Lab::own(&FLAGS) else { return };
    if lab.world.cluster.double().is_err() {
        return rolegate_tests::skip("held", "only the double holds events back");
    }
    held(&lab, Resource::Namespaces, |attempt| {
        let namespace = format!("late{attempt}");
        lab.world.namespace(&namespace, &["MyPodRole"]).unwrap();
        lab.world.pod(&namespace, &namespace, |pod| pod.role("MyPodRole")).unwrap()
    });
}

/// All answers of `pod` are 500, for `reason`, over both families; a token is given nevertheless.
fn nobody(lab: &Lab, pod: &RunningPod, reason: &str, wrong: &mut Wrong) {
    let sample = format!("rolegate_identity_refused_total{{reason=\"{reason}\"}}");
    let before = lab.agent.metric(&sample).unwrap();
    let token = pod.imds().imds_token(60).unwrap();
    for path in ["/", ROLES, OWN_DOCUMENT, "/latest/meta-data/instance-id"] {
        wrong.unless_answered(500, (reason, path), &pod.imds().get_v2(path, &token));
    }
    wrong.unless_answered(500, (reason, "IPv6"), &pod.imds_v6().get(OWN_DOCUMENT));
    let refused = lab.agent.metric(&sample).unwrap() - before;
    wrong.unless(refused >= 5.0, (reason, "counted"), refused);
}

#[test]
fn address_that_is_nobodys_in_particular_is_500_and_never_a_default_role() {
    let Some(lab) = Lab::own(&FLAGS) else { return };
    let mut wrong = Wrong::default();
    let world = &lab.world;
    let role = |pod: rolegate_tests::kube_api::Pod| pod.role("MyPodRole");

    // Known before: else its first requests would say `not_synced`.
    lab.pod("own");
    let pod = world.pod("default", "gone", role).unwrap();
    lab.settled(&pod);
    world.delete(&pod).unwrap();
    let gone = || Ok(asks(&pod)?.status == 500);
    lab.agent.poll("the pod is gone", gone).unwrap();
    nobody(&lab, &pod, "unknown_address", &mut wrong);

    let pod = world.pod("nowhere", "nowhere", role).unwrap();
    let known = || {
        asks(&pod)?;
        Ok(lab.agent.metric("rolegate_identity_refused_total{reason=\"namespace_unknown\"}")? >= 1.0)
    };
    lab.agent.poll("the pod without a namespace is known", known).unwrap();
    nobody(&lab, &pod, "namespace_unknown", &mut wrong);

    let first = world.pod("default", "first", role).unwrap();
    lab.settled(&first);
    let second = world.run(Arc::clone(&first.net), "default", "second", role).unwrap();
    lab.agent.poll("two claim the address", || Ok(asks(&first)?.status == 500)).unwrap();
    nobody(&lab, &first, "ambiguous", &mut wrong);
    world.delete(&first).unwrap();
    lab.agent.poll("one is left", || Ok(asks(&second)?.status == 200)).unwrap();

    world.delete(&second).unwrap();
    let host = |pod: rolegate_tests::kube_api::Pod| pod.role("MyPodRole").host_network(true);
    let host = world.run(Arc::clone(&first.net), "default", "host", host).unwrap();
    let sample = "rolegate_identity_refused_total{reason=\"host_network\"}";
    let seen = || {
        asks(&host)?;
        Ok(lab.agent.metric(sample)? >= 1.0)
    };
    lab.agent.poll("only a host-network pod has the address", seen).unwrap();
    nobody(&lab, &host, "host_network", &mut wrong);
    wrong.none();
}

#[test]
fn connection_that_was_not_captured_gets_health_and_nothing_else() {
    let Some(lab) = Lab::own(&FLAGS) else { return };
    let mut wrong = Wrong::default();
    let pod = lab.pod("own");
    lab.world.host_pod("default", "host", |pod| pod.role("MyPodRole")).unwrap();
    let agent = (NODE_V4, 8181).into();
    for (from, ns) in [("pod", pod.net.ns()), ("node", &**lab.world.topology.node())] {
        let client = Client::new(ns, agent);
        for path in ["/", ROLES, OWN_DOCUMENT, "/latest/meta-data/instance-id", "/latest/user-data"] {
            for host in ["169.254.169.254", "10.0.0.10:8181"] {
                let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
                let answer = client.raw(request.as_bytes());
                let refused = answer.as_ref().is_ok_and(|it| it.status == 404 && it.body == b"not found\n");
                wrong.unless(refused, (from, path, host), &answer);
            }
        }
        let put = client.request("PUT", "/latest/api/token", &[(crate::lab::TTL, "60")]);
        wrong.unless(put.as_ref().is_ok_and(|it| it.status != 200), (from, "token"), &put);
        let health = client.get("/healthz");
        wrong.unless(health.as_ref().is_ok_and(|it| it.status == 200), (from, "health"), &health);
    }
    wrong.none();
}
