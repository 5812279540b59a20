//! One cluster at a time on a machine, and nothing of it afterwards.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

use super::cgroups;
use crate::clients::cache;
use crate::netns;

/// Names of directories and control groups begin so; the process's id follows.
const PREFIX: &str = "rolegate-cluster-";
/// Longest that the kernel may take to let go of what has ended.
const PATIENCE: Duration = Duration::from_secs(20);

/// The right to have a cluster, and its directory. Dropping it removes what is left of the cluster, fails the test
/// if that does not work, and lets the next one begin.
#[derive(Debug)]
pub(super) struct Turn {
    dir: PathBuf,
    _lock: Flock<File>,
}

// === impl Turn ===

impl Turn {
    /// Waits until no other cluster runs on this machine.
    pub(super) fn wait(test: &str) -> Result<Self> {
        let lock = lock(test)?;
        remove_stale();
        Ok(Self { dir: directory(std::process::id()), _lock: lock })
    }

    /// The cluster's directory, made if it is not there.
    pub(super) fn dir(&self) -> Result<&Path> {
        std::fs::create_dir_all(&self.dir)?;
        Ok(&self.dir)
    }

    /// The control group of a node.
    pub(super) fn group(&self, node: &str) -> String {
        format!("{PREFIX}{}-{node}", std::process::id())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        clear(std::process::id());
        let left = remains_in_time();
        if !std::thread::panicking() {
            assert!(left.is_ok(), "{left:?}");
        }
    }
}

/// Waits until no other cluster runs on this machine, and says so if one does.
fn lock(test: &str) -> Result<Flock<File>> {
    let path = cache().join("cluster.lock");
    std::fs::create_dir_all(cache())?;
    let file = File::create(&path).with_context(|| path.display().to_string())?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).or_else(|(file, _)| {
        let _ = writeln!(std::io::stderr(), "{test}: waits for another cluster to end");
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error.into())
    })
}

/// Proves that this process has no cluster any more: no network namespace, control group, directory, mount or
/// process of one is left. Another test's cluster is waited for.
///
/// # Errors
/// What is left, in words.
pub fn nothing_left(test: &str) -> Result<(), Vec<String>> {
    let _lock = lock(test).map_err(|error| vec![error.to_string()])?;
    remains_in_time()
}

fn remains_in_time() -> Result<(), Vec<String>> {
    let mut left = remains(std::process::id());
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !left.is_empty() && tokio::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(100));
        left = remains(std::process::id());
    }
    if left.is_empty() { Ok(()) } else { Err(left) }
}

fn remains(owner: u32) -> Vec<String> {
    let dir = directory(owner);
    let mut left: Vec<_> =
        netns::names_of(owner).into_iter().map(|name| format!("namespace {name}")).collect();
    left.extend(
        groups(owner).iter().flat_map(|group| cgroups::left(group)).map(|path| path.display().to_string()),
    );
    left.extend(users_of(&dir).into_iter().map(|pid| format!("process {pid}")));
    if dir.exists() {
        left.push(dir.display().to_string());
    }
    left
}

/// Processes that see a mount of the directory or have it among their arguments.
fn users_of(dir: &Path) -> Vec<String> {
    let dir = dir.display().to_string();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()))
        .filter(|entry| {
            ["mountinfo", "cmdline"].iter().any(|file| {
                std::fs::read(entry.path().join(file))
                    .is_ok_and(|text| String::from_utf8_lossy(&text).contains(&dir))
            })
        })
        .map(|entry| {
            let command = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            format!("{} {}", entry.file_name().to_string_lossy(), command.trim())
        })
        .collect()
}

/// Removes what processes left that were killed.
fn remove_stale() {
    netns::remove_stale();
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(owner) = name.strip_prefix(PREFIX).and_then(|pid| pid.parse().ok()) else { continue };
        if !Path::new("/proc").join(name.trim_start_matches(PREFIX)).exists() {
            clear(owner);
        }
    }
}

/// Removes control groups and the directory as soon as no process is left.
fn clear(owner: u32) {
    let dir = directory(owner);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !users_of(&dir).is_empty() && tokio::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(100));
    }
    groups(owner).iter().for_each(|group| cgroups::remove(group));
    // Never while somebody has mounts below it.
    if users_of(&dir).is_empty() {
        let _ = std::fs::remove_dir_all(&dir);
    }
}

fn groups(owner: u32) -> Vec<String> {
    cgroups::named(&format!("{PREFIX}{owner}-"))
}

fn directory(owner: u32) -> PathBuf {
    std::env::temp_dir().join(format!("{PREFIX}{owner}"))
}
