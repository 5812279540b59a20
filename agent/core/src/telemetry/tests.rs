//! Tests of logging, each with a subscriber of its own.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc;

use parking_lot::Mutex;
use tracing::dispatcher::with_default;

use super::*;

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A sink that says when it was written to and goes on when it is told.
struct Stuck {
    entered: mpsc::Sender<()>,
    go_on: mpsc::Receiver<()>,
}

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.entered.send(());
        let _ = self.go_on.recv();
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn log(format: LogFormat, level: &str) -> Log {
    Log { format, level: level.into() }
}

/// What `act` logs.
fn logged(format: LogFormat, level: &str, act: impl FnOnce(&Levels)) -> String {
    let memory = Memory::default();
    let (dispatch, telemetry) =
        Telemetry::build(&log(format, level), &Registry::new(), Box::new(memory.clone()), false).unwrap();
    telemetry.start().unwrap();
    with_default(&dispatch, || act(&telemetry.levels()));
    drop(telemetry);
    let bytes = memory.0.lock().clone();
    String::from_utf8(bytes).unwrap()
}

fn dropped(registry: &Registry, kind: &str) -> f64 {
    let families = registry.gather();
    let family = families.iter().find(|f| f.name() == "rolegate_log_lines_dropped_total").unwrap();
    let metric = family.get_metric().iter().find(|m| m.get_label()[0].value() == kind).unwrap();
    metric.get_counter().get_value()
}

#[test]
fn what_other_crates_say_of_requests_is_never_written_whatever_is_asked_for() {
    for level in ["trace", "aws_smithy_runtime=trace,aws_config=info,hyper=trace,kube=debug,trace"] {
        let text = logged(LogFormat::Text, level, |_| {
            tracing::trace!(target: "aws_smithy_runtime::client::orchestrator", "planted-1");
            tracing::info!(target: "aws_config::profile::credentials", "planted-2");
            tracing::trace!(target: "hyper::proto::h1::io", "planted-3");
            tracing::debug!(target: "kube_client::client::builder", "planted-4");
            tracing::warn!(target: "aws_config::imds::credentials", "heard-1");
            tracing::info!(target: "kube_runtime::watcher", "heard-2");
            tracing::trace!(target: "rolegate_iptables::restore", "heard-3");
            tracing::trace!("heard-4");
        });
        assert!(!text.contains("planted"), "{level}: {text}");
        assert_eq!(text.matches("heard").count(), 4, "{level}: {text}");
    }
}

#[test]
fn json_is_one_object_a_line_with_the_fields_at_its_top() {
    let text = logged(LogFormat::Json, "info", |_| {
        tracing::info!(pod.namespace = "team-a", status = 200, "request\nanswered");
        tracing::warn!("second");
    });
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["message"], "request\nanswered");
    assert_eq!(lines[0]["pod.namespace"], "team-a");
    assert_eq!(lines[0]["status"], 200);
    assert_eq!(lines[1]["level"], "WARN");
}

#[test]
fn text_that_a_pod_wrote_cannot_begin_a_line_or_colour_a_terminal() {
    let text = logged(LogFormat::Text, "info", |_| {
        tracing::info!(role = ?"x\n2026-01-01 forged", "refused");
        tracing::info!("{}", "\u{1b}[31mred");
    });
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(!text.contains('\u{1b}'), "{text:?}");
}

#[test]
fn the_level_changes_while_running_and_a_misspelt_one_leaves_it() {
    let text = logged(LogFormat::Text, "warn", |levels| {
        tracing::info!("before");
        levels.set("debug").unwrap();
        tracing::debug!("after");
        assert!(levels.set("inof").unwrap_err().to_string().contains("allowed are error, warn, info"));
        assert_eq!(levels.current().unwrap(), "debug");
    });
    assert!(!text.contains("before") && text.contains("after"), "{text}");
}

#[test]
fn levels_are_words_or_lists_and_nothing_else() {
    for fine in ["info", "WARNING", "panic", "info,rolegate_core::imds=debug", "off"] {
        assert_eq!(check_level(fine), Ok(()), "{fine}");
    }
    for wrong in ["", "inof", "rolegate", "rolegate=loud", "info,", "info,rolegate", "=debug"] {
        assert!(check_level(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn lines_are_written_at_once_while_there_is_no_thread_and_in_order_after() {
    let memory = Memory::default();
    let (dispatch, telemetry) =
        Telemetry::build(&log(LogFormat::Text, "info"), &Registry::new(), Box::new(memory.clone()), false)
            .unwrap();
    let written = || String::from_utf8(memory.0.lock().clone()).unwrap();
    with_default(&dispatch, || {
        tracing::info!("first");
        assert!(written().contains("first"));
        telemetry.start().unwrap();
        telemetry.start().unwrap();
        tracing::info!("second");
    });
    drop(telemetry);
    let words: Vec<String> =
        written().lines().map(|line| line.rsplit(' ').next().unwrap_or_default().to_owned()).collect();
    assert_eq!(words, ["first", "second"]);
}

#[test]
fn a_stuck_stderr_drops_access_lines_first_and_holds_nobody() {
    let (entered, was_entered) = mpsc::channel();
    let (go, go_on) = mpsc::channel();
    let registry = Registry::new();
    let sink = Box::new(Stuck { entered, go_on });
    let (dispatch, telemetry) =
        Telemetry::build(&log(LogFormat::Text, "info"), &registry, sink, false).unwrap();
    telemetry.start().unwrap();
    let line = "x".repeat(1 << 10);
    with_default(&dispatch, || {
        tracing::info!("first");
        was_entered.recv().unwrap();
        // More than the queue holds, while nothing is written.
        for _ in 0..1_100 {
            tracing::info!(target: ACCESS, "{line}");
        }
        assert!(dropped(&registry, "access") > 0.0);
        tracing::warn!("kept");
        assert_eq!(dropped(&registry, "other"), 0.0);
        for _ in 0..1_100 {
            tracing::warn!("{line}");
        }
        assert!(dropped(&registry, "other") > 0.0);
    });
    drop(go);
    drop(telemetry);
}

/// The lines of a request have a format of their own, which must not differ from that of all others.
#[test]
fn a_requests_lines_look_as_tracing_would_have_written_them() {
    macro_rules! lines {
        ($target:expr) => {{
            let (some, none) = (Some("x"), None::<&str>);
            tracing::info!(target: $target, status = 200_u16, some, none, quoted = "a \"b\" \\", "request");
            tracing::warn!(target: $target, peer = %"10.0.0.1:1", odd = "\u{1b}[31m\n", n = -1, m = u64::MAX, "one\ntwo");
            tracing::error!(target: $target, wide = "\u{e9}\u{9b}", zero = 0, "{}", "\u{1b}[31m \u{9b} \u{7f}\u{8}");
            tracing::debug!(target: $target, yes = true, name = ?Some("x"));
            tracing::trace!(target: $target, "");
        }};
    }
    let without_time = |line: &str| line.split_once(' ').unwrap().1.to_owned();
    let own = logged(LogFormat::Text, "trace", |_| lines!(ACCESS));
    let library = logged(LogFormat::Text, "trace", |_| lines!("rolegate::others"));
    let library: Vec<_> =
        library.lines().map(|line| without_time(&line.replace("rolegate::others", ACCESS))).collect();
    assert_eq!(own.lines().map(without_time).collect::<Vec<_>>(), library);
    let time = own.split(' ').next().unwrap();
    assert!(
        time::OffsetDateTime::parse(time, &time::format_description::well_known::Rfc3339).is_ok(),
        "{time}"
    );
    assert_eq!(time.len(), "2026-08-21T15:20:33.123456Z".len());
}
