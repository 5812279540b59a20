//! Rounds: each server is asked for a moment, all of them one after the other in an order that changes, again and again.
//!
//! A server has the machine to itself in its slice, so that what it does after its answers (closing, logging) is charged to
//! itself; what disturbs the machine for longer than a slice disturbs its neighbours in the round too.

use std::time::Duration;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;

use crate::figures::{Job, Quantiles, Round, Server};
use crate::load::{Outcome, Plan, shuffled};
use crate::measure::measure;
use crate::process::Cpu;
use crate::report::{float, micros};
use crate::stage::{IMDS, Stage, Variant, takes_part};

/// Clients that keep their connections.
const KEEPERS: usize = 8;

/// Percentiles of a curve: fine where it turns.
const CURVE: [f64; 19] = [
    0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 93.0, 95.0, 97.0, 98.0, 99.0, 99.5, 99.7,
    99.8, 99.9,
];

/// What is asked of all servers.
#[derive(Clone, Debug)]
pub struct Order<'a> {
    /// The scenario.
    pub scenario: &'a str,
    /// Turns a second.
    pub rate: u32,
    /// How often each server has a slice.
    pub rounds: u32,
    /// How long a slice is counted.
    pub slice: Duration,
    /// How long a server is asked before.
    pub warm_up: Duration,
    /// Connections open at once.
    pub connections: usize,
}

/// One server's slices so far.
struct Series<'a> {
    variant: &'a Variant,
    base: Option<&'a str>,
    outcome: Outcome,
    cpu: Option<Cpu>,
    rounds: Vec<Round>,
    requests_per_turn: usize,
}

// === impl Order ===

impl Order<'_> {
    /// Does it; `chosen` says which servers take part, besides the rule of [`takes_part`].
    ///
    /// # Errors
    /// When threads cannot be started, or a server ends. Failed requests are counted.
    pub fn run(&self, stage: &Stage, chosen: impl Fn(&str) -> bool) -> Result<Job> {
        let imds = stage.imds();
        let all = stage.variants().iter().chain([&imds]);
        let mut series = all
            .filter(|variant| takes_part(self.scenario, variant.id) && chosen(variant.id))
            .map(|variant| Series::new(variant, self.scenario))
            .collect::<Result<Vec<_>>>()?;
        for round in 0..self.rounds {
            for place in shuffled(series.len(), round.into()) {
                let series = &mut series[place];
                series.add(stage, self)?;
            }
        }
        let requests_per_turn = series.first().context("no server takes part")?.requests_per_turn;
        let mut job = Job {
            scenario: self.scenario.to_owned(),
            rate: self.rate,
            rounds: self.rounds,
            requests_per_turn,
            servers: series.into_iter().map(Series::figures).collect(),
        };
        job.compare();
        Ok(job)
    }

    fn plan(&self, stage: &Stage, variant: &Variant) -> Result<Plan> {
        let scenario = stage.scenario(self.scenario, variant)?;
        Ok(Plan {
            targets: vec![variant.target.clone()],
            rate: self.rate,
            warm_up: self.warm_up,
            duration: self.slice,
            connections: if scenario.keep { KEEPERS } else { self.connections },
            requests: scenario.requests,
            keep: scenario.keep,
        })
    }
}

// === impl Series ===

impl<'a> Series<'a> {
    fn new(variant: &'a Variant, scenario: &str) -> Result<Self> {
        let base = if scenario == "passthrough" { Some(IMDS) } else { variant.base };
        Ok(Self {
            variant,
            base: base.filter(|base| *base != variant.id),
            outcome: Outcome::new()?,
            cpu: None,
            rounds: Vec::new(),
            requests_per_turn: 1,
        })
    }

    fn add(&mut self, stage: &Stage, order: &Order<'_>) -> Result<()> {
        let plan = order.plan(stage, self.variant)?;
        let rows = stage.network(self.variant).inside(|| measure(&plan))??;
        let row = rows.into_iter().next().context("one server, one row")?;
        self.requests_per_turn = row.requests_per_turn;
        self.rounds.push(Round {
            p50: micros(&row.outcome.latency, 0.5),
            p99: micros(&row.outcome.latency, 0.99),
            cpu: row.cpu_per_request(),
        });
        if let Some(cpu) = row.cpu {
            self.cpu = Some(self.cpu.unwrap_or_default().plus(cpu));
        }
        self.outcome.add(row.outcome)
    }

    fn figures(self) -> Server {
        let Self { variant, base, outcome, cpu, rounds, requests_per_turn } = self;
        let latency = &outcome.latency;
        let requests = float((latency.len() + outcome.errors) * requests_per_turn as u64);
        Server {
            id: variant.id.to_owned(),
            label: variant.label.to_owned(),
            logs: variant.logs.to_owned(),
            base: base.map(ToOwned::to_owned),
            turns: latency.len(),
            errors: outcome.errors,
            latency_us: Quantiles {
                p50: micros(latency, 0.5),
                p90: micros(latency, 0.9),
                p99: micros(latency, 0.99),
                p999: micros(latency, 0.999),
                max: float(latency.max()) / 1e3,
            },
            distribution: curve(latency),
            late_p99_us: micros(&outcome.lateness, 0.99),
            cpu_us: cpu.map(|cpu| cpu.total.as_secs_f64() * 1e6 / requests),
            user_share: cpu.and_then(Cpu::user_share),
            first_error: outcome.first_error,
            rounds,
            over_base: None,
        }
    }
}

fn curve(latency: &Histogram<u64>) -> Vec<(f64, f64)> {
    CURVE.map(|percentile| (percentile, micros(latency, percentile / 100.0))).to_vec()
}
