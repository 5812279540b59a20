//! Calls to the kernel that a server makes for a request, counted by strace while it is asked.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rolegate_tests::netns::on_path;

use crate::figures::Syscalls;
use crate::load::Plan;
use crate::stage::{Stage, Variant};

/// Few enough for a server that is traced.
const RATE: u32 = 200;
const CONNECTIONS: usize = 16;

/// What is missing for this, if anything.
#[must_use]
pub fn missing() -> Option<String> {
    (!on_path("strace")).then(|| "strace is not installed".to_owned())
}

/// Counts the calls of one server while it is asked for documents for so long.
///
/// # Errors
/// When strace may not trace it; when a request fails.
pub fn count(stage: &Stage, variant: &Variant, duration: Duration) -> Result<Syscalls> {
    let scenario = stage.scenario("document", variant)?;
    let plan = Plan {
        targets: vec![variant.target.clone()],
        rate: RATE,
        warm_up: Duration::ZERO,
        duration,
        connections: CONNECTIONS,
        requests: scenario.requests,
        keep: false,
    };
    let pid = variant.target.pid.context("a process to look at")?;
    let (outcomes, summary) = traced(pid, || stage.network(variant).inside(|| plan.run(|| ()))?)?;
    let outcome = outcomes.first().context("one server, one outcome")?;
    ensure!(outcome.errors == 0, "{}: {:?}", variant.id, outcome.first_error);
    let mut calls = parsed(&summary);
    calls.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
    Ok(Syscalls {
        id: variant.id.to_owned(),
        label: variant.label.to_owned(),
        requests: outcome.latency.len(),
        calls,
    })
}

/// Does `work` while a process is traced; strace's summary of it.
fn traced<T>(pid: i32, work: impl FnOnce() -> Result<T>) -> Result<(T, String)> {
    let dir = tempfile::tempdir()?;
    let output = dir.path().join("summary");
    let mut strace = Command::new("strace")
        .args(["-f", "-c", "-o"])
        .arg(&output)
        .args(["-p", &pid.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("start strace")?;
    let mut said = BufReader::new(strace.stderr.take().context("strace's standard error")?);
    let mut line = String::new();
    said.read_line(&mut line)?;
    let done = if line.contains("attached") { work() } else { Err(anyhow::anyhow!("strace: {line}")) };
    // It lets go of the process at this signal, and writes its summary.
    let interrupted = kill(Pid::from_raw(i32::try_from(strace.id())?), Signal::SIGINT);
    strace.wait()?;
    let done = done?;
    interrupted?;
    Ok((done, std::fs::read_to_string(&output).context("strace's summary")?))
}

/// `% time  seconds  usecs/call  calls [errors] syscall`, one a line between two of dashes.
fn parsed(summary: &str) -> Vec<(String, u64)> {
    let rows = summary.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (name, calls) = (*fields.last()?, fields.get(3)?.parse().ok()?);
        (name != "total").then(|| (name.to_owned(), calls))
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_names_and_calls() {
        let summary = "% time     seconds  usecs/call     calls    errors syscall\n\
            ------ ----------- ----------- --------- --------- ----------------\n \
            60.00    0.000600           3       200         3 accept4\n \
            40.00    0.000400           2       201           close\n\
            ------ ----------- ----------- --------- --------- ----------------\n\
            100.00    0.001000           2       401         3 total\n";
        assert_eq!(parsed(summary), [("accept4".to_owned(), 200), ("close".to_owned(), 201)]);
    }
}
