//! Everybody at once: 250 pods of 25 session keys ask a cold agent in the same moment.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use rolegate_tests::agent::Agent;
use rolegate_tests::crowd::{Answered, Crowd, ROLES};
use rolegate_tests::sts::Fault;
use rolegate_tests::world::{Options, World};

fn crowded(test: &str) -> Option<(World, Crowd, Agent)> {
    let world = World::for_test(test, &Options::default())?;
    let crowd = Crowd::join(&world).unwrap();
    let agent = world.agent(&["--prefetch=false", "--log-level=info"]).unwrap();
    Some((world, crowd, agent))
}

/// Every pod has keys of its own role.
fn all_served(world: &World, answers: &[Answered], agent: &Agent) {
    for answer in answers {
        answer.is_served(world).unwrap_or_else(|error| panic!("{error:#}\n{}", agent.log()));
    }
}

#[test]
fn two_hundred_and_fifty_cold_pods_of_twenty_five_keys_cost_twenty_five_calls() {
    let test = "two_hundred_and_fifty_cold_pods_of_twenty_five_keys_cost_twenty_five_calls";
    let Some((world, crowd, agent)) = crowded(test) else { return };
    world.sts.faults().every(Some(Fault::Delay(Duration::from_millis(150))));
    all_served(&world, &crowd.ask_at_once().unwrap(), &agent);
    assert_eq!(world.sts.assume_role_calls(), usize::from(ROLES));
    // Again, from memory.
    all_served(&world, &crowd.ask_at_once().unwrap(), &agent);
    assert_eq!(world.sts.assume_role_calls(), usize::from(ROLES));
}

#[test]
fn a_role_that_hangs_and_one_that_is_refused_hold_up_nobody_of_a_crowd() {
    let test = "a_role_that_hangs_and_one_that_is_refused_hold_up_nobody_of_a_crowd";
    let Some((world, crowd, agent)) = crowded(test) else { return };
    world.sts.faults().of_role("Role1", Some(Fault::Stall));
    world.role("Role2", r#"{"Version":"2012-10-17","Statement":[]}"#).unwrap();
    let (special, others): (Vec<_>, Vec<_>) =
        crowd.ask_at_once().unwrap().into_iter().partition(|asked| matches!(asked.pod % ROLES, 1 | 2));
    all_served(&world, &others, &agent);
    for Answered { pod, answer, .. } in special {
        match pod % ROLES {
            1 => assert!(answer.starts_with("HTTP/1.1 500"), "pod-{pod}: {answer}"),
            _ => assert!(answer.contains("AssumeRoleUnauthorizedAccess"), "pod-{pod}: {answer}"),
        }
    }
}
