//! Which pod the container runtime gave an address to last: libcni's cache of what its plugins returned.
//!
//! One file for each interface of a sandbox, written when the sandbox is made and removed with it (`cachedInfo` in
//! libcni's `api.go`). It says nothing of what is behind an address, but it is the node's own word, and in time.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::cni::Results;
use crate::types::{PodIp, PodUid};

/// What was read is good for so long: whoever asks often does not read a directory each time.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// The directory of results.
#[derive(Debug)]
pub(super) struct CniResults {
    directory: PathBuf,
    read: Mutex<Option<(Instant, HashMap<PodIp, Given>)>>,
}

/// Whom an address was given to, and when.
#[derive(Clone, Debug)]
struct Given {
    uid: PodUid,
    at: SystemTime,
}

// === impl CniResults ===

impl CniResults {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory, read: Mutex::default() }
    }

    /// When the runtime gave `ip` to a sandbox of the pod `uid`, unless it has given it to another pod's since. Reads
    /// files: not on a thread that others wait for.
    pub(super) fn given(&self, uid: &PodUid, ip: PodIp) -> Option<SystemTime> {
        let mut read = self.read.lock();
        if read.as_ref().is_none_or(|(at, _)| at.elapsed() >= GOOD_FOR) {
            *read = Some((Instant::now(), self.read()));
        }
        let (_, given) = read.as_ref()?;
        given.get(&ip).filter(|given| given.uid == *uid).map(|given| given.at)
    }

    /// Every address, and the last that it was given to.
    fn read(&self) -> HashMap<PodIp, Given> {
        let mut given: HashMap<PodIp, Given> = HashMap::new();
        for attachment in Results::read(&self.directory).attachments {
            let (Some(uid), Some(at)) = (attachment.pod_uid, attachment.written) else { continue };
            for ip in attachment.addresses.into_iter().map(PodIp::new) {
                if given.get(&ip).is_none_or(|other| other.at < at) {
                    given.insert(ip, Given { uid: PodUid::new(&uid), at });
                }
            }
        }
        given
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn result(uid: &str, ips: &[&str]) -> String {
        let ips: Vec<_> = ips.iter().map(|ip| serde_json::json!({"address": ip})).collect();
        serde_json::json!({
            "kind": "cniCacheV1",
            "containerId": "0123",
            "config": "e30=",
            "ifName": "eth0",
            "networkName": "k8s-pod-network",
            "cniArgs": [["IgnoreUnknown", "1"], ["K8S_POD_NAME", "a"], ["K8S_POD_UID", uid]],
            "capabilityArgs": {},
            "result": {"cniVersion": "1.0.0", "interfaces": [], "ips": ips, "dns": {}},
        })
        .to_string()
    }

    fn write(dir: &Path, name: &str, text: &str, seconds: u64) {
        std::fs::write(dir.join(name), text).unwrap();
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        std::fs::File::options().append(true).open(dir.join(name)).unwrap().set_modified(at).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_is_the_last_pods_that_it_was_given_to() {
        let dir = tempfile::tempdir().unwrap();
        let results = CniResults::new(dir.path().to_owned());
        let given = |uid: &str, ip: &str| {
            let at = results.given(&PodUid::new(uid), ip.parse().unwrap())?;
            at.duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_secs())
        };
        write(dir.path(), "net-1-eth0", &result("u1", &["10.1.0.11/32", "fd00::11/128"]), 100);
        write(dir.path(), "net-2-eth0", "{\"kind\":\"cniCacheV1\"", 300);
        write(dir.path(), "net-3-eth0", &result("u3", &["10.1.0.13", "no address"]), 300);
        write(dir.path(), "net-4-eth0", &result("u4", &["10.1.0.14"]), 100);
        std::fs::create_dir(dir.path().join("directory")).unwrap();
        assert_eq!((given("u1", "10.1.0.11"), given("u1", "fd00::11")), (Some(100), Some(100)));
        assert_eq!((given("u2", "10.1.0.11"), given("u1", "10.1.0.12")), (None, None));
        assert_eq!(given("u3", "10.1.0.13"), None, "not a part of an odd one");
        assert_eq!(given("u4", "10.1.0.14"), Some(100));

        write(dir.path(), "net-5-eth0", &result("u1", &["10.1.0.11/32"]), 200);
        assert_eq!(given("u1", "10.1.0.11"), Some(100), "read a moment ago");
        tokio::time::advance(GOOD_FOR).await;
        assert_eq!(given("u1", "10.1.0.11"), Some(200), "its sandbox was made again");
        write(dir.path(), "net-6-eth0", &result("u6", &["10.1.0.11/32"]), 201);
        tokio::time::advance(GOOD_FOR).await;
        assert_eq!((given("u1", "10.1.0.11"), given("u6", "10.1.0.11")), (None, Some(201)));
    }

    #[test]
    fn a_directory_that_is_not_there_says_nothing() {
        let results = CniResults::new("/nonexistent".into());
        assert_eq!(results.given(&PodUid::new("u1"), "10.1.0.11".parse().unwrap()), None);
    }
}
