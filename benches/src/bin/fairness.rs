//! `fairness`: what the neighbour of a hostile pod sees, quiet and under each attack, in turns on one agent.

use anyhow::{Result, bail, ensure};
use clap::Parser;
use rolegate_benches::flags::{LoadFlags, Output, PinFlags};
use rolegate_benches::load::Outcome;
use rolegate_benches::measure::measure;
use rolegate_benches::process::in_the_back;
use rolegate_benches::report::{float, median, micros};
use rolegate_benches::scene::{Scene, Size};
use rolegate_tests::hostile::{Attack, Force, Hostile, Tally};
use rolegate_tests::usage::{Usage, Watch};
use rolegate_tests::world::World;
use serde_json::{Value, json};

/// The latency of one pod's requests for its cached credentials while another pod attacks: every round measures it quiet and
/// under each attack, on the same agent, and the p99 that is compared is the median of the rounds'. A bare hyper server
/// beside the agent, which nobody attacks, shows how much of a difference is the machine's. Ends with 1 when a request of
/// the neighbour fails, or when an attack makes its p99 more than `--most-ratio` times what it is when all is quiet.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    load: LoadFlags,
    #[command(flatten)]
    pins: PinFlags,
    /// Rounds; `--seconds` are spread over them.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Most that an attack may multiply the p99 by.
    #[arg(long, default_value_t = 3.0)]
    most_ratio: f64,
    /// Only these attacks.
    #[arg(long = "attack")]
    attacks: Vec<String>,
    /// A further flag of the agent, such as `--agent-flag=--log-level=warn`.
    #[arg(long = "agent-flag")]
    agent_flags: Vec<String>,
    /// A table for people, or JSON for machines. Progress goes to standard error.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// As many connections as the attack can have; another for each that the agent ends.
const CROWD: Force = Force { connections: 6_000, per_second: 2_000, total: None };

/// Attacks by name.
const ATTACKS: [(&str, Attack, Force); 6] = [
    ("6,000 idle", Attack::Idle, CROWD),
    ("slow headers", Attack::SlowHeaders, CROWD),
    ("endless headers", Attack::LongHeaders, CROWD),
    ("slow bodies", Attack::SlowBodies, CROWD),
    ("slow readers", Attack::SlowReaders, CROWD),
    ("2,000 requests/s", Attack::Requests, CROWD),
];

/// One state of the node, over all rounds.
struct State {
    name: &'static str,
    attack: Option<(Attack, Force)>,
    /// p99 of each round, microseconds: the yardstick's and the agent's.
    p99s: [Vec<f64>; 2],
    /// All rounds together: the yardstick's and the agent's.
    merged: [Outcome; 2],
    tally: Tally,
    most: Usage,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(why) = World::missing() {
        rolegate_tests::skip("fairness", &why);
        return Ok(());
    }
    ensure!(args.rounds > 0, "at least one round");
    let scene = Scene::start(Size { pods: 0, namespaces: 0 }, &args.agent_flags, progress)?;
    args.pins.pin(scene.server_pids())?;
    let mut states = vec![State::new("quiet", None)?];
    for (name, attack, force) in ATTACKS {
        if args.attacks.is_empty() || args.attacks.iter().any(|wanted| name.contains(wanted.as_str())) {
            states.push(State::new(name, Some((attack, force)))?);
        }
    }
    for round in 1..=args.rounds {
        for state in &mut states {
            progress(&format!("round {round} of {}: {}", args.rounds, state.name));
            state.measure(&scene, &args)?;
        }
    }
    progress("cleaning up");
    drop(scene);
    match args.output {
        Output::Json => println!("{:#}", page(&args, &states)),
        Output::Text => print!("{}", table(&states)),
    }
    verdict(&states, args.most_ratio)
}

// === impl State ===

impl State {
    fn new(name: &'static str, attack: Option<(Attack, Force)>) -> Result<Self> {
        let merged = [Outcome::new()?, Outcome::new()?];
        Ok(Self {
            name,
            attack,
            p99s: [Vec::new(), Vec::new()],
            merged,
            tally: Tally::default(),
            most: Usage::default(),
        })
    }

    /// One round of it; afterwards all is quiet again.
    fn measure(&mut self, scene: &Scene, args: &Args) -> Result<()> {
        let seconds = args.load.seconds / f64::from(args.rounds);
        let document =
            scene.scenarios().into_iter().next().map(|scenario| scenario.requests).unwrap_or_default();
        let plan = LoadFlags { seconds, ..args.load.clone() }.plan(scene.targets(), document)?;
        let watch = Watch::start(scene.agent().pid());
        let hostile = self
            .attack
            .map(|(attack, force)| in_the_back(|| Hostile::start(scene.hostile(), attack, force)))
            .transpose()?;
        let rows = scene.in_pod(|| measure(&plan))?;
        if let Some(hostile) = hostile {
            self.tally = self.tally + hostile.tally();
        }
        self.most = self.most.most(watch.most()?);
        for (at, row) in rows.into_iter().enumerate().take(2) {
            self.p99s[at].push(micros(&row.outcome.latency, 0.99));
            self.merged[at].add(row.outcome)?;
        }
        scene
            .agent()
            .poll("the attack is over", || Ok(scene.agent().metric("rolegate_connections_open")? < 1.0))
    }

    /// The median of the rounds' p99.
    fn p99(&self, server: usize) -> f64 {
        median(&self.p99s[server])
    }

    fn agent(&self) -> &Outcome {
        &self.merged[AGENT]
    }
}

/// Places in [`State::merged`].
const BARE: usize = 0;
const AGENT: usize = 1;

fn table(states: &[State]) -> String {
    let mut page = format!(
        "{:<18}{:>8}{:>8}{:>10}{:>10}{:>11}{:>11}{:>12}{:>10}{:>10}{:>9}{:>12}\n",
        "neighbour, while",
        "turns",
        "errors",
        "p50 us",
        "p99 us",
        "p50 ratio",
        "p99 ratio",
        "bare p99 r.",
        "opened",
        "answered",
        "most fds",
        "most anon K"
    );
    let Some(quiet) = states.first() else { return page };
    for state in states {
        page.push_str(&format!(
            "{:<18}{:>8}{:>8}{:>10.1}{:>10.1}{:>11.2}{:>11.2}{:>12.2}{:>10}{:>10}{:>9}{:>12}\n",
            state.name,
            state.agent().latency.len(),
            state.agent().errors,
            micros(&state.agent().latency, 0.5),
            state.p99(AGENT),
            micros(&state.agent().latency, 0.5) / micros(&quiet.agent().latency, 0.5),
            state.p99(AGENT) / quiet.p99(AGENT),
            state.p99(BARE) / quiet.p99(BARE),
            state.tally.opened,
            state.tally.answered,
            state.most.descriptors,
            state.most.anonymous_kib,
        ));
    }
    page
}

fn page(args: &Args, states: &[State]) -> Value {
    let quiet = states.first().map_or(f64::NAN, |quiet| quiet.p99(AGENT));
    let rows: Vec<Value> = states
        .iter()
        .map(|state| {
            json!({
                "state": state.name,
                "turns": state.agent().latency.len(),
                "errors": state.agent().errors,
                "first_error": state.agent().first_error,
                "p50_us": micros(&state.agent().latency, 0.5),
                "p99_us": state.p99(AGENT),
                "p99_us_of_rounds": state.p99s[AGENT],
                "p99_us_of_all": micros(&state.agent().latency, 0.99),
                "max_us": float(state.agent().latency.max()) / 1e3,
                "lateness_p99_us": micros(&state.agent().lateness, 0.99),
                "p99_ratio_to_quiet": state.p99(AGENT) / quiet,
                "bare_p99_us": state.p99(BARE),
                "hostile_opened": state.tally.opened,
                "hostile_failed": state.tally.failed,
                "hostile_answered": state.tally.answered,
                "agent_most_descriptors": state.most.descriptors,
                "agent_most_anonymous_kib": state.most.anonymous_kib,
                "agent_most_resident_kib": state.most.resident_kib,
            })
        })
        .collect();
    json!({
        "rate": args.load.rate,
        "seconds": args.load.seconds,
        "rounds": args.rounds,
        "pinned": !args.pins.unpinned,
        "agent_flags": args.agent_flags,
        "states": rows,
    })
}

fn verdict(states: &[State], most_ratio: f64) -> Result<()> {
    let Some(quiet) = states.first() else { return Ok(()) };
    for state in states {
        let Outcome { errors, first_error, .. } = state.agent();
        if *errors > 0 {
            let first = first_error.as_deref().unwrap_or_default();
            bail!("{}: {errors} requests of the neighbour failed: {first}", state.name);
        }
        let ratio = state.p99(AGENT) / quiet.p99(AGENT);
        if ratio > most_ratio {
            bail!(
                "{}: the neighbour's p99 is {ratio:.2} times that of quiet, more than {most_ratio}",
                state.name
            );
        }
    }
    Ok(())
}

fn progress(what: &str) {
    eprintln!("fairness: {what}");
}
