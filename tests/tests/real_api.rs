//! The real API server behaves for the harness as the double does.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rolegate_tests::agent::Agent;
use rolegate_tests::http::Response;
use rolegate_tests::kube_api::Pod;
use rolegate_tests::netns::NetNs;
use rolegate_tests::real_api::RealApi;
use rolegate_tests::{netns, skip};
use serde_json::{Value, json};
use tokio::time::Instant;

/// Longest that the API server may take to notice a change of its own rules.
const PATIENCE: Duration = Duration::from_secs(30);

/// A namespace with an API server in it, where one can be had.
fn api(test: &str) -> Option<(Arc<NetNs>, RealApi)> {
    if let Some(why) = netns::missing().or_else(RealApi::missing) {
        skip(test, &why);
        return None;
    }
    let ns = Arc::new(NetNs::create("api").unwrap());
    let api = RealApi::start(&ns, ([127, 0, 0, 1], 6443).into()).unwrap();
    Some((ns, api))
}

fn has_kubectl(test: &str) -> bool {
    let there = netns::on_path("kubectl");
    if !there {
        skip(test, "kubectl is not installed");
    }
    there
}

/// An agent of node `n1` that asks this API server; it redirects nothing.
fn agent(ns: &Arc<NetNs>, api: &RealApi, dir: &Path) -> Agent {
    let kubeconfig = dir.join("kubeconfig");
    std::fs::write(&kubeconfig, api.kubeconfig()).unwrap();
    let args = [
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--state-dir={}", dir.display()),
        "--node=n1".to_owned(),
        "--base-role-arn=arn:aws:iam::123456789012:role/".to_owned(),
        "--log-format=json".to_owned(),
    ];
    Agent::start(ns, &args, &BTreeMap::new()).unwrap()
}

fn gate(agent: &Agent, name: &str) -> String {
    agent.admin(&format!("/readyz/{name}")).map(|answer| answer.text()).unwrap_or_default()
}

/// Waits for what the API server does some time after it was told.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn pods_and_namespaces_are_made_edited_and_deleted() {
    let Some((_ns, api)) = api("pods_and_namespaces_are_made_edited_and_deleted") else { return };
    api.apply_namespace("team", &[("iam.amazonaws.com/allowed-roles", "[]")]).unwrap();
    api.apply_namespace("team", &[]).unwrap();
    api.apply_namespace("default", &[("iam.amazonaws.com/allowed-roles", "[\"a\"]")]).unwrap();

    let pod = Pod::new("team", "web").node("node-1").ip("100.96.1.11").ip("fd00:64:1::11").role("MyPodRole");
    let uid = api.apply_pod(&pod).unwrap();
    assert!(!uid.is_empty());
    assert_eq!(api.apply_pod(&pod.clone().role("OtherRole")).unwrap(), uid);
    assert_eq!(api.apply_pod(&pod.clone().deleting()).unwrap(), uid);
    assert!(api.delete_pod("team", "web").unwrap());
    assert!(!api.delete_pod("team", "web").unwrap());
    assert_ne!(api.apply_pod(&pod).unwrap(), uid);
}

#[test]
fn manifest_is_taken_by_a_real_api_server() {
    let test = "manifest_is_taken_by_a_real_api_server";
    if !has_kubectl(test) {
        return;
    }
    let Some((_ns, api)) = api(test) else { return };
    let said = api.apply_manifests(&["daemonset.yaml"]).unwrap();
    assert!(said.contains("daemonset.apps/rolegate created"), "{said}");
}

/// A service account's rights in `namespace`, one by one: verb and resource, or verb and path.
fn rights(api: &RealApi, token: &str, namespace: &str) -> BTreeSet<String> {
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview",
                        "spec": {"namespace": namespace}});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let answer = api.call(token, "POST", path, &review.to_string()).unwrap();
    assert_eq!(answer.status, 201, "{}", answer.text());
    let status = answer.json().unwrap()["status"].take();
    assert_eq!(status["incomplete"], json!(false), "{status}");
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let mut rights = BTreeSet::new();
    for rule in status["resourceRules"].as_array().unwrap() {
        for verb in texts(&rule["verbs"]) {
            for group in texts(&rule["apiGroups"]) {
                for resource in texts(&rule["resources"]) {
                    let names = texts(&rule["resourceNames"]).join(",");
                    rights.insert(format!("{verb} {group}/{resource} {names}").trim_end().to_owned());
                }
            }
        }
    }
    for rule in status["nonResourceRules"].as_array().unwrap() {
        for verb in texts(&rule["verbs"]) {
            rights.extend(texts(&rule["nonResourceURLs"]).iter().map(|url| format!("{verb} {url}")));
        }
    }
    rights
}

/// P43: the service account of the manifest may list and watch pods and namespaces, and beyond what any other
/// service account may, nothing else; a wider manifest is noticed.
#[test]
fn manifest_grants_reading_pods_and_namespaces_and_nothing_else() {
    let test = "manifest_grants_reading_pods_and_namespaces_and_nothing_else";
    if !has_kubectl(test) {
        return;
    }
    let Some((_ns, api)) = api(test) else { return };
    api.apply_manifests(&["daemonset.yaml"]).unwrap();
    let nobody = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody"}});
    api.admin("POST", "/api/v1/namespaces/kube-system/serviceaccounts", &nobody).unwrap();
    let agent = api.account_token("kube-system", "rolegate").unwrap();
    let nobody = api.account_token("kube-system", "nobody").unwrap();
    let granted = |namespace: &str| -> BTreeSet<String> {
        let everybodys = rights(&api, &nobody, namespace);
        rights(&api, &agent, namespace).difference(&everybodys).cloned().collect()
    };
    let wanted: BTreeSet<String> = ["pods", "namespaces"]
        .iter()
        .flat_map(|resource| ["list", "watch"].map(|verb| format!("{verb} /{resource}")))
        .collect();
    until("the binding is in force", || !granted("default").is_empty());
    for namespace in ["default", "kube-system", "elsewhere"] {
        assert_eq!(granted(namespace), wanted, "in {namespace}");
    }
    for (path, status) in [
        ("/api/v1/pods?limit=1", 200),
        ("/api/v1/namespaces?limit=1", 200),
        ("/api/v1/secrets?limit=1", 403),
        ("/api/v1/namespaces/kube-system/serviceaccounts", 403),
        ("/api/v1/nodes", 403),
        ("/apis/rbac.authorization.k8s.io/v1/clusterroles", 403),
    ] {
        assert_eq!(api.call(&agent, "GET", path, "").unwrap().status, status, "{path}");
    }

    let path = "/apis/rbac.authorization.k8s.io/v1/clusterroles/rolegate";
    let mut wider = api.admin("GET", path, &json!(null)).unwrap();
    let more = json!({"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"], "verbs": ["get"]});
    wider["rules"].as_array_mut().unwrap().push(more);
    api.admin("PUT", path, &wider).unwrap();
    until("a wider role is noticed", || granted("default") != wanted);
    assert!(granted("default").contains("get /secrets a"));
}

/// P43: with the rights for `--startup-taint` the service account may besides read nodes, and of the node that its
/// token was issued for take off the startup taint and set the agent's condition: of no other node, and nothing else.
#[test]
fn rights_for_the_startup_taint_are_those_of_its_own_node() {
    const KEY: &str = "rolegate/agent-not-ready";
    const JSON: &str = "application/json-patch+json";
    const MERGE: &str = "application/strategic-merge-patch+json";
    let test = "rights_for_the_startup_taint_are_those_of_its_own_node";
    if !has_kubectl(test) {
        return;
    }
    let Some((_ns, api)) = api(test) else { return };
    api.apply_manifests(&["daemonset.yaml", "startup-taint.yaml"]).unwrap();
    let (ours, other) =
        (json!({"key": KEY, "effect": "NoSchedule"}), json!({"key": "a/b", "effect": "NoSchedule"}));
    for node in ["n1", "n2"] {
        api.apply_node(node, &json!([])).unwrap();
        api.apply_node(node, &json!([ours, other])).unwrap();
    }
    api.apply_pod(&Pod::new("kube-system", "rolegate").node("n1").service_account("rolegate")).unwrap();
    let token = api.pod_token("kube-system", "rolegate", "rolegate").unwrap();
    let unbound = api.account_token("kube-system", "rolegate").unwrap();
    let patch = |token: &str, path: &str, mime: &str, patch: &Value| {
        let path = format!("/api/v1/nodes/{path}");
        api.patch(token, &path, mime, patch).unwrap()
    };
    let taints = |taints: &[&Value]| json!({"spec": {"taints": taints}});
    let condition = |kind: &str| json!({"status": {"conditions": [{"type": kind, "status": "True", "reason": "A", "message": "b"}]}});
    let no = |answer: &Response, said: &str| answer.status == 403 && answer.text().contains(said);
    // A policy is in force some time after it was made: until then these are taken, and change nothing.
    let nothing = json!({"metadata": {"labels": {}}});
    until("the policy is in force", || no(&patch(&unbound, "n1", MERGE, &nothing), "no other"));

    let label = json!({"metadata": {"labels": {"team": "a"}}});
    let annotation = json!({"metadata": {"annotations": {"team": "a"}}});
    let cordon = json!({"spec": {"unschedulable": true}});
    let capacity = json!({"status": {"capacity": {"cpu": "1000"}}});
    let address = json!({"status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.99"}]}});
    for (what, token, path, change, said) in [
        ("another node's taint", &token, "n2", &taints(&[&other]), "no other"),
        ("another node's condition", &token, "n2/status", &condition("rolegate/Ready"), "no other"),
        ("a token of no node", &unbound, "n1", &taints(&[&other]), "no other"),
        ("another taint", &token, "n1", &taints(&[&ours]), "of the taints"),
        (
            "a new taint",
            &token,
            "n1",
            &taints(&[&ours, &other, &json!({"key": "c", "effect": "NoExecute"})]),
            "of the taints",
        ),
        ("another condition", &token, "n1/status", &condition("Ready"), "of the conditions"),
        ("a label", &token, "n1", &label, "nothing else"),
        ("a label by the status", &token, "n1/status", &label, "nothing else"),
        ("an annotation", &token, "n1", &annotation, "nothing else"),
        ("cordoning", &token, "n1", &cordon, "nothing else"),
        ("capacity", &token, "n1/status", &capacity, "nothing else"),
        ("an address", &token, "n1/status", &address, "nothing else"),
    ] {
        let answer = patch(token, path, MERGE, change);
        assert!(no(&answer, said), "{what}: {} {}", answer.status, answer.text());
    }
    assert_eq!(api.node("n1").unwrap()["spec"]["taints"], json!([ours, other]));

    let condition = condition("rolegate/Ready");
    assert_eq!(patch(&token, "n1/status", MERGE, &condition).status, 200);
    let test_of = |value: Value| json!({"op": "test", "path": "/spec/taints", "value": value});
    let rest = json!({"op": "replace", "path": "/spec/taints", "value": [other]});
    let stale = patch(&token, "n1", JSON, &json!([test_of(json!([ours])), rest]));
    let said = "the server rejected our request due to an error in our request";
    assert!(stale.status == 422 && stale.text().contains(said), "as the double says it: {}", stale.text());
    let taken = patch(&token, "n1", JSON, &json!([test_of(json!([ours, other])), rest]));
    assert_eq!((taken.status, &taken.json().unwrap()["spec"]["taints"]), (200, &json!([other])));
    for path in ["nodes", "secrets?limit=1", "namespaces/kube-system/serviceaccounts"] {
        assert_eq!(api.call(&token, "GET", &format!("/api/v1/{path}"), "").unwrap().status, 403, "{path}");
    }
    assert_eq!(api.call(&token, "DELETE", "/api/v1/nodes/n1", "").unwrap().status, 403);
}

/// Each verb that the API server's own RBAC does not grant is named, with the resource, by the gate and the log,
/// until it is granted.
#[test]
fn each_missing_rule_is_named_until_a_real_api_server_grants_it() {
    const ALL: &[&str] = &["list", "watch"];
    let test = "each_missing_rule_is_named_until_a_real_api_server_grants_it";
    let Some((ns, api)) = api(test) else { return };
    for resource in ["pods", "namespaces"] {
        let other = if resource == "pods" { "namespaces" } else { "pods" };
        for (verb, rest, query) in
            [("list", &["watch"][..], "limit=1"), ("watch", &["list"], "watch=true&timeoutSeconds=1")]
        {
            api.grant(&[(resource, rest), (other, ALL)]).unwrap();
            let path = format!("/api/v1/{resource}?{query}");
            let status = || api.call(&api.token(), "GET", &path, "").unwrap().status;
            until(&format!("{verb} {resource} is forbidden"), || status() == 403);
            let dir = tempfile::tempdir().unwrap();
            let agent = agent(&ns, &api, dir.path());
            let said = format!(
                "cannot {verb} {resource}: forbidden; the agent's service account needs a ClusterRole with"
            );
            agent.poll(&said, || Ok(gate(&agent, resource).contains(&said))).unwrap();
            agent.poll("the other gate opens", || Ok(gate(&agent, other) == "ok\n")).unwrap();
            let logged = |line: &rolegate_tests::agent::Line| {
                line.text_of("error").is_some_and(|error| error.starts_with(&said))
            };
            agent.wait_for_line(&said, logged).unwrap();
            let page = agent.admin("/readyz").unwrap();
            assert!(page.status == 503 && page.text().contains(&said), "{}", page.text());

            api.grant(&[(resource, ALL), (other, ALL)]).unwrap();
            agent.poll("the gate opens", || Ok(gate(&agent, resource) == "ok\n")).unwrap();
        }
    }
}

/// Whoever may change a pod may give it times that common date types cannot hold, and JSON deeper than common readers
/// go: that blinds the agent to nobody.
#[test]
fn pod_that_common_clients_cannot_read_blinds_nobody() {
    let Some((ns, api)) = api("pod_that_common_clients_cannot_read_blinds_nobody") else { return };
    for (name, ip) in [("odd", "100.96.1.11"), ("plain", "100.96.1.12")] {
        api.apply_pod(&Pod::new("default", name).node("n1").ip(ip).role("MyPodRole")).unwrap();
    }
    let path = "/api/v1/namespaces/default/pods/odd";
    let mut odd = api.admin("GET", path, &json!(null)).unwrap();
    odd["metadata"]["labels"] = json!({"a": "b"});
    odd["metadata"]["managedFields"] = json!([{
        "manager": "somebody", "operation": "Update", "apiVersion": "v1", "time": "9999-12-31T23:59:59Z",
        "fieldsType": "FieldsV1", "fieldsV1": {"f:metadata": {"f:annotations": {"f:iam.amazonaws.com/role": {}}}},
    }]);
    let deep = (0..300).fold(json!({}), |inner, _| json!({"f:a": inner}));
    odd["metadata"]["managedFields"].as_array_mut().unwrap().push(json!({
        "manager": "deep", "operation": "Update", "apiVersion": "v1", "time": "2026-01-01T00:00:00Z",
        "fieldsType": "FieldsV1", "fieldsV1": deep.clone(),
    }));
    // Not read here either, but as text: it is too deep.
    let call = |method: &str, body: &str| api.call(&api.admin_token(), method, path, body).unwrap();
    assert_eq!(call("PUT", &odd.to_string()).status, 200);
    let kept = call("GET", "").text();
    assert!(kept.contains("9999-12-31") && kept.contains(&deep.to_string()), "{kept}");
    let dir = tempfile::tempdir().unwrap();
    let agent = agent(&ns, &api, dir.path());
    let known = "rolegate_kubernetes_objects{resource=\"pods\"}";
    let both = || agent.metric(known).is_ok_and(|count| count >= 2.0);
    agent.poll("both are known", || Ok(both())).unwrap();
    // They are counted before the list is complete.
    agent.poll("the gate opens", || Ok(gate(&agent, "pods") == "ok\n")).unwrap();
    assert!(!agent.log().contains("terminationMessagePath"), "a list is not logged:\n{}", agent.log());
}

/// A watch from a version that an API server has not come to (it was restored, or is another) brings nothing, not even
/// bookmarks: that only silence tells of it is why silence has a limit.
#[test]
fn watch_from_a_version_to_come_is_silent() {
    let Some((_ns, api)) = api("watch_from_a_version_to_come_is_silent") else { return };
    let path = "/api/v1/pods?watch=true&allowWatchBookmarks=true&timeoutSeconds=5&resourceVersion=";
    api.apply_pod(&Pod::new("default", "early").node("n1")).unwrap();
    for (from, silent) in [("1", false), ("1000000", true)] {
        let watched = std::thread::scope(|scope| {
            let watching =
                scope.spawn(|| api.call(&api.token(), "GET", &format!("{path}{from}"), "").unwrap());
            api.apply_pod(&Pod::new("default", &format!("after-{from}")).node("n1")).unwrap();
            watching.join().unwrap()
        });
        assert_eq!((watched.status, watched.text().is_empty()), (200, silent), "{from}: {}", watched.text());
    }
}

/// What the agent asks of a watch that is silent: from the watch cache, a list of what cannot be. Its version is not newer
/// than the first list's for as long as nothing of the resource has changed, whatever else has, and then it is.
#[test]
fn watch_cache_vouches_for_a_silent_watch_until_there_was_something_to_say() {
    const FIRST: &str = "limit=500";
    const CACHED: &str = "resourceVersion=0&fieldSelector=metadata.name%3D-";
    let test = "watch_cache_vouches_for_a_silent_watch_until_there_was_something_to_say";
    let Some((_ns, api)) = api(test) else { return };
    let version = |query: &str| -> u64 {
        let answer = api.call(&api.token(), "GET", &format!("/api/v1/namespaces?{query}"), "").unwrap();
        let list = answer.json().unwrap();
        assert!(query == FIRST || list["items"].as_array().is_some_and(Vec::is_empty), "{list}");
        list["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
    };
    // The API server makes its own namespaces some time after it is ready.
    until("its own namespaces", || {
        let own = "/api/v1/namespaces/kube-node-lease";
        api.call(&api.admin_token(), "GET", own, "").is_ok_and(|answer| answer.status == 200)
    });
    let listed = version(FIRST);
    let pod = api.apply_pod(&Pod::new("default", "web").node("n1")).unwrap();
    assert!(!pod.is_empty());
    assert!(version(CACHED) <= listed, "a pod is nothing that a watch of namespaces tells");
    api.apply_namespace("team", &[]).unwrap();
    until("the new namespace is in the cache", || version(CACHED) > listed);
}
