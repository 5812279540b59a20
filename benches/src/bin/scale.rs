//! `scale`: what the agent takes and how fast it is, by pods of its node and namespaces of its cluster.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Parser;
use rolegate_benches::flags::Output;
use rolegate_benches::scale::cell::Cell;
use rolegate_benches::scale::memory::Memory;
use rolegate_benches::scale::page::Page;
use rolegate_benches::scale::servable::Servable;
use rolegate_benches::scale::size::Size;
use rolegate_benches::scale::stage::Stage;
use rolegate_benches::scale::traffic::Traffic;
use rolegate_tests::agent::{Agent, binary};
use rolegate_tests::world::World;

/// Memory, time to ready and bytes from the API server of the agent's release build, started anew on a node of so many pods in
/// a cluster of so many namespaces; in the last and largest cluster also what comes of the API server in an hour, and how
/// soon an event of a watch is served. Objects are as large as a real API server sends them; 25 session keys are fetched
/// ahead. Needs root (or a user namespace: tests/tools/as-root.sh).
#[derive(Parser)]
struct Args {
    /// Pods of the node.
    #[arg(long, value_delimiter = ',', default_value = "10,110,1000,250")]
    pods: Vec<u32>,
    /// Namespaces of the cluster.
    #[arg(long, value_delimiter = ',', default_value = "10,1000,10000")]
    namespaces: Vec<u32>,
    /// Events of each kind that are timed.
    #[arg(long, default_value_t = 200)]
    events: u32,
    /// A table for people, or JSON for machines. Progress goes to standard error.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Where the JSON goes as well.
    #[arg(long, default_value = "target/bench/scale.json")]
    json: PathBuf,
    /// A page whose section is written anew, such as docs/performance.md.
    #[arg(long)]
    docs: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(why) = World::missing() {
        rolegate_tests::skip("scale", &why);
        return Ok(());
    }
    ensure!(!args.pods.is_empty() && !args.namespaces.is_empty(), "at least one size");
    let mut page = Page { binary: std::fs::metadata(binary()?)?.len(), ..Page::default() };
    progress("a node, its cluster, STS and IMDS");
    let mut stage = Stage::new()?;
    let mut last = None;
    for &namespaces in &args.namespaces {
        for &pods in &args.pods {
            progress(&format!("{pods} pods, {namespaces} namespaces"));
            drop(last.take());
            stage.resize(Size { pods, namespaces })?;
            let (cell, agent) = Cell::measure(&stage)?;
            page.cells.push(cell);
            last = Some(agent);
        }
    }
    if let Some(agent) = last {
        watch(&stage, &agent, args.events, &mut page)?;
    }
    progress("cleaning up");
    drop(stage);
    page.cells.sort_by_key(|cell| (cell.size.namespaces, cell.size.pods));
    show(&args, &page)
}

/// What can be seen of an agent that runs.
fn watch(stage: &Stage, agent: &Agent, events: u32, page: &mut Page) -> Result<()> {
    progress("bytes watched");
    page.traffic = Some(Traffic::measure(stage.world(), agent, stage.size())?);
    progress("pods that appear");
    page.servable.push(("a pod appears", Servable::of_pods(stage, agent, events)?));
    progress("namespaces that appear");
    page.servable.push(("a namespace appears", Servable::of_namespaces(stage, agent, events)?));
    page.later = Some(Memory::of(agent.pid().as_raw())?);
    Ok(())
}

fn show(args: &Args, page: &Page) -> Result<()> {
    if let Some(directory) = args.json.parent() {
        std::fs::create_dir_all(directory)?;
    }
    std::fs::write(&args.json, format!("{:#}\n", page.json()))?;
    if let Some(docs) = &args.docs {
        page.write_into(docs)?;
    }
    match args.output {
        Output::Json => println!("{:#}", page.json()),
        Output::Text => print!("{}", page.text()),
    }
    Ok(())
}

fn progress(what: &str) {
    eprintln!("scale: {what}");
}
