//! A small fleet: what its refreshes cost, and that nothing is asked for all at once but at the start.

use std::time::Duration;

use rolegate_fleet::{Fleet, Restart};

const HOUR: Duration = Duration::from_secs(3_600);

fn fleet() -> Fleet {
    Fleet {
        nodes: 10,
        roles: 5,
        session: HOUR,
        lasts: 3 * HOUR,
        quota: None,
        one_asks_in: 5,
        restart: Some(Restart { at: 2 * HOUR, every: Duration::from_secs(30) }),
    }
}

#[test]
fn a_fleet_costs_its_refreshes_and_a_restart_its_roles() {
    let fleet = fleet();
    let tally = fleet.run().unwrap();
    let due = 50.0 / fleet.round().as_secs_f64();
    let mean = tally.mean(fleet.rounds());
    assert!((mean / due - 1.0).abs() < 0.05, "{mean} calls per second, {due} are due");
    // All at once where nothing is there, one node after the other in a restart, scattered otherwise.
    assert_eq!((tally.peak(1, 0..60), tally.peak(60, 0..60) * 60.0), (50.0, 50.0));
    let (refreshes, restart) = (tally.peak(1, 60..7_200), tally.peak(1, 7_200..7_600));
    assert!(refreshes <= 8.0 && (5.0..=8.0).contains(&restart), "{refreshes}, {restart}");
    let (served, asked) = (tally.served().unwrap(), tally.asked().unwrap());
    assert_eq!((served.count, asked.count, asked.last), (50, 10, Duration::from_millis(150)));
}

#[test]
fn a_run_can_be_repeated_to_the_call() {
    let once = || Fleet { lasts: HOUR / 2, restart: None, quota: Some(20), ..fleet() }.run().unwrap();
    assert!(once() == once(), "the same calls in the same seconds");
}

#[test]
fn a_quota_far_below_the_start_wedges_nobody_and_refreshes_stay_below_it() {
    let fleet = Fleet { nodes: 20, lasts: HOUR, restart: None, quota: Some(10), ..fleet() };
    let tally = fleet.run().unwrap();
    let (served, asked) = (tally.served().unwrap(), tally.asked().unwrap());
    assert_eq!((served.count, asked.count), (100, 20));
    // At best 90 of the 100 wait, for 9 s.
    assert!(served.last <= Duration::from_secs(60) && asked.last <= served.last, "{served:?} {asked:?}");
    assert_eq!(tally.throttled(60..3_600), 0);
}
