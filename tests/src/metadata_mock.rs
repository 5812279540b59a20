//! AWS's own double of the metadata service, ec2-metadata-mock: somebody else's opinion on metadata.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use crate::clients::cache;
use crate::http::Client;
use crate::netns::NetNs;
use crate::service::Service;

/// It starts at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running mock. Dropping it ends it.
#[derive(Debug)]
pub struct MetadataMock {
    address: SocketAddr,
    _service: Service,
    // Its HOME; removed with it.
    _home: tempfile::TempDir,
}

// === impl MetadataMock ===

impl MetadataMock {
    /// Why it cannot be run here, if it cannot.
    #[must_use]
    pub fn missing() -> Option<String> {
        let program = program();
        (!program.exists())
            .then(|| format!("{} is not there (tests/tools/setup.sh, which needs Go)", program.display()))
    }

    /// Starts it in `ns` on `address`, for the agent's `--metadata-addr`; with tokens required or not.
    ///
    /// # Errors
    /// When it cannot be started or does not answer.
    pub fn start(ns: &Arc<NetNs>, address: SocketAddr, tokens_required: bool) -> Result<Self> {
        let home = tempfile::tempdir()?;
        let mut command = ns.command(program());
        command
            .env_clear()
            .env("HOME", home.path())
            .arg(format!("--hostname={}", address.ip()))
            .arg(format!("--port={}", address.port()));
        if tokens_required {
            command.arg("--imdsv2");
        }
        let mut service = Service::start("ec2-metadata-mock", &mut command, None)?;
        service.wait_until(PATIENCE, || Client::new(ns, address).get("/latest/meta-data").is_ok())?;
        Ok(Self { address, _service: service, _home: home })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn program() -> PathBuf {
    cache().join("go/ec2-metadata-mock")
}
