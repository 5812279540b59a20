//! What annotations say never becomes a series.

use crate::lab::{ALLOWED_ROLES, Lab, Row};
use crate::table::series;

const PODS: usize = 20;
const ANNOTATIONS: usize = 10_000;

/// A value that nothing had before: mostly a role, some no role at all.
fn value(n: usize) -> (String, String) {
    if n.is_multiple_of(10) {
        (format!("arn:{n}"), "malformed-role".to_owned())
    } else {
        (format!("team-{n}/Role-{n}"), format!("Role-{n}"))
    }
}

/// Of so many pods one asks for what was written into it.
const ONE_OF: usize = 4;

/// Writes the next value into each pod, and asks as some of them until it is answered for.
fn round(lab: &Lab, rows: &[Row], first: usize) {
    for (row, n) in rows.iter().zip(first..) {
        lab.edit(row, |pod| pod.role(&value(n).0));
    }
    // Others each time.
    let others = first / PODS % ONE_OF;
    for (row, n) in rows.iter().zip(first..first + PODS).rev().skip(others).step_by(ONE_OF) {
        let listed = value(n).1;
        // The agent's next snapshot is some milliseconds away at most.
        while row.list().unwrap().text() != listed {
            std::thread::yield_now();
        }
    }
}

/// K27: ten thousand different annotations, each of which was seen and a quarter asked for, leave the series as they were.
#[test]
fn ten_thousand_annotations_leave_the_series_as_they_were() {
    let Some(lab) = Lab::new("ten_thousand_annotations_leave_the_series_as_they_were") else { return };
    lab.namespace("default", &[(ALLOWED_ROLES, "[]")]);
    let rows: Vec<_> =
        (0..PODS).map(|n| lab.row("default", &format!("pod-{n}"), |pod| pod.role(&value(n).0))).collect();
    let agent = lab.world.agent(&["--log-level=warn"]).unwrap();
    let documents = |first: usize| {
        for (row, n) in rows.iter().zip(first..) {
            assert_eq!(row.document(&value(n).1).unwrap().status, 200, "{}", agent.log());
        }
    };
    round(&lab, &rows, 0);
    documents(0);
    let before = series(&agent);
    assert!(before.iter().any(|name| name.contains("not_in_list")), "{before:?}");
    for first in (PODS..ANNOTATIONS).step_by(PODS) {
        round(&lab, &rows, first);
    }
    // What was written last has been seen when the last pod's has.
    let last = || Ok(rows[PODS - 1].list()?.text() == value(ANNOTATIONS - 1).1);
    agent.poll("the last annotation is known", last).unwrap();
    documents(ANNOTATIONS - PODS);
    let after = series(&agent);
    let new: Vec<_> = after.symmetric_difference(&before).collect();
    assert!(new.is_empty(), "{new:?}");
    // Neither is the log theirs to fill: of each pod and reason a line a minute, seen and asked.
    let lines = agent.lines().len();
    assert!(lines < 1_000, "{lines} lines");
}
