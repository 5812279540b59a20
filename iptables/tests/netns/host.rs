//! Network namespaces, and an iptables that keeps a record of what was written.

use std::ffi::OsString;
use std::fs::File;
use std::future::Future;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, setns, unshare};
use rolegate_iptables::iptables::search_path;

/// A network namespace; it goes when the last handle and thread of it do.
#[derive(Clone)]
pub(crate) struct Netns {
    file: Arc<File>,
}

/// A back end by itself, its programs wrapped so that each restore is noted.
pub(crate) struct Programs {
    pub(crate) backend: &'static str,
    pub(crate) search: OsString,
    dir: PathBuf,
}

// === impl Netns ===

impl Netns {
    /// A new one, with `lo` up.
    pub(crate) fn new() -> Self {
        let opened = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace");
            File::open("/proc/thread-self/ns/net").expect("its handle")
        });
        let netns = Self { file: Arc::new(opened.join().expect("thread")) };
        netns.sh("ip link set lo up");
        netns
    }

    /// Runs `work` on a thread of this namespace.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let file = Arc::clone(&self.file);
        std::thread::spawn(move || {
            setns(&*file, CloneFlags::CLONE_NEWNET).expect("entering the namespace");
            work()
        })
    }

    /// Runs a future to its end in this namespace.
    pub(crate) fn block_on<T: Send + 'static, F: Future<Output = T>>(
        &self,
        work: impl FnOnce() -> F + Send + 'static,
    ) -> T {
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let end = self.spawn(move || runtime().block_on(work())).join();
        end.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs shell commands, which must succeed, and returns what they print.
    pub(crate) fn sh(&self, script: &str) -> String {
        let script = format!("set -e\n{script}");
        let shell = self.spawn(move || sh(&script));
        shell.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// A path that `ip link set ... netns` takes.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }
}

fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-c", script]).output().expect("sh");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}\n{stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

// === impl Programs ===

impl Programs {
    /// Of one back end, in a directory of their own.
    pub(crate) fn of(backend: &'static str) -> Self {
        Self::of_all(backend, &[backend])
    }

    /// Of several back ends; `backend` is the one that the test is about.
    pub(crate) fn of_all(backend: &'static str, found: &[&str]) -> Self {
        static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("rolegate-iptables-{}-{number}", std::process::id()));
        std::fs::create_dir(&dir).expect("directory of wrappers");
        let programs = Self { backend, search: dir.clone().into_os_string(), dir };
        for backend in found {
            for family in ["ip", "ip6"] {
                for verb in ["", "-save"] {
                    programs.wrap(&format!("{family}tables-{backend}{verb}"), "");
                }
                let note = format!("echo >> {}/log", programs.dir.display());
                programs.wrap(&format!("{family}tables-{backend}-restore"), &note);
            }
        }
        programs
    }

    /// Makes a program of that name: shell commands, then the real one.
    pub(crate) fn wrap(&self, name: &str, before: &str) {
        let (path, real) = (self.dir.join(name), which(name).expect("looked for before"));
        // Written by another process: a file that this one has open for writing, or a child that it has just forked,
        // cannot be run.
        let script = format!("#!/bin/sh\n{before}\nexec {} \"$@\"", real.display());
        sh(&format!("cat > {0} <<'END'\n{script}\nEND\nchmod 755 {0}", path.display()));
    }

    /// How many batches were written so far.
    pub(crate) fn restores(&self) -> usize {
        std::fs::read_to_string(self.dir.join("log")).map_or(0, |log| log.lines().count())
    }

    /// Both families' tables as they are, without counters and comments.
    pub(crate) fn dump(&self, netns: &Netns) -> String {
        let b = self.backend;
        let all = netns.sh(&format!(
            "for f in ip ip6; do for t in filter nat; do ${{f}}tables-{b}-save -t $t; done; done"
        ));
        all.lines().filter(|line| !line.starts_with('#')).map(without_counters).collect()
    }

    /// What `iptables -t nat -S PREROUTING` and the like print, for the IPv4 back end.
    pub(crate) fn list(&self, netns: &Netns, table: &str, chain: &str) -> Vec<String> {
        let listed = netns.sh(&format!("iptables-{} -t {table} -S {chain}", self.backend));
        listed.lines().filter(|line| line.starts_with("-A")).map(str::to_owned).collect()
    }

    /// Runs iptables commands of this back end, `$ipt` and `$ip6t`.
    pub(crate) fn sh(&self, netns: &Netns, script: &str) -> String {
        let b = self.backend;
        netns.sh(&format!("ipt='iptables-{b} -w 10'; ip6t='ip6tables-{b} -w 10'\n{script}"))
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn without_counters(line: &str) -> String {
    match line.split_once(" [") {
        Some((chain, _)) if line.starts_with(':') => format!("{chain}\n"),
        _ => format!("{line}\n"),
    }
}

fn which(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&search_path())
        .map(|dir: PathBuf| dir.join(name))
        .find(|path: &PathBuf| Path::is_file(path))
}

/// Runs a test with each back end, or says by name why not.
pub(crate) fn with_each_backend(test: &str, run: impl Fn(&Programs)) {
    for backend in ["nft", "legacy"] {
        if can_run(test, &[backend]) {
            run(&Programs::of(backend));
        }
    }
}

/// Whether a test can run; says by name why not.
pub(crate) fn can_run(test: &str, backends: &[&str]) -> bool {
    let missing = if nix::unistd::geteuid().is_root() {
        let names = backends
            .iter()
            .flat_map(|backend| ["ip", "ip6"].map(|family| format!("{family}tables-{backend}-restore")));
        names.chain(["ip", "nft"].map(str::to_owned)).find(|name| which(name).is_none())
    } else {
        Some("root".to_owned())
    };
    if let Some(missing) = &missing {
        eprintln!("skipped: {test} ({backends:?}): there is no {missing}");
    }
    missing.is_none()
}
