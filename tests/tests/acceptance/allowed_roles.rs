//! Allowed roles: a namespace that allows nothing, one role, or only the node's own.

use std::process::Command;

use rolegate_tests::agent::Agent;
use rolegate_tests::skip;
use rolegate_tests::world::{RunningPod, World, arn};

use super::{UNABLE, code_becomes, document, no_cli, refusal_of, refused, served, who_am_i, world};

const ALLOWED_ROLES: &str = "iam.amazonaws.com/allowed-roles";

/// `default` with the annotation as written or without it, and the two pods.
fn two_pods(world: &World, allowed_roles: Option<&str>) -> [(RunningPod, &'static str); 2] {
    annotate(world, allowed_roles);
    [("aws-cli", "MyPodRole"), ("other", "OtherRole")]
        .map(|(name, role)| (world.pod("default", name, |pod| pod.role(role)).unwrap(), role))
}

fn annotate(world: &World, allowed_roles: Option<&str>) {
    let annotations: Vec<_> = allowed_roles.map(|value| (ALLOWED_ROLES, value)).into_iter().collect();
    world.cluster.apply_namespace("default", &annotations).unwrap();
}

/// What a shell makes of a `kubectl annotate namespace` line: the namespace, the key and the value.
fn parse_kubectl(line: &str) -> (String, String, String) {
    let script = format!("kubectl() {{ printf '%s\\n' \"$@\"; }}; {line}");
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let words: Vec<&str> = said.lines().collect();
    let ["annotate", "namespace", namespace, annotation, "--overwrite"] = words[..] else {
        panic!("{line}: {words:?}");
    };
    let (key, value) = annotation.split_once('=').unwrap();
    (namespace.to_owned(), key.to_owned(), value.to_owned())
}

#[test]
fn namespace_without_the_annotation_allows_nothing_and_says_what_would_allow_it() {
    let test = "allowed_roles::namespace_without_the_annotation_allows_nothing_and_says_what_would_allow_it";
    let Some(world) = world(test) else { return };
    let pods = two_pods(&world, None);
    let agent = world.agent(&[]).unwrap();
    for (pod, role) in &pods {
        let token = pod.imds().imds_token(300).unwrap();
        let list = pod.imds().role_list(&token).unwrap();
        assert_eq!((list.status, list.text().as_str()), (200, *role));
        let line = format!(
            r#"kubectl annotate namespace default 'iam.amazonaws.com/allowed-roles=["{role}"]' --overwrite"#
        );
        let message = refused(&agent, pod);
        assert!(message.contains("namespace default") && message.contains(&line), "{message}");
    }
    for name in ["aws-cli", "other"] {
        let said = refusal_of(&agent, name);
        assert!(said.text_of("detail").unwrap().contains("kubectl annotate namespace default"), "{said:?}");
        assert_eq!(said.text_of("reason").as_deref(), Some("namespace_has_no_list"));
    }
    match no_cli() {
        Some(why) => skip(test, &why),
        None => pods.iter().for_each(|(pod, _)| {
            let said = who_am_i(&world, pod);
            assert!(said.contains(UNABLE), "{said}");
        }),
    }
    assert_eq!(world.sts.assume_role_calls(), 0);
}

#[test]
fn line_of_the_message_allows_the_role_when_a_shell_runs_it() {
    let test = "allowed_roles::line_of_the_message_allows_the_role_when_a_shell_runs_it";
    let Some(world) = world(test) else { return };
    let [(pod, role), (other, other_role)] = two_pods(&world, None);
    let agent = world.agent(&[]).unwrap();
    let run_line_for = |pod: &RunningPod| {
        let message = refused(&agent, pod);
        let line = &message[message.find("kubectl").unwrap()..];
        let (namespace, key, value) = parse_kubectl(line);
        world.cluster.apply_namespace(&namespace, &[(&key, &value)]).unwrap();
        code_becomes(&agent, pod, "Success");
    };
    run_line_for(&pod);
    served(&world, &agent, &pod, role);
    // The second line keeps what the first one allowed.
    run_line_for(&other);
    served(&world, &agent, &other, other_role);
    served(&world, &agent, &pod, role);
}

/// An agent with this flag serves both pods of a namespace without the annotation.
fn serves_both(test: &str, flag: &str, then: impl Fn(&Agent)) {
    let Some(world) = world(test) else { return };
    let pods = two_pods(&world, None);
    let agent = world.agent(&[flag]).unwrap();
    for (pod, role) in &pods {
        served(&world, &agent, pod, role);
    }
    then(&agent);
}

#[test]
fn annotated_serves_a_namespace_without_the_annotation() {
    let test = "allowed_roles::annotated_serves_a_namespace_without_the_annotation";
    serves_both(test, "--namespace-restrictions=annotated", |_| {});
}

#[test]
fn off_serves_a_namespace_without_the_annotation() {
    let test = "allowed_roles::off_serves_a_namespace_without_the_annotation";
    serves_both(test, "--namespace-restrictions=off", |_| {});
}

#[test]
fn profile_of_kube2iam_serves_a_namespace_without_the_annotation() {
    let test = "allowed_roles::profile_of_kube2iam_serves_a_namespace_without_the_annotation";
    serves_both(test, "--profile=kube2iam", |_| {});
}

#[test]
fn audit_serves_and_counts_and_logs_what_it_would_have_denied() {
    let test = "allowed_roles::audit_serves_and_counts_and_logs_what_it_would_have_denied";
    serves_both(test, "--namespace-restrictions=audit", |agent| {
        let counted =
            agent.metric(r#"rolegate_credentials_would_deny_total{reason="namespace_has_no_list"}"#).unwrap();
        assert!((counted - 2.0).abs() < f64::EPSILON, "{counted}");
        for name in ["aws-cli", "other"] {
            let line = agent.wait_for_line("an issued session", |line| {
                line.text_of("message").as_deref() == Some("issued")
                    && line.text_of("pod").as_deref() == Some(name)
            });
            let line = line.unwrap();
            assert_eq!(line.text_of("would_deny").as_deref(), Some("namespace_has_no_list"), "{line:?}");
            let detail = line.text_of("detail").unwrap();
            assert!(detail.contains("kubectl annotate namespace default"), "{detail}");
        }
    });
}

/// P34: what the list no longer names is refused at the next request, though its session is cached.
#[test]
fn block_scalar_with_its_newline_allows_its_role_and_refuses_the_other_at_its_next_request() {
    let test = "allowed_roles::block_scalar_with_its_newline_allows_its_role_and_refuses_the_other_at_its_next_request";
    let Some(world) = world(test) else { return };
    let [(pod, role), (other, other_role)] = two_pods(&world, Some(r#"["MyPodRole", "OtherRole"]"#));
    let agent = world.agent(&[]).unwrap();
    let key = served(&world, &agent, &pod, role);
    served(&world, &agent, &other, other_role);

    annotate(&world, Some("[\"arn:aws:iam::123456789012:role/MyPodRole\"]\n"));
    code_becomes(&agent, &other, super::REFUSED);
    assert_eq!(served(&world, &agent, &pod, role), key);
    refused(&agent, &other);
    assert!(agent.status().is_none());
}

/// P30: the node's own role is refused in lists and in annotations, and harms no entry beside it.
#[test]
fn list_with_only_the_nodes_role_allows_nothing_and_beside_another_does_no_harm() {
    let test = "allowed_roles::list_with_only_the_nodes_role_allows_nothing_and_beside_another_does_no_harm";
    let Some(world) = world(test) else { return };
    let nodes = arn(rolegate_tests::world::NODE_ROLE);
    let [(pod, role), (other, _)] = two_pods(&world, Some(&format!(r#"["{nodes}"]"#)));
    let agent = world.agent(&[]).unwrap();
    for (pod, name) in [(&pod, "aws-cli"), (&other, "other")] {
        let message = refused(&agent, pod);
        assert!(message.contains("the node's own role, which it names, is never allowed"), "{message}");
        let said = refusal_of(&agent, name).text_of("detail").unwrap();
        assert!(said.contains("the node's own role, which it names, is never allowed"), "{said}");
    }
    assert_eq!(world.sts.assume_role_calls(), 0);

    annotate(&world, Some(&format!(r#"["{nodes}", "MyPodRole"]"#)));
    code_becomes(&agent, &pod, "Success");
    served(&world, &agent, &pod, role);
    assert_eq!(document(&agent, &other)["Code"], super::REFUSED);

    // A pod that asks for it gets as little.
    let own = world.pod("default", "own", |pod| pod.role(&nodes)).unwrap();
    assert!(refused(&agent, &own).contains("the node's own role, which is never allowed"));
}
