//! What every scrape wants to know of a process: its build, start, memory, descriptors, threads, CPU.
//!
//! Names are those of the other Prometheus clients, without our prefix, so that general dashboards work.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge};

use crate::metrics::Registry;
use crate::types::Clock;

/// The release.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit, where the build said it (`ROLEGATE_REVISION`).
pub const REVISION: &str = match option_env!("ROLEGATE_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// The compiler, where the build said it (`ROLEGATE_RUSTC`).
pub const RUSTC: &str = match option_env!("ROLEGATE_RUSTC") {
    Some(rustc) => rustc,
    None => "unknown",
};

/// Ticks per second of `/proc/self/stat`: `USER_HZ`, part of Linux's interface on every architecture we build for.
const TICKS_PER_SECOND: f64 = 100.0;

/// Reads `/proc/self` when scraped.
struct Process {
    start: Gauge,
    resident: Gauge,
    descriptors: Gauge,
    threads: Gauge,
    cpu: Counter,
}

/// Registers `build_info` and the process collector.
pub(super) fn register(registry: &Registry) {
    let labels = ["version", "revision", "rustc"];
    registry
        .gauges("build_info", "Always 1; the labels say what was built.", &labels)
        .with_label_values(&[VERSION, REVISION, RUSTC])
        .set(1);
    if let Ok(process) = Process::new() {
        registry.collector(Box::new(process));
    }
}

// === impl Process ===

impl Process {
    fn new() -> prometheus::Result<Self> {
        let start = Gauge::new("process_start_time_seconds", "Start of the process, Unix time.")?;
        #[expect(clippy::cast_precision_loss, reason = "whole seconds stay exact for 285 million years")]
        start.set(Clock::system().unix_seconds() as f64);
        Ok(Self {
            start,
            resident: Gauge::new("process_resident_memory_bytes", "Resident memory.")?,
            descriptors: Gauge::new("process_open_fds", "Open file descriptors.")?,
            threads: Gauge::new("process_threads", "Threads.")?,
            cpu: Counter::new("process_cpu_seconds_total", "User and system CPU time.")?,
        })
    }

    fn collectors(&self) -> [&dyn Collector; 5] {
        [&self.start, &self.resident, &self.descriptors, &self.threads, &self.cpu]
    }

    /// What cannot be read keeps its last value.
    fn read(&self) {
        if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
            if let Some(kib) = status_number(&status, "VmRSS:") {
                self.resident.set(kib * 1024.0);
            }
            if let Some(threads) = status_number(&status, "Threads:") {
                self.threads.set(threads);
            }
        }
        if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
            // Less the descriptor that reads the directory.
            let open = u32::try_from(entries.count().saturating_sub(1)).unwrap_or(u32::MAX);
            self.descriptors.set(f64::from(open));
        }
        if let Some(seconds) =
            std::fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(cpu_seconds)
        {
            self.cpu.inc_by((seconds - self.cpu.get()).max(0.0));
        }
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.collectors().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.read();
        self.collectors().into_iter().flat_map(Collector::collect).collect()
    }
}

fn status_number(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// `utime` and `stime`, fields 14 and 15 (proc(5)); the second field may contain blanks and parentheses.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_a_name_with_a_parenthesis() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 98 0 0 0 250 50 0 0 20 0 3 0 1000 1 1";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("7 (a"), None);
    }

    #[test]
    fn this_process_has_memory_threads_and_descriptors() {
        let process = Process::new().unwrap();
        process.read();
        assert!(process.resident.get() > 65_536.0);
        assert!(process.threads.get() >= 1.0);
        assert!(process.descriptors.get() >= 3.0);
    }
}
