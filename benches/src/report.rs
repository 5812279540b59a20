//! The figures of a run, as a table for people and JSON for machines.

use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::load::Outcome;
use crate::process::Cpu;

/// One server's figures.
#[derive(Clone, Debug)]
pub struct Row {
    /// The target's name.
    pub name: String,
    /// Its outcome.
    pub outcome: Outcome,
    /// CPU time that its process took meanwhile.
    pub cpu: Option<Cpu>,
    /// Requests that each latency is of.
    pub requests_per_turn: usize,
}

/// The quantiles that are shown.
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

// === impl Row ===

impl Row {
    /// Turns answered.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.outcome.latency.len()
    }

    /// Microseconds of CPU per request.
    #[must_use]
    pub fn cpu_per_request(&self) -> Option<f64> {
        let turns = self.answered() + self.outcome.errors;
        let requests = float(turns * self.requests_per_turn as u64);
        self.cpu.filter(|_| requests > 0.0).map(|cpu| cpu.total.as_secs_f64() * 1e6 / requests)
    }

    fn micros(&self, quantile: f64) -> f64 {
        micros(&self.outcome.latency, quantile)
    }

    fn ratio(&self, first: &Self, quantile: f64) -> f64 {
        self.micros(quantile) / first.micros(quantile)
    }

    fn service(&self, quantile: f64) -> f64 {
        micros(&self.outcome.service, quantile)
    }

    fn service_ratio(&self, first: &Self, quantile: f64) -> f64 {
        self.service(quantile) / first.service(quantile)
    }
}

/// A table; ratios are to the first row.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let mut page = format!("{:<16}{:>9}{:>8}", "target", "turns", "errors");
    for (name, _) in QUANTILES {
        let _ = write!(page, "{:>10}", format!("{name} us"));
    }
    page.push_str("   p50 ratio   p99 ratio  late p99 us  sent p50 us       ratio  CPU us/req\n");
    let Some(first) = rows.first() else { return page };
    for row in rows {
        let _ = write!(page, "{:<16}{:>9}{:>8}", row.name, row.answered(), row.outcome.errors);
        for (_, quantile) in QUANTILES {
            let _ = write!(page, "{:>10.1}", row.micros(quantile));
        }
        let late = micros(&row.outcome.lateness, 0.99);
        let (sent, sent_ratio) = (row.service(0.5), row.service_ratio(first, 0.5));
        let cpu = row.cpu_per_request().map_or_else(|| "-".into(), |cpu| format!("{cpu:.1}"));
        let (p50, p99) = (row.ratio(first, 0.5), row.ratio(first, 0.99));
        let _ = writeln!(page, "{p50:>12.2}{p99:>12.2}{late:>13.1}{sent:>13.1}{sent_ratio:>12.2}{cpu:>12}");
    }
    for row in rows {
        if let Some(error) = &row.outcome.first_error {
            let _ = writeln!(page, "{}: first error: {error}", row.name);
        }
    }
    page
}

/// The same as JSON.
#[must_use]
pub fn to_json(rows: &[Row]) -> Value {
    let Some(first) = rows.first() else { return json!([]) };
    rows.iter()
        .map(|row| {
            let quantiles = |figure: &dyn Fn(f64) -> f64| -> Value {
                QUANTILES
                    .iter()
                    .map(|(name, quantile)| ((*name).to_owned(), json!(figure(*quantile))))
                    .collect()
            };
            json!({
                "target": row.name,
                "turns": row.answered(),
                "requests_per_turn": row.requests_per_turn,
                "errors": row.outcome.errors,
                "first_error": row.outcome.first_error,
                "latency_us": quantiles(&|quantile| row.micros(quantile)),
                "ratio_to_first": quantiles(&|quantile| row.ratio(first, quantile)),
                "service_us": quantiles(&|quantile| row.service(quantile)),
                "service_ratio_to_first": quantiles(&|quantile| row.service_ratio(first, quantile)),
                "max_us": float(row.outcome.latency.max()) / 1e3,
                "lateness_p99_us": micros(&row.outcome.lateness, 0.99),
                "cpu_us_per_request": row.cpu_per_request(),
            })
        })
        .collect()
}

/// A quantile in microseconds.
#[must_use]
pub fn micros(latency: &Histogram<u64>, quantile: f64) -> f64 {
    float(latency.value_at_quantile(quantile)) / 1e3
}

/// The median; of an even number of figures the lower of the middle two; NaN of none.
#[must_use]
pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

/// For a report.
#[expect(clippy::cast_precision_loss, reason = "figures for people: 52 bits are enough")]
#[must_use]
pub fn float(number: u64) -> f64 {
    number as f64
}
