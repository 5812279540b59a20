//! The chart on a real API server: installed, changed and taken away by Helm, as its user would.

use std::process::{Command, Output};
use std::sync::Arc;

use rolegate_tests::netns::{self, NetNs};
use rolegate_tests::real_api::RealApi;
use rolegate_tests::skip;
use serde_json::json;

use super::{Chart, clean, everything, helm};

/// Everything but what needs the Prometheus operator.
fn values() -> serde_json::Value {
    let mut values = everything();
    values["prometheus"] = json!({"service": {"enabled": true}});
    values
}

#[test]
fn release_is_installed_changed_and_taken_away_without_a_trace() {
    let test = "release_is_installed_changed_and_taken_away_without_a_trace";
    let Some(chart) = Chart::for_test(test) else { return };
    if let Some(why) = netns::missing().or_else(RealApi::missing) {
        return skip(test, &why);
    }
    let ns = Arc::new(NetNs::create("api").unwrap());
    let api = RealApi::start(&ns, ([127, 0, 0, 1], 6443).into()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (kubeconfig, file) = (dir.path().join("kubeconfig"), dir.path().join("values.json"));
    std::fs::write(&kubeconfig, api.admin_kubeconfig()).unwrap();
    std::fs::write(&file, values().to_string()).unwrap();
    let helm = |args: &[&str]| -> Output {
        let mut command: Command = ns.command(super::helm());
        command.args(["--namespace", "rolegate", "--kubeconfig"]).arg(&kubeconfig).args(args);
        let home = dir.path();
        let output = clean(&mut command).env("HOME", home).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    };
    let there = || {
        let kinds = "daemonsets,serviceaccounts,services,secrets,configmaps,clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings";
        let args =
            ["get", kinds, "--all-namespaces", "--selector=app.kubernetes.io/instance=rg", "--output=name"];
        let mut names: Vec<String> = api.kubectl(&args).unwrap().lines().map(str::to_owned).collect();
        names.sort();
        names
    };

    let (chart, file) = (chart.dir.to_str().unwrap(), file.to_str().unwrap());
    let said = helm(&["install", "rg", chart, "--create-namespace", "--values", file]);
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(
        said.contains("kubectl label namespace rolegate pod-security.kubernetes.io/enforce=privileged"),
        "{said}"
    );
    let installed = there();
    assert_eq!(installed.len(), 11, "{installed:?}");
    assert!(installed.contains(&"daemonset.apps/rg-rolegate".to_owned()), "{installed:?}");
    helm(&["upgrade", "rg", chart, "--reuse-values", "--set", "logLevel=debug,startupTaint.enabled=false"]);
    let set = api
        .kubectl(&["-n", "rolegate", "get", "daemonset", "rg-rolegate", "-o", "jsonpath={..args}"])
        .unwrap();
    assert!(set.contains("--log-level=debug"), "{set}");
    assert_eq!(there().len(), 7, "{:?}", there());
    helm(&["rollback", "rg", "1"]);
    assert_eq!(there(), installed);
    helm(&["uninstall", "rg"]);
    assert_eq!(there(), Vec::<String>::new());
}

#[test]
fn helm_of_the_suite_is_the_one_that_is_pinned() {
    let Some(_) = Chart::for_test("helm_of_the_suite_is_the_one_that_is_pinned") else { return };
    let output = clean(Command::new(helm()).args(["version", "--short"])).output().unwrap();
    let pinned = include_str!("../../tools/helm/go.mod")
        .lines()
        .find_map(|line| line.strip_prefix("require helm.sh/helm/v3 "))
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).starts_with(pinned));
}
