//! A node with the agent and other servers on it, side by side: the same pod reaches all of them, each in a way of its own
//! that is like the agent's.

mod servers;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::{Result, ensure};
use rolegate_tests::agent::{Agent, binary};
use rolegate_tests::hostile::LARGE;
use rolegate_tests::http::{Client, Response};
use rolegate_tests::imds::ImdsConfig;
use rolegate_tests::kube_api::Pod;
use rolegate_tests::netns::NetNs;
use rolegate_tests::topology::{PodNet, imds_v4};
use rolegate_tests::world::{NODE, Options, RunningPod, World};

use self::servers::Answers;
pub use self::servers::{Kind, Server, Way};
use crate::load::Target;

const NAMESPACE: &str = "default";
const ROLE: &str = "MyPodRole";
/// The role that attacks ask for.
const HOSTILE_ROLE: &str = "OtherRole";
/// The largest text that the agent takes from IMDS, bytes.
const LARGEST_TEXT: usize = 64 * 1024;
const TOKEN_PATH: &str = "/latest/api/token";
const LIST_PATH: &str = "/latest/meta-data/iam/security-credentials/";
const INSTANCE_PATH: &str = "/latest/meta-data/instance-id";
const TOKEN_SECONDS: u32 = 21_600;
/// Objects around the pods that are measured: as many fit under 100.97.0.0/16.
const MOST_PODS: u16 = 10_000;

/// Everything that is measured, running.
pub struct Scene {
    // In this order they end: the pod's link before the node.
    servers: Vec<Server>,
    agent: Agent,
    pod: RunningPod,
    hostile: RunningPod,
    _other: RunningPod,
    answers: Answers,
    world: World,
}

/// What is sent in a turn, and what it is called.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// As the report calls it.
    pub name: &'static str,
    /// One after the other.
    pub requests: Vec<Vec<u8>>,
    /// Clients would have their connections kept.
    pub keep: bool,
}

/// How large the cluster is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Pods of the node that only exist as objects.
    pub pods: u16,
    /// Namespaces beside the pods' own.
    pub namespaces: u32,
}

// === impl Scene ===

impl Scene {
    /// Starts the world, the agent with `flags` as well as the usual ones, three pods, and the yardstick, which is reached
    /// as the agent is.
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
        let answers = Answers {
            document: client.imds().document(ROLE, &token)?,
            list: client.imds().role_list(&token)?,
            token,
        };
        let servers = Vec::new();
        let mut scene = Self { servers, agent, pod: client, hostile, _other: other, answers, world };
        progress("the yardstick");
        let way = if routes(flags) { Way::Route } else { Way::Dnat };
        scene.add(Kind::Hyper, way)?;
        Ok(scene)
    }

    /// Starts a further server and compares what it answers with what the agent does.
    ///
    /// # Errors
    /// When it does not start, or answers something else.
    pub fn add(&mut self, kind: Kind, way: Way) -> Result<()> {
        let place = u8::try_from(self.servers.len())?;
        let server = Server::start(&self.world, &self.pod.net, &self.answers, (kind, way), place)?;
        self.check_answers(kind, &server)?;
        self.servers.push(server);
        Ok(())
    }

    /// What is measured.
    #[must_use]
    pub fn scenarios(&self) -> Vec<Scenario> {
        let closing = "Connection: close\r\n";
        let list = self.get(LIST_PATH, closing);
        let document = self.get(&document_path(), closing);
        let kept = self.get(&document_path(), "");
        let put = format!(
            "PUT {TOKEN_PATH} HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n\
             X-aws-ec2-metadata-token-ttl-seconds: {TOKEN_SECONDS}\r\nContent-Length: 0\r\n\r\n"
        )
        .into_bytes();
        let scenario = |name, requests| Scenario { name, requests, keep: false };
        vec![
            scenario("document", vec![document.clone()]),
            scenario("list+document", vec![list.clone(), document.clone()]),
            scenario("token", vec![put.clone()]),
            scenario("sdk", vec![put, list, document]),
            Scenario { keep: true, ..scenario("keep-alive", vec![kept]) },
        ]
    }

    /// What the agent asks IMDS for on a pod's behalf, and what IMDS is asked itself: without a token, which
    /// it did not make.
    #[must_use]
    pub fn passthrough(&self) -> Scenario {
        let ask =
            format!("GET {INSTANCE_PATH} HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n\r\n");
        Scenario { name: "passthrough", requests: vec![ask.into_bytes()], keep: false }
    }

    /// The yardstick and the agent, in this order.
    #[must_use]
    pub fn targets(&self) -> Vec<Target> {
        let target = |name: &str, addr, pid| Target { name: name.to_owned(), addr, pid: Some(pid) };
        let bare = self.servers.first().map(|bare| target("bare", bare.addr(), bare.pid()));
        bare.into_iter().chain([target("agent", imds_v4(), self.agent_pid())]).collect()
    }

    /// The agent.
    #[must_use]
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// What runs beside it, the yardstick first.
    #[must_use]
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// The network of the pod that asks.
    #[must_use]
    pub fn pod(&self) -> &NetNs {
        self.pod.net.ns()
    }

    /// The node's own network, from where IMDS itself is reached.
    #[must_use]
    pub fn node(&self) -> &NetNs {
        self.world.topology.node()
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

    /// The processes of all servers.
    #[must_use]
    pub fn server_pids(&self) -> Vec<i32> {
        self.servers.iter().map(Server::pid).chain([self.agent_pid()]).collect()
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

    fn get(&self, path: &str, connection: &str) -> Vec<u8> {
        format!(
            "GET {path} HTTP/1.1\r\nHost: 169.254.169.254\r\n{connection}\
             X-aws-ec2-metadata-token: {}\r\n\r\n",
            self.answers.token
        )
        .into_bytes()
    }

    /// Both give the same bytes, but for dates, the token and its seconds; not all have the same headers.
    fn check_answers(&self, kind: Kind, server: &Server) -> Result<()> {
        for Scenario { name, requests, .. } in self.scenarios().into_iter().filter(|scenario| !scenario.keep)
        {
            for request in requests {
                let ask = |addr| Client::new(self.pod(), addr).raw(&request);
                let (agent, other) = (shape(&ask(imds_v4())?), shape(&ask(server.addr())?));
                let alike = match kind {
                    Kind::Hyper => agent == other,
                    Kind::Blocking | Kind::Nginx { .. } => (agent.0, agent.2) == (other.0, other.2),
                    // It makes documents of its own, and its sessions are called otherwise.
                    Kind::Kube2iam => agent.0 == other.0,
                };
                ensure!(alike, "{name}: the agent answers {agent:?}, {kind:?} {other:?}");
            }
        }
        Ok(())
    }
}

/// As it is in a cluster: information lines of text, and no more.
fn start_agent(world: &World, flags: &[String]) -> Result<Agent> {
    let mut args = world.usual_flags();
    let other_capture = routes(flags);
    args.retain(|flag| !(flag.starts_with("--log-") || other_capture && flag == "--iptables"));
    args.extend_from_slice(flags);
    let agent = Agent::start(world.topology.node(), &args, &world.environment())?;
    agent.ready()?;
    Ok(agent)
}

/// Whether these flags ask for another capture than `iptables`.
fn routes(flags: &[String]) -> bool {
    flags.iter().any(|flag| flag.starts_with("--redirect="))
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
