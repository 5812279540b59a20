//! What a test does with a cluster: kubectl, helm, pods and their logs.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{AGENT, Cluster, TOOLS};
use crate::clients::{REGION, cache};
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

    /// Installs or upgrades the chart as release `rolegate` in kube-system, with the image and the STS of this cluster
    /// and these further arguments of Helm; returns when its agents are ready.
    ///
    /// # Errors
    /// What Helm said, and what the agents are like.
    pub fn install(&self, args: &[&str]) -> Result<String> {
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/helm/rolegate");
        let (chart, sts) = (chart.display().to_string(), self.sts.url());
        let sts = format!("--set=extraEnv.AWS_ENDPOINT_URL_STS={sts}");
        let (repository, tag) = AGENT.rsplit_once(':').context("an image has a tag")?;
        let image = format!("--set=image.repository={repository},image.tag={tag},image.pullPolicy=Never");
        let usual = ["upgrade", "--install", "rolegate", &chart, "--namespace=kube-system", &sts, &image];
        self.helm(&[&usual, args, &["--wait", "--timeout=120s"]].concat()).with_context(|| {
            let agents = ["-n", "kube-system", "-l", "app.kubernetes.io/name=rolegate"];
            let describe = self.kubectl(&[&["describe", "pods"][..], &agents].concat()).unwrap_or_default();
            let logs = ["logs", "--all-containers", "--prefix", "--tail=20"];
            let logs = self.kubectl(&[&logs[..], &agents].concat()).unwrap_or_default();
            format!("{describe}\n{logs}")
        })
    }

    /// The name of the agent's pod on a node.
    ///
    /// # Errors
    /// When there is not exactly one that is not ending.
    pub fn agent_pod(&self, node: &str) -> Result<String> {
        let field = format!("--field-selector=spec.nodeName={node}");
        let listed = self.kubectl(&[
            "get",
            "pods",
            "-n",
            "kube-system",
            "-l",
            "app.kubernetes.io/name=rolegate",
            &field,
            "--output=json",
        ])?;
        let listed: Value = serde_json::from_str(&listed)?;
        let live: Vec<_> = listed["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|pod| pod.pointer("/metadata/deletionTimestamp").is_none())
            .collect();
        ensure!(live.len() == 1, "{} agents on {node}", live.len());
        Ok(text(live[0], "/metadata/name").to_owned())
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
    sleeping_pod(namespace, name, node, role).to_string()
}

/// As [`tools_pod`], with this machine's programs and the AWS SDK for Python: [`python`].
#[must_use]
pub fn sdk_pod(namespace: &str, name: &str, node: &str, role: Option<&str>) -> String {
    let mut pod = sleeping_pod(namespace, name, node, role);
    // Where the interpreter of the environment comes from, which need not be below /usr.
    let interpreter = std::fs::canonicalize(python()).unwrap_or_default();
    let home = interpreter.ancestors().nth(2).unwrap_or_else(|| Path::new("/usr")).to_owned();
    let dirs = [
        ("usr", PathBuf::from("/usr")),
        ("lib", "/lib".into()),
        ("lib64", "/lib64".into()),
        ("venv", venv()),
        ("python", home),
    ];
    let dirs =
        dirs.iter().filter(|(name, path)| path.exists() && (*name == "usr" || path != Path::new("/usr")));
    let (mounts, volumes): (Vec<_>, Vec<_>) = dirs
        .map(|(name, path)| {
            let mount = json!({"name": name, "mountPath": path, "readOnly": true});
            (mount, json!({"name": name, "hostPath": {"path": path}}))
        })
        .unzip();
    let container = &mut pod["spec"]["containers"][0];
    container["volumeMounts"] = json!(mounts);
    container["env"] = json!([{"name": "AWS_REGION", "value": REGION}]);
    pod["spec"]["volumes"] = json!(volumes);
    pod.to_string()
}

/// Python in an [`sdk_pod`], which has boto3.
#[must_use]
pub fn python() -> String {
    venv().join("bin/python").display().to_string()
}

fn sleeping_pod(namespace: &str, name: &str, node: &str, role: Option<&str>) -> Value {
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
}

fn venv() -> PathBuf {
    cache().join("venv")
}

fn helm() -> PathBuf {
    cache().join("go/helm")
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
