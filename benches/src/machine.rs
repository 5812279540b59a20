//! The machine that figures are of, in the words that stand beside them.

use std::process::Command;

use anyhow::{Context, Result};
use rolegate_tests::netns::run;
use serde::{Deserialize, Serialize};

/// A machine, on a day.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// Its processors' name, or nothing where the kernel does not say.
    pub processor: String,
    /// Their number.
    pub cores: usize,
    /// `x86_64`, …
    pub architecture: String,
    /// The kernel's version, without its builder's suffix.
    pub kernel: String,
    /// `2026-01-31`.
    pub date: String,
}

// === impl Machine ===

impl Machine {
    /// This one, today.
    ///
    /// # Errors
    /// When `/proc` or `date` does not say.
    pub fn here() -> Result<Self> {
        let processors = std::fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo")?;
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").context("the kernel's version")?;
        Ok(Self {
            processor: named(&processors, "model name").next().unwrap_or_default().to_owned(),
            cores: named(&processors, "processor").count(),
            architecture: std::env::consts::ARCH.to_owned(),
            kernel: kernel.trim().split('-').next().unwrap_or_default().to_owned(),
            date: run(Command::new("date").args(["--utc", "+%F"]))?.trim().to_owned(),
        })
    }

    /// In a sentence's middle.
    #[must_use]
    pub fn in_words(&self) -> String {
        let Self { processor, cores, architecture, kernel, date } = self;
        let processor = if processor.is_empty() { architecture } else { processor };
        format!("{cores} cores ({processor}, {architecture}), Linux {kernel}, {date}")
    }
}

fn named<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines().filter_map(move |line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}
