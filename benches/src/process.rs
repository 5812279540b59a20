//! CPU time of other processes, which cores they run on, and who goes first.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, anyhow};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use rolegate_tests::netns::run;

/// One tick of `/proc/PID/stat`: `USER_HZ` is 100.
const TICK: Duration = Duration::from_millis(10);

/// CPU time of a process so far, its ended threads included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// In its own code, in ticks of 10 ms.
    pub user: Duration,
    /// In the kernel for it, in ticks of 10 ms.
    pub system: Duration,
    /// Both, as the scheduler counts them where it does (to the nanosecond, threads that live), else in ticks.
    pub total: Duration,
}

// === impl Cpu ===

impl Cpu {
    /// What it took so far.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of(pid: i32) -> anyhow::Result<Self> {
        let stat =
            std::fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid}"))?;
        let (user, system) = ticks_of(&stat).with_context(|| format!("/proc/{pid}/stat cannot be read"))?;
        Ok(Self { user, system, total: scheduled(pid)?.unwrap_or(user + system) })
    }

    /// What it took since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            user: self.user.saturating_sub(earlier.user),
            system: self.system.saturating_sub(earlier.system),
            total: self.total.saturating_sub(earlier.total),
        }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            user: self.user + other.user,
            system: self.system + other.system,
            total: self.total + other.total,
        }
    }

    /// How much of it the process's own code took, of 1.
    #[must_use]
    pub fn user_share(self) -> Option<f64> {
        let both = self.user + self.system;
        (!both.is_zero()).then(|| self.user.as_secs_f64() / both.as_secs_f64())
    }
}

/// User and system time of a process so far.
///
/// # Errors
/// When there is no such process.
pub fn cpu_time(pid: i32) -> anyhow::Result<Duration> {
    Cpu::of(pid).map(|cpu| cpu.total)
}

/// What its threads ran, where the kernel counts that.
fn scheduled(pid: i32) -> anyhow::Result<Option<Duration>> {
    let mut total = Duration::ZERO;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid}"))? {
        // A thread may end meanwhile, and a kernel may not count.
        let Ok(line) = std::fs::read_to_string(task?.path().join("schedstat")) else { continue };
        let ran = line.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or_default();
        total += Duration::from_nanos(ran);
    }
    Ok((!total.is_zero()).then_some(total))
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

/// Does `work` on a thread that everything else goes before, and so do the threads that it starts.
///
/// # Errors
/// When `renice` fails, or `work` panicked.
pub fn in_the_back<T: Send>(work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let me = nix::unistd::gettid().to_string();
            run(Command::new("renice").args(["-n", "19", "-p", &me]))?;
            Ok(work())
        });
        thread.join().map_err(|_| anyhow!("the work in the back panicked"))?
    })
}

/// Fields 14 and 15 (proc(5)), counted behind the name, which may contain anything.
fn ticks_of(stat: &str) -> Option<(Duration, Duration)> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some((TICK * user, TICK * system))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_system_time_are_read_in_ticks() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 98 0 0 0 250 50 9 9 20 0 3 0 1000 1 1";
        assert_eq!(ticks_of(stat), Some((Duration::from_millis(2_500), Duration::from_millis(500))));
        assert_eq!(ticks_of("7 (a"), None);
    }
}
