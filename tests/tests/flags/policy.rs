//! Flags of the groups "Roles" and "Namespaces", and `--profile`.

use rolegate_tests::world::{NODE_ROLE, TRUST, arn};

use super::{call, document, ready, served, status, warns, world};

/// Trusts the node's role where it brings this external id.
const TRUST_WITH_ID: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::123456789012:role/nodes.example.cluster.k8s.local"},"Action":"sts:AssumeRole","Condition":{"StringEquals":{"sts:ExternalId":"external-1"}}}]}"#;

#[test]
fn keys_base_defaults_and_session_names_are_as_told() {
    let Some(world) = world("keys_base_defaults_and_session_names_are_as_told") else { return };
    for (role, trust) in
        [("team/MyPodRole", TRUST_WITH_ID), ("team/FallbackRole", TRUST), ("team/NamespaceRole", TRUST)]
    {
        world.role(role, trust).unwrap();
    }
    let cluster = &world.cluster;
    cluster.apply_namespace("listed", &[("example.com/allowed", r#"["My[A-Z].*", "Fallback.*"]"#)]).unwrap();
    cluster
        .apply_namespace(
            "named",
            &[
                ("example.com/default", "NamespaceRole"),
                ("example.com/permitted", "arn:aws:iam::123456789012:role/team/Namespace.*"),
            ],
        )
        .unwrap();
    let agent = ready(
        &world,
        &["--auto-discover-base-arn"],
        &[
            "--base-role-arn=arn:aws:iam::123456789012:role/team",
            "--default-role=FallbackRole",
            "--iam-role-key=example.com/role",
            "--iam-external-id=example.com/id",
            "--session-name={pod}@{node}",
            "--namespace-key=example.com/allowed",
            "--namespace-permitted-key=example.com/permitted",
            "--namespace-default-role-key=example.com/default",
            "--namespace-restriction-format=regexp",
        ],
    );
    let annotated = world
        .pod("listed", "annotated", |pod| {
            pod.annotation("example.com/role", "MyPodRole").annotation("example.com/id", "external-1")
        })
        .unwrap();
    // The usual key says nothing here.
    let plain = world.pod("listed", "plain", |pod| pod.role("MyPodRole")).unwrap();
    let named = world.pod("named", "named", |pod| pod).unwrap();
    let not_listed =
        world.pod("listed", "not-listed", |pod| pod.annotation("example.com/role", "NamespaceRole")).unwrap();

    for (pod, role) in [(&annotated, "MyPodRole"), (&plain, "FallbackRole"), (&named, "NamespaceRole")] {
        let document = document(&agent, pod);
        assert_eq!(document["Code"], "Success", "{role} {document}\n{}", agent.log());
        let issued = world.sts.issued(document["AccessKeyId"].as_str().unwrap()).unwrap();
        assert_eq!(issued.role, arn(&format!("team/{role}")));
    }
    assert!(!served(&agent, &not_listed));
    let of_annotated = call(&world, &agent, "a call for MyPodRole", |call| call.role.ends_with("/MyPodRole"));
    assert_eq!(of_annotated.external_id.as_deref(), Some("external-1"));
    assert_eq!(of_annotated.session_name, "annotated@node-1.example");
}

#[test]
fn nodes_own_role_is_given_only_where_told_and_names_need_a_base() {
    let Some(world) = world("nodes_own_role_is_given_only_where_told_and_names_need_a_base") else { return };
    world.role(NODE_ROLE, TRUST).unwrap();
    world.namespace("default", &["**"]).unwrap();
    let plain = world.pod("default", "plain", |pod| pod).unwrap();
    let node = world.pod("default", "node", |pod| pod.role(&arn(NODE_ROLE))).unwrap();
    let named = world.pod("default", "named", |pod| pod.role("MyPodRole")).unwrap();

    let agent = ready(&world, &[], &["--auto-discover-default-role", "--allow-node-role"]);
    warns(&agent, "--allow-node-role");
    let of_plain = document(&agent, &plain);
    let issued = world.sts.issued(of_plain["AccessKeyId"].as_str().unwrap()).unwrap();
    assert_eq!(issued.role, arn(NODE_ROLE));
    assert!(served(&agent, &node) && served(&agent, &named), "{}", agent.log());
    drop(agent);

    let agent = ready(&world, &["--auto-discover-base-arn"], &[]);
    warns(&agent, "--auto-discover-base-arn");
    assert!(!served(&agent, &node));
    assert!(!served(&agent, &named), "a name without a base\n{}", agent.log());
    assert_eq!(status(&agent, &plain, "/latest/meta-data/iam/security-credentials/"), 404);
}

/// P21: with `--pin-roles` an edit changes nothing within the UID; without, the next request has it.
#[test]
fn pinned_roles_outlive_their_annotation() {
    let Some(world) = world("pinned_roles_outlive_their_annotation") else { return };
    world.namespace("default", &["*"]).unwrap();
    for (flag, then) in [("--pin-roles", "MyPodRole"), ("--pin-roles=false", "OtherRole")] {
        let agent = ready(&world, &[], &[flag]);
        let mut pod = world.pod("default", "edited", |pod| pod.role("MyPodRole")).unwrap();
        assert!(served(&agent, &pod), "{}", agent.log());
        world.edit(&mut pod, |pod| pod.role("OtherRole")).unwrap();
        // When a later change is known, the earlier one is.
        let later = world.pod("default", "later", |pod| pod.role("MyPodRole")).unwrap();
        assert!(served(&agent, &later), "{}", agent.log());
        let list = pod.imds().get("/latest/meta-data/iam/security-credentials/").unwrap();
        assert_eq!(list.text(), then, "{flag}\n{}", agent.log());
        for pod in [&pod, &later] {
            world.delete(pod).unwrap();
        }
    }
}

#[test]
fn restrictions_and_profile_say_who_is_served() {
    let Some(world) = world("restrictions_and_profile_say_who_is_served") else { return };
    world.namespace("listed", &["MyPodRole"]).unwrap();
    world.cluster.apply_namespace("open", &[]).unwrap();
    let kiam =
        [("iam.amazonaws.com/permitted", ".*/MyPodRole"), ("iam.amazonaws.com/default-role", "MyPodRole")];
    world.cluster.apply_namespace("kiam", &kiam).unwrap();
    let pods = [
        world.pod("listed", "mine", |pod| pod.role("MyPodRole")).unwrap(),
        world.pod("kiam", "kiam", |pod| pod).unwrap(),
        world.pod("open", "open", |pod| pod.role("OtherRole")).unwrap(),
        world.pod("listed", "other", |pod| pod.role("OtherRole")).unwrap(),
    ];
    let public = "/latest/meta-data/public-ipv4";
    for (flag, in_open, not_listed, audits, passed) in [
        ("--namespace-restrictions", false, false, false, 404),
        ("--namespace-restrictions=annotated", true, false, false, 404),
        ("--namespace-restrictions=audit", true, true, true, 404),
        ("--namespace-restrictions=false", true, true, false, 404),
        ("--profile=kube2iam", true, true, false, 200),
    ] {
        let agent = ready(&world, &[], &[flag]);
        let got = pods.each_ref().map(|pod| served(&agent, pod));
        assert_eq!(got, [true, true, in_open, not_listed], "{flag}\n{}", agent.log());
        let audited = agent.metric(r#"rolegate_credentials_would_deny_total{reason="not_in_list"}"#).unwrap();
        assert_eq!(audited > 0.0, audits, "{flag}: {audited}");
        assert_eq!(status(&agent, &pods[0], public), passed, "{flag}");
    }
}
