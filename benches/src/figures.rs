//! What a run of `e2e` came to, as it is written for machines and read again for pages and plots.

use serde::{Deserialize, Serialize};

use crate::machine::Machine;

/// A run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// Where it was.
    pub machine: Machine,
    /// Pods of the node beside those that ask; objects alone.
    pub pods: u16,
    /// Namespaces of the cluster beside the pods' own.
    pub namespaces: u32,
    /// Whether servers and client had a core each.
    pub pinned: bool,
    /// How long a server is asked at a time.
    pub slice_seconds: f64,
    /// What was asked, in its order.
    pub jobs: Vec<Job>,
    /// Calls to the kernel, counted.
    pub syscalls: Vec<Syscalls>,
    /// Memory after everything.
    pub memory: Vec<Memory>,
    /// The agent's binary.
    pub binary_bytes: u64,
    /// What this machine does not have.
    pub skipped: Vec<Skipped>,
}

/// A scenario at a rate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// `document`, `token`, …
    pub scenario: String,
    /// Turns a second.
    pub rate: u32,
    /// How often every server had a slice.
    pub rounds: u32,
    /// Requests that each latency is of.
    pub requests_per_turn: usize,
    /// The servers.
    pub servers: Vec<Server>,
}

/// A server's figures in a job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Server {
    /// For machines.
    pub id: String,
    /// For people.
    pub label: String,
    /// What it logs.
    pub logs: String,
    /// The server that it is compared with, by its id.
    pub base: Option<String>,
    /// Turns that were answered.
    pub turns: u64,
    /// Turns that were not.
    pub errors: u64,
    /// What the first error was.
    pub first_error: Option<String>,
    /// Latency of all rounds together, microseconds from due to the last byte.
    pub latency_us: Quantiles,
    /// The whole distribution: percentile and microseconds.
    pub distribution: Vec<(f64, f64)>,
    /// The client's own lateness.
    pub late_p99_us: f64,
    /// CPU per request, user and system, microseconds.
    pub cpu_us: Option<f64>,
    /// How much of it is user time, of 1.
    pub user_share: Option<f64>,
    /// Each round by itself.
    pub rounds: Vec<Round>,
    /// Ratios to `base`, round by round.
    pub over_base: Option<Over>,
}

/// Quantiles, microseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Quantiles {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

/// One slice, microseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Round {
    pub p50: f64,
    pub p99: f64,
    pub cpu: Option<f64>,
}

/// Ratios of one server's rounds to another's.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Over {
    pub p50: Spread,
    pub p99: Spread,
    pub cpu: Option<Spread>,
}

/// The median, and the quarters around it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The middle.
    pub median: f64,
    /// A quarter is below.
    pub q1: f64,
    /// A quarter is above.
    pub q3: f64,
}

/// Calls to the kernel.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Syscalls {
    /// The server.
    pub id: String,
    /// For people.
    pub label: String,
    /// Requests that were answered while they were counted.
    pub requests: u64,
    /// Name and number in all, the most frequent first.
    pub calls: Vec<(String, u64)>,
}

/// A process's memory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Memory {
    /// The server.
    pub id: String,
    /// For people.
    pub label: String,
    /// Memory that is there, KiB.
    pub resident_kib: u64,
    /// Of it what is not a page of a file, KiB.
    pub anonymous_kib: u64,
}

/// A server that is not there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Skipped {
    /// Its name.
    pub server: String,
    /// What it lacks.
    pub why: String,
}

// === impl Run ===

impl Run {
    /// A job by its scenario and rate.
    #[must_use]
    pub fn job(&self, scenario: &str, rate: u32) -> Option<&Job> {
        self.jobs.iter().find(|job| job.scenario == scenario && job.rate == rate)
    }

    /// The first job of a scenario.
    #[must_use]
    pub fn scenario(&self, scenario: &str) -> Option<&Job> {
        self.jobs.iter().find(|job| job.scenario == scenario)
    }
}

// === impl Job ===

impl Job {
    /// A server by its id.
    #[must_use]
    pub fn server(&self, id: &str) -> Option<&Server> {
        self.servers.iter().find(|server| server.id == id)
    }

    /// How one server's rounds compare with another's.
    #[must_use]
    pub fn over(&self, id: &str, base: &str) -> Option<Over> {
        Over::of(&self.server(id)?.rounds, &self.server(base)?.rounds)
    }

    /// Compares every server with its base.
    pub fn compare(&mut self) {
        let overs: Vec<_> =
            self.servers.iter().map(|server| self.over(&server.id, server.base.as_deref()?)).collect();
        for (server, over) in self.servers.iter_mut().zip(overs) {
            server.over_base = over;
        }
    }
}

// === impl Over ===

impl Over {
    /// Round by round: both were asked within the same few seconds.
    fn of(rounds: &[Round], base: &[Round]) -> Option<Self> {
        let ratios = |figure: fn(&Round) -> Option<f64>| -> Option<Spread> {
            let pairs = rounds.iter().zip(base);
            Spread::of(
                &pairs.filter_map(|(one, other)| Some(figure(one)? / figure(other)?)).collect::<Vec<_>>(),
            )
        };
        Some(Self {
            p50: ratios(|round| Some(round.p50))?,
            p99: ratios(|round| Some(round.p99))?,
            cpu: ratios(|round| round.cpu),
        })
    }
}

// === impl Spread ===

impl Spread {
    /// Of some figures, if there are any; between two neighbours linearly.
    #[must_use]
    pub fn of(figures: &[f64]) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.iter().copied().filter(|figure| figure.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let quarter = |quarters: usize| {
            let place = sorted.len().checked_sub(1)? * quarters;
            let (low, rest) = (*sorted.get(place / 4)?, place % 4);
            let high = sorted.get(place / 4 + 1).copied().unwrap_or(low);
            Some(low + (high - low) * [0.0, 0.25, 0.5, 0.75].get(rest)?)
        };
        Some(Self { median: quarter(2)?, q1: quarter(1)?, q3: quarter(3)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_the_median_and_its_quarters() {
        let spread = Spread::of(&[4.0, 1.0, 3.0, 2.0, 5.0]);
        assert_eq!(spread, Some(Spread { median: 3.0, q1: 2.0, q3: 4.0 }));
        assert_eq!(Spread::of(&[1.0, 2.0]), Some(Spread { median: 1.5, q1: 1.25, q3: 1.75 }));
        assert_eq!(Spread::of(&[f64::NAN]), None);
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let rounds = |p50s: [f64; 3]| p50s.map(|p50| Round { p50, p99: p50, cpu: None });
        // A machine that is twice as slow in one round is so for both.
        let over = Over::of(&rounds([11.0, 22.0, 11.0]), &rounds([10.0, 20.0, 10.0])).unwrap();
        assert!((over.p50.median - 1.1).abs() < 1e-9 && (over.p50.q3 - over.p50.q1).abs() < 1e-9);
        assert_eq!(over.cpu, None);
    }
}
