//! The real agent as a process in the node's namespace, with its log at hand.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::{Condvar, Mutex};
use serde_json::Value;

use crate::http::{Client, Response};
use crate::netns::{self, NetNs};
use crate::planted;

/// Longest that a test waits for the agent: generous, since two cores run everything at once.
const PATIENCE: Duration = Duration::from_secs(30);

/// The agent's port for metrics and probes, unless a flag says otherwise.
pub const METRICS_PORT: u16 = 9543;

/// A running (or ended) agent. Dropping it ends it, and fails the test if its log has a planted secret.
#[derive(Debug)]
pub struct Agent {
    pid: Pid,
    node: Arc<NetNs>,
    metrics_port: u16,
    shared: Arc<Shared>,
}

/// One line of its standard output or error.
#[derive(Clone, Debug)]
pub struct Line {
    /// As written.
    pub text: String,
    /// Its fields, when the line is JSON.
    pub json: Option<Value>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<Line>,
    status: Option<ExitStatus>,
}

// === impl Line ===

impl Line {
    /// A field by its dotted or nested name: `fields.pod.name` finds `{"fields": {"pod.name": ..}}` too.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Value> {
        fn find<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
            let map = value.as_object()?;
            map.get(name).or_else(|| {
                name.match_indices('.').find_map(|(at, _)| find(map.get(&name[..at])?, &name[at + 1..]))
            })
        }
        let json = self.json.as_ref()?;
        find(json, name).or_else(|| find(json.get("fields")?, name))
    }

    /// A field as text: strings without their quotes.
    #[must_use]
    pub fn text_of(&self, name: &str) -> Option<String> {
        self.field(name).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    }
}

// === impl Agent ===

impl Agent {
    /// Starts the agent in `node` with these arguments and nothing in its environment but `PATH` and `env`.
    ///
    /// # Errors
    /// When it cannot be built or started.
    pub fn start(node: &Arc<NetNs>, args: &[String], env: &BTreeMap<String, String>) -> Result<Self> {
        Self::start_by(node, node.command(binary()?), args, env)
    }

    /// As [`Agent::start`], in a mount namespace of its own, as a container has it: `/run` and `/var/lib` are
    /// empty but for what this shell script puts there.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub fn start_contained(
        node: &Arc<NetNs>,
        script: &str,
        args: &[String],
        env: &BTreeMap<String, String>,
    ) -> Result<Self> {
        // The binary may be below /var/lib: it is mounted where it stays visible.
        let prepare = format!(
            "set -e; mount -t tmpfs tmpfs /run; : > /run/agent; mount --bind \"$0\" /run/agent
             mount -t tmpfs tmpfs /var/lib; {script}\nexec /run/agent \"$@\""
        );
        let mut command = node.command("unshare");
        command.args(["--mount", "sh", "-c", &prepare]).arg(binary()?);
        Self::start_by(node, command, args, env)
    }

    /// As [`Agent::start`], by a command that takes the agent's arguments after its own, such as one that starts a
    /// container. Signals go to that command.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_by(
        node: &Arc<NetNs>,
        mut command: Command,
        args: &[String],
        env: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let mut child = command
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(env)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start the agent")?;
        let pid = Pid::from_raw(i32::try_from(child.id())?);
        let shared = Arc::<Shared>::default();
        let readers = [
            child.stdout.take().map(|pipe| read_lines(pipe, &shared)),
            child.stderr.take().map(|pipe| read_lines(pipe, &shared)),
        ];
        let ended = Arc::clone(&shared);
        std::thread::spawn(move || {
            let status = child.wait();
            // What it said last belongs before its end.
            for reader in readers.into_iter().flatten() {
                let _ = reader.join();
            }
            ended.state.lock().status = status.ok();
            ended.changed.notify_all();
        });
        Ok(Self { pid, node: Arc::clone(node), metrics_port: metrics_port(args), shared })
    }

    /// Everything it has said so far.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        self.shared.state.lock().lines.clone()
    }

    /// Its whole output as text, for messages of failed assertions.
    #[must_use]
    pub fn log(&self) -> String {
        self.shared.state.lock().lines.iter().map(|line| format!("{}\n", line.text)).collect()
    }

    /// Waits for a line, said already or still to come.
    ///
    /// # Errors
    /// When it ends, or half a minute passes, without such a line; the error has the whole log.
    pub fn wait_for_line(&self, what: &str, wanted: impl Fn(&Line) -> bool) -> Result<Line> {
        let mut state = self.shared.state.lock();
        let mut seen = 0;
        let mut found = None;
        self.shared.changed.wait_while_for(
            &mut state,
            |state| {
                found = state.lines[seen..].iter().find(|line| wanted(line)).cloned();
                seen = state.lines.len();
                found.is_none() && state.status.is_none()
            },
            PATIENCE,
        );
        drop(state);
        found.ok_or_else(|| anyhow!("the agent did not say: {what}; its log:\n{}", self.log()))
    }

    /// Waits until `/readyz` is 200.
    ///
    /// # Errors
    /// When it ends, or half a minute passes, without being ready; the error has the whole log.
    pub fn ready(&self) -> Result<()> {
        self.poll("/readyz is 200", || Ok(self.admin("/readyz").is_ok_and(|answer| answer.status == 200)))
    }

    /// Asks `check` until it is true. For what the agent shows and does not announce; 20 ms apart.
    ///
    /// # Errors
    /// What `check` says; when the agent ends, or half a minute passes.
    pub fn poll(&self, what: &str, mut check: impl FnMut() -> Result<bool>) -> Result<()> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !check()? {
            if self.status().is_some() || tokio::time::Instant::now() > deadline {
                bail!("waited in vain until {what}; status {:?}, log:\n{}", self.status(), self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// `GET` on the port for metrics and probes, from the node itself.
    ///
    /// # Errors
    /// When there is no connection, or no answer.
    pub fn admin(&self, path: &str) -> std::io::Result<Response> {
        let to = SocketAddr::from(([127, 0, 0, 1], self.metrics_port));
        Client::new(&self.node, to).get(path)
    }

    /// One sample of `/metrics`, named as on the page: `rolegate_x_total{reason="y"}`. Absent counts as 0.
    ///
    /// # Errors
    /// When the page cannot be had.
    pub fn metric(&self, sample: &str) -> Result<f64> {
        let page = self.admin("/metrics")?.text();
        page.lines()
            .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '))
            .map_or(Ok(0.0), |value| value.trim().parse().with_context(|| format!("{sample} {value}")))
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn status(&self) -> Option<ExitStatus> {
        self.shared.state.lock().status
    }

    /// Ends it at once and waits for that.
    ///
    /// # Errors
    /// When it does not end.
    pub fn kill9(&self) -> Result<ExitStatus> {
        self.signal(Signal::SIGKILL)?;
        self.wait()
    }

    /// Asks it to drain and end.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn sigterm(&self) -> Result<()> {
        self.signal(Signal::SIGTERM)
    }

    /// Sends a signal, unless it has ended.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let state = self.shared.state.lock();
        if state.status.is_some() {
            return Ok(());
        }
        match kill(self.pid, signal) {
            // It has just ended, and what it said last is still being read.
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it runs on for half a minute; the error has the whole log.
    pub fn wait(&self) -> Result<ExitStatus> {
        let mut state = self.shared.state.lock();
        self.shared.changed.wait_while_for(&mut state, |state| state.status.is_none(), PATIENCE);
        let status = state.status;
        drop(state);
        status.ok_or_else(|| anyhow!("the agent does not end; its log:\n{}", self.log()))
    }
}

impl Drop for Agent {
    /// Whatever a test is about: nothing that the agent said has a planted secret in it.
    fn drop(&mut self) {
        if let Err(error) = self.kill9() {
            eprintln!("{error:#}");
        }
        if !std::thread::panicking() {
            let found = planted::find(&self.log());
            assert_eq!(found, None, "the agent's log has a secret");
        }
    }
}

/// Runs the agent in `ns` (or here) to its end: `--help`, `cleanup`, mistakes in flags.
///
/// # Errors
/// When it cannot be built or started.
pub fn run_to_end(ns: Option<&NetNs>, args: &[&str]) -> Result<std::process::Output> {
    let binary = binary()?;
    let mut command = ns.map_or_else(|| Command::new(&binary), |ns| ns.command(&binary));
    command
        .args(args)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .stdin(Stdio::null())
        .output()
        .context("run the agent")
}

/// The agent's binary, brought up to date once: `$ROLEGATE_BIN`, or what cargo builds beside this program.
///
/// # Errors
/// When cargo cannot build it.
pub fn binary() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BUILT
        .get_or_init(|| match std::env::var_os("ROLEGATE_BIN") {
            Some(path) => Ok(path.into()),
            None => build().map_err(|error| format!("{error:#}")),
        })
        .clone()
        .map_err(|error| anyhow!(error))
}

fn build() -> Result<PathBuf> {
    // target/<profile>/deps/suite-0123 or target/<profile>/demo
    let program = std::env::current_exe()?;
    let mut profile_dir = program.parent().context("a program has a directory")?;
    if profile_dir.ends_with("deps") {
        profile_dir = profile_dir.parent().context("deps has a parent")?;
    }
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let target_dir = profile_dir.parent().context("a profile has a target directory")?;
    // All members, so that features unify as in any other build of the workspace.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    netns::run(
        Command::new(cargo)
            .args(["build", "--quiet", "--workspace", "--bin", "rolegate", "--profile", profile])
            .arg("--target-dir")
            .arg(target_dir)
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR"))),
    )?;
    Ok(profile_dir.join("rolegate"))
}

fn read_lines(pipe: impl Read + Send + 'static, shared: &Arc<Shared>) -> std::thread::JoinHandle<()> {
    let shared = Arc::clone(shared);
    std::thread::spawn(move || {
        for text in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let text = String::from_utf8_lossy(&text).into_owned();
            let json = serde_json::from_str(&text).ok();
            shared.state.lock().lines.push(Line { text, json });
            shared.changed.notify_all();
        }
    })
}

fn metrics_port(args: &[String]) -> u16 {
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let value = if arg == "--metrics-port" {
            args.next().map(String::as_str)
        } else {
            arg.strip_prefix("--metrics-port=")
        };
        if let Some(port) = value.and_then(|value| value.parse().ok()) {
            return port;
        }
    }
    METRICS_PORT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_is_found_nested_dotted_and_below_fields() {
        let text = r#"{"level":"INFO","fields":{"pod.name":"a","role":{"arn":"b"},"n":3}}"#;
        let line = Line { text: text.into(), json: serde_json::from_str(text).ok() };
        assert_eq!(line.text_of("level").as_deref(), Some("INFO"));
        assert_eq!(line.text_of("pod.name").as_deref(), Some("a"));
        assert_eq!(line.text_of("fields.pod.name").as_deref(), Some("a"));
        assert_eq!(line.text_of("role.arn").as_deref(), Some("b"));
        assert_eq!(line.text_of("n").as_deref(), Some("3"));
        assert_eq!(line.text_of("pod"), None);
    }

    #[test]
    fn metrics_port_is_read_from_either_form_of_the_flag() {
        let args = |list: &[&str]| list.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>();
        assert_eq!(metrics_port(&args(&["--metrics-port=1"])), 1);
        assert_eq!(metrics_port(&args(&["--metrics-port", "2"])), 2);
        assert_eq!(metrics_port(&args(&["--iptables"])), METRICS_PORT);
    }
}
