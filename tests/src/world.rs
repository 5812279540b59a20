//! Everything around one agent: the node and its pods, the cluster, STS and IMDS, with the names and values of
//! a kOps cluster.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::agent::Agent;
use crate::cluster::Cluster;
use crate::http::Client;
use crate::imds::{Imds, ImdsConfig, Request};
use crate::kube_api::Pod;
use crate::moto::Moto;
use crate::netns;
use crate::planted;
use crate::real_api::RealApi;
use crate::skip;
use crate::sts::Sts;
use crate::topology::{Backend, NODE_V4, NODE_V6, PodNet, Topology, WORLD_V4, imds_v4, imds_v6};

mod bridged;

/// The account of everything here.
pub const ACCOUNT: &str = "123456789012";
/// The node's name.
pub const NODE: &str = "node-1.example";
/// The name of the node's role.
pub const NODE_ROLE: &str = "nodes.example.cluster.k8s.local";
/// The trust policy that roles of pods have: EC2, and the node's role.
pub const TRUST: &str = r#"{"Version":"2012-10-17","Statement":[{"Sid":"","Effect":"Allow","Principal":{"Service":"ec2.amazonaws.com"},"Action":"sts:AssumeRole"},{"Sid":"","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::123456789012:role/nodes.example.cluster.k8s.local"},"Action":"sts:AssumeRole"}]}"#;

const STS_PORT: u16 = 4566;
/// What STS allows at most unless a role says otherwise.
const MAX_SESSION: Duration = Duration::from_secs(3_600);
const ALLOWED_ROLES: &str = "iam.amazonaws.com/allowed-roles";

/// What a world is like.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which `iptables` the node's network was set up with.
    pub backend: Backend,
    /// The instance.
    pub imds: ImdsConfig,
    /// The role of the instance: path and name.
    pub node_role: String,
    /// A real API server, whatever the suites were asked for.
    pub real_api: bool,
}

/// A node in its world, without an agent as yet.
pub struct World {
    /// Namespaces and links.
    pub topology: Topology,
    /// What the agent watches.
    pub cluster: Cluster,
    /// STS.
    pub sts: Sts,
    imds: Imds,
    imds_v6: Imds,
    state: tempfile::TempDir,
    cni_results: tempfile::TempDir,
    last_pod: AtomicU8,
    /// Since when no request of a pod may reach IMDS.
    closed: Mutex<Option<Instant>>,
    /// The test asks IMDS from the node itself, as host processes do: what comes from there tells nothing.
    node_asks: AtomicBool,
    /// Many pods are behind one link, which nothing but a bridge can pin.
    shares_links: AtomicBool,
}

/// A pod: its network, and its object in the cluster.
#[derive(Debug)]
pub struct RunningPod {
    /// Its network.
    pub net: Arc<PodNet>,
    /// Its UID.
    pub uid: String,
    namespace: String,
    name: String,
    object: Pod,
}

// === impl Options ===

impl Default for Options {
    fn default() -> Self {
        Self {
            backend: Backend::Nft,
            imds: ImdsConfig::default(),
            node_role: NODE_ROLE.into(),
            real_api: false,
        }
    }
}

// === impl World ===

impl World {
    /// Why no world can be had here, if none can.
    #[must_use]
    pub fn missing() -> Option<String> {
        netns::missing().or_else(|| Cluster::wants_real().then(RealApi::missing)?)
    }

    /// A world with default options.
    ///
    /// # Errors
    /// When a part of it cannot be started.
    pub fn start() -> Result<Self> {
        Self::with(&Options::default())
    }

    /// A world for a test, or nothing after the word on why the test is skipped.
    ///
    /// # Panics
    /// When a part of it cannot be started.
    #[must_use]
    pub fn for_test(test: &str, options: &Options) -> Option<Self> {
        if let Some(why) = Self::missing() {
            skip(test, &why);
            return None;
        }
        Some(Self::with(options).unwrap_or_else(|error| panic!("{test}: {error:#}")))
    }

    /// As [`World::for_test`], for a test whose API server has to fail on command.
    ///
    /// # Panics
    /// When a part of it cannot be started.
    #[must_use]
    pub fn for_test_with_faults(test: &str) -> Option<Self> {
        if Cluster::wants_real() {
            skip(test, "a real API server does not fail on command");
            return None;
        }
        Self::for_test(test, &Options::default())
    }

    /// A world with these options. Its roles: `MyPodRole` and `OtherRole`, which trust [`TRUST`].
    ///
    /// # Errors
    /// When a part of it cannot be started.
    pub fn with(options: &Options) -> Result<Self> {
        let topology = Topology::with_backend(options.backend)?;
        let world = topology.world();
        let cluster = Cluster::start(world, WORLD_V4, options.real_api || Cluster::wants_real())?;
        let sts = Sts::start(world.listen((WORLD_V4, STS_PORT).into())?)?;
        let imds = Imds::start(world.listen(imds_v4())?, options.imds.clone())?;
        let imds_v6 = Imds::start(world.listen(imds_v6())?, options.imds.clone())?;
        sts.add_principal(
            &options.imds.access_key_id,
            &options.imds.secret_access_key,
            Some(&options.imds.session_token),
            &arn(&options.node_role),
        );
        let state = tempfile::tempdir()?;
        let made = Self {
            topology,
            cluster,
            sts,
            imds,
            imds_v6,
            state,
            cni_results: tempfile::tempdir()?,
            last_pod: AtomicU8::new(10),
            closed: Mutex::default(),
            node_asks: AtomicBool::new(false),
            shares_links: AtomicBool::new(false),
        };
        for role in ["MyPodRole", "OtherRole"] {
            made.role(role, TRUST)?;
        }
        std::fs::write(made.state.path().join("kubeconfig"), made.cluster.kubeconfig())?;
        Ok(made)
    }

    /// Makes or replaces a role of STS.
    ///
    /// # Errors
    /// When the trust policy is not JSON.
    pub fn role(&self, name: &str, trust: &str) -> Result<()> {
        self.sts.put_role(name, trust, MAX_SESSION).context("trust policy")
    }

    /// Makes a namespace that allows these roles, or replaces its annotations.
    ///
    /// # Errors
    /// What a real API server said.
    pub fn namespace(&self, name: &str, allowed: &[&str]) -> Result<()> {
        let allowed = serde_json::to_string(allowed)?;
        self.cluster.apply_namespace(name, &[(ALLOWED_ROLES, &allowed)])
    }

    /// Makes a pod behind a link of its own, on this node, with the next addresses; `shape` adds to it.
    ///
    /// # Errors
    /// When its network cannot be made; what a real API server said.
    pub fn pod(&self, namespace: &str, name: &str, shape: impl FnOnce(Pod) -> Pod) -> Result<RunningPod> {
        let (ip4, ip6) = self.next_addresses();
        let net = self.topology.routed_pod(name, ip4, Some(ip6))?;
        self.run(Arc::new(net), namespace, name, shape)
    }

    /// The next pair of addresses of the pods' network.
    pub fn next_addresses(&self) -> (Ipv4Addr, Ipv6Addr) {
        let n = self.last_pod.fetch_add(1, Ordering::Relaxed) + 1;
        (Ipv4Addr::new(100, 96, 1, n), Ipv6Addr::new(0xfd00, 0x64, 1, 0, 0, 0, 0, n.into()))
    }

    /// Makes a pod object for a network that is there: a pod made again at the same address.
    ///
    /// # Errors
    /// What a real API server said.
    pub fn run(
        &self,
        net: Arc<PodNet>,
        namespace: &str,
        name: &str,
        shape: impl FnOnce(Pod) -> Pod,
    ) -> Result<RunningPod> {
        let object = net
            .ips()
            .into_iter()
            .fold(Pod::new(namespace, name).node(NODE), |pod, ip| pod.ip(&ip.to_string()));
        let object = shape(object);
        let uid = self.cluster.apply_pod(&object)?;
        Ok(RunningPod { net, uid, namespace: namespace.into(), name: name.into(), object })
    }

    /// A pod in the node's own network namespace: it has no network of its own, and is talked to there.
    ///
    /// # Errors
    /// What a real API server said.
    pub fn host_pod(&self, namespace: &str, name: &str, shape: impl FnOnce(Pod) -> Pod) -> Result<String> {
        let pod = Pod::new(namespace, name).node(NODE).ip(&NODE_V4.to_string()).host_network(true);
        self.cluster.apply_pod(&shape(pod))
    }

    /// Changes a pod's object: a new annotation, another phase, `deleting`.
    ///
    /// # Errors
    /// What a real API server said.
    pub fn edit(&self, pod: &mut RunningPod, change: impl FnOnce(Pod) -> Pod) -> Result<()> {
        pod.object = change(pod.object.clone());
        self.cluster.apply_pod(&pod.object).map(drop)
    }

    /// Deletes a pod's object by force; its containers run on until `pod` is dropped.
    ///
    /// # Errors
    /// What a real API server said.
    pub fn delete(&self, pod: &RunningPod) -> Result<()> {
        self.cluster.delete_pod(&pod.namespace, &pod.name).map(drop)
    }

    /// Starts the agent with the usual flags and these, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready; the error has its log.
    pub fn agent(&self, flags: &[&str]) -> Result<Agent> {
        let agent = self.start_agent(flags)?;
        agent.ready()?;
        if agent.metric("rolegate_redirect_rule_present").is_ok_and(|present| present > 0.0) {
            self.closed.lock().get_or_insert_with(Instant::now);
        }
        Ok(agent)
    }

    /// Starts the agent with the usual flags and these.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_agent(&self, flags: &[&str]) -> Result<Agent> {
        let mut args = self.usual_flags();
        args.extend(flags.iter().map(|flag| (*flag).to_owned()));
        Agent::start(self.topology.node(), &args, &self.environment())
    }

    /// The flags of every agent here, unless a test writes all of them.
    #[must_use]
    pub fn usual_flags(&self) -> Vec<String> {
        let mut flags = vec![
            format!("--kubeconfig={}", self.state.path().join("kubeconfig").display()),
            format!("--node={NODE}"),
            format!("--host-ip={NODE_V4}"),
            format!("--host-ip={NODE_V6}"),
            "--iptables".into(),
            "--auto-discover-base-arn".into(),
            format!("--state-dir={}", self.state.path().display()),
            format!("--cni-results={}", self.cni_results.path().display()),
            "--log-format=json".into(),
            "--log-level=debug".into(),
        ];
        if self.shares_links.load(Ordering::Relaxed) {
            flags.push("--shared-l2=allow".into());
        }
        flags
    }

    /// The environment of every agent here.
    #[must_use]
    pub fn environment(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("AWS_ENDPOINT_URL_STS".into(), self.sts.url())])
    }

    /// IMDS over IPv4; its faults, its record.
    #[must_use]
    pub fn imds(&self) -> &Imds {
        &self.imds
    }

    /// IMDS over IPv6.
    #[must_use]
    pub fn imds_v6(&self) -> &Imds {
        &self.imds_v6
    }

    /// Requests of pods that reached IMDS since `start`, past the agent or through it: none may. What goes past
    /// it is not the node's; what goes through it asks for something that the agent never asks.
    #[must_use]
    pub fn leaks(&self, start: Instant) -> Vec<Request> {
        let mut requests = self.imds.requests();
        requests.extend(self.imds_v6.requests());
        let node_asks = self.node_asks.load(Ordering::Relaxed);
        requests.retain(|request| {
            let peer = request.peer.ip().to_canonical();
            // Whatever it wears: a node whose rules were flushed translates no source any more.
            let past = peer != NODE_V4 && peer != NODE_V6;
            request.at >= start && (past || !node_asks && is_never_the_agents(request))
        });
        requests
    }

    /// The test asks IMDS from the node itself: such requests are no leak.
    pub fn node_asks(&self) {
        self.node_asks.store(true, Ordering::Relaxed);
    }

    /// Several pods are behind one link: agents started from now on believe their addresses.
    pub fn shares_links(&self) {
        self.shares_links.store(true, Ordering::Relaxed);
    }

    /// Has `moto` issue the sessions that STS grants from now on, so that its S3 knows them.
    pub fn issue_by(&self, moto: &Arc<Moto>) {
        let moto = Arc::clone(moto);
        self.sts.issue_by(move |role, session_name, seconds| {
            let session = moto.assume_role(role, session_name, seconds).ok()?;
            planted::plant(&session.secret_access_key);
            planted::plant(&session.session_token);
            Some((session.access_key_id, session.secret_access_key, session.session_token))
        });
    }
}

impl Drop for World {
    /// Whatever a test is about: once an agent was ready, no request of a pod reached IMDS until its end.
    fn drop(&mut self) {
        let Some(since) = *self.closed.lock() else { return };
        if !std::thread::panicking() {
            let leaks = self.leaks(since);
            assert!(leaks.is_empty(), "requests of pods that reached IMDS: {leaks:#?}");
        }
    }
}

// === impl RunningPod ===

impl RunningPod {
    /// Requests to IMDS from this pod, over IPv4.
    #[must_use]
    pub fn imds(&self) -> Client<'_> {
        Client::imds(self.net.ns())
    }

    /// Requests to IMDS from this pod, over IPv6.
    #[must_use]
    pub fn imds_v6(&self) -> Client<'_> {
        Client::new(self.net.ns(), imds_v6())
    }
}

/// The ARN of a role of the account: path and name.
#[must_use]
pub fn arn(role: &str) -> String {
    format!("arn:aws:iam::{ACCOUNT}:role/{role}")
}

/// The agent asks for its own credentials and for `iam/info`, with a token, and for nothing like these.
fn is_never_the_agents(request: &Request) -> bool {
    let target = request.target.to_ascii_lowercase();
    request.is_sensitive()
        && (target.contains("user-data")
            || target.contains("identity-credentials")
            || request.header("x-aws-ec2-metadata-token").is_empty())
}
