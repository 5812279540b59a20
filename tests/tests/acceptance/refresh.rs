//! Sessions are replaced ahead of need, unnoticed; and a role that is no longer allowed is refused at the next
//! request, whatever is cached.

use std::time::Duration;

use rolegate_tests::agent::Agent;
use rolegate_tests::sts::Fault;
use rolegate_tests::world::{RunningPod, World};

use super::{code_becomes, refused, served, world};

fn one_pod(test: &str) -> Option<(World, RunningPod)> {
    let world = world(test)?;
    world.namespace("default", &["MyPodRole"]).unwrap();
    let pod = world.pod("default", "aws-cli", |pod| pod.role("MyPodRole")).unwrap();
    Some((world, pod))
}

/// How many requests found no session and had to wait for one.
fn waited(agent: &Agent) -> f64 {
    let of = |result: &str| format!(r#"rolegate_credentials_requests_total{{result="{result}"}}"#);
    ["miss", "coalesced", "timeout"].iter().map(|result| agent.metric(&of(result)).unwrap()).sum()
}

/// Asks on and on, every answer a session, until it is another one.
fn until_another(world: &World, agent: &Agent, pod: &RunningPod, first: &str) {
    let another = || Ok(served(world, agent, pod, "MyPodRole") != first);
    agent.poll("another session is served", another).unwrap();
}

#[test]
fn short_sessions_are_replaced_and_no_request_fails_or_waits() {
    let test = "refresh::short_sessions_are_replaced_and_no_request_fails_or_waits";
    let Some((world, pod)) = one_pod(test) else { return };
    // Replaced at half their life.
    world.sts.faults().session_life(Some(Duration::from_secs(16)));
    let agent = world.agent(&[]).unwrap();
    let mut key = served(&world, &agent, &pod, "MyPodRole");
    let before = waited(&agent);
    for _ in 0..2 {
        until_another(&world, &agent, &pod, &key);
        key = served(&world, &agent, &pod, "MyPodRole");
    }
    assert_eq!(waited(&agent).to_bits(), before.to_bits(), "no request waited");
}

#[test]
fn a_refresh_that_hangs_is_waited_for_by_nobody() {
    let test = "refresh::a_refresh_that_hangs_is_waited_for_by_nobody";
    let Some((world, pod)) = one_pod(test) else { return };
    let agent = world.agent(&["--iam-role-session-ttl=1s"]).unwrap();
    served(&world, &agent, &pod, "MyPodRole");
    let before = waited(&agent);

    world.sts.faults().every(Some(Fault::Stall));
    let calls = world.sts.assume_role_calls();
    agent.poll("a refresh is under way", || Ok(world.sts.assume_role_calls() > calls)).unwrap();
    let first = served(&world, &agent, &pod, "MyPodRole");
    world.sts.faults().clear();
    until_another(&world, &agent, &pod, &first);
    assert_eq!(waited(&agent).to_bits(), before.to_bits(), "no request waited");
}

#[test]
fn role_taken_off_the_list_is_refused_at_the_next_request_though_a_session_is_cached() {
    let test = "refresh::role_taken_off_the_list_is_refused_at_the_next_request_though_a_session_is_cached";
    let Some((world, pod)) = one_pod(test) else { return };
    let agent = world.agent(&[]).unwrap();
    served(&world, &agent, &pod, "MyPodRole");
    assert_eq!(world.sts.assume_role_calls(), 1);

    world.namespace("default", &["OtherRole"]).unwrap();
    code_becomes(&agent, &pod, super::REFUSED);
    let message = refused(&agent, &pod);
    assert!(message.contains("does not allow it"), "{message}");
    assert_eq!(world.sts.assume_role_calls(), 1, "STS was not asked again");

    world.namespace("default", &["MyPodRole"]).unwrap();
    code_becomes(&agent, &pod, "Success");
    served(&world, &agent, &pod, "MyPodRole");
}
