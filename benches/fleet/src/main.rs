//! `fleet`: what a fleet asks of STS.
use std::time::Duration;
use rolegate_fleet::{Fleet, Restart, QUOTA};
fn main() -> anyhow::Result<()> {
    let a: Vec<u64> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let (nodes, roles, session, minutes, quota) = (a[0], a[1] as usize, a[2], a[3], a[4]);
    #[allow(clippy::disallowed_methods)]
    let began = std::time::Instant::now();
    let t = Fleet {
        nodes, roles, session: Duration::from_secs(session), lasts: Duration::from_secs(minutes * 60),
        quota: (quota > 0).then_some(QUOTA), one_asks_in: 10,
        restart: (minutes >= 1440).then_some(Restart { at: Duration::from_secs(12 * 3600), every: Duration::from_secs(30) }),
    }.run()?;
    println!("took {:?} calls {} mean {:.1}", began.elapsed(), t.calls(), t.mean(3600..minutes as usize * 60));
    for (name, r) in [("start", 0..60), ("..5m", 60..300), ("..15m", 300..900), ("..30m", 900..1800), ("..1h", 1800..3600), ("..4h", 3600..4*3600),("..12h", 4*3600..12*3600), ("restart", 12*3600..12*3600+3600), ("end", 13*3600..24*3600)] {
        println!("{name}: peak1 {} peak10 {} throttled {}", t.peak(1, r.clone()), t.peak(10, r.clone()), t.throttled(r));
    }
    println!("served {:?}\nasked {:?}", t.served(), t.asked());
    Ok(())
}
