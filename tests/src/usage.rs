//! What a process takes of its machine: descriptors and memory, now and at most.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::unistd::Pid;

/// Between two looks of [`Watch`].
const EVERY: Duration = Duration::from_millis(5);

/// What a process has, or the most that it had of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Open descriptors.
    pub descriptors: usize,
    /// Memory that is there: `VmRSS`, KiB.
    pub resident_kib: u64,
    /// Of it what is not a page of a file, such as the program itself: `RssAnon`, KiB.
    pub anonymous_kib: u64,
    /// The most that was ever there: `VmHWM`, KiB.
    pub high_water_kib: u64,
}

/// Looks at a process all the time. Dropping it stops it.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Usage>>>,
}

// === impl Usage ===

impl Usage {
    /// What the process has now.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of(pid: Pid) -> Result<Self> {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let open = std::fs::read_dir(proc.join("fd")).with_context(|| format!("process {pid}"))?;
        let status =
            std::fs::read_to_string(proc.join("status")).with_context(|| format!("process {pid}"))?;
        Self { descriptors: open.count(), ..Self::default() }
            .with_memory(&status)
            .with_context(|| format!("{}/status cannot be read", proc.display()))
    }

    fn with_memory(self, status: &str) -> Option<Self> {
        let field = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name))?;
            value.strip_suffix("kB")?.trim().parse().ok()
        };
        Some(Self {
            resident_kib: field("VmRSS:")?,
            anonymous_kib: field("RssAnon:")?,
            high_water_kib: field("VmHWM:")?,
            ..self
        })
    }

    /// The larger of each.
    #[must_use]
    pub fn most(self, other: Self) -> Self {
        Self {
            descriptors: self.descriptors.max(other.descriptors),
            resident_kib: self.resident_kib.max(other.resident_kib),
            anonymous_kib: self.anonymous_kib.max(other.anonymous_kib),
            high_water_kib: self.high_water_kib.max(other.high_water_kib),
        }
    }
}

// === impl Watch ===

impl Watch {
    /// Begins to look.
    #[must_use]
    pub fn start(pid: Pid) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut most = Usage::of(pid)?;
            while !told.load(Ordering::Relaxed) {
                std::thread::sleep(EVERY);
                most = most.most(Usage::of(pid)?);
            }
            Ok(most)
        });
        Self { stop, thread: Some(thread) }
    }

    /// The most that was seen of each.
    ///
    /// # Errors
    /// When the process ended meanwhile.
    pub fn most(mut self) -> Result<Usage> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it is stopped once")?;
        thread.join().map_err(|_| anyhow!("the watch panicked"))?
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_kib() {
        let status = "Name:\tx\nVmHWM:\t   9300 kB\nVmRSS:\t    9216 kB\nRssAnon:\t    4100 kB\n";
        let usage = Usage::default().with_memory(status).unwrap();
        assert_eq!((usage.resident_kib, usage.anonymous_kib, usage.high_water_kib), (9_216, 4_100, 9_300));
        assert_eq!(Usage::default().with_memory("Name:\tx\n"), None);
    }

    #[test]
    fn the_most_is_taken_of_each() {
        let one = Usage { descriptors: 9, resident_kib: 1, ..Usage::default() };
        let other = Usage { descriptors: 1, resident_kib: 9, ..Usage::default() };
        assert_eq!(one.most(other), Usage { descriptors: 9, resident_kib: 9, ..Usage::default() });
    }
}
