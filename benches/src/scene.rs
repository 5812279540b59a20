//! A node with the agent and the yardstick on it, side by side: the same pod reaches both, each through a rule
//! of the node that redirects an address on port 80 to the server's port.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rolegate_tests::agent::{Agent, binary};
use rolegate_tests::hostile::LARGE;
use rolegate_tests::http::{Client, Response};
use rolegate_tests::imds::ImdsConfig;
use rolegate_tests::kube_api::Pod;
use rolegate_tests::topology::{NODE_V4, PodNet, imds_v4};
use rolegate_tests::world::{NODE, Options, RunningPod, World};

use crate::load::Target;

/// Redirected to the yardstick as 169.254.169.254 is to the agent.
const BARE_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 253);
const BARE_PORT: u16 = 8182;
const NAMESPACE: &str = "default";
const ROLE: &str = "MyPodRole";
/// The role that attacks ask for.
const HOSTILE_ROLE: &str = "OtherRole";
/// The largest text that the agent takes from IMDS, bytes.
const LARGEST_TEXT: usize = 64 * 1024;
const TOKEN_PATH: &str = "/latest/api/token";
const LIST_PATH: &str = "/latest/meta-data/iam/security-credentials/";
const TOKEN_SECONDS: u32 = 21_600;
/// Objects around the pods that are measured: as many fit under 100.97.0.0/16.
const MOST_PODS: u16 = 10_000;

/// Everything that is measured, running.
pub struct Scene {
    // In this order they end: the pod's link before the node.
    bare: Bare,
    agent: Agent,
    pod: RunningPod,
    hostile: RunningPod,
    _other: RunningPod,
    token: String,
    _world: World,
}

/// What is sent in a turn, and what it is called.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// As the report calls it.
    pub name: &'static str,
    /// One after the other.
    pub requests: Vec<Vec<u8>>,
}

/// How large the cluster is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Pods of the node that only exist as objects.
    pub pods: u16,
    /// Namespaces beside the pods' own.
    pub namespaces: u32,
}

/// The yardstick's process. Dropping it ends it.
struct Bare {
    child: Child,
    _bodies: tempfile::TempDir,
}

// === impl Scene ===

impl Scene {
    /// Starts the world, the agent with `flags` as well as the usual ones, three pods, and the yardstick.
    /// `progress` hears what is being done.
    ///
    /// # Errors
    /// When a part does not start, or the agent and the yardstick do not give the same answers.
    pub fn start(size: Size, flags: &[String], progress: impl Fn(&str)) -> Result<Self> {
        progress("the agent's binary");
        binary()?;
        progress("a node, its cluster, STS and IMDS");
        let leaves = BTreeMap::from([(LARGE.to_owned(), "x".repeat(LARGEST_TEXT))]);
        let imds = ImdsConfig { leaves, ..ImdsConfig::default() };
        let world = World::with(&Options { imds, ..Options::default() })?;
        world.namespace(NAMESPACE, &[ROLE, HOSTILE_ROLE])?;
        populate(&world, size)?;
        progress("the agent");
        let agent = start_agent(&world, flags)?;
        let pod = |name, role| world.pod(NAMESPACE, name, |pod| pod.role(role));
        let (client, hostile) = (pod("client", ROLE)?, pod("hostile", HOSTILE_ROLE)?);
        let other = pod("other", ROLE)?;
        for pod in [&client, &hostile] {
            let document = pod.imds().credentials()?;
            ensure!(document["Code"] == "Success", "{document}");
        }
        let token = client.imds().imds_token(TOKEN_SECONDS)?;
        progress("the yardstick");
        let bare = Bare::start(&world, &client, &token)?;
        let scene = Self { bare, agent, pod: client, hostile, _other: other, token, _world: world };
        scene.check_answers()?;
        Ok(scene)
    }

    /// What is measured.
    #[must_use]
    pub fn scenarios(&self) -> Vec<Scenario> {
        let list = self.get(LIST_PATH);
        let document = self.get(&document_path());
        let put = format!(
            "PUT {TOKEN_PATH} HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n\
             X-aws-ec2-metadata-token-ttl-seconds: {TOKEN_SECONDS}\r\nContent-Length: 0\r\n\r\n"
        );
        vec![
            Scenario { name: "document", requests: vec![document.clone()] },
            Scenario { name: "list+document", requests: vec![list, document] },
            Scenario { name: "token", requests: vec![put.into_bytes()] },
        ]
    }

    /// The yardstick and the agent, in this order.
    #[must_use]
    pub fn targets(&self) -> Vec<Target> {
        let target = |name: &str, addr, pid| Target {
            name: name.to_owned(),
            addr: SocketAddr::V4(addr),
            pid: Some(pid),
        };
        let at = |ip| std::net::SocketAddrV4::new(ip, 80);
        let agent = at(rolegate_tests::topology::IMDS_V4);
        vec![target("bare", at(BARE_V4), self.bare.pid()), target("agent", agent, self.agent_pid())]
    }

    /// The agent.
    #[must_use]
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// The network of a pod that may do harm.
    #[must_use]
    pub fn hostile(&self) -> &Arc<PodNet> {
        &self.hostile.net
    }

    /// The agent's process.
    #[must_use]
    pub fn agent_pid(&self) -> i32 {
        self.agent.pid().as_raw()
    }

    /// The processes of both servers.
    #[must_use]
    pub fn server_pids(&self) -> Vec<i32> {
        self.targets().iter().filter_map(|target| target.pid).collect()
    }

    /// Size of the agent's binary, bytes.
    ///
    /// # Errors
    /// When it is gone.
    pub fn binary_bytes(&self) -> Result<u64> {
        Ok(std::fs::metadata(binary()?)?.len())
    }

    /// Runs `work` on a thread in the pod's network.
    ///
    /// # Errors
    /// What `work` returns; when the network is gone.
    pub fn in_pod<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.pod.net.ns().inside(work)?
    }

    fn get(&self, path: &str) -> Vec<u8> {
        format!(
            "GET {path} HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n\
             X-aws-ec2-metadata-token: {}\r\n\r\n",
            self.token
        )
        .into_bytes()
    }

    /// Both give the same bytes, but for dates, the token and its seconds.
    fn check_answers(&self) -> Result<()> {
        for Scenario { name, requests } in self.scenarios() {
            for request in requests {
                let agent = Client::new(self.pod.net.ns(), imds_v4()).raw(&request)?;
                let bare = Client::new(self.pod.net.ns(), (BARE_V4, 80).into()).raw(&request)?;
                let (agent, bare) = (shape(&agent), shape(&bare));
                ensure!(agent == bare, "{name}: the agent answers {agent:?}, the yardstick {bare:?}");
            }
        }
        Ok(())
    }
}

// === impl Bare ===

impl Bare {
    /// Starts it with the answers that `pod` gets from the agent, and a rule that leads to it.
    fn start(world: &World, pod: &RunningPod, token: &str) -> Result<Self> {
        let node = world.topology.node();
        let document = pod.imds().document(ROLE, token)?;
        let bodies = tempfile::tempdir()?;
        let write = |name: &str, body: &[u8]| -> Result<PathBuf> {
            let file = bodies.path().join(name);
            std::fs::write(&file, body)?;
            Ok(file)
        };
        let list = write("list", &pod.imds().role_list(token)?.body)?;
        let answer = write("token", token.as_bytes())?;
        let mut command = node.command(std::env::current_exe()?.with_file_name("bare-hyper"));
        command.arg(format!("--listen={NODE_V4}:{BARE_PORT}"));
        command.arg("--body").arg(write("document", &document.body)?);
        command.arg(format!("--other={LIST_PATH}={}", list.display()));
        command.arg(format!("--other={TOKEN_PATH}={}", answer.display()));
        for (name, value) in &document.headers {
            if !["date", "content-length"].contains(&name.to_ascii_lowercase().as_str()) {
                command.arg(format!("--header={name}: {value}"));
            }
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("bare-hyper")?;
        let mut bare = Self { child, _bodies: bodies };
        let mut line = String::new();
        if let Some(stdout) = bare.child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        ensure!(!line.is_empty(), "bare-hyper has ended");
        let to = format!("{NODE_V4}:{BARE_PORT}");
        let rule = format!(
            "-w -t nat -A PREROUTING -d {BARE_V4}/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination {to}"
        );
        node.run("iptables-nft", &rule.split(' ').collect::<Vec<_>>())?;
        Ok(bare)
    }

    fn pid(&self) -> i32 {
        // A pid is a pid_t.
        i32::try_from(self.child.id()).unwrap_or_default()
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As it is in a cluster: information lines of text, and no more.
fn start_agent(world: &World, flags: &[String]) -> Result<Agent> {
    let mut args = world.usual_flags();
    let other_capture = flags.iter().any(|flag| flag.starts_with("--redirect="));
    args.retain(|flag| !(flag.starts_with("--log-") || other_capture && flag == "--iptables"));
    args.extend_from_slice(flags);
    let agent = Agent::start(world.topology.node(), &args, &world.environment())?;
    agent.ready()?;
    Ok(agent)
}

/// Objects that nothing runs behind.
fn populate(world: &World, size: Size) -> Result<()> {
    for n in 0..size.namespaces {
        world.namespace(&format!("team-{n}"), &[ROLE])?;
    }
    ensure!(size.pods <= MOST_PODS, "{MOST_PODS} pods at most");
    for n in 0..size.pods {
        let [high, low] = n.to_be_bytes();
        let pod = Pod::new(NAMESPACE, &format!("worker-{n}")).node(NODE).role(ROLE);
        world.cluster.apply_pod(&pod.ip(&Ipv4Addr::new(100, 97, high, low).to_string()))?;
    }
    Ok(())
}

fn document_path() -> String {
    format!("{LIST_PATH}{ROLE}")
}

/// What must be alike in two answers.
fn shape(response: &Response) -> (u16, Vec<(String, usize)>, usize) {
    let mut headers: Vec<_> =
        response.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.len())).collect();
    headers.sort();
    (response.status, headers, response.body.len())
}
