//! What there is beside the DaemonSet: rights, monitors, rules, dashboard, the pod of `helm test`.

use serde_json::{Value, json};

use super::{Chart, Rendered, everything, manifest};

/// Rules of a ClusterRole.
fn rules(objects: &[Value], name: &str) -> Value {
    let role = objects.iter().find(|it| it["kind"] == "ClusterRole" && it["metadata"]["name"] == name);
    role.unwrap_or_else(|| panic!("no ClusterRole {name}"))["rules"].clone()
}

/// P43: the chart's account may do what that of the manifest may, and the rest only with the feature that needs it.
#[test]
fn rights_of_the_chart_are_those_of_the_manifest_feature_by_feature() {
    let test = "rights_of_the_chart_are_those_of_the_manifest_feature_by_feature";
    let Some(chart) = Chart::for_test(test) else { return };
    let plain = chart.render(&json!({}));
    assert_eq!(rules(&plain.0, "rg-rolegate"), rules(&manifest("daemonset.yaml"), "rolegate"));
    assert_eq!(
        rules(&plain.0, "rg-rolegate"),
        json!([{"apiGroups": [""], "resources": ["pods", "namespaces"], "verbs": ["list", "watch"]}])
    );
    for page in ["README.md", "helm/rolegate/README.md"] {
        let page = std::fs::read_to_string(super::deploy().join(page)).unwrap();
        assert!(page.contains("list and watch of pods and namespaces"), "{page}");
    }
    for kind in ["ClusterRole", "ClusterRoleBinding"] {
        plain.one(kind);
    }
    for kind in ["Role", "RoleBinding", "ValidatingAdmissionPolicy", "Secret", "Service", "ConfigMap"] {
        assert_eq!(plain.all(kind).len(), 0, "{kind}");
    }
    let tainted = chart.render(&json!({"startupTaint": {"enabled": true}}));
    let by_hand = manifest("startup-taint.yaml");
    assert_eq!(rules(&tainted.0, "rg-rolegate"), rules(&plain.0, "rg-rolegate"));
    assert_eq!(rules(&tainted.0, "rg-rolegate-startup-taint"), rules(&by_hand, "rolegate-startup-taint"));
    for binding in tainted.all("ClusterRoleBinding") {
        assert_eq!(binding["roleRef"]["name"], binding["metadata"]["name"]);
        assert_eq!(
            binding["subjects"],
            json!([{"kind": "ServiceAccount", "name": "rg-rolegate", "namespace": "kube-system"}])
        );
    }
    let none = chart.render(&json!({"rbac": {"create": false}, "startupTaint": {"enabled": true}}));
    assert!(!none.0.iter().any(|it| it["kind"].as_str().unwrap().starts_with("ClusterRole")));
}

/// P43: the policy is that of the manifest, of this release's account and key.
#[test]
fn policy_of_the_chart_is_that_of_the_manifest() {
    let Some(chart) = Chart::for_test("policy_of_the_chart_is_that_of_the_manifest") else { return };
    let by_hand = manifest("startup-taint.yaml");
    let policy = |objects: &[Value]| {
        objects.iter().find(|it| it["kind"] == "ValidatingAdmissionPolicy").unwrap()["spec"].clone()
    };
    let as_named = |spec: &Value| -> Value {
        let text = spec.to_string().replace("kube-system:rg-rolegate", "kube-system:rolegate");
        serde_json::from_str(&text).unwrap()
    };
    let rendered = chart.render(&json!({"startupTaint": {"enabled": true}}));
    assert_eq!(as_named(&policy(&rendered.0)), policy(&by_hand));
    let binding = &rendered.one("ValidatingAdmissionPolicyBinding")["spec"];
    let name = &rendered.one("ValidatingAdmissionPolicy")["metadata"]["name"];
    assert_eq!((&binding["policyName"], &binding["validationActions"]), (name, &json!(["Deny"])));
    let key = chart.render(&json!({"startupTaint": {"enabled": true, "key": "example.com/wait"}}));
    assert!(key.has("--startup-taint=example.com/wait"));
    let text = policy(&key.0).to_string();
    assert!(text.contains("taint.key == 'example.com/wait'") && !text.contains("agent-not-ready"), "{text}");
    let without = chart.render(&json!({"startupTaint": {"enabled": true, "policy": false}}));
    assert!(
        without.all("ValidatingAdmissionPolicy").is_empty()
            && without.all("ValidatingAdmissionPolicyBinding").is_empty()
    );
}

#[test]
fn every_object_has_the_labels_that_tools_look_for() {
    let Some(chart) = Chart::for_test("every_object_has_the_labels_that_tools_look_for") else { return };
    let mut values = everything();
    values["prometheus"] = json!({"serviceMonitor": {"enabled": true}, "prometheusRule": {"enabled": true}});
    let rendered = chart.render(&values);
    assert!(rendered.0.len() > 12);
    for object in &rendered.0 {
        let labels = object["metadata"]["labels"].as_object().unwrap();
        for label in ["name", "instance", "version", "component", "part-of", "managed-by"] {
            assert!(labels.contains_key(&format!("app.kubernetes.io/{label}")), "{label}: {object}");
        }
    }
    let labels = &rendered.one("DaemonSet")["metadata"]["labels"];
    assert_eq!(labels["helm.sh/chart"], concat!("rolegate-", env!("CARGO_PKG_VERSION")));
}

#[test]
fn monitors_reach_the_port_that_no_pod_declares() {
    let Some(chart) = Chart::for_test("monitors_reach_the_port_that_no_pod_declares") else { return };
    let values = |kind: &str| {
        let monitor = json!({"enabled": true, "interval": "15s", "namespace": "monitoring", "labels": {"release": "p"}});
        json!({"prometheus": {"metricsPort": 9999, kind: monitor}})
    };
    let selector = json!({"app.kubernetes.io/name": "rolegate", "app.kubernetes.io/instance": "rg"});
    let check = |monitor: &Value, endpoints: &str| {
        assert_eq!(
            (&monitor["metadata"]["namespace"], &monitor["metadata"]["labels"]["release"]),
            (&json!("monitoring"), &json!("p"))
        );
        assert_eq!(monitor["spec"]["namespaceSelector"]["matchNames"], json!(["kube-system"]));
        assert_eq!(monitor["spec"]["selector"]["matchLabels"], selector);
        let endpoint = &monitor["spec"][endpoints][0];
        assert_eq!(endpoint["interval"], "15s");
        // What files/alerts.yaml selects and names agents by.
        let relabelings = endpoint["relabelings"].as_array().unwrap();
        let node = json!({"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "node"});
        let job = json!({"targetLabel": "job", "replacement": "rolegate"});
        assert!(relabelings.contains(&node) && relabelings.contains(&job), "{endpoint}");
    };
    let pods = chart.render(&values("podMonitor"));
    let monitor = pods.one("PodMonitor");
    check(monitor, "podMetricsEndpoints");
    let endpoint = &monitor["spec"]["podMetricsEndpoints"][0];
    assert!(endpoint.get("port").is_none() && pods.all("Service").is_empty());
    let address = |ip: &str| {
        let rules = endpoint["relabelings"].as_array().unwrap();
        rules.iter().filter(|rule| rule["targetLabel"] == "__address__").find_map(|rule| {
            let regex = regex::Regex::new(&format!("^(?:{})$", rule["regex"].as_str().unwrap())).unwrap();
            regex.is_match(ip).then(|| {
                regex.replace(ip, rule["replacement"].as_str().unwrap().replace("$1", "${1}")).into_owned()
            })
        })
    };
    assert_eq!(address("10.0.0.1").as_deref(), Some("10.0.0.1:9999"));
    assert_eq!(address("fd00::1").as_deref(), Some("[fd00::1]:9999"));

    let services = chart.render(&values("serviceMonitor"));
    check(services.one("ServiceMonitor"), "endpoints");
    let service = services.one("Service");
    assert_eq!(service["spec"]["selector"], selector);
    assert_eq!(service["spec"]["clusterIP"], "None");
    assert_eq!(service["spec"]["ports"], json!([{"name": "metrics", "port": 9999, "targetPort": 9999}]));
    assert!(chart.render(&json!({"prometheus": {"scrapeAnnotations": false}})).one("DaemonSet")["spec"]["template"]["metadata"]["annotations"].get("prometheus.io/scrape").is_none());
}

#[test]
fn rules_and_dashboard_are_the_files() {
    let Some(chart) = Chart::for_test("rules_and_dashboard_are_the_files") else { return };
    let values = json!({"prometheus": {"prometheusRule": {"enabled": true, "labels": {"role": "alert-rules"}}}, "dashboard": {"enabled": true, "namespace": "monitoring"}});
    let rendered = chart.render(&values);
    let rule = rendered.one("PrometheusRule");
    assert_eq!(rule["metadata"]["labels"]["role"], "alert-rules");
    assert_eq!([rule["spec"].clone()].as_slice(), manifest("helm/rolegate/files/alerts.yaml"));
    let dashboard = rendered.one("ConfigMap");
    assert_eq!(dashboard["metadata"]["labels"]["grafana_dashboard"], "1");
    assert_eq!(dashboard["metadata"]["namespace"], "monitoring");
    let file = std::fs::read_to_string(chart.dir.join("files/dashboard.json")).unwrap();
    let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    assert_eq!(parsed(dashboard["data"]["rolegate.json"].as_str().unwrap()), parsed(&file));
}

/// It must be treated as any pod is, and on a node with an agent.
#[test]
fn pod_of_helm_test_is_a_plain_pod_beside_an_agent() {
    let Some(chart) = Chart::for_test("pod_of_helm_test_is_a_plain_pod_beside_an_agent") else { return };
    let rendered = chart.render(&json!({"test": {"podAnnotations": {"a": "b"}}}));
    let pod = rendered.one("Pod");
    assert_eq!(pod["metadata"]["annotations"]["helm.sh/hook"], "test");
    assert_eq!(pod["metadata"]["annotations"]["a"], "b");
    let spec = &pod["spec"];
    assert!(spec.get("hostNetwork").is_none() && spec.get("volumes").is_none());
    assert_eq!(
        (&spec["restartPolicy"], &spec["automountServiceAccountToken"]),
        (&json!("Never"), &json!(false))
    );
    let term = &spec["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0];
    assert_eq!(
        term["labelSelector"]["matchLabels"],
        rendered.one("DaemonSet")["spec"]["selector"]["matchLabels"]
    );
    assert_ne!(pod["metadata"]["labels"]["app.kubernetes.io/name"], "rolegate", "it is no agent");
    let container = &spec["containers"][0];
    assert_eq!(container["args"], json!(["probe"]));
    assert_eq!(container["securityContext"]["capabilities"], json!({"drop": ["ALL"]}));
    assert_eq!(container["securityContext"]["runAsNonRoot"], true);
    assert!(chart.render(&json!({"test": {"enabled": false}})).all("Pod").is_empty());
}

#[test]
fn older_kubernetes_gets_what_it_knows_or_a_reason() {
    let Some(chart) = Chart::for_test("older_kubernetes_gets_what_it_knows_or_a_reason") else { return };
    let on = |version: &str, values: Value| chart.template(&values, &["--kube-version", version]);
    let has_ips = |rendered: Rendered| rendered.container()["env"].to_string().contains("status.hostIPs");
    let refused = |rendered: Result<Rendered, String>| rendered.map(|_| ()).unwrap_err();
    assert!(!has_ips(on("1.25.0", json!({})).unwrap()));
    assert!(has_ips(on("1.30.0", json!({})).unwrap()));
    assert!(has_ips(on("1.34.1-eks-1", json!({})).unwrap()));
    assert!(refused(on("1.24.17", json!({}))).contains("requires kubeVersion: >=1.25.0-0"));
    let taint = |policy: bool| json!({"startupTaint": {"enabled": true, "policy": policy}});
    assert!(
        refused(on("1.29.0", taint(true)))
            .contains("startupTaint.policy: ValidatingAdmissionPolicy needs Kubernetes 1.30")
    );
    assert!(on("1.29.0", taint(false)).is_ok());
}
