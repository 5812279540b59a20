//! A node under siege: nobody has hardened it, and pods of both kinds ask both addresses of IMDS for the node's own
//! credentials all the time, from before the first agent's start.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use tokio::time::Instant;

use crate::agent::Agent;
use crate::http::Client;
use crate::imds::{ImdsConfig, NODE_MARKER};
use crate::topology::{Backend, imds_v4, imds_v6};
use crate::traffic::{Got, Traffic};
use crate::world::{NODE_ROLE, Options, RunningPod, World};

const LIST: &str = "/latest/meta-data/iam/security-credentials/";
/// What every kubelet makes in the back end that the node uses: whatever is flushed, the node stays what it is.
const CANARY: &str = "-t mangle -N KUBE-KUBELET-CANARY";

const OURS: &str = "for f in -4 -6; do ip $f rule | grep -E '^[2-6]:'; ip $f route show table 43518; done
nft list table inet rolegate
for f in iptables-nft ip6tables-nft iptables-legacy ip6tables-legacy
do $f-save 2> /dev/null | grep -e '-A.*rolegate' | sed \"s/^/$f /\"; done";

/// How pods' requests are brought to the agent, on which kind of node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capture {
    /// iptables on a node whose rules are in nf_tables.
    IptablesNft,
    /// iptables on a node whose rules are in x_tables.
    IptablesLegacy,
    /// Policy routing.
    Route,
}

/// The node, its world and who besieges it.
pub struct Siege {
    traffic: Vec<Asking>,
    /// The routed pod, then the bridged one; both have the role `MyPodRole`.
    pub pods: Vec<RunningPod>,
    capture: Capture,
    sealed: Option<Instant>,
    /// Everything around.
    pub world: World,
}

/// One pod and the address that it asks.
struct Asking {
    who: String,
    traffic: Traffic,
    /// What it saw before the node was sealed.
    before: usize,
}

// === impl Capture ===

impl Capture {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::IptablesNft, Self::IptablesLegacy, Self::Route];

    /// The back end of the node's own rules.
    #[must_use]
    pub fn backend(self) -> Backend {
        match self {
            Self::IptablesLegacy => Backend::Legacy,
            Self::IptablesNft | Self::Route => Backend::Nft,
        }
    }

    /// A node that nobody has hardened, as an instance is unless somebody does: whatever gets out gets the node's
    /// credentials. Nothing after the word on why the test is skipped.
    ///
    /// # Panics
    /// When a part of it cannot be started.
    #[must_use]
    pub fn world(self, test: &str) -> Option<World> {
        let imds = ImdsConfig { hop_limit: 64, ..ImdsConfig::default() };
        let world = World::for_test(test, &Options { backend: self.backend(), imds, ..Options::default() })?;
        self.prepare(&world).unwrap_or_else(|error| panic!("{test}: {error:#}"));
        Some(world)
    }

    fn prepare(self, world: &World) -> Result<()> {
        for family in ["iptables", "ip6tables"] {
            let program = format!("{family}-{} -w {CANARY}", self.backend().suffix());
            world.topology.node().run("sh", &["-c", &program])?;
        }
        world.namespace("default", &["MyPodRole"])
    }

    /// An agent that redirects in this way, with these flags besides, and is ready.
    ///
    /// # Errors
    /// When it does not become ready; the error has its log.
    pub fn agent(self, world: &World, flags: &[&str]) -> Result<Agent> {
        let agent = self.start_agent(world, flags)?;
        agent.ready()?;
        Ok(agent)
    }

    /// As [`Capture::agent`], without waiting.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_agent(self, world: &World, flags: &[&str]) -> Result<Agent> {
        let mut all = world.usual_flags();
        all.retain(|flag| flag != "--iptables" && !flag.starts_with("--redirect"));
        let redirect = if self == Self::Route { "--redirect=route" } else { "--redirect=iptables" };
        all.extend(std::iter::once(redirect).chain(flags.iter().copied()).map(str::to_owned));
        Agent::start(world.topology.node(), &all, &world.environment())
    }
}

// === impl Siege ===

impl Siege {
    /// A node for a test with everybody getting the node's credentials, or nothing after the word on why the test is
    /// skipped.
    ///
    /// # Panics
    /// When a part of it cannot be started.
    #[must_use]
    pub fn for_test(test: &str, capture: Capture) -> Option<Self> {
        let world = capture.world(test)?;
        Some(Self::begin(world, capture).unwrap_or_else(|error| panic!("{test}: {error:#}")))
    }

    fn begin(world: World, capture: Capture) -> Result<Self> {
        world.node_asks();
        let pods = vec![
            world.pod("default", "routed", |pod| pod.role("MyPodRole"))?,
            world.bridged_pod("default", "bridged", |pod| pod.role("MyPodRole"))?,
        ];
        let asking = |pod: &RunningPod, to: SocketAddr| Asking {
            who: format!("{} to {to}", pod.net.host_link()),
            traffic: Traffic::start(&pod.net, to),
            before: 0,
        };
        let traffic = pods.iter().flat_map(|pod| [imds_v4(), imds_v6()].map(|to| asking(pod, to))).collect();
        let siege = Self { traffic, pods, capture, sealed: None, world };
        siege.everybody_gets(2, |got| got == Got::NodeCredentials)?;
        Ok(siege)
    }

    /// As [`Capture::agent`].
    ///
    /// # Errors
    /// When it does not become ready; the error has its log.
    pub fn agent(&self, flags: &[&str]) -> Result<Agent> {
        self.capture.agent(&self.world, flags)
    }

    /// From now on nothing of the node's may reach a pod, nor a pod's request the real service.
    ///
    /// # Errors
    /// When somebody gets no answer at all, of whatever kind.
    pub fn seal(&mut self) -> Result<()> {
        self.sealed = Some(Instant::now());
        // An answer that was read just before may be noted just after.
        self.everybody_gets(1, |_| true)?;
        for asking in &mut self.traffic {
            asking.before = asking.traffic.count();
        }
        Ok(())
    }

    /// Waits until everybody has got this `n` times more.
    ///
    /// # Errors
    /// When somebody does not; the error says who and what came instead.
    pub fn everybody_gets(&self, n: usize, wanted: impl Fn(Got) -> bool) -> Result<()> {
        let from: Vec<usize> = self.traffic.iter().map(|asking| asking.traffic.count()).collect();
        for (Asking { who, traffic, .. }, from) in self.traffic.iter().zip(from) {
            traffic.wait_beyond(from, n, &wanted).with_context(|| who.clone())?;
        }
        Ok(())
    }

    /// All of the agent's in the kernel: policy rules, the table of the capture, the table of nftables, and the rules of
    /// both back ends of iptables.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn ours(&self) -> Result<String> {
        self.on_node(OURS)
    }

    /// Processes of the host reach the real service over both families, whatever stands or is gone.
    ///
    /// # Errors
    /// When one does not.
    pub fn host_reaches_the_real_service(&self) -> Result<()> {
        for to in [imds_v4(), imds_v6()] {
            let answer = Client::new(self.world.topology.node(), to).get(&format!("{LIST}{NODE_ROLE}"));
            let answer = answer.with_context(|| format!("the host to {to}"))?;
            ensure!(answer.text().contains(NODE_MARKER), "the host to {to}: {}", answer.status);
        }
        Ok(())
    }

    /// Nothing has leaked since [`Siege::seal`]: neither by what pods saw, nor by what the real service saw.
    ///
    /// # Errors
    /// What leaked.
    pub fn nothing_leaked(&self) -> Result<()> {
        let sealed = self.sealed.context("it was never sealed")?;
        for Asking { who, traffic, before } in &self.traffic {
            let seen = traffic.seen();
            let leaked = seen[*before..].iter().filter(|(_, got)| *got == Got::NodeCredentials).count();
            ensure!(leaked == 0, "{who}: {leaked} answers with the node's credentials");
        }
        let leaks = self.world.leaks(sealed);
        ensure!(leaks.is_empty(), "requests of pods that reached the real service: {leaks:?}");
        Ok(())
    }

    /// Runs a shell script on the node. What is not installed here, or finds nothing to flush, flushes nothing.
    ///
    /// # Errors
    /// When there is no shell.
    pub fn on_node(&self, script: &str) -> Result<String> {
        self.world.topology.node().run("sh", &["-c", &format!("{{ {script}\n}} 2>&1; true")])
    }
}
