//! `herd`: how long 250 pods of 25 session keys wait when all ask a cold agent at once.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use rolegate_benches::flags::{Output, PinFlags};
use rolegate_benches::report::median;
use rolegate_tests::crowd::{Crowd, PODS, ROLES};
use rolegate_tests::sts::Fault;
use rolegate_tests::world::{Options, World};
use serde_json::{Value, json};

/// 250 pods with 25 session keys ask in the same moment for credentials that nobody has yet, again and again, each time an
/// agent that has just started. Ends with 1 when a pod does not get keys of its own role, when STS is called more often
/// than there are keys, or when the p99 (the median of the herds') is more than `--most-millis`.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    pins: PinFlags,
    /// Herds, each with an agent of its own.
    #[arg(long, default_value_t = 10)]
    herds: u32,
    /// What STS takes for an answer, milliseconds.
    #[arg(long, default_value_t = 150)]
    sts_millis: u64,
    /// Most that the p99 may be, milliseconds.
    #[arg(long, default_value_t = 250.0)]
    most_millis: f64,
    /// A table for people, or JSON for machines. Progress goes to standard error.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// What one herd saw.
struct Herd {
    p50_millis: f64,
    p99_millis: f64,
    max_millis: f64,
    calls: usize,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(why) = World::missing() {
        rolegate_tests::skip("herd", &why);
        return Ok(());
    }
    ensure!(args.herds > 0, "at least one herd");
    progress("a node, its cluster, STS and IMDS");
    let world = World::with(&Options::default())?;
    let crowd = Crowd::join(&world)?;
    world.sts.faults().every(Some(Fault::Delay(Duration::from_millis(args.sts_millis))));
    let mut herds = Vec::new();
    for n in 1..=args.herds {
        progress(&format!("herd {n} of {}", args.herds));
        herds.push(Herd::run(&world, &crowd, &args.pins)?);
    }
    progress("cleaning up");
    drop(crowd);
    drop(world);
    match args.output {
        Output::Json => println!("{:#}", page(&args, &herds)),
        Output::Text => print!("{}", table(&herds)),
    }
    verdict(&args, &herds)
}

// === impl Herd ===

impl Herd {
    fn run(world: &World, crowd: &Crowd, pins: &PinFlags) -> Result<Self> {
        let agent = world.agent(&["--prefetch=false", "--log-level=info"])?;
        pins.pin([agent.pid().as_raw()])?;
        let before = world.sts.assume_role_calls();
        let answers = crowd.ask_at_once()?;
        let calls = world.sts.assume_role_calls() - before;
        for answer in &answers {
            answer.is_served(world)?;
        }
        let mut millis: Vec<f64> = answers.iter().map(|answer| answer.took.as_secs_f64() * 1e3).collect();
        millis.sort_by(f64::total_cmp);
        // Of 250, the 125th, the 248th and the last.
        let place = |hundredths: usize| (millis.len() * hundredths).div_ceil(100).saturating_sub(1);
        let at = |hundredths| millis.get(place(hundredths)).copied().context("nobody asked");
        Ok(Self { p50_millis: at(50)?, p99_millis: at(99)?, max_millis: at(100)?, calls })
    }
}

fn middle(herds: &[Herd], figure: impl Fn(&Herd) -> f64) -> f64 {
    median(&herds.iter().map(figure).collect::<Vec<_>>())
}

fn table(herds: &[Herd]) -> String {
    let mut page =
        format!("{:<8}{:>10}{:>10}{:>10}{:>11}\n", "herd", "p50 ms", "p99 ms", "max ms", "STS calls");
    for (n, herd) in herds.iter().enumerate() {
        let Herd { p50_millis, p99_millis, max_millis, calls } = herd;
        page.push_str(&format!(
            "{:<8}{p50_millis:>10.1}{p99_millis:>10.1}{max_millis:>10.1}{calls:>11}\n",
            n + 1
        ));
    }
    let (p50, p99) = (middle(herds, |herd| herd.p50_millis), middle(herds, |herd| herd.p99_millis));
    let max = middle(herds, |herd| herd.max_millis);
    page.push_str(&format!("{:<8}{p50:>10.1}{p99:>10.1}{max:>10.1}\n", "median"));
    page
}

fn page(args: &Args, herds: &[Herd]) -> Value {
    let rows: Vec<Value> = herds
        .iter()
        .map(|herd| {
            json!({
                "p50_ms": herd.p50_millis,
                "p99_ms": herd.p99_millis,
                "max_ms": herd.max_millis,
                "sts_calls": herd.calls,
            })
        })
        .collect();
    json!({
        "pods": PODS,
        "session_keys": ROLES,
        "sts_ms": args.sts_millis,
        "pinned": !args.pins.unpinned,
        "median_p99_ms": middle(herds, |herd| herd.p99_millis),
        "herds": rows,
    })
}

fn verdict(args: &Args, herds: &[Herd]) -> Result<()> {
    if let Some(herd) = herds.iter().find(|herd| herd.calls != usize::from(ROLES)) {
        bail!("{} calls to STS for {ROLES} session keys", herd.calls);
    }
    let p99 = middle(herds, |herd| herd.p99_millis);
    if p99 > args.most_millis {
        bail!("the p99 of a herd is {p99:.1} ms, more than {}", args.most_millis);
    }
    Ok(())
}

fn progress(what: &str) {
    eprintln!("herd: {what}");
}
