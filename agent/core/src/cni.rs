//! What CNI plugins returned: which interface of the host leads to which pod's addresses, as libcni keeps it on disk.
//!
//! Written by the container runtime, as root, and read only. A file that is odd, too long or cannot be read affects
//! itself alone.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::Path;
use std::time::SystemTime;

use serde::Deserialize;

/// Files beyond this are not read: a node has some 250 pods, each with a network or two.
const MOST_FILES: usize = 4_096;
/// Longest file that is read: the configuration of the network is in it, a few KiB.
const MOST_BYTES: u64 = 256 * 1024;

/// Why a file says nothing.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    /// Not the JSON that libcni writes.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Longer than what is read.
    #[error("longer than {MOST_BYTES} bytes")]
    TooLong,
    /// An address or a hardware address that is none.
    #[error("{0:?} is not an address")]
    Address(String),
}

/// An interface of the host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostLink {
    /// Its name.
    pub name: String,
    /// Its hardware address, where the plugin said it.
    pub mac: Option<Vec<u8>>,
}

/// One pod in one network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attachment {
    /// The host's interfaces: the one that leads to the pod, and a bridge if there is one.
    pub host: Vec<HostLink>,
    /// Of the pod's interface.
    pub addresses: BTreeSet<IpAddr>,
    /// Hardware addresses of the pod's interface.
    pub pod_macs: BTreeSet<Vec<u8>>,
    /// Whose it is, where the runtime told the plugin.
    pub pod_uid: Option<String>,
    /// When the runtime wrote it down: once, when it made the sandbox.
    pub written: Option<SystemTime>,
}

/// All that is in a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Results {
    /// What can be read.
    pub attachments: Vec<Attachment>,
    /// Files that say nothing.
    pub odd: usize,
}

/// `cachedInfo` of containernetworking/cni, `libcni/api.go`, and the CNI specification, "Results".
#[derive(Deserialize)]
struct Cached {
    #[serde(default, rename = "cniArgs")]
    args: Option<Vec<(String, String)>>,
    result: Outcome,
}

#[derive(Deserialize)]
struct Outcome {
    #[serde(default)]
    interfaces: Option<Vec<Interface>>,
    #[serde(default)]
    ips: Option<Vec<Ip>>,
}

#[derive(Deserialize)]
struct Interface {
    name: String,
    #[serde(default)]
    mac: Option<String>,
    #[serde(default)]
    sandbox: Option<String>,
}

#[derive(Deserialize)]
struct Ip {
    address: String,
    #[serde(default)]
    interface: Option<i64>,
}

// === impl Results ===

impl Results {
    /// Reads a directory; one that is not there has nothing in it.
    #[must_use]
    pub fn read(directory: &Path) -> Self {
        let mut results = Self::default();
        let Ok(entries) = std::fs::read_dir(directory) else { return results };
        for (number, entry) in entries.enumerate() {
            match entry.map_err(CniError::from).and_then(|entry| Attachment::read(&entry.path())) {
                _ if number >= MOST_FILES => results.odd += 1,
                Ok(attachment) => results.attachments.push(attachment),
                // It went between the two looks: the pod is gone.
                Err(CniError::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(_) => results.odd += 1,
            }
        }
        results
    }
}

// === impl Attachment ===

impl Attachment {
    fn read(path: &Path) -> Result<Self, CniError> {
        // Not followed, not opened: reading a FIFO would not end.
        if !path.symlink_metadata()?.is_file() {
            return Err(CniError::TooLong);
        }
        let mut bytes = Vec::new();
        File::open(path)?.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
        if u64::try_from(bytes.len()).is_ok_and(|length| length > MOST_BYTES) {
            return Err(CniError::TooLong);
        }
        let written = path.symlink_metadata()?.modified().ok();
        Ok(Self { written, ..Self::parse(&bytes)? })
    }

    /// Reads one file of libcni's.
    ///
    /// # Errors
    /// What about it cannot be.
    pub fn parse(bytes: &[u8]) -> Result<Self, CniError> {
        let cached: Cached = serde_json::from_slice(bytes)?;
        let interfaces = cached.result.interfaces.unwrap_or_default();
        let mut read = Self::default();
        for interface in &interfaces {
            let mac = interface.mac.as_deref().filter(|mac| !mac.is_empty()).map(mac_bytes).transpose()?;
            if interface.of_pod() {
                read.pod_macs.extend(mac);
            } else {
                read.host.push(HostLink { name: interface.name.clone(), mac });
            }
        }
        for ip in cached.result.ips.unwrap_or_default() {
            // Left out it is the only one; what is an address of the host's interface is not the pod's.
            let of_pod = ip.interface.is_none_or(|index| {
                let at = usize::try_from(index).ok().and_then(|index| interfaces.get(index));
                at.is_some_and(Interface::of_pod)
            });
            let address = ip.address.split('/').next().unwrap_or_default();
            let address = address.parse::<IpAddr>().map_err(|_| CniError::Address(ip.address.clone()))?;
            read.addresses.extend(of_pod.then_some(address));
        }
        let args = cached.args.unwrap_or_default();
        read.pod_uid = args.into_iter().find(|(name, _)| name == "K8S_POD_UID").map(|(_, uid)| uid);
        Ok(read)
    }

    /// Whether the interface of the host is one of those that the plugin made.
    #[must_use]
    pub fn names(&self, name: &str, mac: &[u8]) -> bool {
        self.host.iter().any(|link| link.name == name && link.mac.as_deref().is_none_or(|is| is == mac))
    }
}

// === impl Interface ===

impl Interface {
    fn of_pod(&self) -> bool {
        self.sandbox.as_deref().is_some_and(|sandbox| !sandbox.is_empty())
    }
}

fn mac_bytes(text: &str) -> Result<Vec<u8>, CniError> {
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16));
    bytes.collect::<Result<_, _>>().map_err(|_| CniError::Address(text.to_owned()))
}

#[cfg(test)]
mod tests;
