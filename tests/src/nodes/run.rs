//! What a test does with a cluster: kubectl, helm, pods and their logs.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{Cluster, TOOLS};
use crate::clients::cache;
use crate::netns::{self, NetNs};

// === impl Cluster ===

impl Cluster {
    /// Runs kubectl as the administrator; its standard output.
    ///
    /// # Errors
    /// What kubectl said.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        let mut command = self.control.lock().kubectl()?;
        netns::run(command.args(args))
    }

    /// The administrator's kubeconfig.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn kubeconfig(&self) -> Result<PathBuf> {
        self.control.lock().admin()
    }

    /// `kubectl apply` of YAML or JSON; what it said.
    ///
    /// # Errors
    /// What kubectl said.
    pub fn apply(&self, objects: &str) -> Result<String> {
        let mut command = self.control.lock().kubectl()?;
        let mut child = command
            .args(["apply", "--filename=-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        // Taken, so that it is closed after the last line.
        if let Some(mut input) = child.stdin.take() {
            input.write_all(objects.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("{} of {objects}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs Helm as the administrator; its standard output.
    ///
    /// # Errors
    /// What Helm said.
    pub fn helm(&self, args: &[&str]) -> Result<String> {
        let mut command = self.world().command(helm());
        for (variable, dir) in [
            ("HOME", ""),
            ("HELM_CACHE_HOME", "helm"),
            ("HELM_CONFIG_HOME", "helm"),
            ("HELM_DATA_HOME", "helm"),
        ] {
            command.env(variable, self.dir.join(dir));
        }
        command.env("KUBECONFIG", self.kubeconfig()?);
        netns::run(command.args(args))
    }

    /// Why there is no Helm, if there is none.
    #[must_use]
    pub fn helm_missing() -> Option<String> {
        (!helm().exists()).then(|| format!("{} is not there (tests/tools/setup.sh)", helm().display()))
    }

    /// Makes a namespace that allows these roles, or replaces its annotation.
    ///
    /// # Errors
    /// What kubectl said.
    pub fn namespace(&self, name: &str, allowed: &[&str]) -> Result<()> {
        let allowed = serde_json::to_string(allowed)?;
        let object = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "annotations": {"iam.amazonaws.com/allowed-roles": allowed}},
        });
        self.apply(&object.to_string()).map(drop)
    }

    /// Waits until a pod is Ready.
    ///
    /// # Errors
    /// When it is not in two minutes; the error says what it is like.
    pub fn ready(&self, namespace: &str, pod: &str) -> Result<()> {
        let name = format!("pod/{pod}");
        let wait = ["wait", "-n", namespace, "--for=condition=Ready", &name, "--timeout=120s"];
        self.kubectl(&wait)
            .map(drop)
            .with_context(|| self.kubectl(&["describe", "-n", namespace, &name]).unwrap_or_default())
    }

    /// A pod's object.
    ///
    /// # Errors
    /// What kubectl said.
    pub fn pod(&self, namespace: &str, pod: &str) -> Result<Value> {
        let text = self.kubectl(&["get", "-n", namespace, "pod", pod, "--output=json"])?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Runs a program in a pod's first container; its standard output.
    ///
    /// # Errors
    /// What the program said.
    pub fn exec(&self, namespace: &str, pod: &str, command: &[&str]) -> Result<String> {
        self.kubectl(&[&["exec", "-n", namespace, pod, "--"], command].concat())
    }

    /// The network namespace of a running pod, for requests from it. It is the pod's: it ends with it.
    ///
    /// # Errors
    /// When there is no such pod.
    pub fn pod_net(&self, namespace: &str, pod: &str) -> Result<NetNs> {
        let object = self.pod(namespace, pod)?;
        let (node, uid) = (text(&object, "/spec/nodeName"), text(&object, "/metadata/uid"));
        let node = self.node(node);
        if object.pointer("/spec/hostNetwork").and_then(Value::as_bool).unwrap_or(false) {
            return Ok(NetNs::borrowed(node.ns()?.path()));
        }
        let filter =
            format!("labels.\"io.kubernetes.pod.uid\"=={uid},labels.\"io.cri-containerd.kind\"==sandbox");
        let sandboxes = node.ctr(&["containers", "list", "--quiet", &filter])?;
        let sandbox = sandboxes.lines().last().with_context(|| format!("no sandbox of {namespace}/{pod}"))?;
        let info: Value = serde_json::from_str(&node.ctr(&["containers", "info", sandbox])?)?;
        let path = info
            .pointer("/Spec/linux/namespaces")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .find(|kind| text(kind, "/type") == "network")
            .map(|kind| text(kind, "/path").to_owned())
            .context("a sandbox has a network namespace")?;
        Ok(NetNs::borrowed(node.machine()?.seen_from_outside(&path)))
    }

    /// What a pod's containers printed, those that ended too. It is read from the node's disk: neither API server nor
    /// kubelet need run.
    ///
    /// # Errors
    /// When the logs cannot be read.
    pub fn logs(&self, node: &str, namespace: &str, pod: &str) -> Result<String> {
        let root = self.node(node).dir().join("log/pods");
        let prefix = format!("{namespace}_{pod}");
        let mut files = Vec::new();
        for dir in std::fs::read_dir(&root).with_context(|| root.display().to_string())?.flatten() {
            if dir.file_name().to_string_lossy().starts_with(&prefix) {
                for container in std::fs::read_dir(dir.path())?.flatten() {
                    files.extend(std::fs::read_dir(container.path())?.flatten().map(|file| file.path()));
                }
            }
        }
        files.sort();
        let mut printed = String::new();
        for file in files {
            for line in String::from_utf8_lossy(&std::fs::read(&file)?).lines() {
                // Time, stream, a flag, and then the line.
                printed.push_str(line.splitn(4, ' ').nth(3).unwrap_or_default());
                printed.push('\n');
            }
        }
        Ok(printed)
    }

    /// What all agents on a node printed that the DaemonSet `name` of `namespace` started there.
    ///
    /// # Errors
    /// When the logs cannot be read.
    pub fn agent_log(&self, node: &str, namespace: &str, name: &str) -> Result<String> {
        self.logs(node, namespace, &format!("{name}-"))
    }

    /// Says how to look at it, and waits until it was looked at.
    pub(super) fn keep(&self) {
        let wait = self.dir.join("delete-this-file-to-go-on");
        let shown = wait.display();
        if std::fs::write(&wait, "").is_err() {
            return;
        }
        self.say(&format!("is kept until {shown} is deleted"));
        let kubeconfig = self.dir.join("admin.kubeconfig");
        self.say(&format!(
            "nsenter --net={} kubectl --kubeconfig={} get pods -A -o wide",
            self.world().path().display(),
            kubeconfig.display()
        ));
        for node in self.nodes() {
            if let Ok(machine) = node.machine() {
                self.say(&format!("{}: {:?}", node.name(), machine.command("bash")));
            }
        }
        while wait.exists() {
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
    }
}

/// A pod of busybox that sleeps, on that node, with or without a role; as JSON, to which a test may add.
#[must_use]
pub fn tools_pod(namespace: &str, name: &str, node: &str, role: Option<&str>) -> String {
    let annotations = role.map_or_else(|| json!({}), |role| json!({"iam.amazonaws.com/role": role}));
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "annotations": annotations},
        "spec": {
            // Past the scheduler: taints do not count.
            "nodeName": node,
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "tools", "image": TOOLS, "imagePullPolicy": "Never",
                "command": ["sleep", "2147483647"],
            }],
        },
    })
    .to_string()
}

fn helm() -> PathBuf {
    cache().join("go/helm")
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
