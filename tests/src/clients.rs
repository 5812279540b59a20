//! Unmodified AWS SDKs, each as a process in a pod's namespace with nothing of this machine's environment.
//!
//! Every client program speaks the same little protocol: for each line of standard input it gets its
//! credentials the way its SDK does, refreshing them when the SDK thinks it time, and prints one JSON object.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

use anyhow::{Context, Result, anyhow};
use serde::Deserialize;

use crate::netns::{self, NetNs};

/// The region that everything here plays in.
pub const REGION: &str = "eu-central-1";

/// An SDK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// botocore, below boto3 and the AWS CLI.
    Botocore,
    /// The SDK for JavaScript v3.
    JavaScript,
    /// The SDK for Go v2.
    Go,
    /// `aws-config`.
    Rust,
}

/// What a client loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Creds {
    /// `ASIA…`, the one part that tells sessions apart and is no secret.
    pub access_key_id: String,
    /// When the client thinks they end, as it writes times.
    pub expiration: Option<String>,
}

/// A client program that runs on, so that it refreshes what it has.
#[derive(Debug)]
pub struct Running {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    // The client's HOME; removed with it.
    _home: tempfile::TempDir,
}

#[derive(Deserialize)]
struct Answer {
    access_key_id: Option<String>,
    expiration: Option<String>,
    error: Option<String>,
}

// === impl Client ===

impl Client {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Botocore, Self::JavaScript, Self::Go, Self::Rust];

    /// Why it cannot be run here, if it cannot.
    #[must_use]
    pub fn missing(self) -> Option<String> {
        let (program, args) = self.program().ok()?;
        if self == Self::JavaScript && !netns::on_path("node") {
            return Some("`node` is not installed (tests/tools/setup.sh)".into());
        }
        let file = args.first().filter(|_| self == Self::JavaScript).map_or(program, PathBuf::from);
        (!file.exists()).then(|| format!("{} is not there (tests/tools/setup.sh)", file.display()))
    }

    /// First load, in a process of its own.
    ///
    /// # Errors
    /// The client's own words.
    pub fn load(self, pod: &NetNs) -> Result<Creds, String> {
        self.start(pod, &[]).map_err(|error| format!("{error:#}"))?.load()
    }

    /// Starts it in a pod with these variables beside the region.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(self, pod: &NetNs, env: &[(&str, &str)]) -> Result<Running> {
        let (program, args) = self.program()?;
        let home = tempfile::tempdir()?;
        let mut child = clean(pod.command(&program), home.path(), env)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("standard output is piped")?);
        Ok(Running { child, input, output, _home: home })
    }

    fn program(self) -> Result<(PathBuf, Vec<String>)> {
        let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools");
        let cache = cache();
        Ok(match self {
            Self::Botocore => {
                (cache.join("venv/bin/python"), vec![tools.join("python/client.py").display().to_string()])
            }
            // Beside node_modules, where its imports are looked up.
            Self::JavaScript => ("node".into(), vec![cache.join("node/client.mjs").display().to_string()]),
            Self::Go => (cache.join("go/aws-client"), Vec::new()),
            Self::Rust => (beside_this_program("aws-client")?, Vec::new()),
        })
    }
}

// === impl Running ===

impl Running {
    /// Has it get its credentials (again).
    ///
    /// # Errors
    /// The client's own words.
    pub fn load(&mut self) -> Result<Creds, String> {
        let line = self.ask().map_err(|error| format!("{error:#}"))?;
        let answer: Answer = serde_json::from_str(&line).map_err(|error| format!("{error}: {line:?}"))?;
        match answer.access_key_id {
            Some(access_key_id) => Ok(Creds { access_key_id, expiration: answer.expiration }),
            None => Err(answer.error.unwrap_or_default()),
        }
    }

    fn ask(&mut self) -> Result<String> {
        self.input.as_mut().ok_or_else(|| anyhow!("standard input is closed"))?.write_all(b"load\n")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The end of its input ends it; one that hangs is ended.
        self.input = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The AWS CLI in a pod, run to its end.
///
/// # Errors
/// When it cannot be started.
pub fn aws_cli(pod: &NetNs, args: &[&str], env: &[(&str, &str)]) -> Result<Output> {
    let home = tempfile::tempdir()?;
    clean(pod.command(cache().join("venv/bin/aws")), home.path(), env)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .context("run the AWS CLI")
}

/// Where tests/tools/setup.sh puts things: `$ROLEGATE_CACHE`, or `.cache` in the repository.
#[must_use]
pub fn cache() -> PathBuf {
    std::env::var_os("ROLEGATE_CACHE").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or_else(|| Path::new("/")).join(".cache"),
        PathBuf::from,
    )
}

/// An environment as a container has it: no credentials, no proxies, an empty home.
fn clean(mut command: Command, home: &Path, env: &[(&str, &str)]) -> Command {
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        .env("AWS_REGION", REGION)
        // The CLI reads this one only.
        .env("AWS_DEFAULT_REGION", REGION)
        .env("NODE_NO_WARNINGS", "1")
        .envs(env.iter().copied());
    command
}

/// Another binary of this crate.
fn beside_this_program(name: &str) -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let mut dir = program.parent().context("a program has a directory")?;
    if dir.ends_with("deps") {
        dir = dir.parent().context("deps has a parent")?;
    }
    Ok(dir.join(name))
}
