//! The figures as tables and as JSON.

use std::fmt::Write as _;
use std::ops::Range;
use std::time::Duration;

use rolegate_fleet::QUOTA;
use serde_json::{Value, json};

use crate::Cell;

/// The start: calls for first sessions, and retries of those throttled.
const START_SECONDS: usize = 300;
/// A rolling restart, until the last agent has what it needs.
const RESTART_SECONDS: usize = 600;

const DAY_SECONDS: f64 = 86_400.0;

/// Calls a second, of one stretch of time.
struct Peak {
    second: f64,
    ten: f64,
}

// === impl Cell ===

impl Cell {
    fn peak(&self, seconds: Range<usize>) -> Peak {
        let Self { tally, .. } = self;
        Peak { second: tally.peak(1, seconds.clone()), ten: tally.peak(10, seconds) }
    }

    fn restart_second(&self) -> usize {
        self.fleet.restart.map_or_else(|| self.seconds(), |restart| whole(restart.at))
    }

    fn seconds(&self) -> usize {
        whole(self.fleet.lasts)
    }

    fn start(&self) -> Peak {
        self.peak(0..START_SECONDS)
    }

    fn refreshes(&self) -> Peak {
        self.peak(self.fleet.rounds().start..self.restart_second())
    }

    fn restart(&self) -> Peak {
        self.peak(self.restart_second()..self.restart_second() + RESTART_SECONDS)
    }

    fn mean(&self) -> f64 {
        self.tally.mean(self.fleet.rounds())
    }
}

/// Both tables, in Markdown.
pub(crate) fn tables(unlimited: &[Cell], limited: &[Cell]) -> String {
    let mut page = String::from(
        "| Nodes | Roles of each | Sessions | Hours | Calls a day | Mean/s | Of the quota | Start: 1 s, 10 s | Refreshes: 1 s, 10 s | Restart: 1 s, 10 s |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for cell in unlimited {
        let (start, refreshes, restart) = (cell.start(), cell.refreshes(), cell.restart());
        let _ = writeln!(
            page,
            "| {} | {} | {} min | {} | {} | {:.1} | {:.1} % | {}, {} | {}, {} | {}, {} |",
            cell.fleet.nodes,
            cell.fleet.roles,
            whole(cell.fleet.session) / 60,
            cell.seconds() / 3600,
            (cell.mean() * DAY_SECONDS).round(),
            cell.mean(),
            cell.mean() / f64::from(QUOTA) * 100.0,
            start.second,
            start.ten.round(),
            refreshes.second,
            refreshes.ten.round(),
            restart.second,
            restart.ten.round(),
        );
    }
    page.push_str(
        "\n| Nodes | Roles of each | All served after | At best | Pods that ask: p50, p99, last | Throttled at the start | Later | Refreshes: 1 s, 10 s |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for cell in limited {
        let waits = |waits: Option<rolegate_fleet::Waits>| {
            let [p50, p99, last] = waits.map(|it| [it.p50, it.p99, it.last]).unwrap_or_default();
            format!("{}, {}, {}", seconds(p50), seconds(p99), seconds(last))
        };
        let refreshes = cell.refreshes();
        let _ = writeln!(
            page,
            "| {} | {} | {} | {} | {} | {} | {} | {}, {} |",
            cell.fleet.nodes,
            cell.fleet.roles,
            seconds(cell.tally.served().map(|it| it.last).unwrap_or_default()),
            seconds(at_best(cell)),
            waits(cell.tally.asked()),
            cell.tally.throttled(0..START_SECONDS),
            cell.tally.throttled(START_SECONDS..cell.seconds()),
            refreshes.second,
            refreshes.ten.round(),
        );
    }
    page
}

/// The same, for machines.
pub(crate) fn json(unlimited: &[Cell], limited: &[Cell]) -> Value {
    let cell = |cell: &Cell| {
        let peak = |peak: Peak| json!({"1s": peak.second, "10s": peak.ten});
        let waits = |waits: Option<rolegate_fleet::Waits>| {
            waits.map(|it| {
                json!({"count": it.count, "p50_s": it.p50.as_secs_f64(), "p99_s": it.p99.as_secs_f64(),
                       "last_s": it.last.as_secs_f64()})
            })
        };
        json!({
            "nodes": cell.fleet.nodes,
            "roles": cell.fleet.roles,
            "session_s": whole(cell.fleet.session),
            "simulated_s": cell.seconds(),
            "throttled_beyond": cell.fleet.quota,
            "calls": cell.tally.calls(),
            "mean_per_s": cell.mean(),
            "share_of_quota": cell.mean() / f64::from(QUOTA),
            "start_peak_per_s": peak(cell.start()),
            "refresh_peak_per_s": peak(cell.refreshes()),
            "restart_peak_per_s": cell.fleet.restart.map(|_| peak(cell.restart())),
            "throttled_at_start": cell.tally.throttled(0..START_SECONDS),
            "throttled_later": cell.tally.throttled(START_SECONDS..cell.seconds()),
            "sessions": waits(cell.tally.served()),
            "pods_that_ask": waits(cell.tally.asked()),
        })
    };
    json!({
        "quota_per_s": QUOTA,
        "unlimited": unlimited.iter().map(cell).collect::<Vec<_>>(),
        "limited": limited.iter().map(cell).collect::<Vec<_>>(),
    })
}

/// When STS could have given everybody a session: a second's worth at once, the others at the quota.
fn at_best(cell: &Cell) -> Duration {
    let keys = cell.tally.served().map_or(0, |it| it.count);
    let beyond = u32::try_from(keys).unwrap_or(u32::MAX).saturating_sub(QUOTA);
    Duration::from_secs(1) * beyond / QUOTA
}

fn whole(time: Duration) -> usize {
    usize::try_from(time.as_secs()).unwrap_or(usize::MAX)
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
