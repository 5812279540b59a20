//! containerd in a machine, with images from files and pods' networks by CNI plugins.
//!
//! Alone, without Kubernetes:
//!
//! ```no_run
//! # use std::{path::Path, sync::Arc};
//! # use rolegate_tests::{netns::NetNs, nodes::{containerd::Containerd, machine::Machine}};
//! # fn main() -> anyhow::Result<()> {
//! let dir = tempfile::tempdir()?;
//! let machine = Machine::start(dir.path(), &Arc::new(NetNs::create("box")?))?;
//! let containerd = Containerd::start(&machine, None)?;
//! containerd.import(&machine, Path::new("rolegate-amd64.oci.tar"))?;
//! containerd.ctr(&machine, &["run", "--rm", "localhost/rolegate:0.1.0", "one", "/rolegate", "--help"])?;
//! # Ok(()) }
//! ```

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::images::PAUSE;
use super::machine::{Daemon, Machine};
use crate::netns;

/// Debian's directory of CNI plugins.
pub const CNI_PLUGINS: &str = "/usr/lib/cni";
/// Longest that it may take to answer; half a second on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// The namespace that Kubernetes has in containerd.
const NAMESPACE: &str = "k8s.io";

/// A running containerd.
#[derive(Debug)]
pub struct Containerd {
    daemon: Daemon,
}

// === impl Containerd ===

impl Containerd {
    /// Why it cannot be had here, if it cannot.
    #[must_use]
    pub fn missing() -> Option<String> {
        ["containerd", "ctr", "runc", "busybox"]
            .into_iter()
            .find(|program| !netns::on_path(program))
            .map(|program| format!("`{program}` is not installed (tests/tools/setup.sh)"))
    }

    /// Starts it; `network` is the CNI configuration of pods, if there are to be any.
    ///
    /// # Errors
    /// When it cannot be started or does not answer in time; the error has the end of its log.
    pub fn start(machine: &Machine, network: Option<&Value>) -> Result<Self> {
        let dir = machine.dir();
        let networks = dir.join("net.d");
        std::fs::create_dir_all(&networks)?;
        if let Some(network) = network {
            std::fs::write(networks.join("10-pods.conflist"), network.to_string())?;
        }
        let config = dir.join("containerd.toml");
        std::fs::write(&config, configuration(&networks))?;
        let mut command = machine.command("containerd");
        command.arg("--config").arg(&config);
        let mut daemon = machine.daemon("containerd", command)?;
        daemon
            .wait_until(PATIENCE, || machine.run("ctr", &["version"]).is_ok())
            .with_context(|| machine.end_of_log("containerd"))?;
        Ok(Self { daemon })
    }

    /// Imports an OCI archive.
    ///
    /// # Errors
    /// What `ctr` said.
    pub fn import(&self, machine: &Machine, archive: &Path) -> Result<()> {
        let archive = archive.canonicalize().with_context(|| archive.display().to_string())?;
        self.ctr(machine, &["images", "import", "--all-platforms", &archive.display().to_string()]).map(drop)
    }

    /// Runs `ctr` in Kubernetes' namespace; its standard output.
    ///
    /// # Errors
    /// What `ctr` said.
    pub fn ctr(&self, machine: &Machine, args: &[&str]) -> Result<String> {
        machine.run("ctr", &[&["--namespace", NAMESPACE], args].concat())
    }

    /// Ends it; containers run on.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(self) -> Result<()> {
        self.daemon.stop()
    }
}

/// Without CAP_SYS_RESOURCE a negative oom_score_adj is refused, and every sandbox would fail.
fn configuration(networks: &Path) -> String {
    format!(
        r#"version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs"]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI_PLUGINS}"
    conf_dir = "{}"
"#,
        networks.display()
    )
}
