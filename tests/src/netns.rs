//! Network namespaces: made, entered and removed.
//!
//! A namespace is called `rg<pid>x<n><role>`, so that suites running side by side do not meet. It is removed
//! when its [`NetNs`] is dropped, which a panicking test does too; what a killed process left behind is
//! removed by the next one ([`remove_stale`]). Links are made inside their namespaces and need no unique names.

use std::ffi::OsStr;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Once, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const DIRECTORY: &str = "/run/netns";
const PREFIX: &str = "rg";

/// A network namespace that lives as long as this value, or somebody else's.
#[derive(Debug)]
pub struct NetNs {
    name: String,
    path: PathBuf,
    borrowed: bool,
}

// === impl NetNs ===

impl NetNs {
    /// Makes a namespace with its loopback up; `role` ends its name. IPv6 addresses are usable at once (no
    /// duplicate address detection).
    ///
    /// # Errors
    /// When `ip` is missing or this process may not make namespaces.
    pub fn create(role: &str) -> Result<Self> {
        static COUNTER: AtomicUsize = AtomicUsize::new(0);
        static STALE: Once = Once::new();
        STALE.call_once(remove_stale);

        let n = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}x{n}{role}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let made = Self { path: Path::new(DIRECTORY).join(&name), name, borrowed: false };
        for setting in ["all/accept_dad", "default/accept_dad"] {
            made.sysctl(&format!("net/ipv6/conf/{setting}"), "0")?;
        }
        made.ip("link set lo up")?;
        Ok(made)
    }

    /// A namespace that somebody else made and removes: `/proc/PID/ns/net`.
    #[must_use]
    pub fn borrowed(path: PathBuf) -> Self {
        Self { name: path.display().to_string(), path, borrowed: true }
    }

    /// Its name, as `ip netns` lists it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that `nsenter --net=` takes.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.path.clone()
    }

    /// A command that runs `program` in here. The pid of the child is the program's own.
    ///
    /// `nsenter` rather than `ip netns exec`, which mounts a fresh `/sys` and hides the cgroups.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Runs a program in here to its end.
    ///
    /// # Errors
    /// When it cannot be started or fails; the error has its standard error.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        run(self.command(program).args(args))
    }

    /// Runs `ip` commands in here, one a line.
    ///
    /// # Errors
    /// The first line that fails.
    pub fn ip(&self, lines: &str) -> Result<()> {
        if self.borrowed {
            return batch(self.command("ip"), lines);
        }
        let mut ip = Command::new("ip");
        ip.args(["-n", &self.name]);
        batch(ip, lines)
    }

    /// Writes a kernel setting: `net/ipv4/ip_forward`.
    ///
    /// # Errors
    /// When the kernel does not know it or refuses.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let file = Path::new("/proc/sys").join(name);
        self.inside(|| std::fs::write(&file, value))?
            .with_context(|| format!("{} = {value} in {}", file.display(), self.name))
    }

    /// Runs `work` on a thread of its own that is in here. Sockets that it makes stay in here wherever they
    /// are used afterwards.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or `work` panicked.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = std::fs::File::open(self.path()).with_context(|| format!("open {}", self.name))?;
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(file.as_fd(), CloneFlags::CLONE_NEWNET)
                        .with_context(|| format!("enter {}", self.name))?;
                    Ok(work())
                })
                .join()
                .unwrap_or_else(|_| bail!("the work in {} panicked", self.name))
        })
    }

    /// A listener on an address of this namespace.
    ///
    /// # Errors
    /// When the address is taken or not there.
    pub fn listen(&self, addr: SocketAddr) -> Result<TcpListener> {
        self.inside(|| TcpListener::bind(addr))?.with_context(|| format!("listen on {addr} in {}", self.name))
    }

    /// A connection opened from this namespace, with `timeout` for connecting, reading and writing.
    ///
    /// # Errors
    /// As `connect(2)`.
    pub fn connect(&self, addr: SocketAddr, timeout: Duration) -> std::io::Result<TcpStream> {
        self.inside(|| {
            let stream = TcpStream::connect_timeout(&addr, timeout)?;
            stream.set_read_timeout(Some(timeout))?;
            stream.set_write_timeout(Some(timeout))?;
            Ok(stream)
        })
        .unwrap_or_else(|error| Err(std::io::Error::other(error)))
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        if self.borrowed {
            return;
        }
        if let Err(error) = run(Command::new("ip").args(["netns", "delete", &self.name])) {
            eprintln!("{error:#}");
        }
    }
}

/// Why network namespaces cannot be had here, if they cannot; found out once.
#[must_use]
pub fn missing() -> Option<String> {
    static MISSING: OnceLock<Option<String>> = OnceLock::new();
    MISSING.get_or_init(look_for_what_is_missing).clone()
}

fn look_for_what_is_missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("network namespaces need root (or a user namespace: tests/tools/as-root.sh)".into());
    }
    ["ip", "iptables", "nsenter", "conntrack"]
        .into_iter()
        .find(|program| !on_path(program))
        .map(|program| format!("`{program}` is not installed (tests/tools/setup.sh)"))
        .or_else(|| NetNs::create("probe").err().map(|error| format!("{error:#}")))
}

/// Removes the namespaces of processes that are no more, and ends what still runs in them.
pub fn remove_stale() {
    let Ok(entries) = std::fs::read_dir(DIRECTORY) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(owner) = owner(&name) else { continue };
        if Path::new("/proc").join(owner.to_string()).exists() {
            continue;
        }
        let left = run(Command::new("ip").args(["netns", "pids", &name])).unwrap_or_default();
        for pid in left.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            // It may have ended meanwhile.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        // Another process may be at the same work.
        let _ = run(Command::new("ip").args(["netns", "delete", &name]));
    }
}

/// The namespaces of a process that are there.
pub(crate) fn names_of(process: u32) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(DIRECTORY) else { return Vec::new() };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| owner(name) == Some(process)).collect()
}

/// The process that made a namespace of this name, if it is one of ours.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split_once('x')?.0.parse().ok()
}

/// Whether a program can be found.
#[must_use]
pub fn on_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// Runs a command to its end and returns its standard output.
///
/// # Errors
/// When it cannot be started or fails; the error has its standard error.
pub fn run(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {shown}"))?;
    checked(&shown, output)
}

fn batch(mut ip: Command, lines: &str) -> Result<()> {
    let shown = format!("{ip:?}: {lines}");
    let mut child = ip
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start ip")?;
    // Taken, so that it is closed after the last line.
    if let Some(mut input) = child.stdin.take() {
        input.write_all(lines.as_bytes())?;
    }
    checked(&shown, child.wait_with_output()?).map(drop)
}

fn checked(shown: &str, output: Output) -> Result<String> {
    if !output.status.success() {
        bail!("{}: {}: {shown}", String::from_utf8_lossy(&output.stderr).trim(), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_ours_have_an_owner() {
        assert_eq!(owner("rg4711x0node"), Some(4711));
        assert_eq!(owner("rgx0node"), None);
        assert_eq!(owner("cni-4711x0"), None);
    }
}
