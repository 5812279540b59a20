//! `captures`: what the way to the server costs under each capture, and nothing else.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use rolegate_benches::flags::{LoadFlags, Output, PinFlags};
use rolegate_benches::load::Target;
use rolegate_benches::measure::measure;
use rolegate_benches::report::{table, to_json};
use rolegate_tests::netns;
use rolegate_tests::topology::{Backend, NODE_V4, Topology};

/// The port that `direct` and `iptables` come to.
const PORT: u16 = 8182;
/// Stand in for 169.254.169.254, so that all ways are open at once.
const BY_IPTABLES: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 253);
const BY_ROUTE: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 252);
/// As long as a document.
const BODY_BYTES: usize = 900;

/// The ways of a pod's request to one server on the node, in one run and in changing order: to the node's own address,
/// by a DNAT rule as of capture `iptables`, and by policy routing to a transparent listener as of capture `route`.
/// Open loop, one connection per request, latency counted from the time a request was due. Needs root (or a user
/// namespace: tests/tools/as-root.sh).
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    load: LoadFlags,
    #[command(flatten)]
    pins: PinFlags,
    /// A table for people, or JSON for machines. Progress goes to standard error.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// The server's process. Dropping it ends it.
struct Server(Child);

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(why) = netns::missing() {
        rolegate_tests::skip("captures", &why);
        return Ok(());
    }
    let topology = Topology::with_backend(Backend::Nft)?;
    let pod = topology.routed_pod("client", Ipv4Addr::new(100, 96, 1, 11), None)?;
    capture(&topology)?;
    let server = Server::start(&topology)?;
    let pid = i32::try_from(server.0.id())?;
    args.pins.pin([pid])?;
    // Twice, so that the table shows what is chance.
    let ways = [
        ("direct", NODE_V4, PORT),
        ("direct again", NODE_V4, PORT),
        ("iptables", BY_IPTABLES, 80),
        ("route", BY_ROUTE, 80),
    ];
    let target = |(name, ip, port): (&str, Ipv4Addr, u16)| Target {
        name: name.to_owned(),
        addr: SocketAddr::from((ip, port)),
        pid: None,
    };
    let request = b"GET / HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n\r\n".to_vec();
    let plan = args.load.plan(ways.map(target).to_vec(), vec![request])?;
    eprintln!("captures: {} s", args.load.warm_up + args.load.seconds);
    let rows = pod.ns().inside(|| measure(&plan))??;
    match args.output {
        Output::Json => println!("{:#}", to_json(&rows)),
        Output::Text => print!("{}", table(&rows)),
    }
    ensure!(rows.iter().all(|row| row.outcome.errors == 0), "requests failed");
    Ok(())
}

/// As the agent makes them, for other addresses.
fn capture(topology: &Topology) -> Result<()> {
    let node = topology.node();
    let rule = format!(
        "-w -t nat -I PREROUTING -d {BY_IPTABLES}/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination {NODE_V4}:{PORT}"
    );
    node.run("iptables-nft", &rule.split(' ').collect::<Vec<_>>())?;
    node.ip(&format!(
        "rule add pref 3 to {BY_ROUTE} lookup 43518\nroute add local {BY_ROUTE} dev lo table 43518\n"
    ))
}

// === impl Server ===

impl Server {
    fn start(topology: &Topology) -> Result<Self> {
        let bodies = tempfile::tempdir()?;
        let body = bodies.path().join("body");
        std::fs::write(&body, vec![b'x'; BODY_BYTES])?;
        let mut command = topology.node().command(std::env::current_exe()?.with_file_name("bare-hyper"));
        command.arg(format!("--listen={NODE_V4}:{PORT}")).arg(format!("--transparent={BY_ROUTE}:80"));
        command.arg("--body").arg(&body).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut server = Self(command.spawn().context("bare-hyper")?);
        let mut line = String::new();
        if let Some(stdout) = server.0.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        ensure!(!line.is_empty(), "bare-hyper has ended");
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
