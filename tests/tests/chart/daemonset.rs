//! The DaemonSet: it is that of the manifest, beside what only a chart can have.

use serde_json::{Value, json};

use super::{Chart, everything, manifest, strings};

#[test]
fn agent_of_the_chart_is_that_of_the_manifest_with_the_guards_before_it() {
    let test = "agent_of_the_chart_is_that_of_the_manifest_with_the_guards_before_it";
    let Some(chart) = Chart::for_test(test) else { return };
    let mut rendered = chart.render(&json!({})).one("DaemonSet")["spec"].clone();
    let mut wanted =
        manifest("daemonset.yaml").into_iter().find(|it| it["kind"] == "DaemonSet").unwrap()["spec"].take();

    // What is different on purpose.
    let guard = rendered["template"]["spec"].as_object_mut().unwrap().remove("initContainers").unwrap();
    let affinity = rendered["template"]["spec"].as_object_mut().unwrap().remove("affinity").unwrap();
    let term =
        &affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
    assert_eq!(term[0]["matchExpressions"][0]["values"], json!(["fargate"]));
    assert_eq!(rendered["updateStrategy"]["rollingUpdate"], json!({"maxSurge": 1, "maxUnavailable": 0}));
    let mut args = strings(&rendered["template"]["spec"]["containers"][0]["args"]);
    args.retain(|arg| {
        !["app-port", "metrics-port", "state-dir", "cni-results"].iter().any(|it| arg[2..].starts_with(it))
    });
    args.sort_unstable();
    let mut by_hand = strings(&wanted["template"]["spec"]["containers"][0]["args"]);
    by_hand.sort_unstable();
    let with_values = |arg: &str| match arg {
        "--iptables" => "--redirect=iptables".to_owned(),
        "--auto-discover-base-arn" => format!("{arg}=true"),
        _ => arg.to_owned(),
    };
    let mut by_hand: Vec<String> = by_hand.into_iter().map(with_values).collect();
    by_hand.sort_unstable();
    assert_eq!(args, by_hand);
    let env = rendered["template"]["spec"]["containers"][0]["env"].as_array_mut().unwrap();
    env.retain(|variable| variable["name"] != "HOST_IPS");
    for spec in [&mut rendered, &mut wanted] {
        let template = &mut spec["template"];
        for (of, key) in [
            ("/spec/containers/0", "args"),
            ("/spec/containers/0", "imagePullPolicy"),
            ("/metadata", "labels"),
            ("/spec", "serviceAccountName"),
        ] {
            template.pointer_mut(of).unwrap().as_object_mut().unwrap().remove(key);
        }
        for field in ["updateStrategy", "selector"] {
            spec.as_object_mut().unwrap().remove(field);
        }
        sort_volumes(spec);
        without_defaults(spec);
    }
    assert_eq!(rendered, wanted);

    let [guard] = &guard.as_array().unwrap()[..] else { panic!("{guard}") };
    assert_eq!(guard["args"], json!(["guard"]));
    assert_eq!(guard["securityContext"]["capabilities"], json!({"drop": ["ALL"], "add": ["NET_ADMIN"]}));
}

fn sort_volumes(spec: &mut Value) {
    let pod = &mut spec["template"]["spec"];
    let by_name = |volume: &Value| volume["name"].as_str().unwrap().to_owned();
    pod["volumes"].as_array_mut().unwrap().sort_by_key(by_name);
    pod["containers"][0]["volumeMounts"].as_array_mut().unwrap().sort_by_key(by_name);
}

/// Fields of probes that say what Kubernetes takes anyway.
fn without_defaults(spec: &mut Value) {
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let probe = spec["template"]["spec"]["containers"][0][probe].as_object_mut().unwrap();
        let kept = |key: &String, value: &mut Value| match key.as_str() {
            "initialDelaySeconds" => *value != json!(0),
            "successThreshold" | "timeoutSeconds" => *value != json!(1),
            _ => true,
        };
        probe.retain(kept);
    }
}

/// What an update without a refused request rests on, and what keeps agents on every node.
#[test]
fn nothing_stands_in_the_way_of_two_agents_on_a_node_or_of_one_on_every_node() {
    let test = "nothing_stands_in_the_way_of_two_agents_on_a_node_or_of_one_on_every_node";
    let Some(chart) = Chart::for_test(test) else { return };
    for values in [json!({}), everything()] {
        let rendered = chart.render(&values);
        let pod = rendered.pod();
        assert_eq!(pod["hostNetwork"], true);
        assert_eq!(pod["priorityClassName"], "system-node-critical");
        assert_eq!(pod["tolerations"], json!([{"operator": "Exists"}]));
        assert_eq!(pod["dnsPolicy"], "Default");
        let containers =
            ["containers", "initContainers"].iter().flat_map(|list| pod[*list].as_array().unwrap());
        for container in containers {
            for absent in ["ports", "lifecycle"] {
                assert!(container.get(absent).is_none(), "{container}");
            }
        }
        assert!(!rendered.container().to_string().contains("privileged"));
    }
}

#[test]
fn update_strategy_is_one_that_kubernetes_takes() {
    let Some(chart) = Chart::for_test("update_strategy_is_one_that_kubernetes_takes") else { return };
    let strategy = |values: Value| chart.render(&values).one("DaemonSet")["spec"]["updateStrategy"].clone();
    let rolling = |surge: Value, unavailable: Value| json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}});
    assert_eq!(strategy(json!({})), rolling(json!(1), json!(0)));
    assert_eq!(strategy(json!({"maxUnavailable": 1})), rolling(json!(0), json!(1)));
    assert_eq!(strategy(json!({"maxUnavailable": "10%"})), rolling(json!(0), json!("10%")));
    assert_eq!(strategy(json!({"maxUnavailable": "0%"})), rolling(json!(1), json!("0%")));
    assert_eq!(strategy(json!({"maxSurge": "10%"})), rolling(json!("10%"), json!(0)));
    assert_eq!(
        strategy(json!({"updateStrategy": "OnDelete", "maxUnavailable": 1, "maxSurge": 1})),
        json!({"type": "OnDelete"})
    );
}

#[test]
fn values_of_the_pod_are_where_kubernetes_looks_for_them() {
    let Some(chart) = Chart::for_test("values_of_the_pod_are_where_kubernetes_looks_for_them") else {
        return;
    };
    let mut values = everything();
    let more = json!({
        "nodeSelector": {"kops.k8s.io/instancegroup": "nodes"}, "requireNodeLabel": "example.com/rolegate",
        "podAnnotations": {"a": "b"}, "podLabels": {"team": "platform"}, "dnsPolicy": "None", "affinity": null,
        "extraEnv": {"NO_PROXY": "localhost", "SIZE": 1_000_000, "ON": false, "NONE": ""},
        "host": {"port": 8282}, "prometheus": {"metricsPort": 9999, "podMonitor": {"enabled": true}}, "stateDir": "/srv/rolegate",
        "cniResults": "/srv/cni", "resources": {"limits": {"memory": "256Mi"}}, "terminationGracePeriodSeconds": 60, "minReadySeconds": 20,
        "startupProbe": {"enabled": false}, "livenessProbe": {"periodSeconds": 7}, "readinessProbe": {"initialDelaySeconds": 0},
        "priorityClassName": "", "tolerations": [],
    });
    values.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let rendered = chart.render(&values);
    let (pod, container) = (rendered.pod(), rendered.container());
    assert_eq!(
        pod["nodeSelector"],
        json!({"kubernetes.io/os": "linux", "kops.k8s.io/instancegroup": "nodes", "example.com/rolegate": "true"})
    );
    assert_eq!(pod["dnsPolicy"], "None");
    assert_eq!(pod["terminationGracePeriodSeconds"], 60);
    assert_eq!(pod["imagePullSecrets"], json!([{"name": "key"}]));
    for absent in ["affinity", "priorityClassName", "tolerations"] {
        assert!(pod.get(absent).is_none(), "{absent}: {pod}");
    }
    let metadata = &rendered.one("DaemonSet")["spec"]["template"]["metadata"];
    assert_eq!(
        (&metadata["annotations"]["a"], &metadata["labels"]["team"]),
        (&json!("b"), &json!("platform"))
    );
    assert_eq!(metadata["annotations"]["prometheus.io/port"], "9999");
    assert_eq!(rendered.one("DaemonSet")["spec"]["minReadySeconds"], 20);
    let env = |name: &str| {
        container["env"].as_array().unwrap().iter().find(|it| it["name"] == name).unwrap()["value"].clone()
    };
    assert_eq!(
        [env("NO_PROXY"), env("SIZE"), env("ON"), env("NONE")],
        ["localhost", "1000000", "false", ""].map(|it| json!(it))
    );
    for key in ["aws_access_key_id", "aws_secret_access_key"] {
        assert!(container["env"].to_string().contains(key), "{key}");
    }
    assert_eq!(container["resources"]["limits"]["memory"], "256Mi");
    assert!(container.get("startupProbe").is_none());
    assert_eq!(
        (&container["livenessProbe"]["periodSeconds"], &container["livenessProbe"]["httpGet"]["port"]),
        (&json!(7), &json!(9999))
    );
    assert_eq!(container["readinessProbe"]["initialDelaySeconds"], 0);
    assert_eq!(container["securityContext"]["seLinuxOptions"]["type"], "spc_t");
    assert_eq!(pod["initContainers"][1]["name"], "more");
    for (name, host, mounted) in [
        ("state", "/srv/rolegate", "/srv/rolegate"),
        ("cni-results", "/srv/cni", "/srv/cni"),
        ("ca", "/etc/ssl", "/etc/ssl"),
    ] {
        let named =
            |list: &Value| list.as_array().unwrap().iter().find(|it| it["name"] == name).unwrap().clone();
        assert_eq!(named(&pod["volumes"])["hostPath"]["path"], host);
        assert_eq!(named(&container["volumeMounts"])["mountPath"], mounted);
    }
    for arg in
        ["--app-port=8282", "--metrics-port=9999", "--state-dir=/srv/rolegate", "--cni-results=/srv/cni"]
    {
        assert!(rendered.has(arg), "{arg}");
    }
    let list = chart.render(
        &json!({"extraEnv": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}),
    );
    assert_eq!(list.container()["env"].as_array().unwrap().last().unwrap()["name"], "A");
}

#[test]
fn image_is_named_by_digest_or_tag_or_the_charts_version() {
    let Some(chart) = Chart::for_test("image_is_named_by_digest_or_tag_or_the_charts_version") else {
        return;
    };
    let digest = format!("sha256:{}", "a".repeat(64));
    let image = |values: Value| {
        let rendered = chart.render(&json!({"image": values}));
        let images = [
            rendered.container(),
            &rendered.pod()["initContainers"][0],
            &rendered.one("Pod")["spec"]["containers"][0],
        ];
        let [agent, guard, test] = images.map(|container| container["image"].as_str().unwrap().to_owned());
        assert!(agent == guard && agent == test);
        agent
    };
    assert_eq!(image(json!({})), concat!("rolegate:", env!("CARGO_PKG_VERSION")));
    assert_eq!(image(json!({"tag": "1.2.3-slim"})), "rolegate:1.2.3-slim");
    assert_eq!(
        image(json!({"repository": "r.example.com/r", "tag": "1", "digest": digest})),
        format!("r.example.com/r@{digest}")
    );
}

/// An agent that ran on would put back what is removed.
#[test]
fn clean_up_takes_the_agents_place_and_stays() {
    let Some(chart) = Chart::for_test("clean_up_takes_the_agents_place_and_stays") else { return };
    let rendered = chart.render(&json!({"cleanup": {"enabled": true, "peers": true}}));
    let agent = chart.render(&json!({}));
    let (spec, before) = (&rendered.one("DaemonSet")["spec"], &agent.one("DaemonSet")["spec"]);
    assert_eq!(
        (&spec["selector"], &rendered.one("DaemonSet")["metadata"]["name"]),
        (&before["selector"], &agent.one("DaemonSet")["metadata"]["name"])
    );
    assert_eq!(spec["updateStrategy"]["rollingUpdate"], json!({"maxSurge": 0, "maxUnavailable": "100%"}));
    let first = &rendered.pod()["initContainers"][0];
    assert_eq!(first["args"], json!(["cleanup", "--peers"]));
    assert_eq!(first["securityContext"]["capabilities"]["add"], json!(["NET_ADMIN", "NET_RAW"]));
    assert_eq!(rendered.args(), ["cleanup", "--stay"]);
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert!(rendered.container().get(probe).is_none());
    }
}

/// The two files that the page names: each node is of one of the releases.
#[test]
fn releases_side_by_side_share_no_name_and_no_node() {
    let Some(chart) = Chart::for_test("releases_side_by_side_share_no_name_and_no_node") else { return };
    let mut seen = std::collections::BTreeSet::new();
    let mut pods = Vec::new();
    for pool in ["control-plane", "nodes"] {
        let dir = chart.dir.to_str().unwrap();
        let file = chart.dir.join(format!("ci/{pool}-values.yaml"));
        let release = format!("rolegate-{pool}");
        let args =
            ["template", &release, dir, "--namespace", "kube-system", "--values", file.to_str().unwrap()];
        let objects = super::documents(&String::from_utf8(chart.helm(&args, &everything()).stdout).unwrap());
        for object in &objects {
            let id = format!("{}/{}", object["kind"], object["metadata"]["name"]);
            assert!(id.contains(&release) && seen.insert(id.clone()), "{id}");
        }
        let set = objects.iter().find(|it| it["kind"] == "DaemonSet").unwrap();
        let selector = json!({"app.kubernetes.io/name": "rolegate", "app.kubernetes.io/instance": release});
        assert_eq!(set["spec"]["selector"]["matchLabels"], selector);
        pods.push(set["spec"]["template"]["spec"].clone());
    }
    assert_eq!(pods[0]["nodeSelector"]["node-role.kubernetes.io/control-plane"], "");
    assert!(pods[0]["containers"][0]["args"].to_string().contains("--host-interface=!eth0"));
    let terms = &pods[1]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
    let expression = json!({"key": "node-role.kubernetes.io/control-plane", "operator": "DoesNotExist"});
    assert_eq!(terms[0]["matchExpressions"], json!([expression]));
}

/// `ON` and `1234` are a boolean and a number to YAML.
#[test]
fn names_that_yaml_takes_for_something_else_stay_names() {
    let Some(chart) = Chart::for_test("names_that_yaml_takes_for_something_else_stay_names") else { return };
    let values = json!({
        "fullnameOverride": "1234", "nameOverride": "12", "serviceAccount": {"name": "on"}, "image": {"pullSecrets": ["no"]},
        "extraEnv": {"ON": "yes"}, "existingSecret": "1e3", "priorityClassName": "off", "requireNodeLabel": "true",
        "extraHostPathMounts": [{"name": "1", "hostPath": "/a", "mountPath": "/a"}],
    });
    let output = chart.helm(&["template", "7", chart.dir.to_str().unwrap(), "--namespace", "8"], &values);
    for object in super::documents(&String::from_utf8(output.stdout).unwrap()) {
        let metadata = &object["metadata"];
        assert!(
            metadata["name"].is_string()
                && metadata["labels"].as_object().unwrap().values().all(Value::is_string),
            "{metadata}"
        );
        assert!(metadata.get("namespace").is_none_or(|namespace| namespace == "8"), "{metadata}");
        let pod = &object["spec"]["template"]["spec"];
        if pod.is_object() {
            let container = &pod["containers"][0];
            assert_eq!(
                [&pod["serviceAccountName"], &pod["priorityClassName"], &pod["imagePullSecrets"][0]["name"]],
                ["on", "off", "no"]
            );
            assert_eq!(pod["nodeSelector"]["true"], "true");
            assert!(
                container["env"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|it| it["name"] == "ON" && it["value"] == "yes")
            );
            assert!(container["env"].to_string().contains("\"name\":\"1e3\""));
            assert!(container["volumeMounts"].as_array().unwrap().iter().any(|it| it["name"] == "1"));
        }
    }
}

/// A key twice is a mistake to YAML; what the DaemonSet selects by, and Linux, are not the user's.
#[test]
fn labels_and_annotations_that_the_chart_has_itself_may_be_given() {
    let Some(chart) = Chart::for_test("labels_and_annotations_that_the_chart_has_itself_may_be_given") else {
        return;
    };
    let rendered = chart.render(&json!({
        "podAnnotations": {"prometheus.io/scrape": "false", "prometheus.io/path": "/metrics"},
        "podLabels": {"app.kubernetes.io/component": "mine", "app.kubernetes.io/name": "other"},
        "nodeSelector": {"kubernetes.io/os": "linux", "pool": "a"}, "requireNodeLabel": "pool-is-ready",
        "prometheus": {"podMonitor": {"enabled": true, "labels": {"app.kubernetes.io/instance": "prometheus"}}},
    }));
    let metadata = &rendered.one("DaemonSet")["spec"]["template"]["metadata"];
    let annotations = &metadata["annotations"];
    assert_eq!([&annotations["prometheus.io/scrape"], &annotations["prometheus.io/port"]], ["false", "9543"]);
    assert_eq!(metadata["labels"]["app.kubernetes.io/component"], "mine");
    assert_eq!(metadata["labels"]["app.kubernetes.io/name"], "rolegate");
    let selector = json!({"kubernetes.io/os": "linux", "pool": "a", "pool-is-ready": "true"});
    assert_eq!(rendered.pod()["nodeSelector"], selector);
    let labels = &rendered.one("PodMonitor")["metadata"]["labels"];
    assert_eq!(
        [&labels["app.kubernetes.io/instance"], &labels["app.kubernetes.io/name"]],
        ["prometheus", "rolegate"]
    );
}
