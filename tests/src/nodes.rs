//! A real Kubernetes cluster: API server, controllers and scheduler in a world of their own, and two nodes with
//! kubelet, containerd and kube-proxy, one with a bridge (`cbr0`), one with routed pods.
//!
//! ```no_run
//! # use rolegate_tests::nodes::{BRIDGE, Cluster, Options, tools_pod};
//! # fn main() -> anyhow::Result<()> {
//! let Some(cluster) = Cluster::for_test("install", &Options::default()) else { return Ok(()) };
//! cluster.apply(&tools_pod("default", "one", BRIDGE, Some("MyPodRole")))?;
//! cluster.kubectl(&["wait", "--for=condition=Ready", "pod/one", "--timeout=120s"])?;
//! println!("{}", cluster.exec("default", "one", &["ip", "address"])?);
//! // The requests that other suites make from a pod's network, here from the real pod's.
//! let net = cluster.pod_net("default", "one")?;
//! let answer = rolegate_tests::http::Client::imds(&net).get("/latest/meta-data/iam/security-credentials/")?;
//! # Ok(()) }
//! ```
//!
//! One cluster runs at a time on a machine ([`Cluster::for_test`] waits). Dropping it, by a panic too, ends and removes
//! everything, and fails the test if something is left.

mod cgroups;
pub mod containerd;
mod control_plane;
mod fabric;
mod images;
pub mod machine;
mod node;
mod options;
mod remains;
mod run;

use std::io::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use parking_lot::Mutex;
use tokio::time::Instant;

use self::control_plane::ControlPlane;
use self::fabric::Fabric;
pub use self::fabric::Place;
pub use self::images::TOOLS;
use self::node::Files;
pub use self::node::Node;
pub use self::options::{NodeOptions, Options, PodNetwork};
use self::remains::Turn;
pub use self::remains::nothing_left;
pub use self::run::{python, sdk_pod, tools_pod};
use crate::imds::{Imds, Request};
use crate::netns;
use crate::sts::Sts;
use crate::topology::WORLD_V4;
use crate::world::{TRUST, arn};
use crate::{has_other_users, skip};

/// The node whose pods are on the bridge `cbr0`, as kubenet has them.
pub const BRIDGE: &str = "bridge";
/// The node whose pods have a routed link each (`veth…`), as Calico and the VPC CNI have them.
pub const ROUTED: &str = "routed";
/// The agent's image.
pub const AGENT: &str = concat!("localhost/rolegate:", env!("CARGO_PKG_VERSION"));

const STS_PORT: u16 = 4566;
const MAX_SESSION: Duration = Duration::from_secs(3_600);

/// A running cluster.
pub struct Cluster {
    // Ended in this order.
    nodes: Vec<Node>,
    control: Mutex<ControlPlane>,
    /// STS; it knows the roles `MyPodRole` and `OtherRole`, which trust [`TRUST`].
    pub sts: Sts,
    imds: Vec<Imds>,
    imds_v6: Vec<Imds>,
    fabric: Arc<Fabric>,
    started: Instant,
    test: String,
    dir: PathBuf,
    _turn: Turn,
}

// === impl Cluster ===

impl Cluster {
    /// Why no cluster can be had here, if none can.
    #[must_use]
    pub fn missing(options: &Options) -> Option<String> {
        let image = || {
            let image = agent_image();
            (options.agent_image && !image.exists())
                .then(|| format!("{} is not there (make image)", image.display()))
        };
        let root =
            (!has_other_users()).then(|| "kubelets need root, not that of a user namespace".to_owned());
        root.or_else(netns::missing)
            .or_else(ControlPlane::missing)
            .or_else(containerd::Containerd::missing)
            .or_else(|| {
                let plugin = PathBuf::from(containerd::CNI_PLUGINS).join("ptp");
                (!plugin.exists())
                    .then(|| format!("{} is not there (tests/tools/setup.sh)", plugin.display()))
            })
            .or_else(image)
    }

    /// A cluster for a test, its nodes Ready and the agent's image in them, or nothing after the word on why the test
    /// is skipped.
    ///
    /// # Panics
    /// When a part of it cannot be started.
    #[must_use]
    pub fn for_test(test: &str, options: &Options) -> Option<Self> {
        let turn = Turn::wait(test).unwrap_or_else(|error| panic!("{test}: {error:#}"));
        if let Some(why) = Self::missing(options) {
            skip(test, &why);
            return None;
        }
        Some(Self::start(test, options, turn).unwrap_or_else(|error| panic!("{test}: {error:#}")))
    }

    fn start(test: &str, options: &Options, turn: Turn) -> Result<Self> {
        let dir = turn.dir()?.to_owned();
        let fabric = Arc::new(Fabric::new(options.dual_stack)?);
        let world = fabric.world();
        let places: Vec<Place> = (0..).take(options.nodes.len()).map(Place::of).collect();
        let names: Vec<&str> = options.nodes.iter().map(|node| &*node.name).collect();
        let control = ControlPlane::start(&fabric, &dir, &names)?;
        let sts = Sts::start(world.listen((WORLD_V4, STS_PORT).into())?)?;
        let mut nodes = Vec::new();
        let (mut imds, mut imds_v6) = (Vec::new(), Vec::new());
        for (options, place) in options.nodes.iter().zip(&places) {
            let instance = options.instance();
            sts.add_principal(
                &instance.access_key_id,
                &instance.secret_access_key,
                Some(&instance.session_token),
                &arn(&options.role),
            );
            imds.push(Imds::start(world.listen(place.imds())?, instance.clone())?);
            imds_v6.push(Imds::start(world.listen(place.imds_v6())?, instance)?);
            fabric.imds_for(*place)?;
            let group = turn.group(&options.name);
            let files = Files {
                dir: dir.join(&options.name),
                kubelet: control.kubeconfig(&options.name)?,
                proxy: control.kubeconfig("proxy")?,
                group,
            };
            nodes.push(Node::new(options.clone(), *place, &places, &fabric, files));
        }
        let made = Self {
            nodes,
            control: Mutex::new(control),
            sts,
            imds,
            imds_v6,
            fabric,
            started: Instant::now(),
            test: test.into(),
            dir,
            _turn: turn,
        };
        for role in ["MyPodRole", "OtherRole"] {
            made.role(role, TRUST)?;
        }
        made.bring_up(options.agent_image)?;
        Ok(made)
    }

    /// Everything that takes seconds; while the API server starts, the nodes get their images.
    fn bring_up(&self, agent: bool) -> Result<()> {
        self.say("starts");
        let images = images::archive(&self.dir)?;
        let start = |node: &Node| -> Result<()> {
            node.start_containerd()?;
            node.import(&images)?;
            if agent { node.import(&agent_image()) } else { Ok(()) }
        };
        std::thread::scope(|scope| {
            let started: Vec<_> = self.nodes.iter().map(|node| scope.spawn(|| start(node))).collect();
            started.into_iter().try_for_each(|node| node.join().map_err(|_| anyhow!("a thread panicked"))?)
        })?;
        self.say("containerd runs on every node, with images");
        {
            let mut control = self.control.lock();
            control.wait_until_ready()?;
            self.say("API server is ready");
            control.start_controllers()?;
        }
        for node in &self.nodes {
            node.start()?;
        }
        for node in &self.nodes {
            node.wait_for_kubelet()?;
            let name = format!("node/{}", node.name());
            self.kubectl(&["wait", "--for=create", &name, "--timeout=120s"])?;
            self.kubectl(&["wait", "--for=condition=Ready", &name, "--timeout=120s"])?;
        }
        self.kubectl(&["wait", "--for=create", "serviceaccount/default", "--timeout=120s"])?;
        self.say("nodes are Ready");
        Ok(())
    }

    /// Shows progress: what, and the seconds since the start.
    pub fn say(&self, what: &str) {
        let seconds = self.started.elapsed().as_secs_f64();
        // Past the test runner's capture; nothing is to be done about a closed standard error.
        let _ = writeln!(std::io::stderr(), "{} {seconds:6.1} s: {what}", self.test);
    }

    /// A node by its name.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|node| node.name() == name).unwrap_or_else(|| panic!("no node {name}"))
    }

    /// All nodes.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The namespace of API server, STS and IMDS.
    #[must_use]
    pub fn world(&self) -> &Arc<netns::NetNs> {
        self.fabric.world()
    }

    /// The IMDS of a node.
    ///
    /// # Panics
    /// When there is no such node.
    #[must_use]
    pub fn imds(&self, node: &str) -> &Imds {
        let at = self.nodes.iter().position(|other| other.name() == node);
        &self.imds[at.unwrap_or_else(|| panic!("no node {node}"))]
    }

    /// As [`Cluster::imds`], over IPv6; only where the cluster is dual stack.
    ///
    /// # Panics
    /// When there is no such node.
    #[must_use]
    pub fn imds_v6(&self, node: &str) -> &Imds {
        let at = self.nodes.iter().position(|other| other.name() == node);
        &self.imds_v6[at.unwrap_or_else(|| panic!("no node {node}"))]
    }

    /// Makes or replaces a role of STS.
    ///
    /// # Errors
    /// When the trust policy is not JSON.
    pub fn role(&self, name: &str, trust: &str) -> Result<()> {
        self.sts.put_role(name, trust, MAX_SESSION).context("trust policy")
    }

    /// Requests of pods that reached an IMDS since `start`, past the agents: none may. Requests of host-network pods
    /// and of the agents come from the node's own address, and are not among them.
    #[must_use]
    pub fn leaks(&self, start: Instant) -> Vec<Request> {
        let places = self.nodes.iter().map(Node::place);
        let own: Vec<IpAddr> =
            places.flat_map(|place| [place.address().into(), place.address_v6().into()]).collect();
        let mut requests: Vec<_> = self.imds.iter().chain(&self.imds_v6).flat_map(Imds::requests).collect();
        requests.retain(|request| request.at >= start && !own.contains(&request.peer.ip().to_canonical()));
        requests
    }

    /// Ends the API server; etcd, the controllers and the nodes run on without it.
    pub fn stop_api(&self) {
        self.control.lock().stop_api();
    }

    /// Starts the API server again and waits until it is ready.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_api(&self) -> Result<()> {
        let mut control = self.control.lock();
        control.start_api()?;
        control.wait_until_ready()
    }

    /// Asks until it is so, every 200 ms, for at most two minutes. For what `kubectl wait` and `rollout status` cannot
    /// say.
    ///
    /// # Errors
    /// When it does not become so.
    pub fn wait_for(&self, what: &str, mut check: impl FnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(120);
        while !check() {
            ensure!(Instant::now() < deadline, "in vain: {what}");
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::env::var_os("ROLEGATE_KEEP").is_some() {
            self.keep();
        }
        self.say("ends");
    }
}

/// `$ROLEGATE_IMAGE`, or what `make image` leaves.
#[must_use]
pub fn agent_image() -> PathBuf {
    let built = || {
        let program = std::env::current_exe().unwrap_or_default();
        // target/debug/deps/PROGRAM
        let target = program.ancestors().find(|dir| dir.join("debug").is_dir()).map(PathBuf::from);
        let name = format!("image/rolegate-{}.oci.tar", images::architecture());
        target.unwrap_or_else(|| "target".into()).join(name)
    };
    std::env::var_os("ROLEGATE_IMAGE").map_or_else(built, PathBuf::from)
}
