//! `instructions`: what a request costs in instructions and allocations, from accept to close, and whether that is within the budget.

#[path = "instructions/allocations.rs"]
mod allocations;
#[path = "instructions/serve.rs"]
mod serve;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use rolegate_benches::budget::{Budget, Cost, Here};
use rolegate_tests::netns::{self, NetNs};
use rolegate_tests::topology::IMDS_V4;
use serde_json::json;

use serve::{BARE, LIST_PATH, MARK, POD, RECORD, ROLE, TOKEN_PATH};

#[global_allocator]
static COUNTED: allocations::Counted = allocations::Counted;

/// Longest that a server under valgrind may take for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Counts instructions (valgrind's callgrind) and allocations of a request, from accept to close, of the agent's server with
/// its log and of a bare hyper server that gives the same bytes: real connections of a pod in a network namespace, one for
/// each request, one after the other, servers on one thread. Needs root (or a user namespace: tests/tools/as-root.sh).
#[derive(Parser)]
struct Args {
    /// Requests that are counted of each kind.
    #[arg(long, default_value_t = 300)]
    requests: u32,
    /// Compare with this file, and end with 1 where it is exceeded.
    #[arg(long)]
    budget: Option<PathBuf>,
    /// Count allocations only: no valgrind is needed.
    #[arg(long)]
    allocations: bool,
    /// Say where one request of each kind allocates.
    #[arg(long)]
    sites: bool,
    /// Keep callgrind's files in this directory, for `callgrind_annotate`.
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Figures as JSON.
    #[arg(long)]
    json: bool,
    /// The server's side: what this program starts.
    #[arg(long, hide = true)]
    serve: bool,
}

/// The node with the servers, and the pod that asks them.
struct Scene {
    server: Server,
    pod: NetNs,
    _node: NetNs,
}

/// The process that is counted. Dropping it ends it.
struct Server {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    /// Callgrind's files, and how many there are.
    counts: Option<(PathBuf, u32)>,
}

/// What was counted between two marks.
struct Count {
    instructions: u64,
    allocations: u64,
    sites: String,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    if args.serve {
        serve::serve()?;
        return Ok(ExitCode::SUCCESS);
    }
    let missing = netns::missing().or_else(|| (!args.allocations).then(valgrind_missing)?);
    if let Some(why) = missing {
        rolegate_tests::skip("instructions", &why);
        return Ok(ExitCode::SUCCESS);
    }
    let directory = tempfile::tempdir()?;
    let keep = args.keep.clone().unwrap_or_else(|| directory.path().to_owned());
    std::fs::create_dir_all(&keep)?;
    let mut scene = Scene::start((!args.allocations).then_some(keep.as_path()))?;
    let costs = scene.measure(&args)?;
    drop(scene);
    if args.json {
        println!("{:#}", json!(costs));
    } else {
        print!("{}", rolegate_benches::budget::table(&costs));
    }
    let Some(file) = &args.budget else { return Ok(ExitCode::SUCCESS) };
    let judgement = Budget::read(file)?.judge(&costs, &Here::now()?);
    print!("{judgement}");
    Ok(if judgement.is_exceeded() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn valgrind_missing() -> Option<String> {
    let found =
        Command::new("valgrind").arg("--version").output().is_ok_and(|output| output.status.success());
    (!found).then(|| {
        "`valgrind` is not installed (tests/tools/setup.sh): instructions are not counted".to_owned()
    })
}

// === impl Scene ===

impl Scene {
    fn start(counts: Option<&Path>) -> Result<Self> {
        let (node, pod) = (NetNs::create("node")?, NetNs::create("pod")?);
        let address = format!("100.96.0.{POD}");
        node.ip(&format!(
            "addr add {IMDS_V4}/32 dev lo\n\
             addr add {BARE}/32 dev lo\n\
             link add pod type veth peer name eth0 netns {pod}\n\
             link set pod up\n\
             route add {address}/32 dev pod\n",
            pod = pod.name(),
        ))?;
        pod.ip(&format!("addr add {address}/32 dev eth0\nlink set eth0 up\nroute add default dev eth0\n"))?;
        Ok(Self { server: Server::start(&node, counts)?, pod, _node: node })
    }

    fn measure(&mut self, args: &Args) -> Result<Vec<Cost>> {
        let put = "PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n\
                   X-aws-ec2-metadata-token-ttl-seconds: 21600\r\nContent-Length: 0\r\n\r\n";
        ensure!(put.contains(TOKEN_PATH), "one path");
        let token = self.ask(IMDS_V4, put, 1)?;
        let token = token.rsplit("\r\n").next().context("a token")?.to_owned();
        let get = |path: &str| {
            format!(
                "GET {path} HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n\
                 X-aws-ec2-metadata-token: {token}\r\n\r\n"
            )
        };
        let document = get(&format!("{LIST_PATH}{ROLE}"));
        let mut costs = Vec::new();
        for (name, request) in [("document", document.as_str()), ("list", &get(LIST_PATH)), ("token", put)] {
            let (bare, agent) = (self.ask(BARE, request, 1)?, self.ask(IMDS_V4, request, 1)?);
            ensure!(bare.len() == agent.len(), "{name}: different answers\n{bare}\n\n{agent}");
            let bare = self.count(args, BARE, request)?;
            let agent = self.count(args, IMDS_V4, request)?;
            if args.sites {
                println!("{name}: bare hyper\n{}\n{name}: the agent\n{}", bare.sites, agent.sites);
            }
            let each = |total: u64| total / u64::from(args.requests);
            // Reading the mark itself allocates a little, which is rounded away.
            costs.push(Cost {
                scenario: name.to_owned(),
                instructions: each(agent.instructions),
                bare_instructions: each(bare.instructions),
                allocations: each(agent.allocations),
                bare_allocations: each(bare.allocations),
            });
        }
        Ok(costs)
    }

    fn count(&mut self, args: &Args, server: Ipv4Addr, request: &str) -> Result<Count> {
        // As much again beforehand: buffers and caches have their sizes.
        self.ask(server, request, args.requests)?;
        let before = self.server.mark("count")?;
        self.ask(server, request, args.requests)?;
        let after = self.server.mark(if args.sites { RECORD } else { "count" })?;
        let mut sites = String::new();
        if args.sites {
            self.ask(server, request, 1)?;
            sites = self.server.mark("count")?.sites;
        }
        Ok(Count {
            instructions: after.instructions,
            allocations: after.allocations - before.allocations,
            sites,
        })
    }

    /// Asks so often, on a connection each, one after the other. The last answer.
    fn ask(&self, server: Ipv4Addr, request: &str, times: u32) -> Result<String> {
        let to = SocketAddr::from((server, 80));
        self.pod.inside(|| {
            let mut answer = String::new();
            for _ in 0..times {
                answer.clear();
                let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.write_all(request.as_bytes())?;
                stream.read_to_string(&mut answer)?;
                ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            }
            Ok(answer)
        })?
    }
}

// === impl Server ===

impl Server {
    fn start(node: &NetNs, counts: Option<&Path>) -> Result<Self> {
        let this = std::env::current_exe()?;
        let mut command = match counts {
            Some(directory) => {
                let mut valgrind = node.command("valgrind");
                let out = directory.join("counts");
                valgrind.args(["--tool=callgrind", "--quiet"]);
                valgrind.arg(format!("--dump-before={MARK}"));
                valgrind.arg(format!("--callgrind-out-file={}", out.display()));
                valgrind.arg(this);
                valgrind
            }
            None => node.command(this),
        };
        let log = tempfile::tempfile()?;
        let mut child = command
            .arg("--serve")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("the servers cannot be started")?;
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else { bail!("no pipes") };
        let counts = counts.map(|directory| (directory.join("counts"), 0));
        let mut server = Self { child, to, from: BufReader::new(from), counts };
        let line = server.line()?;
        ensure!(line == "ready", "the servers have ended");
        Ok(server)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    /// Ends one count and begins the next: what there was since the last one.
    fn mark(&mut self, word: &str) -> Result<Count> {
        writeln!(self.to, "{word}")?;
        let line = self.line()?;
        let (allocations, sites) = line.split_once(' ').context("the servers have ended")?;
        let sites: String = serde_json::from_str(sites).unwrap_or_default();
        let instructions = match &mut self.counts {
            Some((file, parts)) => {
                *parts += 1;
                total(&file.with_extension(parts.to_string()))?
            }
            None => 0,
        };
        Ok(Count { instructions, allocations: allocations.parse()?, sites })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What one of callgrind's files adds up to.
fn total(file: &Path) -> Result<u64> {
    let opened = File::open(file).with_context(|| format!("{} was not written", file.display()))?;
    for line in BufReader::new(opened).lines() {
        if let Some(total) = line?.strip_prefix("summary: ") {
            return Ok(total.trim().parse()?);
        }
    }
    bail!("{} has no summary", file.display())
}
