//! The desk of an administrator: a real API server, moto for AWS, a node whose agent runs, and a shell.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use rolegate_tests::agent::{self, Agent};
use rolegate_tests::clients::{REGION, cache};
use rolegate_tests::cluster::Cluster;
use rolegate_tests::moto::Moto;
use rolegate_tests::netns::{self, NetNs};
use rolegate_tests::real_api::RealApi;
use rolegate_tests::skip;
use rolegate_tests::topology::{NODE_V4, PodNet};
use rolegate_tests::world::{NODE, Options, World};
use serde_json::{Value, json};

use super::kubelet::Kubelet;
use super::pages::{Block, root};
use super::table::{self, How};

/// `kubectl exec` and `kubectl logs` need a kubelet: here they go into the pod's network, and to the agent's log.
const KUBECTL: &str = r#"#!/bin/bash
all=("$@") ns=default
while [ $# -gt 0 ]; do
  case $1 in
    -n | --namespace) ns=$2; shift 2 ;;
    exec) shift; break ;;
    logs) cat "$DESK/agent.log"; exit ;;
    *) exec "$REAL_KUBECTL" "${all[@]}" ;;
  esac
done
while [ "$1" != -- ]; do
  case $1 in -n | --namespace) ns=$2; shift 2 ;; -*) shift ;; *) pod=${1#pod/}; shift ;; esac
done
shift
exec nsenter --net="$(cat "$DESK/pods/$ns.$pod")" -- env -i PATH="$PATH" HOME="$HOME" AWS_REGION="$AWS_REGION" \
  AWS_DEFAULT_REGION="$AWS_REGION" AWS_ENDPOINT_URL="$AWS_ENDPOINT_URL" "$@"
"#;

/// Everything that the commands of the pages meet.
pub(crate) struct Desk {
    // Ended in this order.
    agent: Agent,
    kubelet: Kubelet,
    _moto: Arc<Moto>,
    pod: PodNet,
    world: Arc<World>,
    dir: tempfile::TempDir,
}

// === impl Desk ===

impl Desk {
    /// A desk, or nothing after the word on what is missing for it.
    pub(crate) fn for_test(test: &str) -> Option<Self> {
        let missing = || {
            let programs = ["kubectl", "curl", "nft"].into_iter().find(|program| !netns::on_path(program));
            World::missing()
                .or_else(RealApi::missing)
                .or_else(Moto::missing)
                .or_else(|| programs.map(|program| format!("`{program}` is not installed")))
                .or_else(|| {
                    let helm = cache().join("go/helm");
                    (!helm.exists())
                        .then(|| format!("{} is not there (tests/tools/setup.sh)", helm.display()))
                })
        };
        if let Some(why) = missing() {
            skip(test, &why);
            return None;
        }
        Some(Self::new())
    }

    fn new() -> Self {
        let world = Arc::new(World::with(&Options { real_api: true, ..Options::default() }).unwrap());
        let moto = Arc::new(Moto::start(world.topology.world()).unwrap());
        world.issue_by(&moto);
        // Whoever administers may do everything.
        moto.check(false).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let api = real(&world);
        prepare(api, dir.path());
        let kubelet = Kubelet::start(&world, &dir.path().join("pods"));
        world.namespace("default", &["MyPodRole"]).unwrap();
        let (ip4, ip6) = world.next_addresses();
        let pod = world.topology.routed_pod("asker", ip4, Some(ip6)).unwrap();
        let asker = rolegate_tests::kube_api::Pod::new("default", "asker").node(NODE);
        world.cluster.apply_pod(&asker.ip(&ip4.to_string()).role("MyPodRole")).unwrap();
        let agent = world.agent(&["--debug"]).unwrap();
        let desk = Self { agent, kubelet, _moto: moto, pod, world, dir };
        desk.furnish();
        desk.must(table::AGENT, desk.dir.path());
        desk
    }

    /// Brings about what a page begins with.
    pub(crate) fn prepare(&self, page: &str, directory: &Path) {
        self.must(&table::before(page), directory);
    }

    /// Puts away what a page leaves behind.
    pub(crate) fn clean(&self, page: &str, directory: &Path) {
        if !table::before(page).is_empty() {
            self.must(table::AFTER, directory);
        }
    }

    fn must(&self, commands: &str, directory: &Path) {
        let block = Block { language: "sh".into(), text: commands.into(), line: 0 };
        let output = self.run(How::Admin, &block, directory);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn furnish(&self) {
        let bin = self.dir.path().join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        let link = |to: PathBuf, name: &str| std::os::unix::fs::symlink(to, bin.join(name)).unwrap();
        link(agent::binary().unwrap(), "rolegate");
        link(cache().join("venv/bin/aws"), "aws");
        link(cache().join("venv/bin/python"), "python-with-boto3");
        link(cache().join("go/helm"), "helm");
        let shim = bin.join("kubectl");
        std::fs::write(&shim, KUBECTL).unwrap();
        netns::run(Command::new("chmod").arg("755").arg(&shim)).unwrap();
        std::fs::write(self.dir.path().join("kubeconfig"), real(&self.world).admin_kubeconfig()).unwrap();
    }

    /// A directory to work in that has the repository's `deploy`, as a clone has.
    pub(crate) fn directory(&self, page: &str) -> PathBuf {
        let made = self.dir.path().join("work").join(page.replace('/', "-"));
        std::fs::create_dir_all(&made).unwrap();
        for name in ["deploy", "docs", "Makefile"] {
            std::os::unix::fs::symlink(root().join(name), made.join(name)).unwrap();
        }
        made
    }

    /// Runs a block to its end.
    pub(crate) fn run(&self, how: How, block: &Block, directory: &Path) -> Output {
        let text = block.text.replace("YOUR_REGISTRY", "registry.example");
        std::fs::write(self.dir.path().join("agent.log"), self.agent.log()).unwrap();
        if how != How::Lines {
            return self.shell(how, &format!("set -e\n{text}"), directory);
        }
        let mut place = How::Admin;
        let (mut all, mut variables) = (self.shell(place, "true", directory), String::new());
        for line in
            text.replace(table::NODE_OF_PAGES, NODE).replace("//$NODE:", &format!("//{NODE_V4}:")).lines()
        {
            if line == "# on the node" || line.contains("//127.0.0.1") {
                place = How::Node;
            }
            if table::left_out(line).is_some() {
                continue;
            }
            let assigned = line.split_once('=').map(|(name, _)| name).filter(|name| is_variable(name));
            let told = assigned.map(|name| format!("printf '%s=%q' {name} \"${name}\"")).unwrap_or_default();
            let output = self.shell(place, &format!("{variables}{line}\n{told}"), directory);
            // Who looks for a line may find none.
            let looked = line.contains("grep") || line.contains("can-i");
            let found_nothing = looked && output.stderr.is_empty();
            if !output.status.success() && !found_nothing {
                return output;
            }
            if assigned.is_some() {
                variables.push_str(&format!("{}\n", String::from_utf8_lossy(&output.stdout)));
            } else {
                all.stdout.extend(output.stdout);
            }
        }
        all
    }

    fn shell(&self, how: How, commands: &str, directory: &Path) -> Output {
        let ns: &NetNs = match how {
            How::Admin | How::Lines | How::No(_) => self.world.topology.world(),
            How::Node => self.world.topology.node(),
            How::Pod => self.pod.ns(),
        };
        let desk = self.dir.path();
        let path = format!(
            "{}:{}",
            desk.join("bin").display(),
            std::env::var_os("PATH").unwrap_or_default().display()
        );
        ns.command("bash")
            .args(["-uo", "pipefail", "-c", commands])
            .current_dir(directory)
            .env_clear()
            .env("PATH", path)
            .env("HOME", desk)
            .env("DESK", desk)
            .env("REAL_KUBECTL", which("kubectl"))
            .env("KUBECONFIG", desk.join("kubeconfig"))
            .env("AWS_ENDPOINT_URL", Moto::endpoint())
            .env("AWS_REGION", REGION)
            .env("AWS_DEFAULT_REGION", REGION)
            .env("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
            .env("AWS_SECRET_ACCESS_KEY", "unchecked")
            .env("AWS_PAGER", "")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// What went wrong beside the commands.
    pub(crate) fn troubles(&self) -> Vec<String> {
        self.kubelet.troubles()
    }
}

/// The API server of a world that was made with a real one.
pub(crate) fn real(world: &World) -> &RealApi {
    match &world.cluster {
        Cluster::Real(api) => api,
        Cluster::Double(_) => panic!("the world has a double"),
    }
}

/// The names of the manifests and of the chart are free, and the agent has its rights by others; the node and
/// namespaces are there.
fn prepare(api: &RealApi, dir: &Path) {
    const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "harness"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view-all"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "rolegate"}],
    });
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "view-all"},
        "rules": [{"apiGroups": [""], "resources": ["pods", "namespaces"], "verbs": ["get", "list", "watch"]}],
    });
    api.admin("POST", &format!("{RBAC}/clusterroles"), &role).unwrap();
    api.admin("POST", &format!("{RBAC}/clusterrolebindings"), &binding).unwrap();
    for kind in ["clusterrolebindings", "clusterroles"] {
        api.admin("DELETE", &format!("{RBAC}/{kind}/rolegate"), &Value::Null).unwrap();
    }
    api.apply_namespace("kube-system", &[]).unwrap();
    api.apply_node(NODE, &json!([])).unwrap();
    let address = json!({"status": {"addresses": [{"type": "InternalIP", "address": NODE_V4}]}});
    let path = format!("/api/v1/nodes/{NODE}/status");
    api.patch(&api.admin_token(), &path, "application/merge-patch+json", &address).unwrap();
    std::fs::create_dir_all(dir.join("pods")).unwrap();
}

/// Of a shell, as the pages write them.
fn is_variable(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|letter| letter.is_ascii_uppercase())
}

fn which(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.exists()).unwrap()
}
