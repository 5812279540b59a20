//! A trust policy that names another role than the node's: told to the operator, asked seldom, and served at the
//! first request once it is mended.

use std::sync::Arc;
use std::time::Duration;

use rolegate_tests::agent::Agent;
use rolegate_tests::skip;
use rolegate_tests::sts::Call;
use rolegate_tests::world::{NODE_ROLE, RunningPod, TRUST, World, arn};

use super::{UNABLE, knows, no_cli, refusal_of, refused, served, who_am_i, world};

/// How many times a client asks again.
const RETRIES: usize = 100;
/// How many times the CLI is started: its start takes about a second.
const LOADS: usize = 5;

/// `MyPodRole` trusts a node role that is not this node's; the pod has asked, and was refused.
fn refused_pod(test: &str) -> Option<(World, Agent, RunningPod)> {
    let world = world(test)?;
    let wrong = TRUST.replace(&arn(NODE_ROLE), &arn("nodes.cluster.k8s.local"));
    assert_ne!(wrong, TRUST);
    world.role("MyPodRole", &wrong).unwrap();
    world.namespace("default", &["MyPodRole"]).unwrap();
    let agent = world.agent(&["--debug"]).unwrap();
    let pod = world.pod("default", "aws-cli", |pod| pod.role("MyPodRole")).unwrap();
    knows(&agent, &pod.uid, "MyPodRole");
    refused(&agent, &pod);
    Some((world, agent, pod))
}

fn assume_role_calls(world: &World) -> Vec<Call> {
    world.sts.calls().into_iter().filter(|call| call.action == "AssumeRole").collect()
}

#[test]
fn pod_is_refused_in_the_clis_words_and_the_operator_is_told_what_sts_said() {
    let test = "wrong_trust::pod_is_refused_in_the_clis_words_and_the_operator_is_told_what_sts_said";
    let Some((world, agent, pod)) = refused_pod(test) else { return };
    match no_cli() {
        Some(why) => skip(test, &why),
        None => {
            let said = who_am_i(&world, &pod);
            assert!(said.contains(UNABLE), "{said}");
        }
    }
    let line = refusal_of(&agent, "aws-cli");
    assert_eq!(line.text_of("namespace").as_deref(), Some("default"));
    assert_eq!(line.text_of("role_arn"), Some(arn("MyPodRole")));
    let detail = line.text_of("detail").unwrap();
    let sts = format!("is not authorized to perform: sts:AssumeRole on resource: {}", arn("MyPodRole"));
    assert!(detail.contains(&sts) && detail.contains(NODE_ROLE), "{detail}");
    // The node's role and its session are the operator's business.
    let message = refused(&agent, &pod);
    assert!(message.contains(&arn("MyPodRole")) && !message.contains(NODE_ROLE), "{message}");
}

#[test]
fn retries_of_a_refused_pod_cost_two_calls_in_ten_seconds_at_most() {
    let test = "wrong_trust::retries_of_a_refused_pod_cost_two_calls_in_ten_seconds_at_most";
    let Some((world, agent, pod)) = refused_pod(test) else { return };
    for _ in 0..RETRIES {
        refused(&agent, &pod);
    }
    // A client loads a few times more, with pauses of its own.
    if no_cli().is_none() {
        for _ in 0..LOADS {
            who_am_i(&world, &pod);
        }
    }
    let calls = assume_role_calls(&world);
    let first = calls[0].time;
    let within = |call: &&Call| call.time.duration_since(first).unwrap() < Duration::from_secs(10);
    let early = calls.iter().filter(within).count();
    assert!((1..=2).contains(&early), "{calls:?}");
}

#[test]
fn pod_made_again_after_the_mending_is_served_at_its_first_request() {
    let test = "wrong_trust::pod_made_again_after_the_mending_is_served_at_its_first_request";
    let Some((world, agent, pod)) = refused_pod(test) else { return };
    world.role("MyPodRole", TRUST).unwrap();
    // Made again behind the same link: another UID, the same address.
    world.delete(&pod).unwrap();
    let again = world.run(Arc::clone(&pod.net), "default", "aws-cli", |pod| pod.role("MyPodRole")).unwrap();
    assert_ne!(again.uid, pod.uid);
    knows(&agent, &again.uid, "MyPodRole");
    served(&world, &agent, &again, "MyPodRole");
}

#[test]
fn edit_of_the_annotation_after_the_mending_is_served_at_the_next_request() {
    let test = "wrong_trust::edit_of_the_annotation_after_the_mending_is_served_at_the_next_request";
    let Some((world, agent, mut pod)) = refused_pod(test) else { return };
    world.role("MyPodRole", TRUST).unwrap();
    // The same role in other words: what was remembered of it is forgotten all the same.
    let whole = arn("MyPodRole");
    world.edit(&mut pod, |pod| pod.role(&whole)).unwrap();
    knows(&agent, &pod.uid, &whole);
    served(&world, &agent, &pod, "MyPodRole");
}

#[test]
fn without_either_the_refusal_is_remembered() {
    let test = "wrong_trust::without_either_the_refusal_is_remembered";
    let Some((world, agent, pod)) = refused_pod(test) else { return };
    let before = assume_role_calls(&world);
    world.role("MyPodRole", TRUST).unwrap();
    let message = refused(&agent, &pod);
    assert_eq!(assume_role_calls(&world), before, "{message}");
}
