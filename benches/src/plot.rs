//! The plots of docs/performance.md, drawn from the figures of a run.

use crate::figures::{Job, Run, Server};
use crate::report::float;
use crate::stage::{AGENT, AGENT_QUIET, AGENT_ROUTE, BLOCKING, HYPER, HYPER_ROUTE, KUBE2IAM, NGINX};
use crate::svg::{Anchor, Logarithmic, Picture, WIDTH};

/// Servers that are drawn, in the order of their strokes: the agents in one colour, hyper in another.
const DRAWN: [&str; 8] = [AGENT, AGENT_ROUTE, AGENT_QUIET, HYPER, HYPER_ROUTE, NGINX, BLOCKING, KUBE2IAM];
/// The stroke of each.
const STROKE: [usize; 8] = [0, 1, 2, 3, 4, 6, 8, 9];

/// The plane of a diagram, pixels.
const LEFT: f64 = 70.0;
const RIGHT: f64 = WIDTH - 260.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 340.0;
const HEIGHT: f64 = 392.0;

/// All plots: names of files, and what is in them. Those that there are no figures for are left out.
#[must_use]
pub fn all(run: &Run) -> Vec<(&'static str, String)> {
    let mut plots = Vec::new();
    if let Some(job) = run.scenario("document") {
        plots.push(("latency.svg", latency(job)));
        plots.push(("cpu.svg", cpu(&documents(run))));
        plots.push(("rates.svg", rates(&documents(run))));
    }
    plots
}

/// Jobs of a document by rate.
fn documents(run: &Run) -> Vec<&Job> {
    let mut jobs: Vec<_> = run.jobs.iter().filter(|job| job.scenario == "document").collect();
    jobs.sort_by_key(|job| job.rate);
    jobs
}

/// Those of a job that are drawn, with their strokes.
fn drawn(job: &Job) -> impl Iterator<Item = (usize, &Server)> {
    DRAWN.iter().zip(STROKE).filter_map(|(id, stroke)| Some((stroke, job.server(id)?)))
}

fn latency(job: &Job) -> String {
    let title = format!("Latency of a cached document by percentile, {} requests a second", job.rate);
    let mut picture = Picture::new(
        HEIGHT,
        &title,
        &described(job, |server| {
            format!("p50 {:.0}, p99 {:.0} microseconds", server.latency_us.p50, server.latency_us.p99)
        }),
    );
    let figures = drawn(job).flat_map(|(_, server)| server.distribution.iter().map(|(_, micros)| *micros));
    let down = vertical(&mut picture, figures);
    // Each nine takes as much room as the one before.
    let across = |percentile: f64| LEFT - (1.0 - percentile / 100.0).log10() / 3.0 * (RIGHT - LEFT);
    for percentile in [0.0, 50.0, 90.0, 99.0, 99.9] {
        picture.grid((across(percentile), TOP), (across(percentile), BOTTOM));
        picture.text((across(percentile), BOTTOM + 18.0), Anchor::Middle, &format!("p{percentile}"));
    }
    for (place, (stroke, server)) in drawn(job).enumerate() {
        let points: Vec<_> = server
            .distribution
            .iter()
            .map(|(percentile, micros)| (across(*percentile), down.at(*micros)))
            .collect();
        picture.curve(stroke, &points);
        legend(&mut picture, place, stroke, server);
    }
    picture.text(
        (LEFT, HEIGHT - 12.0),
        Anchor::Start,
        "Microseconds from when a request was due to the last byte",
    );
    picture.finish()
}

fn rates(jobs: &[&Job]) -> String {
    let Some(first) = jobs.first() else { return String::new() };
    let mut picture = Picture::new(
        HEIGHT,
        "Median latency of a cached document by rate",
        &described(first, |server| {
            format!("{:.0} microseconds at {} a second", server.latency_us.p50, first.rate)
        }),
    );
    let figures =
        jobs.iter().flat_map(|job| drawn(job).map(|(_, server)| server.latency_us.p50).collect::<Vec<_>>());
    let down = vertical(&mut picture, figures);
    let most = jobs.iter().map(|job| job.rate).max().unwrap_or(1);
    let across = |rate: u32| LEFT + f64::from(rate) / f64::from(most) * (RIGHT - LEFT);
    for job in jobs {
        picture.grid((across(job.rate), TOP), (across(job.rate), BOTTOM));
        picture.text((across(job.rate), BOTTOM + 18.0), Anchor::Middle, &format!("{}/s", job.rate));
    }
    for (place, (stroke, server)) in drawn(first).enumerate() {
        let points: Vec<_> = jobs
            .iter()
            .filter_map(|job| Some((across(job.rate), down.at(job.server(&server.id)?.latency_us.p50))))
            .collect();
        picture.curve(stroke, &points);
        legend(&mut picture, place, stroke, server);
    }
    picture.text(
        (LEFT, HEIGHT - 12.0),
        Anchor::Start,
        "Microseconds; all servers have one core, the client another",
    );
    picture.finish()
}

/// Bars by server and rate; what is the server's own code is dark, the kernel's share faint.
fn cpu(jobs: &[&Job]) -> String {
    const BAR: f64 = 16.0;
    const NAMES: f64 = 250.0;
    let Some(first) = jobs.first() else { return String::new() };
    let servers: Vec<_> = drawn(first).collect();
    let group = BAR * float(jobs.len() as u64) + 10.0;
    let height = TOP + group * float(servers.len() as u64) + 34.0;
    let mut picture = Picture::new(
        height,
        "CPU time per request of a cached document",
        &described(first, |server| {
            format!("{:.0} microseconds at {} a second", server.cpu_us.unwrap_or_default(), first.rate)
        }),
    );
    let figures = jobs.iter().flat_map(|job| job.servers.iter().filter_map(|server| server.cpu_us));
    let most = figures.fold(1.0, f64::max);
    let scale = (WIDTH - NAMES - 150.0) / most;
    let mut y = TOP;
    for (stroke, server) in servers {
        picture.text((NAMES - 8.0, y + BAR - 4.0), Anchor::End, &server.label);
        for job in jobs {
            let Some((cpu, server)) =
                job.server(&server.id).and_then(|server| Some((server.cpu_us?, server)))
            else {
                continue;
            };
            let own = cpu * server.user_share.unwrap_or_default();
            picture.bar(stroke, (NAMES, y), (own * scale, BAR - 2.0), false);
            picture.bar(stroke, (NAMES + own * scale, y), ((cpu - own) * scale, BAR - 2.0), true);
            let told = format!("{cpu:.0} us at {}/s", job.rate);
            picture.text((NAMES + cpu * scale + 6.0, y + BAR - 4.0), Anchor::Start, &told);
            y += BAR;
        }
        y += 10.0;
    }
    picture.text(
        (NAMES, height - 12.0),
        Anchor::Start,
        "dark: the server's own code; faint: the kernel for it",
    );
    picture.finish()
}

/// A scale for these microseconds, with its grid.
fn vertical(picture: &mut Picture, figures: impl Iterator<Item = f64>) -> Logarithmic {
    let (least, most) = figures
        .filter(|figure| *figure > 0.0)
        .fold((f64::MAX, 1.0_f64), |(least, most), figure| (least.min(figure), most.max(figure)));
    let least = least.min(most / 2.0);
    let down = Logarithmic { values: (least * 0.9, most * 1.1), places: (BOTTOM, TOP) };
    for tick in down.ticks() {
        picture.grid((LEFT, down.at(tick)), (RIGHT, down.at(tick)));
        picture.text((LEFT - 6.0, down.at(tick) + 4.0), Anchor::End, &format!("{tick}"));
    }
    down
}

fn legend(picture: &mut Picture, place: usize, stroke: usize, server: &Server) {
    let y = TOP + 14.0 + 22.0 * float(place as u64);
    picture.legend(stroke, (RIGHT + 14.0, y), &server.label);
}

/// For those who cannot see it.
fn described(job: &Job, figure: impl Fn(&Server) -> String) -> String {
    let told: Vec<_> =
        drawn(job).map(|(_, server)| format!("{}: {}", server.label, figure(server))).collect();
    told.join("; ")
}
