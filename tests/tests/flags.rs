//! Every flag of the real binary does something that is seen from outside, or is named in a warning.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "flags/command_line.rs"]
mod command_line;
#[path = "flags/credentials.rs"]
mod credentials;
#[path = "flags/kubernetes.rs"]
mod kubernetes;
#[path = "flags/listeners.rs"]
mod listeners;
#[path = "flags/metadata.rs"]
mod metadata;
#[path = "flags/policy.rs"]
mod policy;
#[path = "flags/redirect.rs"]
mod redirect;
#[path = "flags/table.rs"]
mod table;

use std::collections::BTreeMap;

use rolegate_tests::agent::Agent;
use rolegate_tests::skip;
use rolegate_tests::sts::Call;
use rolegate_tests::world::{RunningPod, World};
use serde_json::Value;

/// A world, where one can be had.
fn world(test: &str) -> Option<World> {
    match World::missing() {
        Some(why) => {
            skip(test, &why);
            None
        }
        None => Some(World::start().unwrap()),
    }
}

/// Starts the agent with the usual flags but for `without`, and `flags`.
fn start(world: &World, without: &[&str], flags: &[&str]) -> Agent {
    start_in(world, without, flags, &[])
}

/// [`start`], with these variables besides the usual ones.
fn start_in(world: &World, without: &[&str], flags: &[&str], env: &[(&str, &str)]) -> Agent {
    let name = |flag: &str| flag.split('=').next().unwrap_or_default().to_owned();
    let mut args = world.usual_flags();
    args.retain(|flag| !without.contains(&name(flag).as_str()));
    args.extend(flags.iter().map(|flag| (*flag).to_owned()));
    let mut all: BTreeMap<String, String> = world.environment();
    all.extend(env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    Agent::start(world.topology.node(), &args, &all).unwrap()
}

/// [`start`], and waits until it is ready.
fn ready(world: &World, without: &[&str], flags: &[&str]) -> Agent {
    let agent = start(world, without, flags);
    agent.ready().unwrap();
    agent
}

/// Waits for a warning that begins with the flag.
fn warns(agent: &Agent, flag: &str) {
    agent
        .wait_for_line(&format!("a warning about {flag}"), |line| {
            line.text_of("level").as_deref() == Some("WARN")
                && line.text_of("message").is_some_and(|text| text.contains(flag))
        })
        .unwrap();
}

/// What an SDK in the pod ends with: the document, be it a session or a refusal. What is not ready is asked again.
fn document(agent: &Agent, pod: &RunningPod) -> Value {
    let mut document = Value::Null;
    agent
        .poll("the pod gets a document", || {
            document = pod.imds().credentials().unwrap_or_default();
            Ok(document.is_object())
        })
        .unwrap();
    document
}

/// Whether the pod is handed a session; else it is refused in a document.
fn served(agent: &Agent, pod: &RunningPod) -> bool {
    let document = document(agent, pod);
    match document["Code"].as_str() {
        Some("Success") => true,
        Some("AssumeRoleUnauthorizedAccess") => false,
        _ => panic!("{document}\n{}", agent.log()),
    }
}

/// The status of a plain request, once the agent has something to say.
fn status(agent: &Agent, pod: &RunningPod, path: &str) -> u16 {
    let mut status = 0;
    agent
        .poll(&format!("{path} is answered"), || {
            status = pod.imds().get(path).map_or(0, |answer| answer.status);
            Ok(!matches!(status, 0 | 500 | 503))
        })
        .unwrap();
    status
}

/// Waits for a call of AssumeRole.
fn call(world: &World, agent: &Agent, what: &str, wanted: impl Fn(&Call) -> bool) -> Call {
    let mut found = None;
    agent
        .poll(what, || {
            found = world.sts.calls().into_iter().find(|call| call.action == "AssumeRole" && wanted(call));
            Ok(found.is_some())
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{:#?}", world.sts.calls()));
    found.unwrap()
}
