//! `start`: from the agent's exec to a pod's first own credentials, on a node where pods run and ask already.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::{Parser, ValueEnum};
use rolegate_benches::flags::Output;
use rolegate_benches::report::median;
use rolegate_tests::agent::run_to_end;
use rolegate_tests::kube_api::Pod;
use rolegate_tests::real_api::RealApi;
use rolegate_tests::world::{NODE, Options, RunningPod, World};
use serde_json::{Value, json};
use tokio::time::Instant;

/// A node with pods, in a cluster with namespaces; the guards are up, as the node's unit puts them up before the kubelet; one
/// pod asks all the while. Again and again the agent is started, and ended once the pod has credentials of its own
/// role. Ends with 1 when any request of the pod reached IMDS, or the median is more than `--most-millis`.
#[derive(Parser)]
struct Args {
    /// Starts.
    #[arg(long, default_value_t = 10)]
    starts: u32,
    /// Pods of the node beside the one that asks.
    #[arg(long, default_value_t = 250)]
    pods: u16,
    /// Namespaces of the cluster.
    #[arg(long, default_value_t = 10_000)]
    namespaces: u32,
    /// Which API server; `real` takes a minute or two to be filled.
    #[arg(long, value_enum, default_value_t = Api::Double)]
    api: Api,
    /// Most that the median may be, milliseconds.
    #[arg(long, default_value_t = 530.0)]
    most_millis: f64,
    /// Where the figures go as JSON, whatever is printed.
    #[arg(long, default_value = "target/bench/start.json")]
    file: PathBuf,
    /// A table for people, or JSON for machines. Progress goes to standard error.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Api {
    Double,
    Real,
}

/// Between two tries of the pod: what a try costs is more.
const PAUSE: Duration = Duration::from_millis(2);
/// Nobody waits longer.
const PATIENCE: Duration = Duration::from_secs(60);
const ROLE: &str = "MyPodRole";

fn main() -> Result<()> {
    let args = Args::parse();
    let missing = World::missing().or_else(|| (args.api == Api::Real).then(RealApi::missing)?);
    if let Some(why) = missing {
        rolegate_tests::skip("start", &why);
        return Ok(());
    }
    ensure!(args.starts > 0, "at least one start");
    progress("a node, its cluster, STS and IMDS");
    let world = World::with(&Options { real_api: args.api == Api::Real, ..Options::default() })?;
    progress("namespaces and pods");
    let pod = populate(&world, &args)?;
    let guard = run_to_end(Some(world.topology.node()), &["guard"])?;
    ensure!(guard.status.success(), "guard: {}", String::from_utf8_lossy(&guard.stderr));
    let began = Instant::now();
    let mut millis = Vec::new();
    for n in 1..=args.starts {
        millis.push(start(&world, &pod)?.as_secs_f64() * 1e3);
        progress(&format!("start {n} of {}: {:.0} ms", args.starts, millis.last().unwrap_or(&0.0)));
    }
    let leaks = world.leaks(began).len();
    drop(world);
    let page = page(&args, &millis, leaks);
    if let Some(directory) = args.file.parent() {
        std::fs::create_dir_all(directory)?;
    }
    std::fs::write(&args.file, format!("{page:#}\n"))?;
    match args.output {
        Output::Json => println!("{page:#}"),
        Output::Text => {
            println!("| API server | Pods | Namespaces | Starts | Median ms | Worst ms | Requests at IMDS |");
            println!("| --- | --- | --- | --- | --- | --- | --- |");
            let (median, worst) = (median(&millis), millis.iter().copied().fold(0.0, f64::max));
            let Args { pods, namespaces, starts, api, .. } = &args;
            println!("| {api:?} | {pods} | {namespaces} | {starts} | {median:.0} | {worst:.0} | {leaks} |");
        }
    }
    ensure!(leaks == 0, "{leaks} requests of the pod reached IMDS");
    if median(&millis) > args.most_millis {
        bail!("the median is {:.0} ms, {} are allowed", median(&millis), args.most_millis);
    }
    Ok(())
}

/// Objects that nothing runs behind, and one pod that runs.
fn populate(world: &World, args: &Args) -> Result<RunningPod> {
    world.namespace("default", &[ROLE])?;
    for n in 0..args.namespaces {
        world.namespace(&format!("team-{n}"), &[ROLE])?;
    }
    for n in 0..args.pods {
        let [high, low] = n.to_be_bytes();
        let pod = Pod::new("default", &format!("worker-{n}")).node(NODE).role(ROLE);
        world.cluster.apply_pod(&pod.ip(&Ipv4Addr::new(100, 97, high, low).to_string()))?;
    }
    world.pod("default", "asking", |pod| pod.role(ROLE))
}

/// One start: how long until the pod, which asks all the while, has credentials of its own role.
fn start(world: &World, pod: &RunningPod) -> Result<Duration> {
    let given_up = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            while !given_up.load(Ordering::Relaxed) {
                if pod.imds().credentials().is_ok_and(|document| document["Code"] == "Success") {
                    return Some(Instant::now());
                }
                std::thread::sleep(PAUSE);
            }
            None
        });
        let began = Instant::now();
        let agent = world.start_agent(&["--log-level=info"]);
        while agent.is_ok() && !asking.is_finished() && began.elapsed() < PATIENCE {
            std::thread::sleep(PAUSE);
        }
        given_up.store(true, Ordering::Relaxed);
        let served = asking.join().ok().flatten();
        let agent = agent?;
        agent.sigterm()?;
        agent.wait()?;
        match served {
            Some(at) => Ok(at - began),
            None => bail!("not served within {PATIENCE:?}:\n{}", agent.log()),
        }
    })
}

fn page(args: &Args, millis: &[f64], leaks: usize) -> Value {
    json!({
        "api": format!("{:?}", args.api).to_lowercase(),
        "pods": args.pods,
        "namespaces": args.namespaces,
        "starts_ms": millis,
        "median_ms": median(millis),
        "requests_at_imds": leaks,
    })
}

fn progress(what: &str) {
    eprintln!("start: {what}");
}
