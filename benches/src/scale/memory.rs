//! What a process has in memory, to the page.

use anyhow::{Context, Result};

/// Memory of a process, KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// All pages that are there.
    pub resident: u64,
    /// Of it those of no file: heap, stacks, what was written of the program.
    pub anonymous: u64,
    /// The most that was ever there.
    pub peak: u64,
}

// === impl Memory ===

impl Memory {
    /// What `pid` has now. From `smaps_rollup`, which counts: `status` may be off by some hundred KiB.
    ///
    /// # Errors
    /// When there is no such process, or it may not be looked at.
    pub fn of(pid: i32) -> Result<Self> {
        let read = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            std::fs::read_to_string(&path).context(path)
        };
        Self::parse(&read("smaps_rollup")?, &read("status")?)
            .with_context(|| format!("memory of process {pid}"))
    }

    /// Pages of files: the program's code and constants.
    #[must_use]
    pub fn of_files(self) -> u64 {
        self.resident.saturating_sub(self.anonymous)
    }

    fn parse(rollup: &str, status: &str) -> Option<Self> {
        let field = |text: &str, name: &str| -> Option<u64> {
            let value = text.lines().find_map(|line| line.strip_prefix(name))?;
            value.trim().strip_suffix("kB")?.trim().parse().ok()
        };
        Some(Self {
            resident: field(rollup, "Rss:")?,
            anonymous: field(rollup, "Anonymous:")?,
            peak: field(status, "VmHWM:")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_kib() {
        let rollup =
            "5-7 ---p 00000000 00:00 0    [rollup]\nRss:    9216 kB\nPss:   1 kB\nAnonymous:   4100 kB\n";
        let memory = Memory::parse(rollup, "VmHWM:\t   9300 kB\n").unwrap_or_else(|| panic!("it is there"));
        assert_eq!(
            (memory.resident, memory.anonymous, memory.of_files(), memory.peak),
            (9_216, 4_100, 5_116, 9_300)
        );
        assert_eq!(Memory::parse("", ""), None);
    }
}
