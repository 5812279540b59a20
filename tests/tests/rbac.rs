//! The rights that the manifests grant, with a service account's own tokens against a real API server: they are enough,
//! none is too many, each that is missing is named, and tokens change while the agent runs.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rolegate_tests::agent::{Agent, Line};
use rolegate_tests::clients::cache;
use rolegate_tests::cluster::Cluster;
use rolegate_tests::real_api::RealApi;
use rolegate_tests::topology::{NODE_V4, WORLD_V4};
use rolegate_tests::world::{NODE, RunningPod, World};
use rolegate_tests::{netns, planted, skip};
use serde_json::{Value, json};
use tokio::time::Instant;

/// Longest that the API server may take to notice a change of its rules, or the end of a token.
const PATIENCE: Duration = Duration::from_secs(30);
/// Beside the double's.
const PORT: u16 = 6444;
/// Where the kubelet mounts a service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const USER: &str = "system:serviceaccount:kube-system:rolegate";
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";

/// A right: verb and resource, such as `patch nodes/status`.
type Right = (String, String);

/// A node whose agent has the service account of the manifests, with the rights for `--startup-taint`.
struct Lab {
    world: World,
    /// What the kubelet would mount into the agent's pod.
    account: tempfile::TempDir,
}

// === impl Lab ===

impl Lab {
    fn new(test: &str) -> Option<Self> {
        let kubectl = || (!netns::on_path("kubectl")).then(|| "kubectl is not installed".to_owned());
        if let Some(why) = netns::missing().or_else(RealApi::missing).or_else(kubectl) {
            skip(test, &why);
            return None;
        }
        let mut world = World::start().unwrap();
        let api = RealApi::start(world.topology.world(), (WORLD_V4, PORT).into()).unwrap();
        api.apply_manifests(&["daemonset.yaml", "startup-taint.yaml"]).unwrap();
        let kubeconfig: Value = serde_json::from_str(&api.kubeconfig()).unwrap();
        let ca = kubeconfig.pointer("/clusters/0/cluster/certificate-authority-data").unwrap();
        let account = tempfile::tempdir().unwrap();
        std::fs::write(account.path().join("ca.crt"), STANDARD.decode(ca.as_str().unwrap()).unwrap())
            .unwrap();
        std::fs::write(account.path().join("namespace"), "kube-system").unwrap();
        world.cluster = Cluster::Real(Box::new(api));
        world.namespace("default", &["MyPodRole"]).unwrap();
        Some(Self { world, account })
    }

    fn api(&self) -> &RealApi {
        match &self.world.cluster {
            Cluster::Real(api) => api,
            Cluster::Double(_) => panic!("the API server is a real one"),
        }
    }

    /// Has the node register anew: with the startup taint, and no condition of the agent's.
    fn register(&self) {
        let taint = json!([{"key": "rolegate/agent-not-ready", "effect": "NoSchedule"}]);
        self.world.cluster.apply_node(NODE, &taint).unwrap();
        let (path, none) = (format!("/api/v1/nodes/{NODE}/status"), json!({"status": {"conditions": []}}));
        let mime = "application/merge-patch+json";
        assert_eq!(self.api().patch(&self.api().admin_token(), &path, mime, &none).unwrap().status, 200);
    }

    fn is_tainted(&self) -> bool {
        let node = self.world.cluster.node(NODE).unwrap();
        node["spec"]["taints"].to_string().contains("rolegate/agent-not-ready")
    }

    /// An agent's pod on the node, and the token that its kubelet asks for.
    fn token(&self, pod: &str) -> String {
        self.world.host_pod("kube-system", pod, |pod| pod.service_account("rolegate")).unwrap();
        let token = self.api().pod_token("kube-system", "rolegate", pod).unwrap();
        planted::plant(token.clone());
        token
    }

    /// Puts a token where the agent reads it, whole at once as the kubelet does.
    fn mount(&self, token: &str) {
        let new = self.account.path().join("..token");
        std::fs::write(&new, token).unwrap();
        std::fs::rename(new, self.account.path().join("token")).unwrap();
    }

    /// Deletes the pod that a token was issued for: the API server takes it no longer.
    fn end(&self, pod: &str, token: &str) {
        self.api().delete_pod("kube-system", pod).unwrap();
        let status = || self.api().call(token, "GET", "/api/v1/namespaces?limit=1", "").unwrap().status;
        until(&format!("the token of {pod} is refused"), || status() == 401);
    }

    /// Ends every connection to the API server, as a restart of it does: an open watch never shows its token again.
    fn cut(&self) {
        // It says that of listening sockets it ends none, and is done.
        self.world.topology.world().run("ss", &["-K", "sport", "=", &format!(":{PORT}")]).unwrap();
    }

    /// The agent, which finds the API server as in a pod.
    fn agent(&self, flags: &[&str]) -> Agent {
        let mut args = self.world.usual_flags();
        args.retain(|flag| !flag.starts_with("--kubeconfig"));
        args.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let mut env: BTreeMap<String, String> = self.world.environment();
        env.insert("KUBERNETES_SERVICE_HOST".into(), WORLD_V4.to_string());
        env.insert("KUBERNETES_SERVICE_PORT".into(), PORT.to_string());
        let mount = format!("mkdir -p {ACCOUNT}; mount --bind {} {ACCOUNT}", self.account.path().display());
        Agent::start_contained(self.world.topology.node(), &mount, &args, &env).unwrap()
    }

    fn served(&self, name: &str) -> RunningPod {
        let pod = self.world.pod("default", name, |pod| pod.role("MyPodRole")).unwrap();
        assert_eq!(pod.imds().credentials().unwrap()["Code"], "Success", "{name}");
        pod
    }

    /// The manifests' roles: name and rights.
    fn roles(&self) -> Vec<(String, BTreeSet<Right>)> {
        let path = format!("{ROLES}?labelSelector=app.kubernetes.io/name%3Drolegate");
        let roles = self.api().admin("GET", &path, &Value::Null).unwrap();
        let roles = roles["items"].as_array().unwrap();
        roles.iter().map(|role| (text(&role["metadata"]["name"]), rights(role))).collect()
    }

    /// Makes a role of these rights, and waits until `changed` of them is in force.
    fn set(&self, role: &str, rights: &BTreeSet<Right>, changed: &Right, token: &str) {
        let rules = rights
            .iter()
            .map(|(verb, resource)| json!({"apiGroups": [""], "resources": [resource], "verbs": [verb]}));
        let path = format!("{ROLES}/{role}");
        let mut new = self.api().admin("GET", &path, &Value::Null).unwrap();
        new["rules"] = rules.collect();
        self.api().admin("PUT", &path, &new).unwrap();
        let (verb, resource) = changed;
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec":
            {"resourceAttributes": {"verb": verb, "resource": resource, "subresource": subresource}}});
        let allowed = || {
            let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
            let answer = self.api().call(token, "POST", path, &review.to_string()).unwrap();
            answer.json().unwrap()["status"]["allowed"] == true
        };
        until(&format!("{changed:?} is changed"), || allowed() == rights.contains(changed));
    }

    /// What the agent's account asked for so far, but for questions of the test itself.
    fn asked(&self) -> Vec<Value> {
        let mut events = self.api().audited().unwrap();
        events.retain(|event| {
            event["user"]["username"] == USER && event["sourceIPs"] == json!([NODE_V4.to_string()])
        });
        events
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// What a ClusterRole grants, all of it in the core group.
fn rights(role: &Value) -> BTreeSet<Right> {
    let mut rights = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        assert_eq!(rule["apiGroups"], json!([""]), "{rule}");
        assert_eq!(rule.as_object().unwrap().len(), 3, "groups, resources and verbs: {rule}");
        for verb in rule["verbs"].as_array().unwrap() {
            rights.extend(rule["resources"].as_array().unwrap().iter().map(|it| (text(verb), text(it))));
        }
    }
    rights
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The ClusterRoles among manifests, by name.
fn granted(manifests: &str) -> BTreeMap<String, BTreeSet<Right>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(manifests).unwrap();
    let roles = documents.iter().filter(|it| it["kind"] == "ClusterRole");
    roles.map(|role| (text(&role["metadata"]["name"]), rights(role))).collect()
}

/// What the other tests say of the manifests holds for the chart.
#[test]
fn chart_grants_what_the_manifests_grant() {
    let helm = cache().join("go/helm");
    if !helm.exists() {
        return skip(
            "chart_grants_what_the_manifests_grant",
            "Helm is not there (make setup, which needs Go)",
        );
    }
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let manifest = |name: &str| granted(&std::fs::read_to_string(deploy.join(name)).unwrap());
    let chart = |flags: &[&str]| {
        let mut command = Command::new(&helm);
        command.args(["template", "rolegate"]).arg(deploy.join("helm/rolegate")).args(flags);
        granted(&netns::run(&mut command).unwrap())
    };
    let always = manifest("daemonset.yaml");
    assert_eq!(chart(&[]), always);
    let mut with_taint = always;
    with_taint.extend(manifest("startup-taint.yaml"));
    assert_eq!(chart(&["--set=startupTaint.enabled=true"]), with_taint);
}

/// P43: with the rights of the manifests the agent gets ready, takes the startup taint off and is refused nothing; of
/// these rights it uses every one, and needs no other.
#[test]
fn manifests_grant_what_the_agent_asks_for_and_nothing_else() {
    let Some(lab) = Lab::new("manifests_grant_what_the_agent_asks_for_and_nothing_else") else { return };
    lab.register();
    lab.mount(&lab.token("rolegate-a"));
    let begin = Instant::now();
    let agent = lab.agent(&["--startup-taint"]);
    agent.ready().unwrap();
    agent.poll("the taint goes", || Ok(!lab.is_tainted())).unwrap();
    lab.served("aws-cli");
    let wanted: BTreeSet<Right> = lab.roles().into_iter().flat_map(|(_, rights)| rights).collect();
    // A watch is written down a moment after it began.
    let asked = || -> BTreeSet<Right> { lab.asked().iter().map(right).collect() };
    until("every right is used", || asked().is_superset(&wanted));
    assert_eq!(asked(), wanted);
    let refused: Vec<_> = lab.asked().into_iter().filter(|it| it["responseStatus"]["code"] == 403).collect();
    assert!(refused.is_empty(), "{refused:#?}");
    assert!(!agent.log().to_lowercase().contains("forbidden"), "{}", agent.log());
    assert!(lab.world.leaks(begin).is_empty(), "{:?}", lab.world.leaks(begin));
}

/// What an event of the audit log is about.
fn right(event: &Value) -> Right {
    let object = &event["objectRef"];
    let resource = [text(&object["resource"]), text(&object["subresource"])];
    (text(&event["verb"]), resource.join("/").trim_end_matches('/').to_owned())
}

/// Of the rights of the manifests, each that is taken away is missed: the log names verb and resource, and where pods'
/// credentials depend on it, the agent is not ready and its gate says the same.
#[test]
fn each_right_of_the_manifests_that_is_missing_is_named() {
    let Some(lab) = Lab::new("each_right_of_the_manifests_that_is_missing_is_named") else { return };
    let token = lab.token("rolegate-a");
    lab.mount(&token);
    let mut tried = 0;
    for (role, rights) in lab.roles() {
        for right in &rights {
            let (verb, resource) = right;
            let mut rest = rights.clone();
            rest.remove(right);
            lab.set(&role, &rest, right, &token);
            lab.register();

            let agent = lab.agent(&["--startup-taint"]);
            let said = format!("cannot {verb} {resource}: forbidden");
            let names = |line: &Line| line.text_of("error").is_some_and(|error| error.starts_with(&said));
            agent.wait_for_line(&said, names).unwrap();
            if resource.starts_with("nodes") {
                agent.ready().unwrap();
            } else {
                let gate = |agent: &Agent| agent.admin(&format!("/readyz/{resource}"));
                agent.poll(&said, || Ok(gate(&agent).is_ok_and(|it| it.text().contains(&said)))).unwrap();
                assert_eq!(agent.admin("/readyz").unwrap().status, 503, "{said}");
                assert!(lab.is_tainted(), "{said}");
            }
            let others = |line: &Line| {
                line.text_of("error").is_some_and(|error| error.contains(": forbidden")) && !names(line)
            };
            assert!(!agent.lines().iter().any(others), "nothing else is missed:\n{}", agent.log());
            drop(agent);
            lab.set(&role, &rights, right, &token);
            tried += 1;
        }
    }
    assert_eq!(
        tried, 7,
        "list and watch of pods and namespaces; get and patch of nodes, patch of their status"
    );
}

/// The identity of a token, as the audit log has it.
fn credential(token: &str) -> String {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!(claims.pointer("/kubernetes.io/node/name").unwrap(), NODE, "bound to the node");
    format!("JTI={}", claims["jti"].as_str().unwrap())
}

/// The token of the agent's pod is read anew when the old one is refused. Where there is none yet, the agent says so, is
/// not ready and serves whom it knows, until there is one.
#[test]
fn token_that_is_renewed_is_used_when_the_old_one_is_refused() {
    let Some(lab) = Lab::new("token_that_is_renewed_is_used_when_the_old_one_is_refused") else {
        return;
    };
    let first = lab.token("rolegate-a");
    lab.mount(&first);
    let agent = lab.agent(&[]);
    agent.ready().unwrap();
    let used = |token: &str| {
        let credential = credential(token);
        lab.asked().iter().any(|event| event["user"]["extra"].to_string().contains(&credential))
    };
    assert!(used(&first));

    let second = lab.token("rolegate-b");
    lab.mount(&second);
    lab.end("rolegate-a", &first);
    lab.cut();
    agent.poll("the new token is used", || Ok(used(&second))).unwrap();
    let known = lab.served("aws-cli");
    agent.ready().unwrap();

    lab.end("rolegate-b", &second);
    lab.cut();
    let said = "unauthorized; is the token valid for this API server?";
    agent
        .wait_for_line(said, |line| line.text_of("error").is_some_and(|error| error.ends_with(said)))
        .unwrap();
    agent
        .poll("it is not ready", || Ok(agent.admin("/readyz").is_ok_and(|it| it.text().contains(said))))
        .unwrap();
    assert_eq!(known.imds().credentials().unwrap()["Code"], "Success");
    let third = lab.token("rolegate-c");
    lab.mount(&third);
    agent.ready().unwrap();
    lab.served("other");
    assert!(used(&third));
}
