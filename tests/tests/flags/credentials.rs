//! Flags of the group "Credentials".

use std::time::Duration;

use rolegate_tests::agent::Agent;
use rolegate_tests::kube_api::Pod;
use rolegate_tests::sts::Fault;
use rolegate_tests::world::{NODE, arn};

use super::{call, document, ready, world};

/// K16: the flag for the regional endpoint does what it says, both ways; and the region and the age of refresh are
/// those of their flags.
#[test]
fn sessions_are_asked_for_where_and_as_long_as_told() {
    let Some(world) = world("sessions_are_asked_for_where_and_as_long_as_told") else { return };
    world.namespace("default", &["*"]).unwrap();
    let agent = ready(
        &world,
        &["--iptables"],
        &["--session-duration=20m", "--region=eu-west-1", "--iam-role-session-ttl=1s", "--prefetch"],
    );
    // Nobody asks: it is fetched ahead, and again when it is a second old.
    world
        .cluster
        .apply_pod(&Pod::new("default", "ahead").node(NODE).ip("100.96.1.101").role("MyPodRole"))
        .unwrap();
    let ahead = call(&world, &agent, "a call ahead", |call| call.access_key_id.is_some());
    assert_eq!((ahead.duration, ahead.region.as_str()), (Some(Duration::from_secs(1200)), "eu-west-1"));
    agent.poll("the session is refreshed", || Ok(world.sts.assume_role_calls() > 2)).unwrap();
    drop(agent);

    // A third call for a refused role within the patience of `poll`: the default would make it after 45 s.
    let before = world.sts.calls().len();
    let agent = ready(
        &world,
        &[],
        &["--iam-role-error-ttl=1s", "--use-regional-sts-endpoint=false", "--prefetch=false"],
    );
    let refused = world.pod("default", "refused", |pod| pod.role("NoSuchRole")).unwrap();
    let refusals = || {
        let calls = world.sts.calls().split_off(before);
        calls.into_iter().filter(|call| call.role == arn("NoSuchRole")).collect::<Vec<_>>()
    };
    agent
        .poll("a refusal is forgotten after a second, and again", || {
            let _ = refused.imds().credentials();
            Ok(refusals().len() > 2)
        })
        .unwrap();
    assert!(refusals().iter().all(|call| call.region == "us-east-1"), "{:?}", refusals());
    // The other pod never asked.
    let ahead = world.sts.calls().split_off(before).into_iter().find(|call| call.role == arn("MyPodRole"));
    assert_eq!(ahead, None);
}

#[test]
fn calls_in_flight_are_limited() {
    let Some(world) = world("calls_in_flight_are_limited") else { return };
    world.namespace("default", &["*"]).unwrap();
    let (one, two) = (
        world.pod("default", "one", |pod| pod.role("OtherRole")).unwrap(),
        world.pod("default", "two", |pod| pod.role("MyPodRole")).unwrap(),
    );
    world.sts.faults().of_role("OtherRole", Some(Fault::Stall));
    let agent = ready(&world, &[], &["--sts-calls-in-flight=1", "--prefetch=false"]);
    let calls_of = |role: &str| world.sts.calls().iter().filter(|call| call.role == arn(role)).count();
    std::thread::scope(|scope| {
        let stalled = scope.spawn(|| one.imds().credentials());
        call(&world, &agent, "the call that stalls", |call| call.role == arn("OtherRole"));
        // The one call that may be under way is: nobody else's begins.
        let refused = two.imds().credentials().unwrap_err();
        assert!(refused.to_string().contains("500"), "{refused}");
        assert!(calls_of("MyPodRole") == 0 || calls_of("OtherRole") > 1, "{:?}", world.sts.calls());
        assert!(stalled.join().unwrap().is_err());
    });
    world.sts.faults().clear();
    assert_eq!(document(&agent, &two)["Code"], "Success", "{}", agent.log());
}

#[test]
fn calls_are_as_far_apart_as_told() {
    let Some(world) = world("calls_are_as_far_apart_as_told") else { return };
    world.namespace("default", &["*"]).unwrap();
    for n in 1..=4 {
        let pod = Pod::new("default", &format!("pod-{n}")).node(NODE).ip(&format!("100.96.1.10{n}"));
        world.cluster.apply_pod(&pod.role("MyPodRole")).unwrap();
    }
    // A session each. The default burst makes all calls at once, the default rate one in 200 ms.
    let agent = ready(&world, &["--iptables"], &["--sts-burst=1", "--sts-rate=1", "--session-name={pod}"]);
    agent.poll("a call for each pod", || Ok(world.sts.assume_role_calls() == 4)).unwrap();
    let times: Vec<_> =
        world.sts.calls().iter().filter(|call| call.action == "AssumeRole").map(|call| call.time).collect();
    let apart = times[3].duration_since(times[0]).unwrap();
    assert!(apart > Duration::from_secs(2), "{times:?}");
}

/// Flags, variables of AWS, and the region that STS is asked in.
type Row = (&'static [&'static str], &'static [(&'static str, &'static str)], &'static str);

/// Variables of AWS stand in for flags, and the metadata service for both.
#[test]
fn region_is_that_of_the_flag_else_of_the_environment_else_of_the_instance() {
    let Some(world) = world("region_is_that_of_the_flag_else_of_the_environment_else_of_the_instance") else {
        return;
    };
    let rows: [Row; 5] = [
        (&[], &[], "eu-central-1"),
        (&[], &[("AWS_DEFAULT_REGION", "eu-west-3")], "eu-west-3"),
        (&[], &[("AWS_DEFAULT_REGION", "eu-west-3"), ("AWS_REGION", "eu-west-2")], "eu-west-2"),
        (&["--region=eu-west-1"], &[("AWS_REGION", "eu-west-2")], "eu-west-1"),
        (&[], &[("AWS_REGION", "eu-west-2"), ("AWS_STS_REGIONAL_ENDPOINTS", "legacy")], "us-east-1"),
    ];
    for (flags, variables, region) in rows {
        let before = world.sts.calls().len();
        let mut args = world.usual_flags();
        args.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let mut environment = world.environment();
        environment.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let agent = Agent::start(world.topology.node(), &args, &environment).unwrap();
        agent.ready().unwrap();
        let asked: Vec<_> = world.sts.calls().split_off(before).into_iter().map(|call| call.region).collect();
        assert!(
            !asked.is_empty() && asked.iter().all(|it| it == region),
            "{flags:?} {variables:?}: {asked:?}"
        );
    }
}

/// K17: what the agent runs as is a role, and STS gives a role that assumes another an hour at most: a longer
/// duration becomes that at once.
#[test]
fn session_longer_than_sts_allows_falls_back_to_an_hour_and_that_is_remembered() {
    let Some(world) = world("session_longer_than_sts_allows_falls_back_to_an_hour_and_that_is_remembered")
    else {
        return;
    };
    world.namespace("default", &["*"]).unwrap();
    let agent = ready(&world, &[], &["--session-duration=2h", "--prefetch=false"]);
    for (account, hours) in [("first", vec![2, 1]), ("second", vec![1])] {
        let before = world.sts.calls().len();
        let pod =
            world.pod("default", account, |pod| pod.role("MyPodRole").service_account(account)).unwrap();
        assert_eq!(document(&agent, &pod)["Code"], "Success", "{}", agent.log());
        let asked: Vec<_> = world
            .sts
            .calls()
            .split_off(before)
            .into_iter()
            .filter(|call| call.role == arn("MyPodRole"))
            .filter_map(|call| call.duration)
            .collect();
        let hours: Vec<_> = hours.into_iter().map(|hours| Duration::from_secs(hours * 3_600)).collect();
        assert_eq!(asked, hours, "{account}");
    }
}
