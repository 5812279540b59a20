//! `latency`: sends to several servers in turn, in one run, and prints how they compare.
//!
//! Runs wherever it is started, such as in a pod's network namespace: `ip netns exec POD latency ...`.

use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use rolegate_benches::flags::LoadFlags;
use rolegate_benches::load::Target;
use rolegate_benches::measure::measure;
use rolegate_benches::process::{pin_process, pin_self};
use rolegate_benches::report::{Row, table, to_json};

/// Open-loop latency of several servers in one run: one connection per request, constant rate, latency
/// counted from the time a request was due. Ratios are to the first target.
#[derive(Parser)]
struct Args {
    /// `NAME=ADDRESS:PORT[@PID]`; with a PID, CPU per request is measured too.
    #[arg(required = true)]
    targets: Vec<Target>,
    #[command(flatten)]
    load: LoadFlags,
    /// Path that is asked for.
    #[arg(long, default_value = "/latest/meta-data/iam/security-credentials/MyPodRole")]
    path: String,
    /// Further header line, such as `X-aws-ec2-metadata-token: ...`.
    #[arg(long = "header")]
    headers: Vec<String>,
    /// Cores of this program.
    #[arg(long, value_delimiter = ',')]
    cores: Vec<usize>,
    /// Cores that the targets' processes are bound to.
    #[arg(long, value_delimiter = ',')]
    server_cores: Vec<usize>,
    /// Write the figures as JSON to this file (`-`: standard output, instead of the table).
    #[arg(long)]
    output: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if !args.cores.is_empty() {
        pin_self(&args.cores)?;
    }
    if !args.server_cores.is_empty() {
        for pid in args.targets.iter().filter_map(|target| target.pid) {
            pin_process(pid, &args.server_cores)?;
        }
    }
    let requests = vec![request(&args)];
    let plan = args.load.plan(args.targets, requests)?;
    let rows = measure(&plan)?;
    show(&rows, args.output)
}

fn request(args: &Args) -> Vec<u8> {
    let mut text = format!("GET {} HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n", args.path);
    for header in &args.headers {
        text.push_str(header);
        text.push_str("\r\n");
    }
    text.push_str("\r\n");
    text.into_bytes()
}

fn show(rows: &[Row], output: Option<PathBuf>) -> anyhow::Result<()> {
    let json = format!("{:#}\n", to_json(rows));
    match output {
        Some(path) if path.as_os_str() == "-" => print!("{json}"),
        Some(path) => {
            print!("{}", table(rows));
            std::fs::write(&path, json).with_context(|| format!("{}", path.display()))?;
        }
        None => print!("{}", table(rows)),
    }
    Ok(())
}
