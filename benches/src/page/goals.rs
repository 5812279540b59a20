//! The goals and what was measured of them.
//!
//! Programs that measure what this one does not know how to read leave a word in their own files of figures:
//! `"goals": {"size": {"measured": "11.8 MB / 13.9 MB", "met": true}}`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::markdown;
use super::others::number;
use crate::figures::{Job, Over, Run};
use crate::stage::{AGENT, AGENT_ROUTE, HYPER, HYPER_ROUTE, KUBE2IAM, NGINX};

/// Id, what is wanted, how much, and the section of the page where it is measured.
const GOALS: [(&str, &str, &str, &str); 12] = [
    (
        "latency",
        "cached GET, p50 / p99 over bare hyper, same capture, same run",
        "<= 1.10 / <= 1.15",
        "End to end",
    ),
    ("cpu", "CPU per request over bare hyper", "<= 1.0", "By rate"),
    ("cpu-nginx", "CPU per request over nginx", "<= 1.4", "By rate"),
    ("cpu-kube2iam", "CPU per request over kube2iam", "<= 0.45", "By rate"),
    (
        "instructions",
        "user-space instructions from accept to close, over bare hyper's",
        "<= 1.5",
        "Instructions and allocations",
    ),
    ("allocations", "allocations on a cached GET after accept", "<= 10", "Instructions and allocations"),
    (
        "memory",
        "resident memory (anonymous), 250 pods, 10,000 namespaces",
        "<= 16 MiB (7); <= 1/4 of kube2iam's 78 (55)",
        "Memory and scale",
    ),
    ("per-object", "per pod / per namespace", "<= 2 KiB / <= 0.5 KiB", "Memory and scale"),
    ("servable", "watch event to servable, p99, 10,000 namespaces", "<= 1 ms", "Memory and scale"),
    (
        "start",
        "start to first own credentials, 250 pods, 10,000 namespaces, real API server",
        "<= 0.53 s",
        "From start to service",
    ),
    ("herd", "250 cold pods, 25 session keys, STS 150 ms", "25 calls, p99 <= 250 ms", "A herd"),
    ("size", "stripped static binary / slim image", "<= 12 MB / <= 15 MB", "Size"),
];

/// The most that each ratio may be.
const MOST_P50: f64 = 1.10;
const MOST_P99: f64 = 1.15;
const MOST_CPU: f64 = 1.0;
const MOST_CPU_NGINX: f64 = 1.4;
const MOST_CPU_KUBE2IAM: f64 = 0.45;
const MOST_RESIDENT_MIB: f64 = 16.0;
const MOST_ANONYMOUS_MIB: f64 = 7.0;
const MOST_POD_KIB: f64 = 2.0;
const MOST_NAMESPACE_KIB: f64 = 0.5;
const MOST_SERVABLE_MILLIS: f64 = 1.0;
const MOST_HERD_MILLIS: f64 = 250.0;
const MOST_START_MILLIS: f64 = 530.0;

/// In a mebibyte, and bytes in one of them.
const KIBIBYTES: f64 = 1024.0;

/// What was measured, and whether it is enough.
#[derive(Clone, Debug)]
struct Measured {
    told: String,
    met: bool,
}

/// The table. `files` are figures by their files' names without `.json`.
#[must_use]
pub fn table(run: Option<&Run>, files: &BTreeMap<String, Value>) -> String {
    let mut measured = said(files);
    if let Some(run) = run {
        measured.extend(of_run(run));
    }
    if let Some(scale) = files.get("scale") {
        let rows =
            [("memory", memory(scale)), ("per-object", per_object(scale)), ("servable", servable(scale))];
        measured.extend(rows.into_iter().filter_map(|(id, row)| Some((id.to_owned(), row?))));
    }
    if let Some(start) = files.get("start").and_then(of_start) {
        measured.insert("start".into(), start);
    }
    if let Some(herd) = files.get("herd").and_then(of_herd) {
        measured.insert("herd".into(), herd);
    }
    let rows: Vec<_> = GOALS
        .iter()
        .map(|(id, what, goal, section)| {
            let (told, met) = measured.get(*id).map_or(("not in this run", "-"), |measured| {
                (measured.told.as_str(), if measured.met { "yes" } else { "no" })
            });
            [what, goal, &told, &met, section].map(ToString::to_string).to_vec()
        })
        .collect();
    markdown(&["", "goal", "measured", "met", "section"], &rows)
}

/// What other programs said.
fn said(files: &BTreeMap<String, Value>) -> BTreeMap<String, Measured> {
    let goals = files.values().filter_map(|figures| figures["goals"].as_object()).flatten();
    goals
        .filter_map(|(id, goal)| {
            let told = goal["measured"].as_str()?.to_owned();
            Some((id.clone(), Measured { told, met: goal["met"] == true }))
        })
        .collect()
}

fn of_run(run: &Run) -> BTreeMap<String, Measured> {
    let mut measured = BTreeMap::new();
    if let Some(latency) = run.scenario("document").and_then(latency) {
        measured.insert("latency".to_owned(), latency);
    }
    let others = [
        ("cpu", HYPER, MOST_CPU),
        ("cpu-nginx", NGINX, MOST_CPU_NGINX),
        ("cpu-kube2iam", KUBE2IAM, MOST_CPU_KUBE2IAM),
    ];
    for (id, base, most) in others {
        if let Some(cpu) = cpu(run, base, most) {
            measured.insert(id.to_owned(), cpu);
        }
    }
    measured
}

fn latency(job: &Job) -> Option<Measured> {
    let ways = [("iptables", job.over(AGENT, HYPER)?), ("route", job.over(AGENT_ROUTE, HYPER_ROUTE)?)];
    let told =
        ways.map(|(way, Over { p50, p99, .. })| format!("{way} {:.2} / {:.2}", p50.median, p99.median));
    let met = ways.iter().all(|(_, over)| over.p50.median <= MOST_P50 && over.p99.median <= MOST_P99);
    Some(Measured { told: told.join(", "), met })
}

/// At every rate, under capture `iptables`.
fn cpu(run: &Run, base: &str, most: f64) -> Option<Measured> {
    let jobs = run.jobs.iter().filter(|job| job.scenario == "document");
    let mut ratios: Vec<_> =
        jobs.filter_map(|job| Some((job.rate, job.over(AGENT, base)?.cpu?.median))).collect();
    ratios.sort_by_key(|(rate, _)| *rate);
    let told: Vec<_> = ratios.iter().map(|(rate, ratio)| format!("{ratio:.2} at {rate}/s")).collect();
    (!told.is_empty())
        .then(|| Measured { told: told.join(", "), met: ratios.iter().all(|(_, ratio)| *ratio <= most) })
}

/// Of the node that the goal names.
fn memory(scale: &Value) -> Option<Measured> {
    let cells = scale["cells"].as_array()?;
    let cell = cells.iter().find(|cell| cell["pods"] == 250 && cell["namespaces"] == 10_000)?;
    let [resident, anonymous] =
        ["resident_kib", "anonymous_kib"].map(|figure| number(&cell[figure]) / KIBIBYTES);
    Some(Measured {
        told: format!("{resident:.1} MiB ({anonymous:.1})"),
        met: resident <= MOST_RESIDENT_MIB && anonymous <= MOST_ANONYMOUS_MIB,
    })
}

fn per_object(scale: &Value) -> Option<Measured> {
    let growth = &scale["growth"];
    let pod = growth["anonymous_bytes_per_pod"].as_f64()? / KIBIBYTES;
    let namespace = growth["anonymous_bytes_per_namespace"].as_f64()? / KIBIBYTES;
    let met = pod <= MOST_POD_KIB && namespace <= MOST_NAMESPACE_KIB;
    Some(Measured { told: format!("{pod:.2} KiB / {namespace:.2} KiB"), met })
}

/// What the event adds to a request, at most.
fn servable(scale: &Value) -> Option<Measured> {
    let kinds = scale["servable"].as_array()?;
    let of = |kind: &Value| Some((kind["event"].as_str()?.to_owned(), kind["net_us"]["p99"].as_f64()? / 1e3));
    let millis: Vec<_> = kinds.iter().filter_map(of).collect();
    let told: Vec<_> = millis.iter().map(|(event, millis)| format!("{event}: {millis:.1} ms")).collect();
    let met = millis.iter().all(|(_, millis)| *millis <= MOST_SERVABLE_MILLIS);
    (!told.is_empty()).then(|| Measured { told: told.join(", "), met })
}

/// With a real API server, or not at all.
fn of_start(figures: &Value) -> Option<Measured> {
    let of_the_goal = figures["api"] == "real" && figures["pods"] == 250 && figures["namespaces"] == 10_000;
    let (millis, leaks) = (figures["median_ms"].as_f64()?, figures["requests_at_imds"].as_u64()?);
    let told = format!("{:.2} s, {leaks} requests at IMDS meanwhile", millis / 1e3);
    of_the_goal.then_some(Measured { told, met: millis <= MOST_START_MILLIS && leaks == 0 })
}

fn of_herd(figures: &Value) -> Option<Measured> {
    let herds = figures["herds"].as_array()?;
    let most = herds.iter().filter_map(|herd| herd["sts_calls"].as_u64()).max()?;
    let p99 = number(&figures["median_p99_ms"]);
    let met = Some(most) == figures["session_keys"].as_u64() && p99 <= MOST_HERD_MILLIS;
    Some(Measured { told: format!("{most} calls, p99 {p99:.0} ms"), met })
}
