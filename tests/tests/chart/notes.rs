//! The notes after an installation: statements for IAM, to be pasted as they are.

use serde_json::{Value, json};

use super::{Chart, at};

const NODES: &str = "arn:aws:iam::210987654321:role/nodes.example.cluster.k8s.local";

/// Every JSON value of the notes, from a line that begins one to the line where it ends.
fn statements(notes: &str) -> Vec<Value> {
    let mut found = Vec::new();
    let mut lines = notes.lines();
    while let Some(line) = lines.next() {
        let mut text = line.trim().to_owned();
        if !(text == "{" || text.starts_with("[{")) {
            continue;
        }
        loop {
            match serde_json::from_str(&text) {
                Ok(value) => break found.push(value),
                Err(_) => text.push_str(lines.next().unwrap_or_else(|| panic!("unfinished: {text}"))),
            }
        }
    }
    found
}

fn allow(resources: Value) -> Value {
    json!([{"Effect": "Allow", "Action": ["sts:AssumeRole"], "Resource": resources}])
}

#[test]
fn statements_are_those_for_the_values_given() {
    let Some(chart) = Chart::for_test("statements_are_those_for_the_values_given") else { return };
    for (values, resources, principal) in [
        (json!({}), json!(["*"]), "arn:aws:iam::123456789012:role/ROLE-OF-THE-NODES"),
        (
            json!({"baseRoleArn": "arn:aws:iam::210987654321:role/pods/"}),
            json!(["arn:aws:iam::210987654321:role/pods/*"]),
            "arn:aws:iam::210987654321:role/ROLE-OF-THE-NODES",
        ),
        (
            json!({"extraArgs": {"base-role-arn": "arn:aws-cn:iam::210987654321:role/"}}),
            json!(["arn:aws-cn:iam::210987654321:role/*"]),
            "arn:aws-cn:iam::210987654321:role/ROLE-OF-THE-NODES",
        ),
        (
            json!({"notes": {"nodeRoleArn": NODES, "assumableRoles": ["arn:aws:iam::210987654321:role/a", "arn:aws:iam::210987654321:role/b"]}}),
            json!(["arn:aws:iam::210987654321:role/a", "arn:aws:iam::210987654321:role/b"]),
            NODES,
        ),
    ] {
        let notes = chart.notes(&values, &[]);
        let [policy, node, master, trust] = &statements(&notes)[..] else { panic!("{notes}") };
        assert_eq!(*policy, json!({"Version": "2012-10-17", "Statement": allow(resources.clone())}));
        assert_eq!((node, master), (&allow(resources.clone()), &allow(resources)));
        assert_eq!(trust["Version"], "2012-10-17");
        assert_eq!(
            trust["Statement"][1],
            json!({"Effect": "Allow", "Principal": {"AWS": principal}, "Action": "sts:AssumeRole"})
        );
    }
}

/// The part that kOps reads is YAML as it stands.
#[test]
fn kops_reads_its_part_as_it_stands() {
    let Some(chart) = Chart::for_test("kops_reads_its_part_as_it_stands") else { return };
    let notes = chart.notes(&json!({}), &[]);
    let part: String = notes
        .lines()
        .skip_while(|line| line.trim() != "spec:")
        .take_while(|line| !line.is_empty())
        .map(|line| format!("{line}\n"))
        .collect();
    let spec: Value = serde_saphyr::from_str(&part).unwrap();
    for pool in ["node", "master"] {
        let policy = spec["spec"]["additionalPolicies"][pool].as_str().unwrap();
        assert_eq!(serde_json::from_str::<Value>(policy).unwrap(), allow(json!(["*"])));
    }
}

#[test]
fn notes_say_what_the_namespace_needs_and_what_is_next() {
    let Some(chart) = Chart::for_test("notes_say_what_the_namespace_needs_and_what_is_next") else { return };
    let system = chart.notes(&json!({}), &[]);
    for line in [
        "kubectl label namespace kube-system pod-security.kubernetes.io/enforce=privileged",
        "kubectl --namespace kube-system rollout status daemonset/rg-rolegate",
        "helm --namespace kube-system test rg",
        "helm --namespace kube-system upgrade rg CHART --reuse-values --set cleanup.enabled=true",
    ] {
        assert!(system.lines().any(|it| it.trim() == line), "{line}: {system}");
    }
    assert!(
        !system.contains("ResourceQuota") && !system.contains("WARNING") && !system.contains("has no effect")
    );
    assert!(!chart.notes(&at("test.enabled", json!(false)), &[]).contains(" test rg"));
    let own = chart.notes(&json!({}), &["--namespace", "rolegate"]);
    assert!(own.contains("label namespace rolegate pod-security") && own.contains("ResourceQuota"), "{own}");
    let keys =
        json!({"extraArgs": {"namespace-key": "example.com/roles", "iam-role-key": "example.com/role"}});
    let keys = chart.notes(&keys, &[]);
    assert!(
        keys.contains("'example.com/roles=[\"MyPodRole\"]'")
            && keys.contains("my-pod example.com/role=MyPodRole"),
        "{keys}"
    );
}

#[test]
fn notes_tell_how_namespaces_are_asked() {
    let Some(chart) = Chart::for_test("notes_tell_how_namespaces_are_asked") else { return };
    for (values, said) in [
        (json!({}), "its namespace allows it:"),
        (json!({"namespaceRestrictions": true}), "its namespace allows it:"),
        (json!({"namespaceRestrictions": "annotated"}), "or has no list"),
        (json!({"namespaceRestrictions": "audit"}), "audit mode"),
        (json!({"namespaceRestrictions": "off"}), "restrictions are off"),
        (json!({"namespaceRestrictions": false}), "restrictions are off"),
        (json!({"profile": "kube2iam"}), "restrictions are off"),
        (json!({"profile": "kube2iam", "namespaceRestrictions": "enforce"}), "its namespace allows it:"),
        (json!({"extraArgs": {"namespace-restrictions": false}}), "restrictions are off"),
        (json!({"extraArgs": {"namespace-restrictions": ""}}), "its namespace allows it:"),
        (json!({"extraArgs": {"profile": "kube2iam"}}), "restrictions are off"),
    ] {
        let notes = chart.notes(&values, &[]);
        assert!(notes.contains(said), "{values}: {notes}");
    }
}

#[test]
fn notes_warn_of_what_leaves_pods_without_credentials_or_with_the_nodes() {
    let test = "notes_warn_of_what_leaves_pods_without_credentials_or_with_the_nodes";
    let Some(chart) = Chart::for_test(test) else { return };
    for (path, value, warning) in [
        ("host.iptables", json!(false), "WARNING: the chart redirects nothing (host.iptables: false)"),
        ("redirect", json!("none"), "WARNING: the chart redirects nothing (redirect: none)"),
        ("image.tag", json!("1.0.0-slim"), "WARNING: image rolegate:1.0.0-slim has no iptables"),
        ("allowNodeRole", json!(true), "WARNING: allowNodeRole"),
        ("guard.enabled", json!(false), "WARNING: guard.enabled: false"),
        ("cleanup.enabled", json!(true), "PODS REACH THE NODES' OWN CREDENTIALS"),
        ("existingSecret", json!("mine"), "static credentials"),
    ] {
        let notes = chart.notes(&at(path, value), &[]);
        assert!(notes.contains(warning), "{path}: {notes}");
    }
}
