//! A values file of kube2iam's chart, in which only the image was changed.

use serde_json::{Value, json};

use super::{Chart, Rendered};

/// The file, and what the chart makes of it.
fn ported(test: &str) -> Option<(Chart, Value, Rendered)> {
    let chart = Chart::for_test(test)?;
    let file = std::fs::read_to_string(chart.dir.join("ci/kube2iam-values.yaml")).unwrap();
    let values: Value = serde_saphyr::from_str(&file).unwrap();
    let rendered = chart.render(&values);
    Some((chart, values, rendered))
}

#[test]
fn kube2iams_values_say_here_what_they_said_there() {
    let Some((_, values, rendered)) = ported("kube2iams_values_say_here_what_they_said_there") else {
        return;
    };
    for arg in [
        "--base-role-arn=arn:aws:iam::123456789012:role/",
        "--default-role=kube2iam-default",
        "--namespace-restrictions=true",
        "--namespace-restriction-format=glob",
        "--iam-role-session-ttl=900s",
        "--use-regional-sts-endpoint",
        "--resolve-duplicate-cache-ips",
        "--host-interface=cali+",
        "--host-ip=$(HOST_IP)",
        "--redirect=iptables",
        "--node=$(NODE_NAME)",
        "--app-port=8181",
        "--metrics-port=9543",
        "--region=eu-central-1",
    ] {
        assert!(rendered.has(arg), "{arg}: {:?}", rendered.args());
    }
    assert!(
        !rendered.args().iter().any(|arg| arg.starts_with("--verbose") || arg.starts_with("--auto-discover"))
    );
    let (set, pod, container) = (rendered.one("DaemonSet"), rendered.pod(), rendered.container());
    assert_eq!(container["image"], "registry.example.com/rolegate:0.1.0");
    assert_eq!(pod["imagePullSecrets"], json!([{"name": "my-registry-key"}]));
    assert_eq!(pod["nodeSelector"]["kops.k8s.io/instancegroup"], "nodes");
    assert_eq!(pod["tolerations"], values["tolerations"]);
    assert_eq!(pod["priorityClassName"], values["priorityClassName"]);
    assert_eq!(container["resources"], values["resources"]);
    assert_eq!(container["livenessProbe"]["initialDelaySeconds"], 30);
    assert_eq!(set["spec"]["updateStrategy"]["rollingUpdate"], json!({"maxSurge": 0, "maxUnavailable": 1}));
    let metadata = &set["spec"]["template"]["metadata"];
    assert_eq!(metadata["labels"]["team"], "platform");
    assert_eq!(metadata["annotations"]["example.com/team"], "platform");
    // rbac.serviceAccountName is read where rbac.create is false, as there.
    assert_eq!(pod["serviceAccountName"], "rg-rolegate");
    let monitor = rendered.one("ServiceMonitor");
    assert_eq!(monitor["metadata"]["namespace"], "monitoring");
    assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
    assert_eq!(monitor["spec"]["endpoints"][0]["interval"], "10s");
    assert_eq!(
        rendered.one("Service")["metadata"]["annotations"],
        values["prometheus"]["service"]["annotations"]
    );
    let proxy = container["env"].as_array().unwrap().iter().find(|it| it["name"] == "NO_PROXY").unwrap();
    assert_eq!(proxy["value"], "localhost,127.0.0.1");
}

/// K7: kube2iam's hook takes the redirect away at every update.
#[test]
fn kube2iams_hook_is_left_out_and_the_notes_say_so() {
    let Some((chart, values, rendered)) = ported("kube2iams_hook_is_left_out_and_the_notes_say_so") else {
        return;
    };
    assert!(values["lifecycle"]["preStop"].is_object());
    assert!(!rendered.one("DaemonSet").to_string().contains("preStop"));
    let notes = chart.notes(&values, &[]);
    for said in ["lifecycle has no effect", "podSecurityPolicy has no effect"] {
        assert!(notes.contains(said), "{notes}");
    }
}

#[test]
fn static_credentials_come_from_the_secret_that_is_named_or_made() {
    let Some(chart) = Chart::for_test("static_credentials_come_from_the_secret_that_is_named_or_made") else {
        return;
    };
    let keys = |rendered: &Rendered| -> Vec<Value> {
        let env = rendered.container()["env"].as_array().unwrap();
        env.iter()
            .filter(|it| it["name"].as_str().unwrap().starts_with("AWS_"))
            .map(|it| it["valueFrom"]["secretKeyRef"].clone())
            .collect()
    };
    let both = |secret: &str| {
        ["aws_access_key_id", "aws_secret_access_key"].map(|key| json!({"name": secret, "key": key})).to_vec()
    };
    let made = chart.render(&json!({"aws": {"access_key": "an-id", "secret_key": "a-secret"}}));
    assert_eq!(keys(&made), both("rg-rolegate"));
    assert_eq!(
        made.one("Secret")["data"],
        json!({"aws_access_key_id": "YW4taWQ=", "aws_secret_access_key": "YS1zZWNyZXQ="})
    );
    let named = chart.render(&json!({"existingSecret": "mine"}));
    assert_eq!((keys(&named), named.all("Secret").len()), (both("mine"), 0));
    let none = chart.render(&json!({"aws": {"access_key": "", "secret_key": ""}}));
    assert_eq!((keys(&none), none.all("Secret").len()), (vec![], 0));
}

#[test]
fn account_is_kube2iams_where_rights_are_not_made() {
    let Some(chart) = Chart::for_test("account_is_kube2iams_where_rights_are_not_made") else { return };
    let account = |values: Value| {
        let rendered = chart.render(&values);
        let made = rendered.all("ServiceAccount").len();
        (rendered.pod()["serviceAccountName"].as_str().unwrap().to_owned(), made)
    };
    let named = |name: &str, made| (name.to_owned(), made);
    assert_eq!(account(json!({})), named("rg-rolegate", 1));
    assert_eq!(
        account(json!({"rbac": {"create": false, "serviceAccountName": "theirs"}})),
        named("theirs", 0)
    );
    assert_eq!(
        account(json!({"rbac": {"create": true, "serviceAccountName": "default"}})),
        named("rg-rolegate", 1)
    );
    assert_eq!(account(json!({"serviceAccount": {"create": false, "name": "mine"}})), named("mine", 0));
    assert_eq!(account(json!({"serviceAccount": {"create": true, "name": "mine"}})), named("mine", 1));
    assert_eq!(account(json!({"serviceAccount": {"create": false}})), named("default", 0));
}

/// The page says where a name's default or meaning is another: each of kube2iam's values is ours, or on the page.
#[test]
fn page_tells_every_value_whose_default_is_not_kube2iams() {
    // Values of kube2iam's chart 3.5, as far as they are not empty.
    let theirs = json!({
        "host": {"ip": "$(HOST_IP)", "iptables": false, "interface": "docker0", "port": 8181},
        "prometheus": {"service": {"enabled": false}, "serviceMonitor": {"enabled": false, "interval": "10s", "namespace": "", "labels": {}}},
        "image": {"pullPolicy": "IfNotPresent"}, "aws": {"secret_key": "", "access_key": "", "region": ""}, "existingSecret": "",
        "extraArgs": {}, "extraEnv": {}, "nodeSelector": {}, "podAnnotations": {}, "podLabels": {}, "priorityClassName": "",
        "rbac": {"create": false}, "updateStrategy": "OnDelete", "maxUnavailable": 1, "verbose": false, "tolerations": [],
    });
    let dir = super::deploy().join("helm/rolegate");
    let ours: Value =
        serde_saphyr::from_str(&std::fs::read_to_string(dir.join("values.yaml")).unwrap()).unwrap();
    let page = std::fs::read_to_string(dir.join("README.md")).unwrap();
    fn differing(path: &str, theirs: &Value, ours: &Value, found: &mut Vec<String>) {
        match theirs.as_object().filter(|map| !map.is_empty()) {
            Some(map) => map
                .iter()
                .for_each(|(key, value)| differing(&format!("{path}.{key}"), value, &ours[key], found)),
            None if theirs != ours => found.push(path.trim_start_matches('.').to_owned()),
            None => {}
        }
    }
    let mut found = Vec::new();
    differing("", &theirs, &ours, &mut found);
    assert!(found.contains(&"tolerations".to_owned()), "{found:?}");
    for name in found {
        assert!(page.lines().any(|line| line.starts_with(&format!("| `{name}`"))), "{name}");
    }
}
