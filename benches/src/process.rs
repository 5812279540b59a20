//! CPU time and memory of other processes, and which cores they run on.

use std::time::Duration;

use anyhow::Context;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// One tick of `/proc/PID/stat`: `USER_HZ` is 100.
const TICK: Duration = Duration::from_millis(10);

/// User and system time of a process so far, its ended threads included.
///
/// # Errors
/// When there is no such process.
pub fn cpu_time(pid: i32) -> anyhow::Result<Duration> {
    let stat =
        std::fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid}"))?;
    cpu_of(&stat).with_context(|| format!("/proc/{pid}/stat cannot be read"))
}

/// Resident memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// All of it, KiB.
    pub resident_kib: u64,
    /// What is not a page of a file, such as the program itself: KiB.
    pub anonymous_kib: u64,
}

/// What a process has in memory now.
///
/// # Errors
/// When there is no such process.
pub fn memory(pid: i32) -> anyhow::Result<Memory> {
    let status =
        std::fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid}"))?;
    memory_of(&status).with_context(|| format!("/proc/{pid}/status cannot be read"))
}

/// Binds this thread, and those it starts from now on, to these cores.
///
/// # Errors
/// When a core does not exist or is not allowed.
pub fn pin_self(cores: &[usize]) -> anyhow::Result<()> {
    pin(Pid::from_raw(0), cores)
}

/// Binds all threads that a process has now.
///
/// # Errors
/// When there is no such process or core, or no permission.
pub fn pin_process(pid: i32, cores: &[usize]) -> anyhow::Result<()> {
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid}"))? {
        let thread = task?.file_name().to_string_lossy().parse()?;
        pin(Pid::from_raw(thread), cores)?;
    }
    Ok(())
}

fn pin(thread: Pid, cores: &[usize]) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core)?;
    }
    sched_setaffinity(thread, &set).with_context(|| format!("cores {cores:?}"))
}

/// Fields 14 and 15 (proc(5)), counted behind the name, which may contain anything.
fn cpu_of(stat: &str) -> Option<Duration> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(TICK * user.checked_add(system)?)
}

fn memory_of(status: &str) -> Option<Memory> {
    let field = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name))?;
        value.strip_suffix("kB")?.trim().parse().ok()
    };
    Some(Memory { resident_kib: field("VmRSS:")?, anonymous_kib: field("RssAnon:")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_kib() {
        let status = "Name:\tx\nVmRSS:\t    9216 kB\nRssAnon:\t    4100 kB\n";
        assert_eq!(memory_of(status), Some(Memory { resident_kib: 9_216, anonymous_kib: 4_100 }));
        assert_eq!(memory_of("Name:\tx\n"), None);
    }

    #[test]
    fn cpu_time_is_the_sum_of_user_and_system_ticks() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 98 0 0 0 250 50 9 9 20 0 3 0 1000 1 1";
        assert_eq!(cpu_of(stat), Some(Duration::from_secs(3)));
        assert_eq!(cpu_of("7 (a"), None);
    }
}
