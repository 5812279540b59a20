//! A crowd of 250 cold pods of 25 session keys while STS throttles the node, and a pod that wants more than its share.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::time::Duration;

use rolegate_tests::agent::Agent;
use rolegate_tests::crowd::{Answered, Crowd, PODS, ROLES, role};
use rolegate_tests::sts::{Call, Fault};
use rolegate_tests::world::{Options, TRUST, World, arn};
use tokio::time::Instant;

const LIST: &str = "/latest/meta-data/iam/security-credentials/";
/// What the account's quota leaves this node.
const CALLS_PER_SECOND: u32 = 10;
/// The agent's own bucket, whatever STS says: 50 calls, and five more in each second.
const BUCKET: (usize, u64) = (50, 5);
/// What is tried in vain: the 25 that go out at once, and then half as many after each pause.
const THROTTLED_MAX: usize = 2 * ROLES as usize;
/// How long all of a crowd may take on a machine that is busy with much else.
const PATIENCE: Duration = Duration::from_secs(150);

fn crowded(test: &str) -> Option<(World, Crowd, Agent)> {
    let world = World::for_test(test, &Options::default())?;
    let crowd = Crowd::join(&world).unwrap();
    let agent = world.agent(&["--prefetch=false", "--log-level=info"]).unwrap();
    Some((world, crowd, agent))
}

/// All ask again and again, as SDKs do, until everybody of `wanted` is served with keys of the own role. What others
/// got last.
fn until_served(world: &World, crowd: &Crowd, agent: &Agent, wanted: impl Fn(u8) -> bool) -> Vec<Answered> {
    let mut last = BTreeMap::new();
    let start = Instant::now();
    loop {
        for answered in crowd.ask_at_once().unwrap() {
            let status = answered.answer.get(9..12);
            assert!(matches!(status, Some("200" | "500")), "{answered:?}");
            last.insert(answered.pod, answered);
        }
        let unserved = last.values().filter(|it| wanted(it.pod)).find_map(|it| it.is_served(world).err());
        let Some(error) = unserved else { break };
        assert!(start.elapsed() < PATIENCE, "{error:#}\n{}", agent.log());
    }
    assert_eq!(last.len(), usize::from(PODS));
    last.into_values().filter(|it| !wanted(it.pod)).collect()
}

fn assumed(world: &World) -> Vec<Call> {
    world.sts.calls().into_iter().filter(|call| call.action == "AssumeRole").collect()
}

/// The calls are those of the bucket at most, and few of them are thrown at an STS that has just said no.
fn slows_down(calls: &[Call]) {
    let took = calls[calls.len() - 1].time.duration_since(calls[0].time).unwrap();
    let throttled = calls.iter().filter(|call| call.error.as_deref() == Some("Throttling")).count();
    eprintln!("{} calls in {took:?}, {throttled} of them throttled", calls.len());
    let most = BUCKET.0 + usize::try_from(BUCKET.1 * (took.as_secs() + 1)).unwrap();
    assert!(calls.len() <= most, "{} calls in {took:?}", calls.len());
    assert!((1..=THROTTLED_MAX).contains(&throttled), "{throttled} of {} calls throttled", calls.len());
}

/// K14, P35: everybody of a herd is answered in the end with the own role though STS takes ten calls a second, each
/// key is issued once, and the agent slows down.
#[test]
fn herd_that_sts_throttles_is_served_with_a_bounded_number_of_calls() {
    let test = "herd_that_sts_throttles_is_served_with_a_bounded_number_of_calls";
    let Some((world, crowd, agent)) = crowded(test) else { return };
    world.sts.faults().throttle(Some(CALLS_PER_SECOND));
    until_served(&world, &crowd, &agent, |_| true);
    let calls = assumed(&world);
    slows_down(&calls);
    assert_eq!(calls.iter().filter(|call| call.access_key_id.is_some()).count(), usize::from(ROLES));
}

/// The same with a role that hangs and one that is refused: the others are served as without them.
#[test]
fn throttling_with_a_role_that_hangs_and_one_that_is_refused_holds_up_nobody_else() {
    let test = "throttling_with_a_role_that_hangs_and_one_that_is_refused_holds_up_nobody_else";
    let Some((world, crowd, agent)) = crowded(test) else { return };
    world.sts.faults().throttle(Some(CALLS_PER_SECOND));
    world.sts.faults().of_role(&role(1), Some(Fault::Stall));
    world.role(&role(2), r#"{"Version":"2012-10-17","Statement":[]}"#).unwrap();
    let special = until_served(&world, &crowd, &agent, |pod| !matches!(pod % ROLES, 1 | 2));
    for Answered { pod, answer, .. } in special {
        match pod % ROLES {
            1 => assert!(answer.starts_with("HTTP/1.1 500"), "pod-{pod}: {answer}"),
            // Refused, or STS has not come to it yet.
            _ => assert!(
                answer.contains("AssumeRoleUnauthorizedAccess") || answer.starts_with("HTTP/1.1 500"),
                "pod-{pod}: {answer}"
            ),
        }
    }
    slows_down(&assumed(&world));
}

/// P38: a pod whose annotation is edited in a loop, half of its roles refused, holds up nobody who comes then.
#[test]
fn pod_whose_annotation_is_edited_in_a_loop_holds_up_nobody() {
    let test = "pod_whose_annotation_is_edited_in_a_loop_holds_up_nobody";
    let Some(world) = World::for_test(test, &Options::default()) else { return };
    world.namespace("default", &["*"]).unwrap();
    // A small bucket that is filled slowly, so that the loop need not be long.
    let agent = world.agent(&["--log-level=info", "--sts-burst=20", "--sts-rate=1"]).unwrap();
    let mut greedy = world.pod("default", "greedy", |pod| pod.role("Greedy0")).unwrap();
    for n in 0..100 {
        let name = format!("Greedy{n}");
        if n % 2 == 0 {
            world.role(&name, TRUST).unwrap();
        }
        world.edit(&mut greedy, |pod| pod.role(&name)).unwrap();
        agent.poll("the edit is known", || Ok(greedy.imds().get(LIST)?.text() == name)).unwrap();
        // It does not wait for its answer.
        let mut open = greedy.imds().connect().unwrap();
        open.send(&greedy.imds().bytes("GET", &format!("{LIST}{name}"), &[])).unwrap();
    }
    let of_the_loop = assumed(&world).len();
    assert!(of_the_loop >= 8, "the loop has made calls: {of_the_loop}");
    // Half the bucket is there for the others: six of them at once.
    for n in 0..6 {
        world.role(&format!("Late{n}"), TRUST).unwrap();
    }
    let late: Vec<_> = (0..6)
        .map(|n| world.pod("default", &format!("late{n}"), |pod| pod.role(&format!("Late{n}"))).unwrap())
        .collect();
    for (n, pod) in late.iter().enumerate() {
        let served = || Ok(pod.imds().credentials().is_ok_and(|it| it["Code"] == "Success"));
        agent.poll("a pod that comes late is served", served).unwrap();
        assert!(assumed(&world).iter().any(|call| call.role == arn(&format!("Late{n}"))));
    }
    // In the order of arrival those of the loop would all have gone before: one a second.
    let calls = assumed(&world);
    let last_late = calls.iter().rposition(|call| call.role.contains("Late")).unwrap();
    eprintln!("{of_the_loop} calls of the loop; {last_late} before the last of the others");
    assert!(last_late <= of_the_loop + 6 + 10, "{last_late} of {:?}", calls.len());
}
