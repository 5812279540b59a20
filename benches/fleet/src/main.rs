//! `fleet`: what fleets of nodes ask of STS, and how long they wait where it throttles.

mod page;
mod section;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use rolegate_fleet::{Fleet, QUOTA, Restart, Tally};

/// Plays fleets of nodes on a paused clock, with the agent's own index, policy, prefetch and broker on each, and a double
/// of STS that counts. The same figures each time: all chance comes from seeds. Takes some minutes.
#[derive(Parser)]
struct Args {
    /// Only fleets of so many nodes or fewer.
    #[arg(long, default_value_t = 1_000)]
    most_nodes: u64,
    /// Write the tables into this page, between its markers.
    #[arg(long, value_name = "PAGE", num_args = 0..=1, default_missing_value = "docs/performance.md")]
    docs: Option<PathBuf>,
    /// Where the figures go as JSON, whatever is printed.
    #[arg(long, default_value = "target/bench/fleet.json")]
    file: PathBuf,
    /// What is printed: tables for people, or JSON for machines. Progress goes to standard error.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// A fleet, and what came of it.
pub(crate) struct Cell {
    pub(crate) fleet: Fleet,
    pub(crate) tally: Tally,
}

const HOUR: Duration = Duration::from_secs(3_600);
/// STS's shortest session.
const SHORT: Duration = Duration::from_secs(15 * 60);
/// Between two tenths of the nodes in a rolling restart.
const RESTART_EVERY: Duration = Duration::from_secs(30);
/// One pod in so many asks from the start on.
const ONE_ASKS_IN: usize = 10;

fn main() -> Result<()> {
    let args = Args::parse();
    let small = |fleet: &Fleet| fleet.nodes <= args.most_nodes;
    let unlimited = play(unlimited().into_iter().filter(small).collect())?;
    let limited = play(limited().into_iter().filter(small).collect())?;
    let json = page::json(&unlimited, &limited);
    if let Some(directory) = args.file.parent() {
        std::fs::create_dir_all(directory)?;
    }
    std::fs::write(&args.file, format!("{json:#}\n")).with_context(|| args.file.display().to_string())?;
    let tables = page::tables(&unlimited, &limited);
    match args.output {
        Output::Json => println!("{json:#}"),
        Output::Text => print!("{tables}"),
    }
    match &args.docs {
        Some(page) => section::write(page, "fleet", &tables),
        None => Ok(()),
    }
}

/// STS gives all that it is asked for.
fn unlimited() -> Vec<Fleet> {
    let mut fleets = Vec::new();
    for (session, all_roles) in [(HOUR, [5, 25, 100].as_slice()), (SHORT, &[25])] {
        for nodes in [10_u16, 100, 1_000] {
            for roles in all_roles.iter().copied() {
                let (lasts, at) = times(usize::from(nodes) * roles);
                fleets.push(Fleet {
                    nodes: nodes.into(),
                    roles,
                    session,
                    lasts,
                    quota: None,
                    one_asks_in: ONE_ASKS_IN,
                    restart: Some(Restart { at, every: RESTART_EVERY }),
                });
            }
        }
    }
    fleets
}

/// How long so many session keys are followed, and when their agents are restarted: a day, or as long as is done in a
/// minute or so. Whole rounds of refreshes are counted for the mean, of which each is like the other.
fn times(keys: usize) -> (Duration, Duration) {
    match keys {
        ..=2_500 => (24 * HOUR, 12 * HOUR),
        2_501..=10_000 => (6 * HOUR, 3 * HOUR),
        _ => (HOUR, HOUR * 2 / 3),
    }
}

/// STS throttles beyond the quota: fleets whose start is more than that. Two rounds of refreshes.
fn limited() -> Vec<Fleet> {
    [(100, 25), (100, 100), (1_000, 5), (1_000, 25), (1_000, 100)]
        .map(|(nodes, roles)| Fleet {
            nodes,
            roles,
            session: HOUR,
            lasts: HOUR / 2,
            quota: Some(QUOTA),
            one_asks_in: ONE_ASKS_IN,
            restart: None,
        })
        .into()
}

/// Plays them on two threads; in their order.
fn play(fleets: Vec<Fleet>) -> Result<Vec<Cell>> {
    let half = |first: usize, fleets: &[Fleet]| -> Result<Vec<Cell>> {
        let mine = fleets.iter().skip(first).step_by(2);
        mine.map(|fleet| {
            let tally = fleet.run()?;
            eprintln!("fleet: {} nodes, {} roles: {} calls", fleet.nodes, fleet.roles, tally.calls());
            Ok(Cell { fleet: fleet.clone(), tally })
        })
        .collect()
    };
    let (even, odd) = std::thread::scope(|scope| {
        let other = scope.spawn(|| half(1, &fleets));
        (half(0, &fleets), other.join())
    });
    let mut odd = odd.map_err(|_| anyhow::anyhow!("a fleet panicked"))??.into_iter();
    Ok(even?.into_iter().flat_map(|cell| [Some(cell), odd.next()]).flatten().collect())
}
