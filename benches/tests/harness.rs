//! The latency harness: who is counted and what is an error, against servers of its own; every server and scenario for a
//! moment, and the page and plots that come of it.
#![expect(clippy::unwrap_used, reason = "a test ends at the first thing that fails")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rolegate_benches::bare::{Answer, serve};
use rolegate_benches::figures::Run;
use rolegate_benches::load::{Plan, Target};
use rolegate_benches::process::Cpu;
use rolegate_benches::report::{Row, table, to_json};
use rolegate_tests::world::World;
use tokio::net::TcpListener;

/// As `fairness` and `herd` write them.
const FAIRNESS: &str = r#"{"rate": 500, "rounds": 2, "seconds": 4.0, "states": [
    {"state": "quiet", "errors": 0, "p50_us": 300.0, "p99_us": 1000.0, "bare_p99_us": 900.0, "hostile_opened": 0,
     "hostile_answered": 0, "agent_most_descriptors": 28},
    {"state": "6,000 idle", "errors": 0, "p50_us": 330.0, "p99_us": 1500.0, "bare_p99_us": 900.0, "hostile_opened": 6000,
     "hostile_answered": 0, "agent_most_descriptors": 669}]}"#;
const HERD: &str = r#"{"pods": 250, "session_keys": 25, "sts_ms": 150, "median_p99_ms": 182.0,
    "herds": [{"p50_ms": 169.0, "p99_ms": 182.0, "max_ms": 183.0, "sts_calls": 25}]}"#;
/// As `scale` and any other program may.
const SCALE: &str =
    r#"{"cells": [{"pods": 250, "namespaces": 10000, "resident_kib": 15872, "anonymous_kib": 6144}]}"#;
const OTHER: &str = r#"{"goals": {"size": {"measured": "11 MB / 14 MB", "met": true}}}"#;

/// Stands in for kube2iam: it is given kube2iam's flags, and answers.
const KUBE2IAM: &str = r#"#!/usr/bin/env bash
for flag in "$@"; do
  case $flag in
    --host-ip=*) ip=${flag#*=} ;;
    --app-port=*) port=${flag#*=} ;;
    --api-server=https://* | --api-token=?* | --insecure | --node=?* | --base-role-arn=arn:* | --metrics-port=*) ;;
    *) echo "what is $flag?" >&2; exit 2 ;;
  esac
done
exec "$YARDSTICK" --listen="$ip:$port" --body="$0"
"#;

fn plan(addrs: &[SocketAddr]) -> Plan {
    Plan {
        targets: addrs
            .iter()
            .map(|addr| format!("at-{}={addr}", addr.port()).parse::<Target>().unwrap())
            .collect(),
        rate: 100,
        warm_up: Duration::from_millis(100),
        duration: Duration::from_millis(300),
        connections: 4,
        requests: vec![b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_vec()],
        keep: false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_target_gets_its_share_and_failures_are_told_from_answers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let fine = listener.local_addr().unwrap();
    let answer = Answer { headers: Vec::new(), body: "the same bytes".into(), others: Vec::new() };
    let serving = tokio_util::task::TaskTracker::new().spawn(serve(listener, answer));
    // Bound and dropped: nobody listens there.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();

    let plan = plan(&[fine, gone]);
    let outcomes = tokio::task::spawn_blocking(move || plan.run(|| ()).unwrap()).await.unwrap();
    serving.abort();

    assert_eq!((outcomes[0].latency.len(), outcomes[0].errors), (30, 0), "{:?}", outcomes[0].first_error);
    assert_eq!((outcomes[1].latency.len(), outcomes[1].errors), (0, 30));
    assert!(outcomes[1].first_error.as_ref().unwrap().starts_with("connect"));
    let rows: Vec<Row> = outcomes
        .into_iter()
        .map(|outcome| Row {
            name: "x".into(),
            outcome,
            cpu: Some(Cpu { total: Duration::from_millis(30), ..Cpu::default() }),
            requests_per_turn: 1,
        })
        .collect();
    assert_eq!(to_json(&rows)[0]["cpu_us_per_request"], 1000.0);
    assert_eq!(to_json(&rows)[0]["ratio_to_first"]["p50"], 1.0);
    assert_eq!(table(&rows).lines().count(), 4);
}

#[test]
fn every_server_and_scenario_comes_to_a_page_with_plots() {
    let test = "every_server_and_scenario_comes_to_a_page_with_plots";
    if let Some(why) = World::missing() {
        rolegate_tests::skip(test, &why);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let figures = dir.path().join("figures");
    std::fs::create_dir(&figures).unwrap();
    std::fs::write(figures.join("e2e.json"), measured(dir.path())).unwrap();
    for (name, text) in [("fairness", FAIRNESS), ("herd", HERD), ("scale", SCALE), ("other", OTHER)] {
        std::fs::write(figures.join(name).with_extension("json"), text).unwrap();
    }
    let run: Run = serde_json::from_reader(std::fs::File::open(figures.join("e2e.json")).unwrap()).unwrap();
    check(&run);

    let page = dir.path().join("performance.md");
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/performance.md");
    std::fs::copy(ours, &page).unwrap();
    let mut report = Command::new(env!("CARGO_BIN_EXE_report"));
    report.arg("--draw").arg("--figures").arg(&figures).arg("--page").arg(&page);
    assert!(report.status().unwrap().success());
    let page = std::fs::read_to_string(page).unwrap();
    for wanted in [
        "| 6,000 idle | 1.10 (330 us) |",
        "25 calls, p99 182 ms | yes",
        "15.5 MiB (6.0) | yes",
        "11 MB / 14 MB | yes",
        "| sdk | rolegate",
    ] {
        assert!(page.contains(wanted), "{wanted} is not in {page}");
    }
    let plots = dir.path().join("performance");
    for plot in ["latency.svg", "cpu.svg", "rates.svg"] {
        assert!(page.contains(&format!("performance/{plot}")), "{plot} is not on the page");
        let parsed = Command::new("python3")
            .args(["-c", "import sys, xml.etree.ElementTree as t; t.parse(sys.argv[1])"])
            .arg(plots.join(plot))
            .status();
        assert!(parsed.unwrap().success(), "{plot} is not XML");
    }
}

/// What `e2e` writes after a moment of everything.
fn measured(dir: &Path) -> String {
    let kube2iam = dir.join("kube2iam");
    std::fs::write(&kube2iam, KUBE2IAM).unwrap();
    std::fs::set_permissions(&kube2iam, std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_e2e"))
        .args(["--output=json", "--rounds=1", "--seconds=0.1", "--warm-up=0.02", "--rate=50", "--rates=100"])
        .args(["--pods=3", "--namespaces=3", "--unpinned"])
        .env("KUBE2IAM_BIN", &kube2iam)
        .env("YARDSTICK", env!("CARGO_BIN_EXE_bare-blocking"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Nothing is left out but what is said to be missing, and every figure is there.
fn check(run: &Run) {
    let jobs: Vec<_> = run.jobs.iter().map(|job| (job.scenario.as_str(), job.rate)).collect();
    let usual = ["list+document", "token", "sdk", "keep-alive", "passthrough"].map(|scenario| (scenario, 50));
    assert_eq!(jobs, [&[("document", 50), ("document", 100)], &usual[..]].concat());
    let servers: BTreeSet<_> = run.jobs[0].servers.iter().map(|server| server.id.as_str()).collect();
    let always = [
        "agent",
        "agent-quiet",
        "agent-route",
        "blocking",
        "hyper",
        "hyper-again",
        "hyper-route",
        "kube2iam",
    ];
    assert!(always.iter().all(|id| servers.contains(id)), "{servers:?}");
    let nginx = servers.contains("nginx") && servers.contains("nginx-quiet");
    assert!(nginx || run.skipped.iter().any(|skipped| skipped.why.contains("nginx")), "{:?}", run.skipped);
    for (job, server) in run.jobs.iter().flat_map(|job| job.servers.iter().map(move |server| (job, server))) {
        let place = format!("{} {}/s {}", job.scenario, job.rate, server.id);
        assert_eq!((server.errors, server.turns), (0, u64::from(job.rate / 10)), "{place}");
        assert!(server.latency_us.p50 > 0.0 && !server.distribution.is_empty(), "{place}");
        assert_eq!(server.base.is_some(), server.over_base.is_some(), "{place}");
    }
    assert_eq!(run.jobs.iter().find(|job| job.scenario == "sdk").unwrap().requests_per_turn, 3);
}
