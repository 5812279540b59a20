//! A machine of a cluster: a network, mount and process namespace with directories of its own.
//!
//! Inside, `/run` is empty at each start and `/var/lib` and `/var/log` are the machine's own and stay, as on a
//! computer: everything finds its files at the usual places, and two machines do not meet in them. Its first
//! process is the end of all: nothing outlives it, no process and no mount.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::Instant;

use crate::netns::{self, NetNs};
use crate::service::Service;

/// How long a program has for its end after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);

/// What the first process does: it makes the machine's places and reaps orphans.
const INIT: &str = r#"set -e
mount --make-rshared /
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mkdir /run/netns /run/lock
mount --bind "$1/lib" /var/lib
mount --bind "$1/log" /var/log
echo up
exec >/dev/null
while :; do sleep 3600 & wait; done
"#;

/// A running machine. Dropping it ends every process in it.
#[derive(Debug)]
pub struct Machine {
    ns: Arc<NetNs>,
    dir: PathBuf,
    shell: Child,
    init: Pid,
}

/// A program that runs in a machine. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    name: &'static str,
    service: Service,
    pid: Pid,
}

// === impl Machine ===

impl Machine {
    /// Starts one whose network is `ns` and whose disk is below `dir`, which is made if it is not there.
    ///
    /// # Errors
    /// When its namespaces or mounts cannot be made.
    pub fn start(dir: &Path, ns: &Arc<NetNs>) -> Result<Self> {
        for part in ["lib", "log", "logs"] {
            std::fs::create_dir_all(dir.join(part))?;
        }
        let mut shell = ns
            .command("unshare")
            .args(["--mount", "--propagation=private", "--pid", "--fork", "--kill-child=KILL", "--"])
            .args(["/bin/sh", "-c", INIT, "init"])
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(dir.join("logs/init.log"))?)
            .spawn()
            .context("start a machine")?;
        let mut word = String::new();
        BufReader::new(shell.stdout.take().context("standard output is piped")?).read_line(&mut word)?;
        ensure!(word == "up\n", "{}", std::fs::read_to_string(dir.join("logs/init.log"))?);
        let init = only_child(shell.id())?;
        Ok(Self { ns: Arc::clone(ns), dir: dir.to_owned(), shell, init })
    }

    /// Its network.
    #[must_use]
    pub fn ns(&self) -> &Arc<NetNs> {
        &self.ns
    }

    /// Where its disk is, seen from outside: `lib` is its `/var/lib`, `log` its `/var/log`, `logs` what its programs
    /// print.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a file of it is found from outside while it runs.
    #[must_use]
    pub fn seen_from_outside(&self, path: &str) -> PathBuf {
        // A link to an absolute path would lead to this system's own.
        let path =
            path.strip_prefix("/var/run/").map_or_else(|| path.to_owned(), |rest| format!("/run/{rest}"));
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    /// A command that runs in it. It is a child of the process that is started.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.ns.path().display()))
            .arg(format!("--mount=/proc/{}/ns/mnt", self.init))
            .arg(format!("--pid=/proc/{}/ns/pid", self.init))
            .arg("--")
            .arg(program);
        command
    }

    /// Runs a program in it to its end; its standard output.
    ///
    /// # Errors
    /// When it cannot be started or fails; the error has its standard error.
    pub fn run(&self, program: &str, args: &[impl AsRef<OsStr>]) -> Result<String> {
        netns::run(self.command(program).args(args))
    }

    /// Starts a program that stays; what it prints goes to `logs/NAME.log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn daemon(&self, name: &'static str, mut command: Command) -> Result<Daemon> {
        let log = File::options().create(true).append(true).open(self.log_of(name))?;
        let service = Service::start(name, &mut command, Some(log))?;
        let pid = only_child(service.id()).with_context(|| self.end_of_log(name))?;
        Ok(Daemon { name, service, pid })
    }

    /// The last lines that a program printed.
    #[must_use]
    pub fn end_of_log(&self, name: &str) -> String {
        end_of(&self.log_of(name))
    }

    fn log_of(&self, name: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{name}.log"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The end of the first process is complete when all others have ended.
        let _ = kill(self.init, Signal::SIGKILL);
        let _ = self.shell.wait();
    }
}

// === impl Daemon ===

impl Daemon {
    /// Its process, as seen from outside.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Asks `ready` until it is true.
    ///
    /// # Errors
    /// When the program ends, or `patience` is over.
    pub fn wait_until(&mut self, patience: Duration, ready: impl FnMut() -> bool) -> Result<()> {
        self.service.wait_until(patience, ready)
    }

    /// Ends it: SIGTERM, and SIGKILL if that is not heard.
    ///
    /// # Errors
    /// When it lives on.
    pub fn stop(mut self) -> Result<()> {
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            // It may have ended.
            let _ = kill(self.pid, signal);
            let deadline = Instant::now() + GRACE;
            while Instant::now() < deadline {
                if self.service.has_ended()? {
                    return Ok(());
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        bail!("{} does not end", self.name)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !self.service.has_ended().unwrap_or(false) {
            let _ = kill(self.pid, Signal::SIGKILL);
            // Reaped by its parent, which ends then.
            let _ = self.service.wait_until(GRACE, || false);
        }
    }
}

/// The child of a process that has, or will soon have, one.
fn only_child(parent: u32) -> Result<Pid> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    for _ in 0..500 {
        let children =
            std::fs::read_to_string(&path).with_context(|| format!("process {parent} has ended"))?;
        if let Some(child) = children.split_whitespace().next() {
            return Ok(Pid::from_raw(child.parse()?));
        }
        let stat = std::fs::read_to_string(format!("/proc/{parent}/stat")).unwrap_or_default();
        ensure!(!stat.contains(") Z "), "process {parent} has ended");
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("process {parent} starts nothing")
}

/// The last lines of a file.
pub(super) fn end_of(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
