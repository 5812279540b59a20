//! A real Prometheus with any configuration and its answers: Debian's in a network namespace, with rules, or one that
//! finds its targets through Kubernetes, in a pod.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use parking_lot::Mutex;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use regex::{Captures, Regex};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::clients::cache;
use crate::http::Client;
use crate::netns::{NetNs, on_path, run};
use crate::nodes::{Cluster, TOOLS};
use crate::service::Service;

/// Where it listens, in its namespace: not Prometheus's own 9090, which the node may use.
const LISTEN: ([u8; 4], u16) = ([127, 0, 0, 1], 9_399);
/// Longest that it may take to start, and to say what a test waits for: two cores run everything at once.
const PATIENCE: Duration = Duration::from_secs(120);
/// What the rules say and tests cannot wait for, beside durations: the age in seconds at which a watch is stale.
const STALE: (&str, &str) = ("_age_seconds) > 120", "_age_seconds) > 10");

/// A running Prometheus, ended and forgotten when dropped; one in a pod ends with its cluster.
#[derive(Debug)]
pub struct Prometheus {
    // Ended before its directory and its namespace go.
    service: Option<Mutex<Service>>,
    _dir: Option<tempfile::TempDir>,
    log: PathBuf,
    ns: Arc<NetNs>,
}

/// One element of an instant vector.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Labels; `__name__` among them where there is one.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

/// One series of a range.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Labels; `__name__` among them where there is one.
    pub labels: BTreeMap<String, String>,
    /// Unix time in seconds, and value.
    pub points: Vec<(f64, f64)>,
}

/// An alert that is pending or firing.
#[derive(Clone, Debug)]
pub struct Alert {
    /// `alertname`.
    pub name: String,
    /// Not merely pending.
    pub firing: bool,
    /// All labels.
    pub labels: BTreeMap<String, String>,
    /// With their templates filled in.
    pub annotations: BTreeMap<String, String>,
}

// === impl Prometheus ===

impl Prometheus {
    /// Why there is none here.
    #[must_use]
    pub fn missing() -> Option<String> {
        let missing = !(on_path("prometheus") && on_path("promtool"));
        missing.then(|| "`prometheus` is not installed (tests/tools/setup.sh)".into())
    }

    /// Starts it in `ns` and waits until it is ready. `config` is the whole of `prometheus.yml`; it may name the
    /// files of `rules` (name, text) in its `rule_files` as they are called here.
    ///
    /// # Errors
    /// When configuration or rules are wrong, with what Prometheus says of them.
    pub fn start(ns: &Arc<NetNs>, config: &str, rules: &[(&str, &str)]) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("prometheus.yml");
        std::fs::write(&file, config)?;
        for (name, text) in rules {
            std::fs::write(dir.path().join(name), text)?;
        }
        promtool(&["check", "config"], &file)?;
        let mut command = ns.command("prometheus");
        command.args(flags(dir.path()));
        let log = dir.path().join("log");
        let service = Service::start("prometheus", &mut command, Some(File::create(&log)?))?;
        let started = Self { service: Some(Mutex::new(service)), _dir: Some(dir), log, ns: Arc::clone(ns) };
        started.wait_until_ready()?;
        Ok(started)
    }

    /// Why there is none here that finds its targets through Kubernetes, which Debian's is built without.
    #[must_use]
    pub fn discovery_missing() -> Option<String> {
        let program = discovering();
        (!program.exists()).then(|| format!("{} is not there (tests/tools/setup.sh)", program.display()))
    }

    /// Starts one that finds its targets through Kubernetes, in the pod `prometheus` of a namespace and a node, with the
    /// rights of this service account, and waits until it is ready.
    ///
    /// # Errors
    /// When the pod does not run, or the configuration is wrong, with what Prometheus says of it.
    pub fn in_pod(
        cluster: &Cluster,
        node: &str,
        namespace: &str,
        account: &str,
        config: &str,
    ) -> Result<Self> {
        let dir = cluster.node(node).dir().join("prometheus");
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join("prometheus.yml"), config)?;
        let (program, log) = (discovering(), dir.join("log"));
        let programs = program.parent().context("a program is in a directory")?;
        let script = format!("exec \"$0\" \"$@\" 2>{}", log.display());
        let mut command = vec!["sh".into(), "-c".into(), script, program.display().to_string()];
        command.extend(flags(&dir));
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": namespace, "name": "prometheus"},
            "spec": {
                "nodeName": node, "serviceAccountName": account, "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": "prometheus", "image": TOOLS, "imagePullPolicy": "Never", "command": command,
                    "volumeMounts": [
                        {"name": "program", "mountPath": programs, "readOnly": true},
                        {"name": "data", "mountPath": dir},
                    ],
                }],
                "volumes": [
                    {"name": "program", "hostPath": {"path": programs}},
                    {"name": "data", "hostPath": {"path": dir}},
                ],
            },
        });
        cluster.apply(&pod.to_string())?;
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        cluster.ready(namespace, "prometheus").with_context(said)?;
        let ns = Arc::new(cluster.pod_net(namespace, "prometheus")?);
        let started = Self { service: None, _dir: None, log, ns };
        started.wait_until_ready()?;
        Ok(started)
    }

    fn wait_until_ready(&self) -> Result<()> {
        let client = Client::new(&self.ns, LISTEN.into());
        let ready = || client.get("/-/ready").is_ok_and(|answer| answer.status == 200);
        self.wait_for("it is ready", |_| Ok(ready().then_some(())))
    }

    /// The value of an expression now: an instant vector, or one sample without labels for a scalar.
    ///
    /// # Errors
    /// What Prometheus finds wrong with it.
    pub fn query(&self, expr: &str) -> Result<Vec<Sample>> {
        let data = self.get(&format!("/api/v1/query?query={}", encoded(expr)))?;
        let result = &data["result"];
        match data["resultType"].as_str() {
            Some("vector") => array(result)?
                .iter()
                .map(|one| Ok(Sample { labels: labels(&one["metric"])?, value: point(&one["value"])?.1 }))
                .collect(),
            Some("scalar") => Ok(vec![Sample { labels: BTreeMap::new(), value: point(result)?.1 }]),
            other => bail!("{expr}: a result of type {other:?}"),
        }
    }

    /// The values of an expression from one Unix time to another.
    ///
    /// # Errors
    /// What Prometheus finds wrong with it.
    pub fn query_range(&self, expr: &str, from: f64, to: f64, step: f64) -> Result<Vec<Series>> {
        let query = encoded(expr);
        let data = self
            .get(&format!("/api/v1/query_range?query={query}&start={from:.3}&end={to:.3}&step={step:.3}"))?;
        array(&data["result"])?
            .iter()
            .map(|one| {
                let points = array(&one["values"])?.iter().map(point).collect::<Result<_>>()?;
                Ok(Series { labels: labels(&one["metric"])?, points })
            })
            .collect()
    }

    /// The alerts that are pending or firing.
    ///
    /// # Errors
    /// When Prometheus does not answer.
    pub fn alerts(&self) -> Result<Vec<Alert>> {
        array(&self.get("/api/v1/alerts")?["alerts"])?
            .iter()
            .map(|one| {
                let labels = labels(&one["labels"])?;
                Ok(Alert {
                    name: labels.get("alertname").cloned().unwrap_or_default(),
                    firing: one["state"] == "firing",
                    labels,
                    annotations: self::labels(&one["annotations"])?,
                })
            })
            .collect()
    }

    /// What it scrapes, and how that goes (`/api/v1/targets`, the active ones).
    ///
    /// # Errors
    /// When Prometheus does not answer.
    pub fn targets(&self) -> Result<Vec<Value>> {
        Ok(array(&self.get("/api/v1/targets?state=active")?["activeTargets"])?.clone())
    }

    /// The errors of rules, by their names; none when all is well.
    ///
    /// # Errors
    /// When Prometheus does not answer.
    pub fn rule_errors(&self) -> Result<Vec<String>> {
        let data = self.get("/api/v1/rules")?;
        let mut errors = Vec::new();
        for group in array(&data["groups"])? {
            for rule in array(&group["rules"])? {
                if rule["health"] == "err" {
                    errors.push(format!("{}: {}", rule["name"], rule["lastError"]));
                }
            }
        }
        Ok(errors)
    }

    /// Asks until `found` has found something, every 250 ms: Prometheus announces nothing that can be waited for.
    ///
    /// # Errors
    /// What `found` says; when two minutes pass; when Prometheus ends.
    pub fn wait_for<T>(&self, what: &str, mut found: impl FnMut(&Self) -> Result<Option<T>>) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = found(self)? {
                return Ok(found);
            }
            let ended = self.service.as_ref().map_or(Ok(false), |service| service.lock().has_ended())?;
            if ended || Instant::now() > deadline {
                let alerts = self.alerts().map(|all| format!("{all:#?}")).unwrap_or_default();
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                bail!("waited in vain for {what}; alerts: {alerts}\nlog of Prometheus:\n{log}");
            }
            std::thread::sleep(Duration::from_millis(250));
        }
    }

    fn get(&self, path: &str) -> Result<Value> {
        let answer = Client::new(&self.ns, LISTEN.into()).get(path)?;
        let mut json = answer.json()?;
        if json["status"] != "success" {
            return Err(anyhow!("{path}: {}", json["error"]));
        }
        Ok(json["data"].take())
    }
}

/// Built by tests/tools/setup.sh.
fn discovering() -> PathBuf {
    cache().join("go/prometheus")
}

/// Its configuration and its data are below `dir`.
fn flags(dir: &Path) -> [String; 4] {
    [
        format!("--config.file={}", dir.join("prometheus.yml").display()),
        format!("--storage.tsdb.path={}", dir.join("data").display()),
        format!("--web.listen-address={}", SocketAddr::from(LISTEN)),
        "--log.level=warn".into(),
    ]
}

/// `promtool` on a file; what it says.
///
/// # Errors
/// When it finds something wrong.
pub fn promtool(command: &[&str], file: &Path) -> Result<String> {
    run(Command::new("promtool").args(command).arg(file))
}

/// Rules as tests can wait for them: a minute becomes a second in every `for`, range and offset (an hour a minute, a
/// day 24 minutes), and a watch is stale after 10 s in place of 120. The rest of the rules is as operators have it.
///
/// # Panics
/// When the rules say otherwise when a watch is stale.
#[must_use]
#[expect(clippy::expect_used, reason = "a constant expression, and a harness of tests")]
pub fn hurried(rules: &str) -> String {
    assert!(rules.contains(STALE.0), "the rules do not have {:?} any more", STALE.0);
    let duration = Regex::new(r"(for: |\[|offset )(\d+)([mhd])").expect("valid");
    let shorter = |found: &Captures<'_>| {
        let count: u32 = found[2].parse().expect("digits");
        match &found[3] {
            "m" => format!("{}{count}s", &found[1]),
            "h" => format!("{}{count}m", &found[1]),
            _ => format!("{}{}m", &found[1], count * 24),
        }
    };
    duration.replace_all(&rules.replace(STALE.0, STALE.1), shorter).into_owned()
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn array(value: &Value) -> Result<&Vec<Value>> {
    value.as_array().with_context(|| format!("not a list: {value}"))
}

fn labels(value: &Value) -> Result<BTreeMap<String, String>> {
    let map = value.as_object().with_context(|| format!("not labels: {value}"))?;
    Ok(map.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().into())).collect())
}

fn point(value: &Value) -> Result<(f64, f64)> {
    let time = value[0].as_f64().with_context(|| format!("not a point: {value}"))?;
    let text = value[1].as_str().with_context(|| format!("not a point: {value}"))?;
    Ok((time, text.parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_rules_are_shortened_and_names_are_not() {
        let rules = "max(x_age_seconds) > 120\nrecord: a:rate5m\nexpr: rate(b[5m]) + c offset 1d\nfor: 1h";
        let hurried = hurried(rules);
        assert_eq!(
            hurried,
            "max(x_age_seconds) > 10\nrecord: a:rate5m\nexpr: rate(b[5s]) + c offset 24m\nfor: 1m"
        );
    }
}
