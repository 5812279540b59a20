//! Whose an address is, by what the node itself sees behind it: an interface, a network card.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "witness/changed.rs"]
mod changed;
#[path = "witness/elsewhere.rs"]
mod elsewhere;
#[path = "witness/stale.rs"]
mod stale;

use std::sync::Arc;

use rolegate_tests::agent::Agent;
use rolegate_tests::http::Client;
use rolegate_tests::topology::{PodNet, imds_v6};
use rolegate_tests::world::{RunningPod, World};

const LIST: &str = "/latest/meta-data/iam/security-credentials/";

/// What is refused is not held for long: these tests wait for what the agent has seen by themselves.
const HASTY: &str = "--backoff-max-elapsed-time=200ms";

/// What a pod is listed over each family: its role, or the status that it gets instead.
fn listed(net: &PodNet) -> [Result<String, u16>; 2] {
    clients(net).map(|client| {
        let answer = client.get(LIST).unwrap();
        if answer.status == 200 { Ok(answer.text()) } else { Err(answer.status) }
    })
}

fn clients(net: &PodNet) -> [Client<'_>; 2] {
    [Client::imds(net.ns()), Client::new(net.ns(), imds_v6())]
}

fn both(role: &str) -> [Result<String, u16>; 2] {
    [Ok(role.to_owned()), Ok(role.to_owned())]
}

const REFUSED: [Result<String, u16>; 2] = [Err(500), Err(500)];

fn becomes(agent: &Agent, net: &PodNet, wanted: &[Result<String, u16>; 2]) {
    let there = agent.poll(&format!("{wanted:?}"), || Ok(listed(net) == *wanted));
    assert!(there.is_ok(), "{:?}: {}", listed(net), agent.log());
}

/// Whoever is at this network gets nothing of anybody's, by any name, over both families.
fn gets_nothing(agent: &Agent, net: &PodNet) {
    for client in clients(net) {
        let token = client.imds_token(60).unwrap();
        for path in
            ["", "MyPodRole", "OtherRole", "../info", "../../instance-id"].map(|path| format!("{LIST}{path}"))
        {
            for answer in [client.get(&path).unwrap(), client.get_v2(&path, &token).unwrap()] {
                assert_eq!((answer.status, answer.text().as_str()), (500, ""), "{path}: {}", agent.log());
            }
        }
    }
}

fn refused(agent: &Agent, reason: &str) -> f64 {
    agent.metric(&format!("rolegate_identity_refused_total{{reason=\"{reason}\"}}")).unwrap()
}

/// The trail names the pod that it would have been.
fn is_in_the_trail(agent: &Agent, pod: &str, reason: &str) {
    let line = agent.wait_for_line(reason, |line| {
        line.text_of("target").as_deref() == Some("rolegate::audit")
            && line.text_of("reason").as_deref() == Some(reason)
            && line.text_of("pod").as_deref() == Some(pod)
    });
    line.unwrap();
}

fn allow_all(world: &World) {
    world.namespace("default", &["MyPodRole", "OtherRole"]).unwrap();
}

/// The pod's sandbox is gone, and another has its addresses, behind a link of its own.
fn plug_anew(world: &World, pod: RunningPod) -> (String, Arc<PodNet>) {
    let (uid, ip4, ip6) = (pod.uid.clone(), pod.net.ip4(), pod.net.ip6());
    drop(pod);
    (uid, Arc::new(world.topology.routed_pod("anew", ip4, ip6).unwrap()))
}
