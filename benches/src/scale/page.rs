//! The figures as a table for people, JSON for machines, and a section of a page of documentation.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::cell::Cell;
use super::memory::Memory;
use super::servable::Servable;
use super::traffic::{EVENTS_PER_POD, NAMESPACES_PER_HOUR, PODS_PER_HOUR, Traffic};
use crate::report::{float, micros};

/// Between these lines the documentation has what [`Page::markdown`] makes.
const MARKERS: [&str; 2] = ["<!-- begin: scale -->", "<!-- end: scale -->"];

/// Everything that was measured.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The matrix.
    pub cells: Vec<Cell>,
    /// What the agent of the last one has after everything else was measured on it.
    pub later: Option<Memory>,
    /// Kinds of events, and how they went, in the largest cluster.
    pub servable: Vec<(&'static str, Servable)>,
    /// What comes of the API server.
    pub traffic: Option<Traffic>,
    /// Size of the agent's binary, bytes.
    pub binary: u64,
}

/// Bytes that one more object costs: least squares over the matrix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Growth {
    /// Anonymous memory of a pod, and of a namespace.
    pub anonymous: [f64; 2],
    /// Bytes of the first lists.
    pub listed: [f64; 2],
}

// === impl Growth ===

impl Growth {
    /// Of these cells; `None` where they do not differ in both.
    #[must_use]
    pub fn of(cells: &[Cell]) -> Option<Self> {
        let fit = |figure: &dyn Fn(&Cell) -> f64| {
            let points: Vec<_> = cells
                .iter()
                .map(|cell| (f64::from(cell.size.pods), f64::from(cell.size.namespaces), figure(cell)))
                .collect();
            slopes(&points)
        };
        Some(Self {
            anonymous: fit(&|cell| float(cell.memory.anonymous) * 1_024.0)?,
            listed: fit(&|cell| float(cell.listed))?,
        })
    }
}

// === impl Page ===

impl Page {
    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        self.tables().replace('|', " ")
    }

    /// For machines.
    #[must_use]
    pub fn json(&self) -> Value {
        let cells = self.cells.iter().map(|cell| {
            json!({
                "pods": cell.size.pods, "namespaces": cell.size.namespaces,
                "ready_ms": cell.ready.as_secs_f64() * 1e3, "cpu_ms": cell.cpu.as_secs_f64() * 1e3,
                "resident_kib": cell.memory.resident, "anonymous_kib": cell.memory.anonymous,
                "files_kib": cell.memory.of_files(), "peak_kib": cell.memory.peak, "listed_bytes": cell.listed,
            })
        });
        let servable = self.servable.iter().map(|(kind, seen)| {
            let quantiles = |of: &dyn Fn(f64) -> f64| json!({"p50": of(0.5), "p99": of(0.99)});
            json!({
                "event": kind, "count": seen.event.len(),
                "event_us": quantiles(&|quantile| micros(&seen.event, quantile)),
                "known_us": quantiles(&|quantile| micros(&seen.known, quantile)),
                "net_us": quantiles(&|quantile| seen.net_micros(quantile)),
            })
        });
        json!({
            "binary_bytes": self.binary,
            "cells": cells.collect::<Vec<_>>(),
            "growth": Growth::of(&self.cells).map(|growth| json!({
                "anonymous_bytes_per_pod": growth.anonymous[0], "anonymous_bytes_per_namespace": growth.anonymous[1],
                "listed_bytes_per_pod": growth.listed[0], "listed_bytes_per_namespace": growth.listed[1],
            })),
            "later": self.later.map(|later| json!({
                "resident_kib": later.resident, "anonymous_kib": later.anonymous, "peak_kib": later.peak,
            })),
            "servable": servable.collect::<Vec<_>>(),
            "traffic": self.traffic.map(|traffic| json!({
                "bookmark_bytes": traffic.bookmark, "reopened_bytes": traffic.reopened,
                "pod_event_bytes": traffic.pod, "namespace_event_bytes": traffic.namespace,
                "idle_hour_bytes": traffic.idle_hour(), "busy_hour_bytes": traffic.busy_hour(),
            })),
        })
    }

    /// Puts the tables between the markers of a page.
    ///
    /// # Errors
    /// When the page or a marker is not there.
    pub fn write_into(&self, path: &Path) -> Result<()> {
        let page = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let page =
            spliced(&page, &self.tables()).with_context(|| format!("{} has no markers", path.display()))?;
        Ok(std::fs::write(path, page)?)
    }

    fn tables(&self) -> String {
        let mut page = String::new();
        self.write_cells(&mut page);
        if let Some(growth) = Growth::of(&self.cells) {
            let _ = write!(page, "\n| More for | anonymous memory | bytes listed |\n| --- | --- | --- |\n");
            for (at, what) in ["a pod", "a namespace"].into_iter().enumerate() {
                let (anonymous, listed) = (growth.anonymous[at], growth.listed[at]);
                let _ = writeln!(page, "| {what} | {anonymous:.0} B | {listed:.0} B |");
            }
        }
        if let Some(later) = self.later {
            let [resident, anonymous] = [later.resident, later.anonymous].map(|kib| float(kib) / 1_024.0);
            let _ = writeln!(
                page,
                "\nAfter the events below: resident {resident:.1} MiB, anonymous {anonymous:.1} MiB."
            );
        }
        if !self.servable.is_empty() {
            page.push_str(
                "\n| Event to answer | events | p50 | p99 | known pod, p50 | net p50 | net p99 |\n",
            );
            page.push_str("| --- | --- | --- | --- | --- | --- | --- |\n");
        }
        for (kind, seen) in &self.servable {
            let [p50, p99] = [0.5, 0.99].map(|quantile| micros(&seen.event, quantile));
            let [net50, net99] = [0.5, 0.99].map(|quantile| seen.net_micros(quantile));
            let (count, known) = (seen.event.len(), micros(&seen.known, 0.5));
            let _ = writeln!(
                page,
                "| {kind} | {count} | {p50:.0} us | {p99:.0} us | {known:.0} us | {net50:.0} us | {net99:.0} us |"
            );
        }
        if let Some(traffic) = self.traffic {
            let Traffic { bookmark, reopened, pod, namespace } = traffic;
            let (idle, busy) = (traffic.idle_hour() / 1e3, traffic.busy_hour() / 1e3);
            page.push_str("\n| From the API server | |\n| --- | --- |\n");
            let _ = writeln!(
                page,
                "| a bookmark; a watch that is opened again | {bookmark:.0} B; {reopened:.0} B |"
            );
            let _ = writeln!(page, "| an event of a pod; of a namespace | {pod:.0} B; {namespace:.0} B |");
            let _ = writeln!(page, "| an hour in which nothing happens | {idle:.0} kB |");
            let _ = writeln!(
                page,
                "| an hour with {PODS_PER_HOUR} pods replaced ({EVENTS_PER_POD} events each) and \
                 {NAMESPACES_PER_HOUR} namespaces changed | {busy:.0} kB |"
            );
        }
        page
    }

    fn write_cells(&self, page: &mut String) {
        page.push_str("| Pods | Namespaces | resident | anonymous | of files | peak | ready | CPU until ready | listed |\n");
        page.push_str("| --: | --: | --: | --: | --: | --: | --: | --: | --: |\n");
        for cell in &self.cells {
            let memory = cell.memory;
            let [resident, anonymous, files, peak] =
                [memory.resident, memory.anonymous, memory.of_files(), memory.peak]
                    .map(|kib| float(kib) / 1_024.0);
            let [ready, cpu] = [cell.ready, cell.cpu].map(|time| time.as_millis());
            let (pods, namespaces, listed) = (cell.size.pods, cell.size.namespaces, float(cell.listed) / 1e6);
            let _ = writeln!(
                page,
                "| {pods} | {namespaces} | {resident:.1} MiB | {anonymous:.1} MiB | {files:.1} MiB | {peak:.1} MiB | \
                 {ready} ms | {cpu} ms | {listed:.2} MB |"
            );
        }
    }
}

/// `page` with `text` between its markers.
fn spliced(page: &str, text: &str) -> Option<String> {
    let [begin, end] = MARKERS;
    let (before, rest) = page.split_once(begin)?;
    let (_, after) = rest.split_once(end)?;
    Some(format!("{before}{begin}\n\n{}\n\n{end}{after}", text.trim_end()))
}

/// The plane through points (x, y, z) that fits best: dz/dx and dz/dy.
fn slopes(points: &[(f64, f64, f64)]) -> Option<[f64; 2]> {
    let count = points.iter().map(|_| 1.0).sum::<f64>();
    let mean = |of: &dyn Fn(&(f64, f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y, z) = (mean(&|point| point.0), mean(&|point| point.1), mean(&|point| point.2));
    let (xx, yy) = (mean(&|p| (p.0 - x).powi(2)), mean(&|p| (p.1 - y).powi(2)));
    let xy = mean(&|p| (p.0 - x) * (p.1 - y));
    let (xz, yz) = (mean(&|p| (p.0 - x) * (p.2 - z)), mean(&|p| (p.1 - y) * (p.2 - z)));
    let determinant = xx * yy - xy * xy;
    (determinant.abs() > f64::EPSILON)
        .then(|| [(xz * yy - yz * xy) / determinant, (yz * xx - xz * xy) / determinant])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_those_of_the_plane() {
        let plane = |x: f64, y: f64| (x, y, 5.0 + 3.0 * x + 0.5 * y);
        let points = [plane(10.0, 10.0), plane(10.0, 1_000.0), plane(250.0, 10.0), plane(250.0, 1_000.0)];
        let [of_x, of_y] = slopes(&points).unwrap_or_default();
        assert!((of_x - 3.0).abs() < 1e-9 && (of_y - 0.5).abs() < 1e-9, "{of_x} {of_y}");
        assert_eq!(slopes(&points[..2]), None);
    }

    #[test]
    fn only_what_is_between_the_markers_is_replaced() {
        let page = "a\n<!-- begin: scale -->\nold\n<!-- end: scale -->\nb\n";
        let new = spliced(page, "new\n").unwrap_or_default();
        assert_eq!(new, "a\n<!-- begin: scale -->\n\nnew\n\n<!-- end: scale -->\nb\n");
        assert_eq!(spliced(&new, "new\n").as_deref(), Some(&*new));
        assert_eq!(spliced("a", "new"), None);
    }
}
