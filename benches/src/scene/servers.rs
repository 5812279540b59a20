//! Servers beside the agent: each a process of its own on the node, with a way of its own from the pod to it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rolegate_tests::http::{Client, Response};
use rolegate_tests::netns::on_path;
use rolegate_tests::service::Service;
use rolegate_tests::topology::{NODE_V4, PodNet};
use rolegate_tests::world::{ACCOUNT, NODE, World};

use super::{LIST_PATH, TOKEN_PATH};

/// The first server's port on the node; the next ones have the next.
const FIRST_PORT: u16 = 8190;
/// Stands in for 169.254.169.254 before the first server; the next ones have the next below.
const FIRST_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 253);
/// The preference of rules and the table for [`Way::Route`]; none of the agent's.
const PREFERENCE: u16 = 5;
const TABLE: u16 = 43_999;
/// Longest that a server may take to start: kube2iam lists a cluster first.
const PATIENCE: Duration = Duration::from_secs(30);
/// Names kube2iam's program.
const KUBE2IAM: &str = "KUBE2IAM_BIN";

/// What a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// hyper, which knows nothing.
    Hyper,
    /// One thread of the standard library's.
    Blocking,
    /// nginx with one worker: `return 200`.
    Nginx {
        /// As it does by default: a line to a file for each request.
        logs: bool,
    },
    /// kube2iam itself, where there is one.
    Kube2iam,
}

/// How a pod's packets come to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// They are sent to the node's own address.
    Direct,
    /// By a DNAT rule as of capture `iptables`.
    Dnat,
    /// By policy routing to a transparent listener as of capture `route`.
    Route,
}

/// A running server. Dropping it ends it.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    pid: i32,
    _process: Service,
    _files: tempfile::TempDir,
}

/// What the agent answers, for servers that are to answer alike.
pub(super) struct Answers {
    pub(super) document: Response,
    pub(super) list: Response,
    pub(super) token: String,
}

// === impl Kind ===

impl Kind {
    /// What this machine lacks for it, if anything.
    #[must_use]
    pub fn missing(self) -> Option<String> {
        match self {
            Self::Nginx { .. } if !on_path("nginx") => Some("nginx is not installed".into()),
            Self::Kube2iam if std::env::var_os(KUBE2IAM).is_none() => {
                Some(format!("{KUBE2IAM} does not name its program"))
            }
            Self::Nginx { .. } | Self::Kube2iam | Self::Hyper | Self::Blocking => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Hyper => "bare-hyper",
            Self::Blocking => "bare-blocking",
            Self::Nginx { .. } => "nginx",
            Self::Kube2iam => "kube2iam",
        }
    }
}

// === impl Server ===

impl Server {
    /// Starts the `place`th server of a node, and makes the way to it from pod `net`.
    pub(super) fn start(
        world: &World,
        net: &PodNet,
        answers: &Answers,
        (kind, way): (Kind, Way),
        place: u8,
    ) -> Result<Self> {
        ensure!(way != Way::Route || kind == Kind::Hyper, "only bare-hyper listens transparently");
        let node = world.topology.node();
        let port = FIRST_PORT + u16::from(place);
        let [a, b, c, last] = FIRST_V4.octets();
        let stand_in = Ipv4Addr::new(a, b, c, last - place);
        let listen = SocketAddr::from((NODE_V4, port));
        let addr = match way {
            Way::Direct => listen,
            Way::Dnat | Way::Route => SocketAddr::from((stand_in, 80)),
        };
        let files = tempfile::tempdir()?;
        let mut command = match kind {
            Kind::Hyper | Kind::Blocking => yardstick(kind, world, answers, listen, files.path())?,
            Kind::Nginx { logs } => nginx(world, answers, listen, logs, files.path())?,
            Kind::Kube2iam => kube2iam(world, listen)?,
        };
        match way {
            Way::Direct => {}
            Way::Dnat => {
                let rule = format!(
                    "-w -t nat -A PREROUTING -d {stand_in}/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination {listen}"
                );
                node.run("iptables-nft", &rule.split(' ').collect::<Vec<_>>())?;
            }
            Way::Route => {
                command.arg(format!("--transparent={addr}"));
                node.ip(&format!(
                    "rule add pref {PREFERENCE} to {stand_in} lookup {TABLE}\n\
                     route add local {stand_in} dev lo table {TABLE}\n"
                ))?;
            }
        }
        let log = std::fs::File::create(files.path().join("output"))?;
        let mut process = Service::start(kind.name(), &mut command, Some(log))?;
        let client = Client::new(net.ns(), addr);
        process
            .wait_until(PATIENCE, || client.connect().is_ok())
            .with_context(|| std::fs::read_to_string(files.path().join("output")).unwrap_or_default())?;
        let pid = i32::try_from(process.id())?;
        let pid = if matches!(kind, Kind::Nginx { .. }) { only_child(pid)? } else { pid };
        Ok(Self { addr, pid, _process: process, _files: files })
    }

    /// Where the pod finds it.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The process that answers.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }
}

/// `bare-hyper` and `bare-blocking` have the same flags.
fn yardstick(
    kind: Kind,
    world: &World,
    answers: &Answers,
    listen: SocketAddr,
    files: &Path,
) -> Result<Command> {
    let program = std::env::current_exe()?.with_file_name(kind.name());
    let mut command = world.topology.node().command(program);
    command.arg(format!("--listen={listen}"));
    command.arg("--body").arg(written(files, "document", &answers.document.body)?);
    let list = written(files, "list", &answers.list.body)?;
    let token = written(files, "token", answers.token.as_bytes())?;
    command.arg(format!("--other={LIST_PATH}={}", list.display()));
    command.arg(format!("--other={TOKEN_PATH}={}", token.display()));
    for (name, value) in &answers.document.headers {
        // These follow from the request and the body.
        if !["connection", "content-length", "date"].contains(&name.to_ascii_lowercase().as_str()) {
            command.arg(format!("--header={name}: {value}"));
        }
    }
    Ok(command)
}

/// With its defaults but for what a process of ours needs: files of its own, no daemon.
fn nginx(world: &World, answers: &Answers, listen: SocketAddr, logs: bool, files: &Path) -> Result<Command> {
    let location = |path: &str, body: &[u8]| -> Result<String> {
        let body = std::str::from_utf8(body)?;
        ensure!(!body.contains(['$', '\'', '\\']), "nginx would read {body:?} as something else");
        Ok(format!("location {path} {{ return 200 '{body}'; }}\n"))
    };
    let dir = files.display();
    let log = if logs { format!("{dir}/access.log") } else { "off".into() };
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {dir}/{what};\n"))
        .concat();
    let locations = [
        location(&format!("= {LIST_PATH}"), &answers.list.body)?,
        location(&format!("= {TOKEN_PATH}"), answers.token.as_bytes())?,
        location("/", &answers.document.body)?,
    ]
    .concat();
    let config = format!(
        "daemon off;\nuser root;\nworker_processes 1;\npid {dir}/pid;\n\
         events {{}}\n\
         http {{\naccess_log {log};\ndefault_type text/plain;\n{temporary}\
         server {{\nlisten {listen};\n{locations}}}\n}}\n"
    );
    let config = written(files, "nginx.conf", config.as_bytes())?;
    let mut command = world.topology.node().command("nginx");
    command.arg("-e").arg(files.join("error.log")).arg("-c").arg(config).arg("-p").arg(files);
    Ok(command)
}

/// With the flags of its README; it has no others for an API server outside of a cluster.
fn kube2iam(world: &World, listen: SocketAddr) -> Result<Command> {
    let program = std::env::var_os(KUBE2IAM).context(KUBE2IAM)?;
    let mut command = world.topology.node().command(program);
    command
        .arg(format!("--api-server={}", world.cluster.url()))
        .arg(format!("--api-token={}", world.cluster.token()))
        .arg("--insecure")
        .arg(format!("--node={NODE}"))
        .arg(format!("--host-ip={}", listen.ip()))
        .arg(format!("--app-port={}", listen.port()))
        .arg(format!("--metrics-port={}", listen.port()))
        .arg(format!("--base-role-arn=arn:aws:iam::{ACCOUNT}:role/"))
        .envs(world.environment())
        .env("AWS_REGION", "eu-central-1");
    Ok(command)
}

fn written(files: &Path, name: &str, text: &[u8]) -> Result<PathBuf> {
    let file = files.join(name);
    std::fs::write(&file, text)?;
    Ok(file)
}

/// The worker of a master.
fn only_child(pid: i32) -> Result<i32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .with_context(|| format!("children of process {pid}"))?;
    let children: Vec<&str> = children.split_whitespace().collect();
    let [child] = children[..] else { anyhow::bail!("not one worker but {}", children.len()) };
    Ok(child.parse()?)
}
