//! The API server away, forgetful or unwilling, and addresses that change hands.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "cluster_outage/away.rs"]
mod away;
#[path = "cluster_outage/odd.rs"]
mod odd;

use std::sync::Arc;
use std::time::Duration;

use rolegate_tests::agent::Agent;
use rolegate_tests::http::Client;
use rolegate_tests::kube_api::Resource;
use rolegate_tests::sts::Fault;
use rolegate_tests::world::{Options, RunningPod, World};

const LIST: &str = "/latest/meta-data/iam/security-credentials/";

/// What a pod is listed: its role, or the status that it gets instead.
fn listed(client: Client<'_>) -> Result<String, u16> {
    let answer = client.get(LIST).unwrap();
    if answer.status == 200 { Ok(answer.text()) } else { Err(answer.status) }
}

fn becomes(agent: &Agent, pod: &RunningPod, wanted: &Result<String, u16>) {
    agent.poll(&format!("{wanted:?}"), || Ok(listed(pod.imds()) == *wanted)).unwrap();
}

fn role(name: &str) -> Result<String, u16> {
    Ok(name.to_owned())
}

fn allow_all(world: &World) {
    world.namespace("default", &["MyPodRole", "OtherRole"]).unwrap();
}

fn world_with_faults(test: &str) -> Option<World> {
    World::for_test_with_faults(test).inspect(allow_all)
}

fn world(test: &str) -> Option<World> {
    World::for_test(test, &Options::default()).inspect(allow_all)
}

fn gate(agent: &Agent, name: &str) -> String {
    agent.admin(&format!("/readyz/{name}")).unwrap().text()
}

fn held(agent: &Agent, outcome: &str) -> f64 {
    agent.metric(&format!("rolegate_identity_held_total{{outcome=\"{outcome}\"}}")).unwrap()
}

fn restarts(agent: &Agent, reason: &str) -> f64 {
    let sample = format!("rolegate_kubernetes_watch_restarts_total{{reason=\"{reason}\",resource=\"pods\"}}");
    agent.metric(&sample).unwrap()
}

/// P17: while the API server is away, for longer than what is known is fresh, pods that are known are served, the
/// page of readiness names the gate and the age, and a new pod is held and then refused; once it is back, all is
/// followed again without a restart.
#[test]
fn api_server_that_is_away_for_minutes_is_said_and_followed_again() {
    let Some(world) = world_with_faults("api_server_that_is_away_for_minutes_is_said_and_followed_again")
    else {
        return;
    };
    let known = world.pod("default", "known", |pod| pod.role("MyPodRole")).unwrap();
    let agent = world.agent(&[]).unwrap();
    let double = world.cluster.double().unwrap();
    double.faults().down(true);
    let new = world.pod("default", "new", |pod| pod.role("OtherRole")).unwrap();
    let age = || agent.metric("rolegate_kubernetes_last_event_age_seconds{resource=\"pods\"}").unwrap();
    let mut last = age();
    // Nothing but time makes it stale, and a wait is half a minute at most.
    for seconds in [20.0, 40.0, 60.0, 76.0] {
        agent.poll(&format!("{seconds} s have passed"), || Ok(age() >= seconds)).unwrap();
        assert!(age() > last, "the age rises");
        last = age();
        assert_eq!(known.imds().credentials().unwrap()["Code"], "Success");
        assert_eq!(agent.admin("/livez").unwrap().status, 200);
        if seconds < 60.0 {
            assert_eq!(agent.admin("/readyz").unwrap().status, 200, "fresh for 75 s");
        }
    }
    for name in ["pods", "namespaces"] {
        let stale = format!("[-]{name} {name} stale: no event and no bookmark for ");
        agent.poll(&stale, || Ok(gate(&agent, name).starts_with(&stale))).unwrap();
    }
    assert_eq!(agent.admin("/readyz").unwrap().status, 503);
    let expired = held(&agent, "expired");
    assert_eq!(listed(new.imds()), Err(500), "nobody knows it");
    assert_eq!(held(&agent, "expired"), expired + 1.0, "it was held first");
    let asked = double.turned_away();

    double.faults().down(false);
    // Within the longest pause between two tries, 30 s, and what two busy cores add.
    let back = || Ok(listed(new.imds()) == role("OtherRole"));
    agent.poll("followed again", back).or_else(|_| agent.poll("followed again", back)).unwrap();
    agent.ready().or_else(|_| agent.ready()).unwrap();
    // Two resources; in 76 s each is tried after 0.4 to 0.8 s, then twice that, up to 15 to 30 s.
    assert!((8..=24).contains(&asked), "{asked} connections in {last} s");
}

#[test]
fn pods_made_after_the_watch_ended_in_any_way_are_served() {
    let test = "pods_made_after_the_watch_ended_in_any_way_are_served";
    let Some(world) = world_with_faults(test) else { return };
    let agent = world.agent(&[]).unwrap();
    let faults = world.cluster.double().unwrap().faults();
    // A connection that breaks is an end like any other to the client library.
    let ends: [(&str, &str, &dyn Fn()); 3] = [
        ("cut", "ended", &|| faults.cut_watches()),
        ("broken", "ended", &|| faults.break_watches()),
        ("expired", "gone", &|| faults.expire()),
    ];
    for (name, reason, end) in ends {
        let before = restarts(&agent, reason);
        end();
        let pod = world.pod("default", name, |pod| pod.role("MyPodRole")).unwrap();
        becomes(&agent, &pod, &role("MyPodRole"));
        agent.poll(name, || Ok(restarts(&agent, reason) > before)).unwrap();
    }
}

#[test]
fn missing_rbac_verb_is_named_by_its_gate_until_it_is_granted() {
    let test = "missing_rbac_verb_is_named_by_its_gate_until_it_is_granted";
    let Some(world) = world_with_faults(test) else { return };
    let faults = world.cluster.double().unwrap().faults();
    faults.refuse("list", Resource::Pods);
    faults.refuse("watch", Resource::Namespaces);
    let agent = world.start_agent(&[]).unwrap();
    for (gate, words) in
        [("pods", "cannot list pods: forbidden"), ("namespaces", "cannot watch namespaces: forbidden")]
    {
        let says =
            || agent.admin(&format!("/readyz/{gate}")).is_ok_and(|answer| answer.text().contains(words));
        agent.poll(words, || Ok(says())).unwrap();
    }
    let ready = agent.admin("/readyz").unwrap();
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains("ClusterRole with list and watch on pods"), "{}", ready.text());
    faults.allow("list", Resource::Pods);
    faults.allow("watch", Resource::Namespaces);
    agent.ready().unwrap();
}

#[test]
fn address_that_changes_hands_gets_the_role_of_its_new_pod() {
    let Some(world) = world("address_that_changes_hands_gets_the_role_of_its_new_pod") else { return };
    let first = world.pod("default", "first", |pod| pod.role("MyPodRole")).unwrap();
    let agent = world.agent(&[]).unwrap();
    becomes(&agent, &first, &role("MyPodRole"));
    world.delete(&first).unwrap();
    becomes(&agent, &first, &Err(500));

    let second = world.run(Arc::clone(&first.net), "default", "second", |pod| pod.role("OtherRole")).unwrap();
    becomes(&agent, &second, &role("OtherRole"));
    let document = second.imds().get(&format!("{LIST}OtherRole")).unwrap().json().unwrap();
    let issued = world.sts.issued(document["AccessKeyId"].as_str().unwrap()).unwrap();
    assert!(issued.role.ends_with("/OtherRole"), "{issued:?}");
    assert_eq!(second.imds().get(&format!("{LIST}MyPodRole")).unwrap().status, 404);
}

#[test]
fn address_that_changed_hands_in_one_step_is_never_its_old_pods_again() {
    let Some(world) = world("address_that_changed_hands_in_one_step_is_never_its_old_pods_again") else {
        return;
    };
    let old = world.pod("default", "old", |pod| pod.role("MyPodRole")).unwrap();
    let agent = world.agent(&["--prefetch=false"]).unwrap();
    becomes(&agent, &old, &role("MyPodRole"));
    // While STS thinks about the old pod's session, its address becomes another's.
    world.sts.faults().of_role("MyPodRole", Some(Fault::Delay(Duration::from_millis(600))));
    let answer = std::thread::scope(|scope| {
        let asked = scope.spawn(|| old.imds().get(&format!("{LIST}MyPodRole")).unwrap());
        agent.poll("STS is asked", || Ok(world.sts.assume_role_calls() > 0)).unwrap();
        world.delete(&old).unwrap();
        world.run(Arc::clone(&old.net), "default", "new", |pod| pod.role("OtherRole")).unwrap();
        asked.join().unwrap()
    });
    assert_eq!((answer.status, answer.text().as_str()), (500, ""), "{}", agent.log());
    becomes(&agent, &old, &role("OtherRole"));
}

#[test]
fn pod_edited_while_sts_answers_gets_nothing_of_its_old_role() {
    let Some(world) = world("pod_edited_while_sts_answers_gets_nothing_of_its_old_role") else { return };
    let mut pod = world.pod("default", "edited", |pod| pod.role("MyPodRole")).unwrap();
    let agent = world.agent(&["--prefetch=false"]).unwrap();
    world.sts.faults().of_role("MyPodRole", Some(Fault::Delay(Duration::from_millis(600))));
    let net = Arc::clone(&pod.net);
    let answer = std::thread::scope(|scope| {
        let asked = scope.spawn(|| Client::imds(net.ns()).get(&format!("{LIST}MyPodRole")).unwrap());
        agent.poll("STS is asked", || Ok(world.sts.assume_role_calls() > 0)).unwrap();
        world.edit(&mut pod, |pod| pod.role("OtherRole")).unwrap();
        asked.join().unwrap()
    });
    assert_eq!((answer.status, answer.text().as_str()), (500, ""), "{}", agent.log());
    becomes(&agent, &pod, &role("OtherRole"));
}

/// P18: of two live pods with one address neither is served, until one is being deleted.
#[test]
fn two_live_claimants_of_an_address_get_nothing_until_one_yields() {
    let Some(world) = world("two_live_claimants_of_an_address_get_nothing_until_one_yields") else { return };
    let mut first = world.pod("default", "first", |pod| pod.role("MyPodRole")).unwrap();
    let agent = world.agent(&[]).unwrap();
    becomes(&agent, &first, &role("MyPodRole"));
    let second = world.run(Arc::clone(&first.net), "default", "second", |pod| pod.role("OtherRole")).unwrap();
    becomes(&agent, &second, &Err(500));
    agent.wait_for_line("ambiguous", |line| line.text_of("reason").as_deref() == Some("ambiguous")).unwrap();
    world.edit(&mut first, rolegate_tests::kube_api::Pod::deleting).unwrap();
    becomes(&agent, &second, &role("OtherRole"));
}

/// P18: a pod that has ended does not affect a live one with its address.
#[test]
fn pod_that_has_ended_frees_its_address_for_a_live_one() {
    let Some(world) = world("pod_that_has_ended_frees_its_address_for_a_live_one") else { return };
    let mut job = world.pod("default", "job", |pod| pod.role("MyPodRole")).unwrap();
    let agent = world.agent(&[]).unwrap();
    becomes(&agent, &job, &role("MyPodRole"));
    world.edit(&mut job, |pod| pod.phase("Succeeded")).unwrap();
    becomes(&agent, &job, &Err(500));
    let live = world.run(Arc::clone(&job.net), "default", "live", |pod| pod.role("OtherRole")).unwrap();
    becomes(&agent, &live, &role("OtherRole"));
    world.edit(&mut job, |pod| pod.annotation("example.com/late", "edit")).unwrap();
    let after = world.pod("default", "after", |pod| pod.role("MyPodRole")).unwrap();
    becomes(&agent, &after, &role("MyPodRole"));
    assert_eq!(listed(live.imds()), role("OtherRole"), "an edit of the ended pod changes nothing");
}

#[test]
fn both_addresses_of_a_pod_are_its_own() {
    let Some(world) = world("both_addresses_of_a_pod_are_its_own") else { return };
    let agent = world.agent(&[]).unwrap();
    for (name, own) in [("one", "MyPodRole"), ("two", "OtherRole")] {
        let pod = world.pod("default", name, |pod| pod.role(own)).unwrap();
        becomes(&agent, &pod, &role(own));
        assert_eq!(listed(pod.imds_v6()), role(own));
        let (v4, v6) = (pod.imds().credentials().unwrap(), pod.imds_v6().credentials().unwrap());
        assert_eq!(v4["AccessKeyId"], v6["AccessKeyId"], "one session for both families");
    }
}
