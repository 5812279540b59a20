//! The name that one agent of a node has at a time: whoever has it says who it is, so that another knows what to wait for.

use std::io::{self, Read};
use std::os::fd::AsRawFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use serde::{Deserialize, Serialize};

use super::message::LONGEST_BYTES;
use crate::admin::VERSION;

/// An abstract name (unix(7)): of a network namespace, and gone with its owner however that ends.
pub(super) const NAME: &str = "rolegate/redirect";
/// An owner that is asked has its answer in memory. One that says nothing is of a version that never does.
const ANSWER: Duration = Duration::from_secs(1);

/// Who has the name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Owner {
    /// Of its program.
    pub(super) version: String,
    /// As it sees itself: in a container that is 1.
    pub(super) pid: u32,
    /// Its state directory, by path.
    pub(super) directory: String,
    /// Device and inode of the same: paths differ between containers that share it, and agree between those that do not.
    pub(super) id: Option<(u64, u64)>,
}

// === impl Owner ===

impl Owner {
    /// This process.
    pub(super) fn this(state_dir: &Path) -> Self {
        let id = std::fs::metadata(state_dir).ok().map(|found| (found.dev(), found.ino()));
        Self {
            version: VERSION.to_owned(),
            pid: std::process::id(),
            directory: state_dir.display().to_string(),
            id,
        }
    }

    /// Whether both have one state directory, as far as can be known.
    pub(super) fn shares_with(&self, other: &Self) -> bool {
        match (self.id, other.id) {
            (Some(one), Some(two)) => one == two,
            _ => self.directory == other.directory,
        }
    }

    /// As it answers whoever connects.
    pub(super) fn line(&self) -> Vec<u8> {
        // Numbers and strings: there is nothing that JSON could not hold.
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

/// Takes the name, unless somebody has it.
pub(super) fn claim() -> io::Result<UnixListener> {
    UnixListener::bind_addr(&SocketAddr::from_abstract_name(NAME)?)
}

/// Asks whoever has the name. Nothing when nobody has it, or its owner never answers.
pub(super) fn owner() -> Option<Owner> {
    // One that accepts nobody has a full queue at some time: never wait for a place in it.
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let asking = socket(AddressFamily::Unix, SockType::Stream, flags, None).ok()?;
    connect(asking.as_raw_fd(), &UnixAddr::new_abstract(NAME.as_bytes()).ok()?).ok()?;
    let asking = UnixStream::from(asking);
    asking.set_nonblocking(false).ok()?;
    asking.set_read_timeout(Some(ANSWER)).ok()?;
    let mut line = Vec::new();
    asking.take(LONGEST_BYTES as u64).read_to_end(&mut line).ok()?;
    serde_json::from_slice(&line).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(directory: &str, id: Option<(u64, u64)>) -> Owner {
        Owner { version: "0.1.0".into(), pid: 1, directory: directory.into(), id }
    }

    #[test]
    fn a_directory_is_one_by_what_it_is_and_by_its_path_only_where_that_is_all() {
        let here = owner("/var/lib/rolegate", Some((1, 2)));
        assert!(here.shares_with(&owner("/state", Some((1, 2)))));
        assert!(!here.shares_with(&owner("/var/lib/rolegate", Some((1, 3)))));
        assert!(here.shares_with(&owner("/var/lib/rolegate", None)));
        assert!(!here.shares_with(&owner("/state", None)));
    }

    #[test]
    fn an_owner_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let this = Owner::this(dir.path());
        assert_eq!(serde_json::from_slice::<Owner>(&this.line()).unwrap(), this);
        assert!(this.id.is_some());
    }
}
