//! A node of a cluster: a machine with containerd, kubelet and kube-proxy.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::cgroups;
use super::containerd::Containerd;
use super::control_plane::program;
use super::fabric::{Fabric, PODS, PODS_V6, Place};
use super::machine::{Daemon, Machine};
use super::{NodeOptions, PodNetwork};
use crate::netns::NetNs;

/// Longest that the kubelet may take to answer; 2 s on an idle machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Files that programs of a node are given.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) dir: PathBuf,
    pub(super) kubelet: PathBuf,
    pub(super) proxy: PathBuf,
    /// The kubelet's control group.
    pub(super) group: String,
}

/// A node.
#[derive(Debug)]
pub struct Node {
    options: NodeOptions,
    place: Place,
    all: Vec<Place>,
    fabric: Arc<Fabric>,
    files: Files,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    // Ended in this order: the machine's end is everybody's.
    machine: Option<Arc<Machine>>,
    proxy: Option<Daemon>,
    kubelet: Option<Daemon>,
    containerd: Option<Containerd>,
    ns: Option<Arc<NetNs>>,
}

// === impl Node ===

impl Node {
    pub(super) fn new(
        options: NodeOptions,
        place: Place,
        all: &[Place],
        fabric: &Arc<Fabric>,
        files: Files,
    ) -> Self {
        Self { options, place, all: all.to_vec(), fabric: Arc::clone(fabric), files, state: Mutex::default() }
    }

    /// Its name in Kubernetes.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// Its addresses.
    #[must_use]
    pub fn place(&self) -> Place {
        self.place
    }

    /// Its disk, seen from outside: `lib` is its `/var/lib`, `log` its `/var/log`, `logs` what its programs print.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.files.dir
    }

    /// Its network namespace.
    ///
    /// # Errors
    /// When it was powered off.
    pub fn ns(&self) -> Result<Arc<NetNs>> {
        self.state.lock().ns.clone().context("the node is powered off")
    }

    /// The running machine.
    ///
    /// # Errors
    /// When it does not run.
    pub fn machine(&self) -> Result<Arc<Machine>> {
        self.state.lock().machine.clone().context("the node does not run")
    }

    /// Runs a program in it, as in a shell on the node; its standard output.
    ///
    /// # Errors
    /// What the program said.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        self.machine()?.run(program, args)
    }

    /// Runs `ctr` in Kubernetes' namespace of its containerd; its standard output.
    ///
    /// # Errors
    /// What `ctr` said.
    pub fn ctr(&self, args: &[&str]) -> Result<String> {
        let machine = self.machine()?;
        self.state.lock().containerd.as_ref().context("containerd does not run")?.ctr(&machine, args)
    }

    /// Imports an OCI archive into its containerd.
    ///
    /// # Errors
    /// What `ctr` said.
    pub fn import(&self, archive: &Path) -> Result<()> {
        let machine = self.machine()?;
        self.state.lock().containerd.as_ref().context("containerd does not run")?.import(&machine, archive)
    }

    /// Starts what does not run: network, machine, containerd, kubelet and kube-proxy; containers of a former life
    /// are made again by the kubelet.
    ///
    /// # Errors
    /// When one of them cannot be started.
    pub fn start(&self) -> Result<()> {
        self.start_containerd()?;
        self.start_kubelet()?;
        self.start_proxy()
    }

    /// Starts the network, the machine and containerd if they do not run.
    ///
    /// # Errors
    /// When one of them cannot be started.
    pub fn start_containerd(&self) -> Result<()> {
        let mut state = self.state.lock();
        if state.ns.is_none() {
            state.ns = Some(Arc::new(self.fabric.node(self.place, &self.all)?));
        }
        if state.machine.is_none() {
            let ns = state.ns.as_ref().context("the network was made")?;
            // No group outlives a computer's end; the kubelet would look for the processes of each, for seconds.
            cgroups::remove(&self.files.group);
            cgroups::make(&self.files.group)?;
            state.machine = Some(Arc::new(Machine::start(&self.files.dir, ns)?));
        }
        if state.containerd.is_none() {
            let machine = state.machine.as_ref().context("the machine was started")?;
            let network = network(self.options.network, self.place, self.fabric.dual_stack());
            state.containerd = Some(Containerd::start(machine, Some(&network))?);
        }
        Ok(())
    }

    /// Starts the kubelet if it does not run, and waits until it answers.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_kubelet(&self) -> Result<()> {
        let machine = self.machine()?;
        let mut state = self.state.lock();
        if state.kubelet.is_some() {
            return Ok(());
        }
        let config = self.files.dir.join("kubelet.json");
        std::fs::write(&config, self.kubelet_config().to_string())?;
        let mut addresses = self.place.address().to_string();
        if self.fabric.dual_stack() {
            addresses = format!("{addresses},{}", self.place.address_v6());
        }
        let mut command = machine.command(program("kubelet"));
        command.args([
            format!("--config={}", config.display()),
            format!("--kubeconfig={}", self.files.kubelet.display()),
            format!("--hostname-override={}", self.name()),
            format!("--node-ip={addresses}"),
        ]);
        state.kubelet = Some(machine.daemon("kubelet", command)?);
        Ok(())
    }

    /// Waits until the kubelet's own probe answers.
    ///
    /// # Errors
    /// When it ended, or takes too long; the error has the end of its log.
    pub fn wait_for_kubelet(&self) -> Result<()> {
        let (machine, ns) = (self.machine()?, self.ns()?);
        let mut state = self.state.lock();
        let kubelet = state.kubelet.as_mut().context("the kubelet runs")?;
        kubelet
            .wait_until(PATIENCE, || {
                let address = ([127, 0, 0, 1], 10_248).into();
                crate::http::Client::new(&ns, address)
                    .get("/healthz")
                    .is_ok_and(|answer| answer.status == 200)
            })
            .with_context(|| machine.end_of_log("kubelet"))
    }

    fn start_proxy(&self) -> Result<()> {
        let machine = self.machine()?;
        let mut state = self.state.lock();
        if state.proxy.is_some() {
            return Ok(());
        }
        let pods = if self.fabric.dual_stack() { format!("{PODS},{PODS_V6}") } else { PODS.to_owned() };
        let mut command = machine.command(program("kube-proxy"));
        command
            .arg(format!("--kubeconfig={}", self.files.proxy.display()))
            .arg(format!("--hostname-override={}", self.name()))
            .arg(format!("--cluster-cidr={pods}"))
            // Sysctls of connection tracking are not writable in a namespace.
            .args(["--proxy-mode=iptables", "--conntrack-max-per-core=0", "--conntrack-min=0"])
            .args(["--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0"]);
        state.proxy = Some(machine.daemon("kube-proxy", command)?);
        Ok(())
    }

    /// Ends the kubelet; pods run on.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop_kubelet(&self) -> Result<()> {
        let kubelet = self.state.lock().kubelet.take();
        kubelet.map_or(Ok(()), Daemon::stop)
    }

    /// Ends containerd; pods run on.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop_containerd(&self) -> Result<()> {
        let containerd = self.state.lock().containerd.take();
        containerd.map_or(Ok(()), Containerd::stop)
    }

    /// Kills every process of it, the pods' too, at one stroke. Its disk stays, and its network with all rules.
    pub fn kill_everything(&self) {
        let mut state = self.state.lock();
        state.machine = None;
        let ns = state.ns.take();
        *state = State { ns, ..State::default() };
    }

    /// As pulling the plug: every process ends, and its network is gone with all rules. Its disk stays.
    pub fn power_off(&self) {
        self.kill_everything();
        self.state.lock().ns = None;
    }

    fn kubelet_config(&self) -> Value {
        let taints: Vec<_> =
            self.options.taints.iter().map(|(key, effect)| json!({"key": key, "effect": effect})).collect();
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": format!("/{}", self.files.group),
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "enforceNodeAllocatable": ["pods"],
            "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%",
                             "imagefs.available": "0%", "imagefs.inodesFree": "0%"},
            "failCgroupV1": false,
            "failSwapOn": false,
            "imageGCHighThresholdPercent": 100,
            "kubeAPIQPS": 100, "kubeAPIBurst": 200,
            "maxPods": 130,
            "nodeStatusUpdateFrequency": "2s",
            "registerWithTaints": taints,
            "registryPullQPS": 0,
            "shutdownGracePeriod": "0s",
        })
    }
}

/// The CNI configuration: as kubenet has it, or a routed link for each pod, as Calico and the VPC CNI do.
fn network(kind: PodNetwork, place: Place, dual_stack: bool) -> Value {
    let mut ranges = vec![json!([{"subnet": place.pods(), "gateway": place.gateway()}])];
    let mut routes = vec![json!({"dst": "0.0.0.0/0"})];
    if dual_stack {
        ranges.push(json!([{"subnet": place.pods_v6(), "gateway": place.gateway_v6()}]));
        routes.push(json!({"dst": "::/0"}));
    }
    let ipam = json!({"type": "host-local", "ranges": ranges, "routes": routes});
    let plugin = match kind {
        PodNetwork::Bridge => json!({
            "type": "bridge", "bridge": "cbr0", "isGateway": true, "ipMasq": true, "hairpinMode": true, "ipam": ipam,
        }),
        PodNetwork::Routed => json!({"type": "ptp", "ipMasq": true, "ipam": ipam}),
    };
    json!({
        "cniVersion": "0.4.0", "name": "pods",
        "plugins": [plugin, {"type": "portmap", "capabilities": {"portMappings": true}}],
    })
}
