//! The tables of a run of `e2e`.

use super::markdown;
use crate::figures::{Job, Over, Run, Server, Spread, Syscalls};
use crate::report::float;
use crate::stage::{HYPER, HYPER_AGAIN};

/// The same server twice may differ by so much before its machine is called too noisy.
const MOST_BY_CHANCE: f64 = 0.05;
/// The same of the p99.
const MOST_BY_CHANCE_P99: f64 = 0.25;
/// Calls that are named.
const NAMED_CALLS: usize = 8;

/// Everything, for a terminal.
#[must_use]
pub fn everything(run: &Run) -> String {
    [document(run), rates(run), scenarios(run), floor(run), memory(run)].join("\n")
}

/// A cached document, every server.
#[must_use]
pub fn document(run: &Run) -> String {
    let Some(job) = run.scenario("document") else { return String::new() };
    let head =
        ["Server", "logs", "p50", "p99", "p50, ratio", "p99, ratio", "CPU per request", "ratio", "late p99"];
    let rows: Vec<_> = job
        .servers
        .iter()
        .map(|server| {
            let (over, cpu) = (server.over_base, server.cpu_us.map_or_else(dash, micros));
            vec![
                server.label.clone(),
                server.logs.clone(),
                micros(server.latency_us.p50),
                micros(server.latency_us.p99),
                ratio(over.map(|over| over.p50)),
                ratio(over.map(|over| over.p99)),
                cpu,
                ratio(over.and_then(|over| over.cpu)),
                micros(server.late_p99_us),
            ]
        })
        .collect();
    let skipped: String = run
        .skipped
        .iter()
        .map(|skipped| format!("\nNot in this run: {}: {}.\n", skipped.server, skipped.why))
        .collect();
    format!(
        "{}\n\n{}{skipped}\n{}\n",
        caption(run, job),
        markdown(&head, &rows),
        control(job).unwrap_or_default()
    )
}

/// Where and how it was measured.
fn caption(run: &Run, job: &Job) -> String {
    let seconds = run.slice_seconds * f64::from(job.rounds);
    let pinned = if run.pinned { "servers on one core, client and doubles on another" } else { "not pinned" };
    format!(
        "{}; {pinned}. A node with {} pods in a cluster of {} namespaces. {} requests a second, {} slices of {} s \
         a server in changing order: {:.0} requests each.",
        run.machine.in_words(),
        run.pods,
        run.namespaces,
        job.rate,
        job.rounds,
        run.slice_seconds,
        seconds * f64::from(job.rate),
    )
}

/// What the same server twice differs by.
fn control(job: &Job) -> Option<String> {
    let Over { p50, p99, cpu } = job.over(HYPER_AGAIN, HYPER)?;
    let off = |spread: Spread, most: f64| (spread.median - 1.0).abs() > most;
    let noisy = off(p50, MOST_BY_CHANCE)
        || off(p99, MOST_BY_CHANCE_P99)
        || cpu.is_some_and(|cpu| off(cpu, MOST_BY_CHANCE));
    let verdict = if noisy {
        "**That is more than this page allows itself (5 %, of the p99 25 %): the machine was too busy with other things, \
         and the figures of this run prove little.**"
    } else {
        "What differs by no more than that is chance."
    };
    Some(format!(
        "The same server in two processes: p50 {}, p99 {}, CPU {}. {verdict}",
        ratio(Some(p50)),
        ratio(Some(p99)),
        ratio(cpu)
    ))
}

/// A cached document at every rate.
#[must_use]
pub fn rates(run: &Run) -> String {
    let mut jobs: Vec<_> = run.jobs.iter().filter(|job| job.scenario == "document").collect();
    jobs.sort_by_key(|job| job.rate);
    let Some(first) = jobs.first() else { return String::new() };
    let mut head = vec!["Server".to_owned()];
    for job in &jobs {
        head.extend([format!("{}/s: p50", job.rate), "CPU".to_owned(), "CPU, ratio".to_owned()]);
    }
    let rows: Vec<_> = first
        .servers
        .iter()
        .map(|server| {
            let mut row = vec![server.label.clone()];
            for job in &jobs {
                let same = job.server(&server.id);
                row.push(same.map_or_else(dash, |same| micros(same.latency_us.p50)));
                row.push(same.and_then(|same| same.cpu_us).map_or_else(dash, micros));
                row.push(ratio(same.and_then(|same| same.over_base?.cpu)));
            }
            row
        })
        .collect();
    let slices = jobs.iter().map(|job| job.rounds.to_string()).collect::<Vec<_>>().join(", ");
    format!(
        "{} s a slice; {slices} slices a server.\n\n{}",
        run.slice_seconds,
        markdown(&head.iter().map(String::as_str).collect::<Vec<_>>(), &rows)
    )
}

/// All scenarios but the document.
#[must_use]
pub fn scenarios(run: &Run) -> String {
    let jobs = run.jobs.iter().filter(|job| job.scenario != "document");
    let head = ["Scenario", "Server", "turns", "p50", "p99", "p50, ratio", "p99, ratio", "CPU per request"];
    let rows: Vec<_> =
        jobs.flat_map(|job| job.servers.iter().map(|server| scenario_row(job, server))).collect();
    markdown(&head, &rows)
}

fn scenario_row(job: &Job, server: &Server) -> Vec<String> {
    let over = server.over_base;
    vec![
        job.scenario.clone(),
        server.label.clone(),
        server.turns.to_string(),
        micros(server.latency_us.p50),
        micros(server.latency_us.p99),
        ratio(over.map(|over| over.p50)),
        ratio(over.map(|over| over.p99)),
        server.cpu_us.map_or_else(dash, micros),
    ]
}

/// What the kernel is asked for, and who takes the time: at the highest rate, where little of it is waking up.
#[must_use]
pub fn floor(run: &Run) -> String {
    let jobs = run.jobs.iter().filter(|job| job.scenario == "document");
    let Some(busiest) = jobs.max_by_key(|job| job.rate) else { return String::new() };
    let user = format!("user at {}/s", busiest.rate);
    let kernel = format!("kernel at {}/s", busiest.rate);
    let head = ["Server", "calls per request", "which", &user, &kernel];
    let rows: Vec<_> = run
        .syscalls
        .iter()
        .map(|counted| {
            let server = busiest.server(&counted.id);
            let split = server.and_then(|server| Some((server.cpu_us?, server.user_share?)));
            let all: u64 = counted.calls.iter().map(|(_, calls)| calls).sum();
            vec![
                counted.label.clone(),
                format!("{:.1}", float(all) / float(counted.requests)),
                named_calls(counted),
                split.map_or_else(dash, |(cpu, user)| micros(cpu * user)),
                split.map_or_else(dash, |(cpu, user)| micros(cpu * (1.0 - user))),
            ]
        })
        .collect();
    markdown(&head, &rows)
}

fn named_calls(counted: &Syscalls) -> String {
    let per_request = |calls: u64| float(calls) / float(counted.requests);
    let named = counted.calls.iter().take(NAMED_CALLS).filter(|(_, calls)| per_request(*calls) >= 0.05);
    named.map(|(name, calls)| format!("{name} {:.1}", per_request(*calls))).collect::<Vec<_>>().join(", ")
}

/// Memory after everything, and the binary.
#[must_use]
pub fn memory(run: &Run) -> String {
    let rows: Vec<_> = run
        .memory
        .iter()
        .map(|memory| {
            vec![memory.label.clone(), mebibytes(memory.resident_kib), mebibytes(memory.anonymous_kib)]
        })
        .collect();
    let table = markdown(&["Server", "resident", "of it anonymous"], &rows);
    format!("{table}\nThe agent's binary: {:.1} MB.\n", float(run.binary_bytes) / 1e6)
}

fn mebibytes(kib: u64) -> String {
    format!("{:.1} MiB", float(kib) / 1024.0)
}

/// Microseconds.
fn micros(micros: f64) -> String {
    if micros < 10.0 { format!("{micros:.1} us") } else { format!("{micros:.0} us") }
}

/// The median and the quarters around it.
#[must_use]
pub fn ratio(spread: Option<Spread>) -> String {
    spread.map_or_else(dash, |Spread { median, q1, q3 }| format!("{median:.2} ({q1:.2}-{q3:.2})"))
}

fn dash() -> String {
    "-".to_owned()
}
