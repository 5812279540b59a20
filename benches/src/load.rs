//! Open-loop load: requests leave at times fixed beforehand, one connection each, whatever the answers do.
//!
//! Latency counts from the time that a request was due, not from when it was sent: a server that stalls
//! is charged for every request that it made wait ("coordinated omission").

use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use hdrhistogram::Histogram;
use tokio::time::Instant;

use crate::exchange::{Kept, ask};

/// Longest latency that is told from longer ones.
const LONGEST: Duration = Duration::from_secs(60);

/// Digits that the histograms keep.
const DIGITS: u8 = 3;

/// A server to be measured: `NAME=ADDRESS:PORT[@PID]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// As the report calls it.
    pub name: String,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Its process, for CPU time.
    pub pid: Option<i32>,
}

/// What is sent and when.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The servers; each gets `rate` requests per second.
    pub targets: Vec<Target>,
    /// Requests per second and target.
    pub rate: u32,
    /// Sent first and not counted.
    pub warm_up: Duration,
    /// What is counted.
    pub duration: Duration,
    /// Connections that may be open at once; when all are, requests wait and are charged for it.
    pub connections: usize,
    /// What is sent in one turn, the bytes of one request after the other, each on a connection of its own: the
    /// next one leaves when the one before is answered, and the turn's latency is that of all.
    pub requests: Vec<Vec<u8>>,
    /// Use connections again that the server leaves open, as each of `connections` clients would.
    pub keep: bool,
}

/// What one server did.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// From due to the last byte of the answer, nanoseconds.
    pub latency: Histogram<u64>,
    /// From due to the connection's first packet, nanoseconds: the client's own share.
    pub lateness: Histogram<u64>,
    /// From the connection's first packet to the last byte of the answer, nanoseconds: the rest. It forgives
    /// what a stall does to the requests behind it, so it is told beside `latency`, not instead.
    pub service: Histogram<u64>,
    /// Requests without a whole 200.
    pub errors: u64,
    /// What the first error was.
    pub first_error: Option<String>,
}

// === impl Target ===

impl FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (name, rest) = text.split_once('=').context("a target is NAME=ADDRESS:PORT[@PID]")?;
        let (addr, pid) = rest.split_once('@').map_or((rest, None), |(addr, pid)| (addr, Some(pid)));
        ensure!(!name.is_empty(), "a target has a name");
        Ok(Self {
            name: name.to_owned(),
            addr: addr.parse().with_context(|| format!("{addr:?} is no ADDRESS:PORT"))?,
            pid: pid.map(str::parse).transpose().context("the PID is no number")?,
        })
    }
}

// === impl Plan ===

impl Plan {
    /// Turns in all, warm-up included: rounds in which every target has one.
    fn turns(&self) -> u64 {
        let rounds = (self.warm_up + self.duration).as_nanos() * u128::from(self.rate) / 1_000_000_000;
        u64::try_from(rounds).unwrap_or(u64::MAX).saturating_mul(self.targets.len() as u64)
    }

    /// When request `index` is due, counted from the start.
    fn due(&self, index: u64) -> Duration {
        let per_second = u128::from(self.rate) * self.targets.len() as u128;
        let nanos = u128::from(index) * 1_000_000_000 / per_second;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Which target request `index` goes to: every round has them in another order, so that none is always
    /// the one that comes after another.
    fn target(&self, index: u64) -> usize {
        let count = self.targets.len() as u64;
        let (round, place) = (index / count, index % count);
        let order = shuffled(self.targets.len(), round);
        usize::try_from(place).ok().and_then(|place| order.get(place).copied()).unwrap_or(0)
    }

    /// Runs it; one outcome per target, in their order. `started` is called when the warm-up is over.
    ///
    /// # Errors
    /// When threads cannot be started. Failed requests are counted in the outcomes.
    pub fn run(&self, started: impl FnOnce() + Send) -> anyhow::Result<Vec<Outcome>> {
        ensure!(!self.targets.is_empty() && self.rate > 0 && self.connections > 0, "nothing to send");
        // A little later than now, so that the first requests are not late already.
        let begin = Instant::now() + Duration::from_millis(20);
        let next = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let workers = (0..self.connections)
                .map(|_| {
                    std::thread::Builder::new()
                        .stack_size(128 << 10)
                        .spawn_scoped(scope, || self.work(begin, &next))
                })
                .collect::<std::io::Result<Vec<_>>>()?;
            sleep_until(begin + self.warm_up);
            started();
            let mut total = self.outcomes()?;
            for worker in workers {
                let Ok(part) = worker.join() else { bail!("a worker panicked") };
                for (total, part) in total.iter_mut().zip(part?) {
                    total.add(part)?;
                }
            }
            Ok(total)
        })
    }

    fn outcomes(&self) -> anyhow::Result<Vec<Outcome>> {
        self.targets.iter().map(|_| Outcome::new()).collect()
    }

    /// One connection after the other, each the next request that is due.
    fn work(&self, begin: Instant, next: &AtomicU64) -> anyhow::Result<Vec<Outcome>> {
        // The kernel wakes sleepers up to 50 us late unless told otherwise.
        nix::sys::prctl::set_timerslack(1)?;
        let mut outcomes = self.outcomes()?;
        let mut answer = Vec::with_capacity(4 << 10);
        let mut kept: Vec<_> = self.targets.iter().map(|_| Kept::default()).collect();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= self.turns() {
                return Ok(outcomes);
            }
            let due = self.due(index);
            let target = self.target(index);
            sleep_until(begin + due);
            let lateness = (begin + due).elapsed();
            let addr = self.targets[target].addr;
            let result = self.requests.iter().try_for_each(|request| match self.keep {
                true => kept[target].ask(addr, request, &mut answer),
                false => ask(addr, request, &mut answer),
            });
            let latency = (begin + due).elapsed();
            if due >= self.warm_up {
                outcomes[target].record(lateness, latency, result);
            }
        }
    }
}

// === impl Outcome ===

impl Outcome {
    /// Nothing yet.
    ///
    /// # Errors
    /// When there is no such histogram.
    pub fn new() -> anyhow::Result<Self> {
        let histogram = Histogram::new_with_bounds(1_000, nanos(LONGEST), DIGITS)?;
        Ok(Self {
            latency: histogram.clone(),
            lateness: histogram.clone(),
            service: histogram,
            errors: 0,
            first_error: None,
        })
    }

    fn record(&mut self, lateness: Duration, latency: Duration, result: anyhow::Result<()>) {
        self.lateness.saturating_record(nanos(lateness));
        match result {
            Ok(()) => {
                self.latency.saturating_record(nanos(latency));
                self.service.saturating_record(nanos(latency.saturating_sub(lateness)));
            }
            Err(error) => {
                self.errors += 1;
                self.first_error.get_or_insert_with(|| format!("{error:#}"));
            }
        }
    }

    /// Takes in what came out elsewhere, or in another round.
    ///
    /// # Errors
    /// When the histograms do not fit.
    pub fn add(&mut self, part: Self) -> anyhow::Result<()> {
        self.latency.add(part.latency)?;
        self.lateness.add(part.lateness)?;
        self.service.add(part.service)?;
        self.errors += part.errors;
        self.first_error = self.first_error.take().or(part.first_error);
        Ok(())
    }
}

fn sleep_until(when: Instant) {
    let left = when.saturating_duration_since(Instant::now());
    if !left.is_zero() {
        std::thread::sleep(left);
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The numbers below `count` in an order that depends on `seed`: the same in every run.
pub(crate) fn shuffled(count: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    // Fisher-Yates with a hash of the seed for chance.
    for last in (1..order.len()).rev() {
        let chance = mix(seed.wrapping_mul(31).wrapping_add(last as u64));
        let other = usize::try_from(chance % (last as u64 + 1)).unwrap_or(0);
        order.swap(last, other);
    }
    order
}

/// SplitMix64's finaliser.
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(targets: usize) -> Plan {
        let addr = SocketAddr::from(([127, 0, 0, 1], 1));
        Plan {
            targets: (0..targets).map(|i| Target { name: i.to_string(), addr, pid: None }).collect(),
            rate: 1_000,
            warm_up: Duration::from_secs(1),
            duration: Duration::from_secs(2),
            connections: 1,
            requests: Vec::new(),
            keep: false,
        }
    }

    #[test]
    fn every_round_has_every_target_once_and_orders_differ() {
        let plan = plan(3);
        let rounds: Vec<Vec<usize>> =
            (0..50).map(|round| (0..3).map(|place| plan.target(round * 3 + place)).collect()).collect();
        for round in &rounds {
            let mut sorted = round.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2]);
        }
        assert!(rounds.iter().any(|round| *round != rounds[0]));
    }

    #[test]
    fn requests_are_due_at_a_constant_rate_per_target() {
        let plan = plan(2);
        assert_eq!(plan.turns(), 6_000);
        assert_eq!(plan.due(0), Duration::ZERO);
        assert_eq!(plan.due(2_000), Duration::from_secs(1));
    }

    #[test]
    fn a_target_is_a_name_an_address_and_perhaps_a_process() {
        let target: Target = "agent=169.254.169.254:80@17".parse().unwrap();
        assert_eq!((target.name.as_str(), target.addr.port(), target.pid), ("agent", 80, Some(17)));
        assert_eq!("bare=[::1]:80".parse::<Target>().unwrap().pid, None);
        for wrong in ["agent", "=1.2.3.4:5", "a=b", "a=1.2.3.4:5@x"] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
    }
}
