//! An instance profile that is not named as its role: the role is the node's own, the profile's name is nobody's.

use rolegate_tests::agent::run_to_end;
use rolegate_tests::imds::ImdsConfig;
use rolegate_tests::world::{NODE, NODE_ROLE, Options, RunningPod, TRUST, World, arn};

use super::{refused, served, world_with};

const PROFILE: &str = "arn:aws:iam::123456789012:instance-profile/kops-custom-node-role";
const OWN_ROLE: &str = "kops/corp-node";

/// The node's own role in other spellings: role names are unique in an account, whatever the path and case.
const SPELLINGS: [&str; 6] = [
    "corp-node",
    "kops/corp-node",
    "arn:aws:iam::123456789012:role/kops/corp-node",
    "CORP-NODE",
    "arn:aws:iam::123456789012:role/corp-node",
    "Kops/Corp-Node",
];

/// Every role trusts this node, also its own; `default` allows all of them.
fn corp_world(test: &str) -> Option<World> {
    let imds = ImdsConfig {
        role_name: Some("corp-node".into()),
        profile_arn: PROFILE.into(),
        ..ImdsConfig::default()
    };
    let world = world_with(test, &Options { imds, node_role: OWN_ROLE.into(), ..Options::default() })?;
    let trust = TRUST.replace(NODE_ROLE, OWN_ROLE);
    for role in ["MyPodRole", "kops-custom-node-role", OWN_ROLE, "corp-node", "CORP-NODE", "Kops/Corp-Node"] {
        world.role(role, &trust).unwrap();
    }
    world.namespace("default", &["**"]).unwrap();
    Some(world)
}

fn pod(world: &World, name: &str, role: &str) -> RunningPod {
    world.pod("default", name, |pod| pod.role(role)).unwrap()
}

#[test]
fn base_arn_is_the_accounts_and_the_profiles_name_is_a_role_like_any_other() {
    let test = "custom_profile::base_arn_is_the_accounts_and_the_profiles_name_is_a_role_like_any_other";
    let Some(world) = corp_world(test) else { return };
    let agent = world.agent(&[]).unwrap();
    for (name, role) in [("aws-cli", "MyPodRole"), ("other", "kops-custom-node-role")] {
        let pod = pod(&world, name, role);
        served(&world, &agent, &pod, role);
    }
    // Neither IMDS nor STS says the role's path, and the log says so.
    let own = agent.wait_for_line("the node's own role", |line| line.text_of("trust_statement").is_some());
    let own = own.unwrap();
    assert_eq!(own.text_of("role_arn"), Some(arn("corp-node")));
    assert_eq!(own.text_of("names").as_deref(), Some("corp-node"));
    assert!(own.text_of("message").unwrap().contains("has a path"), "{own:?}");
}

#[test]
fn own_role_is_refused_in_every_spelling_though_everything_would_allow_it() {
    let test = "custom_profile::own_role_is_refused_in_every_spelling_though_everything_would_allow_it";
    let Some(world) = corp_world(test) else { return };
    for flags in [&[][..], &["--namespace-restrictions=off"]] {
        let agent = world.agent(flags).unwrap();
        for (n, spelling) in SPELLINGS.into_iter().enumerate() {
            let pod = pod(&world, &format!("own{n}"), spelling);
            let message = refused(&agent, &pod);
            assert!(message.contains("the node's own role, which is never allowed"), "{spelling}: {message}");
        }
        agent.kill9().unwrap();
    }
    assert_eq!(world.sts.assume_role_calls(), 0);
}

#[test]
fn own_role_is_refused_as_a_default() {
    let test = "custom_profile::own_role_is_refused_as_a_default";
    let Some(world) = corp_world(test) else { return };
    let default_role = ("iam.amazonaws.com/default-role", "CORP-NODE");
    let allowed = ("iam.amazonaws.com/allowed-roles", r#"["**"]"#);
    world.cluster.apply_namespace("by-namespace", &[default_role, allowed]).unwrap();
    let agent = world.agent(&["--default-role=kops/corp-node"]).unwrap();
    for (namespace, name) in [("default", "plain"), ("by-namespace", "plain2")] {
        let pod = world.pod(namespace, name, |pod| pod).unwrap();
        let message = refused(&agent, &pod);
        assert!(message.contains("the node's own role, which is never allowed"), "{namespace}: {message}");
    }
    assert_eq!(world.sts.assume_role_calls(), 0);
}

#[test]
fn base_arn_with_thirteen_digits_or_in_disorder_ends_with_64_and_the_flags_name() {
    for wrong in ["arn:aws:iam::1234567890108:role/", "aws:arn:iam::123456789012:role/"] {
        let output =
            run_to_end(None, &[&format!("--node={NODE}"), &format!("--base-role-arn={wrong}")]).unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{wrong}: {said}");
        assert!(said.contains("--base-role-arn") && said.contains(wrong), "{said}");
    }
}
