//! The kustomizations of deploy/kustomize, built by kubectl, and the agent as a systemd unit.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use rolegate_tests::{netns, skip};
use serde_json::{Value, json};

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// Its objects, in no order; nothing where kubectl is not there.
fn build(test: &str, dir: &Path) -> Option<Vec<Value>> {
    if !netns::on_path("kubectl") {
        skip(test, "kubectl is not installed");
        return None;
    }
    let text = netns::run(Command::new("kubectl").arg("kustomize").arg(dir)).unwrap();
    Some(serde_saphyr::from_multiple(&text).unwrap())
}

fn overlay(test: &str, name: &str) -> Option<Vec<Value>> {
    build(test, &deploy().join("kustomize/overlays").join(name))
}

fn pod(objects: &[Value]) -> &Value {
    &objects.iter().find(|it| it["kind"] == "DaemonSet").unwrap()["spec"]["template"]["spec"]
}

fn args(objects: &[Value]) -> BTreeSet<&str> {
    pod(objects)["containers"][0]["args"]
        .as_array()
        .unwrap()
        .iter()
        .map(|arg| arg.as_str().unwrap())
        .collect()
}

#[test]
fn base_is_the_manifest() {
    let Some(mut built) = build("base_is_the_manifest", &deploy().join("kustomize/base")) else { return };
    let text = std::fs::read_to_string(deploy().join("daemonset.yaml")).unwrap();
    let mut by_hand: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    for objects in [&mut built, &mut by_hand] {
        objects.sort_by_key(|object| object["kind"].as_str().unwrap().to_owned());
    }
    assert_eq!(built, by_hand);
}

#[test]
fn each_overlay_changes_its_arguments_and_nothing_else() {
    let test = "each_overlay_changes_its_arguments_and_nothing_else";
    let Some(base) = build(test, &deploy().join("kustomize/base")) else { return };
    let overlays = [
        ("kubenet", "--host-interface=auto", "--host-interface=cbr0"),
        ("calico", "--host-interface=auto", "--host-interface=cali+"),
        ("eks", "--host-interface=auto", "--host-interface=eni+"),
        ("cilium", "--iptables", "--redirect=route"),
    ];
    for (name, gone, come) in overlays {
        let mut built = overlay(test, name).unwrap();
        let (before, after) = (args(&base), args(&built));
        assert_eq!(before.difference(&after).collect::<Vec<_>>(), [&gone], "{name}");
        assert_eq!(after.difference(&before).collect::<Vec<_>>(), [&come], "{name}");
        let set = built.iter_mut().find(|it| it["kind"] == "DaemonSet").unwrap();
        let spec = set["spec"]["template"]["spec"].as_object_mut().unwrap();
        assert_eq!(spec.remove("affinity").is_some(), name == "eks");
        spec["containers"][0]["args"] = pod(&base)["containers"][0]["args"].clone();
        assert_eq!(built, base, "{name}");
    }
    let listed = std::fs::read_dir(deploy().join("kustomize/overlays")).unwrap();
    let listed: BTreeSet<String> =
        listed.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let known = overlays.map(|(name, ..)| name.to_owned()).into_iter().chain(["systemd".to_owned()]);
    assert_eq!(listed, known.collect());
}

#[test]
fn component_adds_the_flag_and_the_rights_of_the_startup_taint_to_any_overlay() {
    let test = "component_adds_the_flag_and_the_rights_of_the_startup_taint_to_any_overlay";
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("kustomize");
    let copied = Command::new("cp").arg("-r").arg(deploy().join("kustomize")).arg(&copy).status().unwrap();
    assert!(copied.success());
    let mine = dir.path().join("mine");
    std::fs::create_dir(&mine).unwrap();
    let text = json!({"resources": ["../kustomize/overlays/calico"], "components": ["../kustomize/components/startup-taint"],
                      "images": [{"name": "rolegate", "newName": "registry.example.com/rolegate", "newTag": "1.2.3"}]});
    std::fs::write(mine.join("kustomization.yaml"), text.to_string()).unwrap();
    let Some(built) = build(test, &mine) else { return };
    assert!(args(&built).contains("--startup-taint") && args(&built).contains("--host-interface=cali+"));
    assert_eq!(pod(&built)["containers"][0]["image"], "registry.example.com/rolegate:1.2.3");
    let text = std::fs::read_to_string(deploy().join("startup-taint.yaml")).unwrap();
    let by_hand: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    assert!(by_hand.iter().all(|object| built.contains(object)));
}

#[test]
fn systemd_overlay_has_the_rights_and_no_pods() {
    let test = "systemd_overlay_has_the_rights_and_no_pods";
    let Some(built) = overlay(test, "systemd") else { return };
    let kinds: BTreeSet<&str> = built.iter().map(|object| object["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, BTreeSet::from(["ClusterRole", "ClusterRoleBinding", "ServiceAccount"]));
}

fn unit() -> String {
    std::fs::read_to_string(deploy().join("node/rolegate.service")).unwrap()
}

#[test]
fn unit_of_the_agent_sets_flags_that_there_are_and_asks_for_the_manifests_capabilities() {
    let unit = unit();
    let values = |key: &str| -> Vec<String> {
        let lines = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        lines.flat_map(str::split_whitespace).map(str::to_owned).collect()
    };
    let page = include_str!("../../docs/flags.md");
    for variable in values("Environment") {
        let name = variable.split('=').next().unwrap();
        assert!(page.contains(&format!("| `{name}` |")), "{name}");
    }
    let text = std::fs::read_to_string(deploy().join("daemonset.yaml")).unwrap();
    let manifest: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let wanted: BTreeSet<String> = pod(&manifest)["containers"][0]["securityContext"]["capabilities"]["add"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| format!("CAP_{}", name.as_str().unwrap()))
        .collect();
    assert_eq!(values("CapabilityBoundingSet").into_iter().collect::<BTreeSet<_>>(), wanted);
    assert_eq!(values("ExecStart"), ["/usr/local/bin/rolegate", "run"]);
    assert_eq!(values("ExecStop").len() + values("ExecStopPost").len(), 0, "the rules stay");
}

#[test]
fn systemd_finds_no_fault_with_the_agents_unit() {
    let test = "systemd_finds_no_fault_with_the_agents_unit";
    if !netns::on_path("systemd-analyze") {
        return skip(test, "there is no systemd-analyze");
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rolegate.service");
    let verify = |text: &str| {
        std::fs::write(&path, text.replace("/usr/local/bin/rolegate", "/bin/true")).unwrap();
        let output = Command::new("systemd-analyze").arg("verify").arg(&path).output().unwrap();
        String::from_utf8_lossy(&output.stderr)
            .lines()
            .filter(|line| line.contains("rolegate.service"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(verify(&unit()), Vec::<String>::new());
    assert_ne!(
        verify(&unit().replace("Restart=", "Restarts=")),
        Vec::<String>::new(),
        "it looks at such lines"
    );
}
