//! etcd, API server, controller manager and scheduler, with an authority of their own.

use std::fs::File;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::fabric::Fabric;
use super::machine::end_of;
use crate::clients::cache;
use crate::kube_api::Authority;
use crate::netns::{self, NetNs};
use crate::real_api::start_etcd;
use crate::service::Service;
use crate::topology::WORLD_V4;

/// Longest that the API server may take to be ready; 5 s on an idle machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// Where services have their addresses.
const SERVICES: &str = "10.96.0.0/16";
const SERVICES_V6: &str = "fd00:96::/112";
/// The first of them: the API server's.
const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
const PORT: u16 = 6443;
const ADMIN: &str = "admin";

/// A running control plane. Dropping it ends it.
#[derive(Debug)]
pub(super) struct ControlPlane {
    // Ended in this order.
    controllers: Vec<Service>,
    apiserver: Option<Service>,
    _etcd: Service,
    world: Arc<NetNs>,
    dual_stack: bool,
    dir: PathBuf,
    ca_pem: String,
}

// === impl ControlPlane ===

impl ControlPlane {
    /// The programs of it that are missing here, by the first.
    pub(super) fn missing() -> Option<String> {
        let built = ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet"]
            .into_iter()
            .map(program)
            .find(|file| !file.exists())
            .map(|file| format!("{} is not there (make kube-binaries, which needs Go)", file.display()));
        let installed = || {
            ["etcd", "kubectl"]
                .into_iter()
                .find(|program| !netns::on_path(program))
                .map(|program| format!("`{program}` is not installed"))
        };
        built.or_else(installed)
    }

    /// Starts etcd and the API server, which needs some seconds: [`ControlPlane::wait_until_ready`]. Users are the
    /// administrator, the control plane's own parts and the nodes.
    pub(super) fn start(fabric: &Fabric, dir: &Path, nodes: &[&str]) -> Result<Self> {
        let world = fabric.world();
        let authority = Authority::generate()?;
        let addresses: [IpAddr; 2] = [WORLD_V4.into(), API_SERVICE.into()];
        let identity = authority.certify(&addresses, "kubernetes.default.svc")?;
        let key = rcgen::KeyPair::generate()?;
        for (name, text) in [
            ("ca.crt", &authority.pem),
            ("apiserver.crt", &identity.certificate_pem),
            ("apiserver.key", &identity.key_pem),
            ("sa.key", &key.serialize_pem()),
            ("sa.pub", &key.public_key_pem()),
        ] {
            std::fs::write(dir.join(name), text)?;
        }
        write_users(&dir.join("tokens.csv"), nodes)?;
        let etcd = start_etcd(world, dir)?;
        let mut made = Self {
            controllers: Vec::new(),
            apiserver: None,
            _etcd: etcd,
            world: Arc::clone(world),
            dual_stack: fabric.dual_stack(),
            dir: dir.to_owned(),
            ca_pem: authority.pem,
        };
        made.start_api()?;
        Ok(made)
    }

    /// Starts the API server if it does not run.
    pub(super) fn start_api(&mut self) -> Result<()> {
        if self.apiserver.is_none() {
            let mut command = self.world.command(program("kube-apiserver"));
            api_flags(&mut command, &self.dir, self.dual_stack);
            self.apiserver =
                Some(Service::start("kube-apiserver", &mut command, Some(self.log("apiserver")?))?);
        }
        Ok(())
    }

    /// Ends the API server; everything else stays, without it.
    pub(super) fn stop_api(&mut self) {
        self.apiserver = None;
    }

    /// Waits until the API server says that it is ready.
    pub(super) fn wait_until_ready(&mut self) -> Result<()> {
        let kubeconfig = self.kubeconfig(ADMIN)?;
        let (world, dir) = (Arc::clone(&self.world), self.dir.clone());
        let apiserver = self.apiserver.as_mut().context("the API server runs")?;
        apiserver
            .wait_until(PATIENCE, || {
                netns::run(kubectl(&world, &dir, &kubeconfig).args(["get", "--raw=/readyz"])).is_ok()
            })
            .with_context(|| end_of(&dir.join("apiserver.log")))
    }

    /// Starts controller manager and scheduler.
    pub(super) fn start_controllers(&mut self) -> Result<()> {
        let path = |name: &str| self.dir.join(name).display().to_string();
        let mut manager = self.world.command(program("kube-controller-manager"));
        manager.args([
            format!("--kubeconfig={}", self.kubeconfig("controller-manager")?.display()),
            format!("--root-ca-file={}", path("ca.crt")),
            format!("--service-account-private-key-file={}", path("sa.key")),
            "--controllers=*,-node-ipam-controller,-persistentvolume-binder-controller".into(),
            "--leader-elect=false".into(),
            "--bind-address=127.0.0.1".into(),
            "--kube-api-qps=200".into(),
            "--kube-api-burst=400".into(),
        ]);
        let mut scheduler = self.world.command(program("kube-scheduler"));
        scheduler.args([
            format!("--kubeconfig={}", self.kubeconfig("scheduler")?.display()),
            "--leader-elect=false".into(),
            "--bind-address=127.0.0.1".into(),
            "--kube-api-qps=200".into(),
            "--kube-api-burst=400".into(),
        ]);
        for (name, mut command) in [("kube-controller-manager", manager), ("kube-scheduler", scheduler)] {
            let service = Service::start(name, &mut command, Some(self.log(name)?))?;
            self.controllers.push(service);
        }
        Ok(())
    }

    /// kubectl as the administrator.
    pub(super) fn kubectl(&self) -> Result<Command> {
        Ok(kubectl(&self.world, &self.dir, &self.admin()?))
    }

    /// The administrator's kubeconfig.
    pub(super) fn admin(&self) -> Result<PathBuf> {
        self.kubeconfig(ADMIN)
    }

    /// A file with a user's kubeconfig.
    pub(super) fn kubeconfig(&self, user: &str) -> Result<PathBuf> {
        use base64::Engine;
        let ca = base64::engine::general_purpose::STANDARD.encode(&self.ca_pem);
        let file = self.dir.join(format!("{user}.kubeconfig"));
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://{}", api()), "certificate-authority-data": ca,
            }}],
            "users": [{"name": "test", "user": {"token": token(user)}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        let text = text.to_string();
        // Others may be reading it.
        if std::fs::read_to_string(&file).ok().as_ref() != Some(&text) {
            std::fs::write(&file, text)?;
        }
        Ok(file)
    }

    fn log(&self, name: &str) -> Result<File> {
        let file = self.dir.join(format!("{name}.log"));
        Ok(File::options().create(true).append(true).open(file)?)
    }
}

/// The API server's address on the fabric.
fn api() -> SocketAddr {
    (WORLD_V4, PORT).into()
}

/// A program of Kubernetes.
pub(super) fn program(name: &str) -> PathBuf {
    cache().join("kube").join(name)
}

fn token(user: &str) -> String {
    format!("token-of-{user}")
}

fn write_users(file: &Path, nodes: &[&str]) -> Result<()> {
    let mut users = File::create(file)?;
    for (name, user, groups) in [
        (ADMIN, "admin", "system:masters"),
        ("controller-manager", "system:kube-controller-manager", "system:masters"),
        ("scheduler", "system:kube-scheduler", "system:authenticated"),
        ("proxy", "system:kube-proxy", "system:authenticated"),
    ] {
        writeln!(users, "{},{user},{user},{groups}", token(name))?;
    }
    for node in nodes {
        writeln!(users, "{},system:node:{node},{node},system:nodes", token(node))?;
    }
    Ok(())
}

fn api_flags(command: &mut Command, dir: &Path, dual_stack: bool) {
    let services = if dual_stack { format!("{SERVICES},{SERVICES_V6}") } else { SERVICES.to_owned() };
    let path = |name: &str| dir.join(name).display().to_string();
    command.args([
        format!("--advertise-address={WORLD_V4}"),
        format!("--bind-address={WORLD_V4}"),
        format!("--secure-port={PORT}"),
        format!("--cert-dir={}", dir.display()),
        format!("--tls-cert-file={}", path("apiserver.crt")),
        format!("--tls-private-key-file={}", path("apiserver.key")),
        format!("--token-auth-file={}", path("tokens.csv")),
        format!("--service-account-key-file={}", path("sa.pub")),
        format!("--service-account-signing-key-file={}", path("sa.key")),
        format!("--service-cluster-ip-range={services}"),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
        "--authorization-mode=Node,RBAC".into(),
        "--etcd-servers=http://127.0.0.1:2379".into(),
        "--allow-privileged=true".into(),
        "--kubelet-preferred-address-types=InternalIP".into(),
        "--max-mutating-requests-inflight=1000".into(),
    ]);
}

fn kubectl(world: &NetNs, dir: &Path, kubeconfig: &Path) -> Command {
    let mut command = world.command("kubectl");
    command
        .env("HOME", dir)
        .arg(format!("--kubeconfig={}", kubeconfig.display()))
        .arg(format!("--cache-dir={}", dir.join("kubectl").display()));
    command
}
