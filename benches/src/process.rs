//! CPU time of other processes, which cores they run on, and who goes first.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, anyhow};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use rolegate_tests::netns::run;

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
fn cpu_of(stat: &str) -> Option<Duration> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(TICK * user.checked_add(system)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_the_sum_of_user_and_system_ticks() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 98 0 0 0 250 50 9 9 20 0 3 0 1000 1 1";
        assert_eq!(cpu_of(stat), Some(Duration::from_secs(3)));
        assert_eq!(cpu_of("7 (a"), None);
    }
}
