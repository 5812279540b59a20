//! The agent's own credentials, and IMDS where they come from, in trouble.

use std::time::Duration;

use rolegate_tests::imds::ImdsConfig;
use rolegate_tests::world::{NODE_ROLE, World, arn};

use crate::lab::{Lab, document, told, word, world};

/// How IMDS fails, and how it is made well again.
type Failure = (&'static str, fn(&World, bool));

const METADATA: &str = "/latest/meta-data/placement/availability-zone";
/// Changes with time, so that it is asked for again after a few seconds.
const CHANGING: &str = "/latest/meta-data/spot/instance-action";

const HALF: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 900\r\n\r\nhalf of";
const GARBAGE: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 no HTTP at all\r\n\r\n";

const FAILURES: [Failure; 6] = [
    ("down", |world, on| world.imds().faults().down(on).unwrap()),
    ("slow", |world, on| world.imds().faults().delay(Duration::from_secs(if on { 3 } else { 0 }))),
    ("half", |world, on| world.imds().faults().raw(on.then_some(HALF))),
    ("garbage", |world, on| world.imds().faults().raw(on.then_some(GARBAGE))),
    ("unauthorized", |world, on| world.imds().faults().status(on.then_some(401))),
    ("broken", |world, on| world.imds().faults().status(on.then_some(500))),
];

/// The node's role has credentials of this number, and STS takes no older ones.
fn renew(world: &World, number: usize) {
    let (key, secret, token) =
        (format!("ASIARENEWED{number}"), format!("secret-{number}"), format!("NODE-ROLE-token-{number}"));
    world.sts.add_principal(&key, &secret, Some(&token), &arn(NODE_ROLE));
    world.imds().faults().renew((&key, &secret, &token));
}

fn expire(world: &World, number: usize) {
    match number {
        0 => world.sts.expire_principal(&ImdsConfig::default().access_key_id),
        _ => world.sts.expire_principal(&format!("ASIARENEWED{number}")),
    }
}

/// The agent's own credentials expire while IMDS fails in each way: who has a session keeps it, who has none is told
/// 500 and why is logged, calls of STS are bounded; with credentials renewed all are served.
#[test]
fn own_credentials_that_expire_while_imds_fails_are_renewed_when_it_is_back() {
    let test = "own_credentials_that_expire_while_imds_fails_are_renewed_when_it_is_back";
    let Some(lab) = Lab::start(test, &["--log-level=info"]) else { return };
    let kept = lab.pod("kept", None);
    let session = lab.served(&kept, "kept");
    for (number, (failure, switch)) in FAILURES.into_iter().enumerate() {
        let pod = lab.pod(failure, None);
        expire(&lab.world, number);
        switch(&lab.world, true);
        let before = lab.world.sts.calls().len();
        assert_eq!(word(&document(&pod, failure).unwrap()), "500", "{failure}");
        assert_eq!(told(&document(&kept, "kept").unwrap()), session, "{failure}");
        let why = |line: &rolegate_tests::agent::Line| {
            let text = &line.text;
            text.contains(failure) && (text.contains("own credentials") || text.contains("no answer"))
        };
        lab.agent.wait_for_line(failure, why).unwrap();
        let calls = lab.world.sts.calls().len() - before;
        assert!(calls <= 10, "{failure}: {calls} calls");
        renew(&lab.world, number + 1);
        switch(&lab.world, false);
        lab.served(&pod, failure);
    }
}

/// What is passed through: 503 at once or at the deadline while IMDS fails, what is kept is served, and afterwards
/// all is; sessions know nothing of it.
#[test]
fn metadata_is_503_while_imds_fails_and_sessions_are_served() {
    let test = "metadata_is_503_while_imds_fails_and_sessions_are_served";
    let Some(lab) = Lab::start(test, &["--log-level=info", "--metadata-allow=spot/*"]) else { return };
    let pod = lab.pod("MyPodRole", None);
    let session = lab.served(&pod, "MyPodRole");
    let zone = pod.imds().get(METADATA).unwrap();
    assert_eq!((zone.status, zone.text().as_str()), (200, "eu-central-1a"));
    for (failure, switch) in FAILURES {
        switch(&lab.world, true);
        // What was passed a moment ago is kept for five seconds, what fails for one.
        let fails = || Ok(pod.imds().get(CHANGING)?.status == 503);
        lab.agent.poll(failure, fails).unwrap();
        let before = lab.world.imds().requests().len();
        for _ in 0..10 {
            let answer = pod.imds().get(CHANGING).unwrap();
            assert_eq!((answer.status, answer.body.len()), (503, 0), "{failure}");
        }
        let asked = lab.world.imds().requests().len() - before;
        assert!(asked <= 20, "{failure}: {asked} requests for ten");
        assert_eq!(pod.imds().get(METADATA).unwrap().body, zone.body, "{failure}: what never changes");
        assert_eq!(told(&document(&pod, "MyPodRole").unwrap()), session, "{failure}");
        switch(&lab.world, false);
        let well = || Ok(pod.imds().get(CHANGING)?.status == 200);
        lab.agent.poll("IMDS is well again", well).unwrap();
    }
}

/// An agent that starts while IMDS fails, in one way after the other: not ready, and says why; nothing is decided
/// and nothing asked of STS; when IMDS is well it serves without a restart.
#[test]
fn agent_that_starts_while_imds_fails_serves_when_it_is_back() {
    let test = "agent_that_starts_while_imds_fails_serves_when_it_is_back";
    let Some(world) = world(test) else { return };
    let pod = world.pod("default", "early", |pod| pod.role("MyPodRole")).unwrap();
    let mut on: Option<fn(&World, bool)> = None;
    let mut agent = None;
    for (failure, switch) in FAILURES {
        if let Some(last) = on.replace(switch) {
            // No moment between two failures in which all is well.
            world.imds().faults().hold(true);
            last(&world, false);
        }
        switch(&world, true);
        world.imds().faults().hold(false);
        world.imds().faults().release();
        let agent = agent.get_or_insert_with(|| world.start_agent(&["--prefetch=false"]).unwrap());
        let seen = agent.lines().len();
        // A whole round of questions in this failure.
        let mut rounds = || {
            let lines = agent.lines();
            let is_round =
                |line: &&rolegate_tests::agent::Line| line.text.contains("is not known yet; asked again");
            Ok(lines[seen..].iter().filter(is_round).count() >= 2)
        };
        agent.poll(failure, &mut rounds).unwrap();
        assert_eq!(agent.admin("/readyz").unwrap().status, 503, "{failure}");
        assert_eq!(word(&document(&pod, "MyPodRole").unwrap()), "500", "{failure}");
    }
    assert!(world.sts.calls().is_empty(), "{:?}", world.sts.calls());
    on.unwrap()(&world, false);
    let lab = Lab::of(agent.unwrap(), world);
    lab.agent.ready().unwrap();
    lab.served(&pod, "MyPodRole");
}
