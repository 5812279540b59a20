//! `e2e`: the agent and the servers that it is compared with, and what requests cost with each.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;
use nix::unistd::Pid;
use rolegate_benches::figures::{Job, Memory, Run, Syscalls};
use rolegate_benches::flags::{Output, PinFlags};
use rolegate_benches::machine::Machine;
use rolegate_benches::page::tables;
use rolegate_benches::rounds::Order;
use rolegate_benches::scene::Size;
use rolegate_benches::stage::Stage;
use rolegate_benches::syscalls;
use rolegate_tests::usage::Usage;
use rolegate_tests::world::World;

/// The agent under each capture, bare hyper servers that are reached alike, nginx, a blocking accept loop and, where
/// `KUBE2IAM_BIN` names it, kube2iam: all give a pod the same bytes, in one run. Open loop, one connection per request,
/// latency counted from the time a request was due. Needs root (or a user namespace: tests/tools/as-root.sh).
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    pins: PinFlags,
    /// Turns per second of every scenario. A prime is never in step with the ticks by which the kernel tells user time from
    /// its own.
    #[arg(long, default_value_t = 503)]
    rate: u32,
    /// Further rates of scenario `document`.
    #[arg(long, value_delimiter = ',', default_values_t = [1_511, 3_011])]
    rates: Vec<u32>,
    /// Slices that each server has of scenario `document`; of others and at other rates fewer.
    #[arg(long, default_value_t = 10)]
    rounds: u32,
    /// Seconds of a slice that are counted.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Seconds before.
    #[arg(long, default_value_t = 0.1)]
    warm_up: f64,
    /// Connections open at once.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Further pods of each node: objects only.
    #[arg(long, default_value_t = 250)]
    pods: u16,
    /// Further namespaces of each cluster.
    #[arg(long, default_value_t = 10_000)]
    namespaces: u32,
    /// Only these scenarios.
    #[arg(long = "scenario")]
    scenarios: Vec<String>,
    /// Only these servers, such as `agent` and `hyper`.
    #[arg(long = "server")]
    servers: Vec<String>,
    /// A further flag of every agent, such as `--agent-flag=--log-format=json`.
    #[arg(long = "agent-flag")]
    agent_flags: Vec<String>,
    /// A table for people, or JSON for machines. Progress goes to standard error.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// After `document`, in their order.
const OTHERS: [&str; 5] = ["list+document", "token", "sdk", "keep-alive", "passthrough"];

/// Of all rounds of `document` at the usual rate: one of so many elsewhere.
const FEWER: u32 = 2;

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(why) = World::missing() {
        rolegate_tests::skip("e2e", &why);
        return Ok(());
    }
    let size = Size { pods: args.pods, namespaces: args.namespaces };
    let stage = Stage::start(size, &args.agent_flags, progress)?;
    args.pins.pin(stage.pids())?;
    let mut jobs = Vec::new();
    for (scenario, rate, rounds) in args.plan() {
        progress(&format!("{scenario} at {rate}/s, {rounds} rounds"));
        jobs.push(args.order(scenario, rate, rounds)?.run(&stage, |id| args.wants(id))?);
    }
    let run = args.figures(&stage, jobs)?;
    progress("cleaning up");
    drop(stage);
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&run)?),
        Output::Text => print!("{}", tables::everything(&run)),
    }
    let servers = run.jobs.iter().flat_map(|job| &job.servers);
    let failed: Vec<_> =
        servers.filter_map(|server| Some((&server.id, server.first_error.as_ref()?))).collect();
    ensure!(failed.is_empty(), "requests failed: {failed:?}");
    Ok(())
}

// === impl Args ===

impl Args {
    fn wants(&self, id: &str) -> bool {
        self.servers.is_empty() || self.servers.iter().any(|wanted| wanted == id)
    }

    /// Scenarios, rates and rounds.
    fn plan(&self) -> Vec<(&str, u32, u32)> {
        let fewer = self.rounds.div_ceil(FEWER);
        let mut plan = vec![("document", self.rate, self.rounds)];
        plan.extend(self.rates.iter().map(|rate| ("document", *rate, fewer)));
        plan.extend(OTHERS.map(|scenario| (scenario, self.rate, fewer)));
        plan.retain(|(scenario, ..)| {
            self.scenarios.is_empty() || self.scenarios.iter().any(|wanted| wanted == scenario)
        });
        plan
    }

    fn order<'a>(&self, scenario: &'a str, rate: u32, rounds: u32) -> Result<Order<'a>> {
        Ok(Order {
            scenario,
            rate,
            rounds,
            slice: Duration::try_from_secs_f64(self.seconds)?,
            warm_up: Duration::try_from_secs_f64(self.warm_up)?,
            connections: self.connections,
        })
    }

    fn figures(&self, stage: &Stage, jobs: Vec<Job>) -> Result<Run> {
        let memory = stage.variants().iter().filter(|variant| self.wants(variant.id)).map(|variant| {
            let usage = Usage::of(Pid::from_raw(variant.target.pid.unwrap_or_default()))?;
            Ok(Memory {
                id: variant.id.to_owned(),
                label: variant.label.to_owned(),
                resident_kib: usage.resident_kib,
                anonymous_kib: usage.anonymous_kib,
            })
        });
        Ok(Run {
            machine: Machine::here()?,
            pods: self.pods,
            namespaces: self.namespaces,
            pinned: !self.pins.unpinned,
            slice_seconds: self.seconds,
            jobs,
            memory: memory.collect::<Result<_>>()?,
            syscalls: self.syscalls(stage)?,
            binary_bytes: stage.binary_bytes()?,
            skipped: stage.skipped().to_vec(),
        })
    }

    fn syscalls(&self, stage: &Stage) -> Result<Vec<Syscalls>> {
        if let Some(why) = syscalls::missing() {
            progress(&format!("calls to the kernel are not counted: {why}"));
            return Ok(Vec::new());
        }
        progress("calls to the kernel, counted");
        let wanted = stage.variants().iter().filter(|variant| self.wants(variant.id));
        let duration = Duration::try_from_secs_f64(self.seconds)?;
        let counted = wanted.filter_map(|variant| match syscalls::count(stage, variant, duration) {
            Ok(counted) => Some(counted),
            // Not every machine lets its root trace.
            Err(error) => {
                progress(&format!("{}: not counted: {error:#}", variant.id));
                None
            }
        });
        Ok(counted.collect())
    }
}

fn progress(what: &str) {
    eprintln!("e2e: {what}");
}
