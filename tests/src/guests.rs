//! Pods that ask for credentials all the while, and what they got so far.

pub mod kube2iam;
mod python;

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

pub use self::python::HostPython;
use crate::clients::{Client, REGION};
use crate::netns::NetNs;
use crate::nodes::{Cluster, Node, TOOLS};
use crate::service::Service;

/// The program of the pods.
const PROGRAM: &str = include_str!("guests/asker.py");
/// Longest that anything is waited for: an update of two nodes takes one minute of an idle machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// How a pod asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The three requests of an SDK, each over a connection of its own, without a retry.
    Raw,
    /// botocore: a new session and one that is kept, in turn.
    Boto,
}

/// What one turn got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Got {
    /// Something that is the node's own.
    NodeCredentials,
    /// The session with this `AccessKeyId`.
    Session(String),
    /// This and nothing else, in words.
    Failed(String),
}

/// The results of a program that asks all the while.
#[derive(Debug)]
pub struct Record {
    file: PathBuf,
}

/// A pod of a cluster that asks.
#[derive(Debug)]
pub struct Asker {
    record: Record,
    node: String,
    /// What a failing test calls it.
    name: String,
}

/// Pods that ask, all over a cluster.
#[derive(Debug)]
pub struct Askers(Vec<Asker>);

/// How many turns each of [`Askers`] had.
#[derive(Clone, Debug)]
pub struct Mark(Vec<usize>);

/// A program that asks, in a network namespace; it ends when dropped.
#[derive(Debug)]
pub struct Local {
    record: Record,
    _running: Service,
    _dir: tempfile::TempDir,
}

/// A line of the program.
#[derive(Debug, Deserialize)]
struct Line {
    step: String,
    status: u16,
    #[serde(default)]
    node: bool,
    #[serde(default)]
    v1: bool,
    key: Option<String>,
    code: Option<String>,
    error: Option<String>,
    at: f64,
    took_ms: u64,
}

// === impl Kind ===

impl Kind {
    fn argument(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Boto => "boto",
        }
    }
}

// === impl Record ===

impl Record {
    /// What the program writes to `file`.
    #[must_use]
    pub fn new(file: PathBuf) -> Self {
        Self { file }
    }

    /// Everything so far, in its order.
    ///
    /// # Panics
    /// When the program wrote something else than lines of its own.
    #[must_use]
    pub fn got(&self) -> Vec<Got> {
        // Before its first turn there is no file.
        let Ok(file) = std::fs::File::open(&self.file) else { return Vec::new() };
        let mut got = Vec::new();
        let mut reader = BufReader::new(file);
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok_and(|length| length > 0) {
            // The last one may not be whole as yet.
            if line.ends_with('\n') {
                let parsed: Line = serde_json::from_str(&line)
                    .unwrap_or_else(|error| panic!("{}: {error}: {line}", self.file.display()));
                got.push(parsed.into());
            }
            line.clear();
        }
        got
    }

    /// How many turns there were so far: give it to [`Record::failed_since`].
    #[must_use]
    pub fn count(&self) -> usize {
        self.got().len()
    }

    /// The turns after the first `before` that got no session.
    #[must_use]
    pub fn failed_since(&self, before: usize) -> Vec<Got> {
        let mut got = self.got();
        got.drain(..before.min(got.len()));
        got.retain(|got| !matches!(got, Got::Session(_)));
        got
    }

    /// How many turns got something of the node's own.
    #[must_use]
    pub fn node_credentials(&self) -> usize {
        self.got().iter().filter(|got| **got == Got::NodeCredentials).count()
    }

    /// Waits until `n` more turns have got something that `wanted` wants.
    ///
    /// # Errors
    /// When three minutes pass without.
    pub fn wait_for(&self, n: usize, wanted: impl Fn(&Got) -> bool) -> Result<()> {
        self.wait_beyond(self.count(), n, wanted)
    }

    /// Waits until `n` more turns have got a session.
    ///
    /// # Errors
    /// As [`Record::wait_for`].
    pub fn served(&self, n: usize) -> Result<()> {
        self.wait_for(n, |got| matches!(got, Got::Session(_)))
    }

    /// As [`Record::wait_for`], of the turns after the first `before`.
    ///
    /// # Errors
    /// As [`Record::wait_for`].
    pub fn wait_beyond(&self, before: usize, n: usize, wanted: impl Fn(&Got) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let got = self.got();
            if got.iter().skip(before).filter(|got| wanted(got)).count() >= n {
                return Ok(());
            }
            let last = &got[got.len().saturating_sub(10)..];
            ensure!(Instant::now() < deadline, "in vain after {} turns; the last were {last:?}", got.len());
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

// === impl Asker ===

impl Asker {
    /// Why there are none here, if there are none.
    #[must_use]
    pub fn missing() -> Option<String> {
        Client::Botocore.missing()
    }

    /// Starts one in a pod of namespace `default`, which has `role` (or no annotation), on that node. Its results are on
    /// the node's disk: neither API server nor kubelet need run for them to be read.
    ///
    /// # Errors
    /// When the pod cannot be made.
    pub fn start(cluster: &Cluster, node: &str, name: &str, kind: Kind, role: Option<&str>) -> Result<Self> {
        let dir = cluster.node(node).dir().join("askers").join(name);
        std::fs::create_dir_all(&dir)?;
        let record = Record::new(dir.join("results"));
        cluster.apply(&pod(node, name, kind, role, &dir).to_string())?;
        Ok(Self { record, node: node.into(), name: format!("{name} on {node}") })
    }

    /// What a failing test calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

// === impl Askers ===

impl Askers {
    /// One of each kind on every node, all with the role `MyPodRole`.
    ///
    /// # Errors
    /// When a pod cannot be made.
    pub fn on_all_nodes(cluster: &Cluster) -> Result<Self> {
        let mut askers = Vec::new();
        for node in cluster.nodes().iter().map(Node::name) {
            for kind in [Kind::Raw, Kind::Boto] {
                let name = format!("{}-{node}", kind.argument());
                askers.push(Asker::start(cluster, node, &name, kind, Some("MyPodRole"))?);
            }
        }
        Ok(Self(askers))
    }

    /// Those of one node.
    pub fn on<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Asker> {
        self.0.iter().filter(move |asker| asker.node == node)
    }

    /// Waits until each has got a session in `n` more turns.
    ///
    /// # Errors
    /// Who has not, and what it got instead.
    pub fn served(&self, n: usize) -> Result<()> {
        self.wait_for(n, |got| matches!(got, Got::Session(_)))
    }

    /// Waits until each has got in `n` more turns what `wanted` wants.
    ///
    /// # Errors
    /// Who has not, and what it got instead.
    pub fn wait_for(&self, n: usize, wanted: impl Fn(&Got) -> bool) -> Result<()> {
        self.0.iter().try_for_each(|asker| asker.wait_for(n, &wanted).with_context(|| asker.name.clone()))
    }

    /// How far they are.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark(self.0.iter().map(|asker| asker.count()).collect())
    }

    /// Who got no session since then, and what instead.
    #[must_use]
    pub fn failed_since(&self, mark: &Mark) -> Vec<(&str, Got)> {
        let all = self.0.iter().zip(&mark.0);
        all.flat_map(|(asker, before)| asker.failed_since(*before).into_iter().map(|got| (asker.name(), got)))
            .collect()
    }

    /// Who ever got something of the node's own, and how often.
    #[must_use]
    pub fn node_credentials(&self) -> Vec<(&str, usize)> {
        let counted = self.0.iter().map(|asker| (asker.name(), asker.node_credentials()));
        counted.filter(|(_, count)| *count > 0).collect()
    }
}

impl Deref for Asker {
    type Target = Record;

    fn deref(&self) -> &Record {
        &self.record
    }
}

/// A pod that runs the program with the node's Python and writes into `dir` of the node.
fn pod(node: &str, name: &str, kind: Kind, role: Option<&str>, dir: &Path) -> Value {
    let python = HostPython::find();
    let annotations = role.map_or_else(|| json!({}), |role| json!({"iam.amazonaws.com/role": role}));
    let (mut volumes, mut mounts) = (python.volumes(), python.mounts());
    if let (Some(volumes), Some(mounts)) = (volumes.as_array_mut(), mounts.as_array_mut()) {
        volumes.push(json!({"name": "results", "hostPath": {"path": dir, "type": "Directory"}}));
        mounts.push(json!({"name": "results", "mountPath": "/asker"}));
    }
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "default", "name": name, "annotations": annotations, "labels": {"app": "asker"}},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 0,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{
                "name": "asker",
                "image": TOOLS,
                "imagePullPolicy": "Never",
                "command": [python.program(), "-c", PROGRAM, kind.argument(), "/asker/results"],
                "env": [{"name": "AWS_DEFAULT_REGION", "value": REGION}, {"name": "HOME", "value": "/tmp"}],
                "volumeMounts": mounts,
            }],
            "volumes": volumes,
        },
    })
}

// === impl Local ===

impl Local {
    /// Starts the program in a network namespace.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(ns: &NetNs, kind: Kind) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let results = dir.path().join("results");
        let mut command = ns.command(HostPython::find().program());
        command.env("AWS_DEFAULT_REGION", REGION).args([
            OsStr::new("-c"),
            PROGRAM.as_ref(),
            kind.argument().as_ref(),
            results.as_ref(),
        ]);
        let running = Service::start("asker", &mut command, None)?;
        Ok(Self { record: Record::new(results), _running: running, _dir: dir })
    }
}

impl Deref for Local {
    type Target = Record;

    fn deref(&self) -> &Record {
        &self.record
    }
}

// === impl Got ===

impl From<Line> for Got {
    fn from(line: Line) -> Self {
        match line {
            Line { node: true, .. } => Self::NodeCredentials,
            Line { key: Some(key), status: 200, error: None, v1: false, .. } => Self::Session(key),
            Line { step, status, v1, code, error, at, took_ms, .. } => {
                let why = code.or(error).unwrap_or_default();
                let how = if v1 { " without a token" } else { "" };
                Self::Failed(format!("{step}{how}: {status} {why} after {took_ms} ms at {at:.3}"))
            }
        }
    }
}
