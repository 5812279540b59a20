//! `e2e`: the agent on a node of its own beside a bare hyper server, and how they compare.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::Parser;
use rolegate_benches::flags::{LoadFlags, Output, PinFlags};
use rolegate_benches::measure::measure;
use rolegate_benches::report::{Row, table, to_json};
use rolegate_benches::scene::{Scenario, Scene, Size};
use rolegate_tests::usage::Usage;
use rolegate_tests::world::World;
use serde_json::{Value, json};

/// The latency of the agent, end to end: a pod's packets, the node's rules, the agent's release build, beside
/// a bare hyper server that gives the same bytes behind a rule of its own, both in one run in changing order.
/// Open loop, one connection per request, latency counted from the time a request was due. Needs root (or a
/// user namespace: tests/tools/as-root.sh).
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    load: LoadFlags,
    #[command(flatten)]
    pins: PinFlags,
    /// Further pods of the node: objects only.
    #[arg(long, default_value_t = 0)]
    pods: u16,
    /// Further namespaces of the cluster.
    #[arg(long, default_value_t = 0)]
    namespaces: u32,
    /// Only these scenarios.
    #[arg(long = "scenario")]
    scenarios: Vec<String>,
    /// A further flag of the agent, such as `--agent-flag=--log-level=warn` or `--agent-flag=--redirect=route`.
    #[arg(long = "agent-flag")]
    agent_flags: Vec<String>,
    /// A table for people, or JSON for machines. Progress goes to standard error.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(why) = World::missing() {
        rolegate_tests::skip("e2e", &why);
        return Ok(());
    }
    let size = Size { pods: args.pods, namespaces: args.namespaces };
    let scene = Scene::start(size, &args.agent_flags, progress)?;
    let at_start = Usage::of(scene.agent().pid())?;
    args.pins.pin(scene.server_pids())?;
    let mut figures = Vec::new();
    for scenario in scene.scenarios() {
        if args.scenarios.is_empty() || args.scenarios.iter().any(|wanted| wanted == scenario.name) {
            figures.push((scenario.name, run(&scene, &args, scenario)?));
        }
    }
    let memory = BTreeMap::from([("at_start", at_start), ("after_load", Usage::of(scene.agent().pid())?)]);
    let binary_bytes = scene.binary_bytes()?;
    progress("cleaning up");
    drop(scene);
    match args.output {
        Output::Json => println!("{:#}", page(&args, &figures, &memory, binary_bytes)),
        Output::Text => {
            for (name, rows) in &figures {
                println!("{name}\n{}", table(rows));
            }
            for (when, Usage { resident_kib, anonymous_kib, .. }) in &memory {
                println!("agent {when}: resident {resident_kib} KiB, of it anonymous {anonymous_kib} KiB");
            }
            println!("agent's binary: {binary_bytes} bytes");
        }
    }
    Ok(())
}

type Figures = (&'static str, Vec<Row>);

fn run(scene: &Scene, args: &Args, scenario: Scenario) -> Result<Vec<Row>> {
    progress(&format!("{} for {} s", scenario.name, args.load.warm_up + args.load.seconds));
    let plan = args.load.plan(scene.targets(), scenario.requests)?;
    scene.in_pod(|| measure(&plan))
}

fn page(args: &Args, figures: &[Figures], memory: &BTreeMap<&str, Usage>, binary_bytes: u64) -> Value {
    let memory: BTreeMap<_, _> = memory
        .iter()
        .map(|(when, memory)| {
            (*when, json!({"resident_kib": memory.resident_kib, "anonymous_kib": memory.anonymous_kib}))
        })
        .collect();
    let scenarios: Vec<Value> =
        figures.iter().map(|(name, rows)| json!({"name": name, "servers": to_json(rows)})).collect();
    json!({
        "rate": args.load.rate,
        "seconds": args.load.seconds,
        "pinned": !args.pins.unpinned,
        "further_pods": args.pods,
        "further_namespaces": args.namespaces,
        "agent_flags": args.agent_flags,
        "scenarios": scenarios,
        "agent_memory": memory,
        "agent_binary_bytes": binary_bytes,
    })
}

fn progress(what: &str) {
    eprintln!("e2e: {what}");
}
