//! The Helm chart: what it renders for which values, what it refuses, and that the agent and a real API server take it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "chart/daemonset.rs"]
mod daemonset;
#[path = "chart/flags.rs"]
mod flags;
#[path = "chart/kube2iam.rs"]
mod kube2iam;
#[path = "chart/notes.rs"]
mod notes;
#[path = "chart/objects.rs"]
mod objects;
#[path = "chart/real_api.rs"]
mod real_api;
#[path = "chart/refusals.rs"]
mod refusals;
#[path = "chart/schema.rs"]
mod schema;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rolegate_tests::clients::cache;
use rolegate_tests::skip;
use serde_json::{Value, json};

const RELEASE: &str = "rg";
const NAMESPACE: &str = "kube-system";

/// Helm and the chart.
struct Chart {
    dir: PathBuf,
}

/// What the chart makes of some values.
struct Rendered(Vec<Value>);

// === impl Chart ===

impl Chart {
    fn for_test(test: &str) -> Option<Self> {
        let helm = helm();
        if !helm.exists() {
            skip(test, &format!("{} is not there (tests/tools/setup.sh, which needs Go)", helm.display()));
            return None;
        }
        Some(Self { dir: deploy().join("helm/rolegate") })
    }

    /// Runs helm over the chart with these values, as a file.
    fn helm(&self, args: &[&str], values: &Value) -> Output {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), values.to_string()).unwrap();
        let mut command = Command::new(helm());
        command.args(args).arg("--values").arg(file.path());
        clean(&mut command).output().unwrap()
    }

    fn template(&self, values: &Value, args: &[&str]) -> Result<Rendered, String> {
        let dir = self.dir.to_str().unwrap();
        let output =
            self.helm(&[&["template", RELEASE, dir, "--namespace", NAMESPACE], args].concat(), values);
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(Rendered(documents(&String::from_utf8(output.stdout).unwrap())))
    }

    fn render(&self, values: &Value) -> Rendered {
        self.template(values, &[]).unwrap_or_else(|error| panic!("{values}: {error}"))
    }

    /// What helm says to values that it does not take.
    fn refusal(&self, values: &Value) -> String {
        match self.template(values, &[]) {
            Ok(_) => panic!("{values} is taken"),
            Err(error) => error,
        }
    }

    /// The notes. `helm template` has none, and `helm install` wants a cluster for them: a copy of the chart renders
    /// them as a document.
    fn notes(&self, values: &Value, args: &[&str]) -> String {
        let copy = tempfile::tempdir().unwrap();
        let chart = copy.path().join("rolegate");
        copy_dir(&self.dir, &chart);
        let notes = std::fs::read_to_string(chart.join("templates/NOTES.txt")).unwrap();
        let define = format!("{{{{- define \"notes\" -}}}}\n{notes}{{{{- end -}}}}\n");
        std::fs::write(chart.join("templates/_notes.tpl"), define).unwrap();
        let document = "kind: Notes\nnotes: {{ include \"notes\" . | toJson }}\n";
        std::fs::write(chart.join("templates/notes.yaml"), document).unwrap();
        let rendered = Self { dir: chart }.template(values, args).unwrap();
        rendered.one("Notes")["notes"].as_str().unwrap().to_owned()
    }
}

// === impl Rendered ===

impl Rendered {
    fn all(&self, kind: &str) -> Vec<&Value> {
        self.0.iter().filter(|object| object["kind"] == kind).collect()
    }

    fn one(&self, kind: &str) -> &Value {
        match self.all(kind)[..] {
            [object] => object,
            ref others => panic!("{} of {kind}", others.len()),
        }
    }

    /// Of the DaemonSet's pods.
    fn pod(&self) -> &Value {
        &self.one("DaemonSet")["spec"]["template"]["spec"]
    }

    fn container(&self) -> &Value {
        &self.pod()["containers"][0]
    }

    /// Of the agent.
    fn args(&self) -> Vec<&str> {
        strings(&self.container()["args"])
    }

    fn has(&self, arg: &str) -> bool {
        self.args().contains(&arg)
    }
}

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn helm() -> PathBuf {
    cache().join("go/helm")
}

/// Nothing of this machine's Helm or cluster.
fn clean(command: &mut Command) -> &mut Command {
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", "/nonexistent")
}

fn documents(yaml: &str) -> Vec<Value> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(yaml).unwrap_or_else(|error| panic!("{error}: {yaml}"));
    documents.into_iter().filter(|document| !document.is_null()).collect()
}

/// The documents of a file of deploy/.
fn manifest(name: &str) -> Vec<Value> {
    documents(&std::fs::read_to_string(deploy().join(name)).unwrap())
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().map(|text| text.as_str().unwrap()).collect()
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// `a.b` as `{"a": {"b": value}}`.
fn at(path: &str, value: Value) -> Value {
    path.rsplit('.').fold(value, |inner, key| json!({key: inner}))
}

/// Everything that can be switched on at once.
fn everything() -> Value {
    json!({
        "startupTaint": {"enabled": true},
        "aws": {"access_key": "an-id", "secret_key": "a-secret"},
        "prometheus": {"service": {"enabled": true}, "podMonitor": {"enabled": true}, "prometheusRule": {"enabled": true}},
        "dashboard": {"enabled": true},
        "extraHostPathMounts": [{"name": "ca", "hostPath": "/etc/ssl", "mountPath": "/etc/ssl", "readOnly": true}],
        "initContainers": [{"name": "more", "image": "more"}],
        "serviceAccount": {"annotations": {"example.com/a": "b"}},
        "seLinuxOptions": {"type": "spc_t"},
        "image": {"pullSecrets": ["key"]},
    })
}

#[test]
fn helm_lints_the_chart_strictly() {
    let Some(chart) = Chart::for_test("helm_lints_the_chart_strictly") else { return };
    for values in [json!({}), everything()] {
        let output = chart.helm(&["lint", "--strict", chart.dir.to_str().unwrap()], &values);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}
