//! What an operator of a kOps cluster tries first, with that cluster's names and values, against the real agent.
//!
//! The story that takes fifteen minutes and more is told on a paused clock, in `prefetch` of the agent.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "acceptance/allowed_roles.rs"]
mod allowed_roles;
#[path = "acceptance/custom_profile.rs"]
mod custom_profile;
#[path = "acceptance/drop_in.rs"]
mod drop_in;
#[path = "acceptance/refresh.rs"]
mod refresh;
#[path = "acceptance/walkthrough.rs"]
mod walkthrough;
#[path = "acceptance/web_identity.rs"]
mod web_identity;
#[path = "acceptance/wrong_trust.rs"]
mod wrong_trust;

use rolegate_tests::agent::{Agent, Line};
use rolegate_tests::clients::{Client, aws_cli};
use rolegate_tests::skip;
use rolegate_tests::world::{Options, RunningPod, World};
use serde_json::Value;

/// What the CLI says of a pod without credentials.
const UNABLE: &str = "Unable to locate credentials";
/// The `Code` of a refusal.
const REFUSED: &str = "AssumeRoleUnauthorizedAccess";

/// A world, where this machine has what it takes.
fn world(test: &str) -> Option<World> {
    world_with(test, &Options::default())
}

fn world_with(test: &str, options: &Options) -> Option<World> {
    if let Some(why) = World::missing() {
        skip(test, &why);
        return None;
    }
    Some(World::with(options).unwrap())
}

/// Why the AWS CLI cannot be run here, if it cannot: botocore comes with it.
fn no_cli() -> Option<String> {
    Client::Botocore.missing()
}

/// What `aws sts get-caller-identity` prints in this pod, output and errors together.
fn who_am_i(world: &World, pod: &RunningPod) -> String {
    let sts = world.sts.url();
    let output =
        aws_cli(pod.net.ns(), &["sts", "get-caller-identity"], &[("AWS_ENDPOINT_URL_STS", &sts)]).unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// The document that an SDK gets in this pod: token, list, document, each of them 200.
fn document(agent: &Agent, pod: &RunningPod) -> Value {
    pod.imds().credentials().unwrap_or_else(|error| panic!("{error:#}; the agent's log:\n{}", agent.log()))
}

/// The access key of the pod's session, which is one of this role (path and name).
fn served(world: &World, agent: &Agent, pod: &RunningPod, role: &str) -> String {
    let document = document(agent, pod);
    let key = document["AccessKeyId"].as_str().unwrap_or_else(|| panic!("{document}\n{}", agent.log()));
    assert_eq!(world.sts.issued(key).unwrap().role, rolegate_tests::world::arn(role));
    key.to_owned()
}

/// The message with which the pod is refused.
fn refused(agent: &Agent, pod: &RunningPod) -> String {
    let document = document(agent, pod);
    assert_eq!(document["Code"], REFUSED, "{document}\n{}", agent.log());
    assert!(document.get("AccessKeyId").is_none(), "{document}");
    document["Message"].as_str().unwrap().to_owned()
}

/// Waits until the pod is answered by another `Code`: a change has arrived at the agent.
fn code_becomes(agent: &Agent, pod: &RunningPod, code: &str) {
    agent.poll(code, || Ok(pod.imds().credentials()?["Code"] == code)).unwrap();
}

/// Waits until the agent, started with `--debug`, knows this pod of that role.
fn knows(agent: &Agent, uid: &str, role: &str) {
    let known = || {
        let store = agent.admin("/debug/store")?.json()?;
        let pods = store["pods"].as_array().cloned().unwrap_or_default();
        Ok(pods.iter().any(|pod| pod["uid"] == uid && pod["role"] == role))
    };
    agent.poll("the pod is known", known).unwrap();
}

/// A line of the audit trail that refuses that pod.
fn refusal_of(agent: &Agent, pod: &str) -> Line {
    let refuses = |line: &Line| {
        line.text_of("target").as_deref() == Some("rolegate::audit")
            && line.text_of("message").as_deref() == Some("refused")
            && line.text_of("pod").as_deref() == Some(pod)
    };
    agent.wait_for_line("a refusal in the audit trail", refuses).unwrap()
}
