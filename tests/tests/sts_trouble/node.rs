//! Trouble that the whole node has: STS away, clocks that differ.

use std::time::Duration;

use rolegate_tests::agent::Agent;
use rolegate_tests::world::TRUST;
use tokio::time::Instant;

use crate::lab::{Lab, document, time_of, told, wall, word, world};

/// P35: ten seconds without STS: who has a session is served, calls are a few, and all are served afterwards.
#[test]
fn ten_seconds_without_sts_cost_a_call_a_second_and_one_for_each_key() {
    let test = "ten_seconds_without_sts_cost_a_call_a_second_and_one_for_each_key";
    let Some(lab) = Lab::start(test, &["--log-level=info"]) else { return };
    let kept = lab.pod("kept", None);
    let session = lab.served(&kept, "kept");
    let waiting: Vec<_> = (0..10).map(|n| lab.pod(&format!("waiting-{n}"), None)).collect();
    lab.world.sts.down(true).unwrap();
    let calls = || {
        let sample = "rolegate_sts_calls_total{cause=\"demand\",result=\"unavailable\"}";
        lab.agent.metric(sample).unwrap()
    };
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(10) {
        std::thread::scope(|scope| {
            for (n, pod) in waiting.iter().enumerate() {
                scope
                    .spawn(move || assert_eq!(word(&document(pod, &format!("waiting-{n}")).unwrap()), "500"));
            }
        });
        assert_eq!(told(&document(&kept, "kept").unwrap()), session);
    }
    // Ten first calls, sixteen at most before the outage is noticed, and one in each second of it.
    let (made, seconds) = (calls(), start.elapsed().as_secs_f64());
    eprintln!("{made} calls in {seconds} s");
    assert!((11.0..=10.0 + 16.0 + seconds + 1.0).contains(&made), "{made} calls in {seconds} s");
    lab.world.sts.down(false).unwrap();
    for (n, pod) in waiting.iter().enumerate() {
        lab.served(pod, &format!("waiting-{n}"));
    }
}

/// A clock of the node that is wrong either way: STS refuses the signature, the agent learns the time from that.
#[test]
fn clock_of_the_node_that_is_off_makes_no_ended_session_good() {
    let test = "clock_of_the_node_that_is_off_makes_no_ended_session_good";
    let Some(lab) = Lab::start(test, &["--log-level=info"]) else { return };
    let faults = lab.world.sts.faults();
    // The node is behind: what STS gives seems to live longer than an hour, and is not believed to.
    for (role, ahead) in [("hour-behind", 3_600), ("ten-minutes-behind", 600), ("half-an-hour-ahead", -1_800)]
    {
        faults.clock_ahead(ahead);
        let pod = lab.pod(role, None);
        let session = lab.served(&pod, role);
        let left = time_of(&session, "Expiration").duration_since(wall()).unwrap().as_secs();
        let expected = u64::try_from(3_600 + ahead).unwrap();
        assert!(left.abs_diff(expected) < 60, "{role}: the end that STS gave: {left} s left");
        assert!(lab.calls_of(role) <= 2, "{role}: refused, and asked again with the right time");
    }
    // The node is ahead by more than a session lives: by its clock each has ended, and none is handed out.
    faults.clock_ahead(-2 * 3_600);
    let pod = lab.pod("two-hours-ahead", None);
    assert_eq!(word(&document(&pod, "two-hours-ahead").unwrap()), "500");
    let said = |line: &rolegate_tests::agent::Line| line.text.contains("ended by this node's clock");
    lab.agent.wait_for_line("why", said).unwrap();
    faults.clock_ahead(0);
    lab.served(&pod, "two-hours-ahead");
}

/// K19: times of documents are UTC wherever the node is, and a refusal that is remembered is no hit.
#[test]
fn times_are_utc_whatever_the_time_zone_and_remembered_refusals_are_no_hits() {
    let test = "times_are_utc_whatever_the_time_zone_and_remembered_refusals_are_no_hits";
    let Some(world) = world(test) else { return };
    let mut environment = world.environment();
    environment.insert("TZ".into(), "Asia/Tokyo".into());
    let mut args = world.usual_flags();
    args.push("--prefetch=false".into());
    let agent = Agent::start(world.topology.node(), &args, &environment).unwrap();
    agent.ready().unwrap();
    let lab = Lab::of(agent, world);
    let before = wall() - Duration::from_secs(1);
    let pod = lab.pod("tokyo", None);
    let session = lab.served(&pod, "tokyo");
    let updated = time_of(&session, "LastUpdated");
    assert!(before <= updated && updated <= wall(), "{session}");
    let left = time_of(&session, "Expiration").duration_since(wall()).unwrap();
    assert!((3_000..=3_600).contains(&left.as_secs()), "{left:?}");

    let results = |result: &str| {
        lab.agent.metric(&format!("rolegate_credentials_requests_total{{result=\"{result}\"}}")).unwrap()
    };
    let refused = lab.pod("refused", None);
    lab.world.role("refused", &TRUST.replace("Allow", "Deny")).unwrap();
    let hits = results("hit");
    let told_so = || Ok(word(&document(&refused, "refused")?) == "AssumeRoleUnauthorizedAccess");
    lab.agent.poll("STS has refused", told_so).unwrap();
    for _ in 0..5 {
        let answer = document(&refused, "refused").unwrap();
        assert_eq!(word(&answer), "AssumeRoleUnauthorizedAccess");
        let updated = time_of(&told(&answer), "LastUpdated");
        assert!(before <= updated && updated <= wall(), "{}", answer.text());
    }
    assert!(results("refused_remembered") >= 5.0);
    assert_eq!(results("hit"), hits);
    assert_eq!(lab.calls_of("refused"), 1);
}
