//! What controllers, a scheduler and a kubelet would do for the objects that the pages make: as much as
//! `kubectl rollout status`, `kubectl wait` and `kubectl exec` see of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use rolegate_tests::topology::PodNet;
use rolegate_tests::world::{NODE, World};
use serde_json::{Value, json};

use super::desk::real;

const MERGE: &str = "application/merge-patch+json";
/// How often it looks; nothing is decided by it.
const PERIOD: Duration = Duration::from_millis(250);

/// It works until it is dropped.
pub(crate) struct Kubelet {
    over: Arc<AtomicBool>,
    troubles: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
}

struct Work {
    world: Arc<World>,
    /// A file for each running pod: the namespace of its network.
    dir: PathBuf,
    networks: BTreeMap<String, PodNet>,
}

// === impl Kubelet ===

impl Kubelet {
    pub(crate) fn start(world: &Arc<World>, dir: &Path) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let troubles = Arc::<Mutex<Vec<String>>>::default();
        let mut work = Work { world: Arc::clone(world), dir: dir.to_owned(), networks: BTreeMap::new() };
        let (ends, said) = (Arc::clone(&over), Arc::clone(&troubles));
        let thread = std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                if let Err(error) = work.look() {
                    said.lock().push(format!("{error:#}"));
                }
                std::thread::sleep(PERIOD);
            }
        });
        Self { over, troubles, thread: Some(thread) }
    }

    pub(crate) fn troubles(&self) -> Vec<String> {
        self.troubles.lock().clone()
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

// === impl Work ===

impl Work {
    fn look(&mut self) -> anyhow::Result<()> {
        for set in self.list("/apis/apps/v1/daemonsets")? {
            self.rolled_out(&set)?;
        }
        for pod in self.list("/api/v1/pods")? {
            let (namespace, name) = (text(&pod, "namespace"), text(&pod, "name"));
            if pod.pointer("/metadata/deletionTimestamp").is_some() {
                real(&self.world).delete_pod(&namespace, &name)?;
                self.networks.remove(&format!("{namespace}.{name}"));
            } else if pod.pointer("/spec/nodeName").is_none() {
                self.start(&namespace, &name)?;
            }
        }
        Ok(())
    }

    fn list(&self, path: &str) -> anyhow::Result<Vec<Value>> {
        let mut list = real(&self.world).admin("GET", path, &Value::Null)?;
        Ok(list["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
    }

    fn rolled_out(&self, set: &Value) -> anyhow::Result<()> {
        let generation = &set["metadata"]["generation"];
        if set.pointer("/status/observedGeneration") == Some(generation) {
            return Ok(());
        }
        let path = format!(
            "/apis/apps/v1/namespaces/{}/daemonsets/{}/status",
            text(set, "namespace"),
            text(set, "name")
        );
        let status = json!({"status": {
            "observedGeneration": generation, "desiredNumberScheduled": 1, "currentNumberScheduled": 1,
            "updatedNumberScheduled": 1, "numberReady": 1, "numberAvailable": 1, "numberMisscheduled": 0,
        }});
        self.patch(&path, &status)
    }

    fn start(&mut self, namespace: &str, name: &str) -> anyhow::Result<()> {
        let api = real(&self.world);
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
                             "target": {"apiVersion": "v1", "kind": "Node", "name": NODE}});
        api.admin("POST", &format!("{path}/binding"), &binding)?;
        let (ip4, ip6) = self.world.next_addresses();
        let network = self.world.topology.routed_pod("shell", ip4, Some(ip6))?;
        let key = format!("{namespace}.{name}");
        std::fs::write(self.dir.join(&key), network.ns().path().display().to_string())?;
        self.networks.insert(key, network);
        let ready =
            json!([{"type": "Ready", "status": "True"}, {"type": "ContainersReady", "status": "True"}]);
        self.patch(
            &format!("{path}/status"),
            &json!({"status": {"phase": "Running", "podIP": ip4, "conditions": ready,
                               "podIPs": [{"ip": ip4}, {"ip": ip6}]}}),
        )
    }

    fn patch(&self, path: &str, patch: &Value) -> anyhow::Result<()> {
        let api = real(&self.world);
        let answer = api.patch(&api.admin_token(), path, MERGE, patch)?;
        // It may have gone in the meantime.
        anyhow::ensure!(
            answer.status < 300 || answer.status == 404,
            "{path}: {} {}",
            answer.status,
            answer.text()
        );
        Ok(())
    }
}

fn text(object: &Value, field: &str) -> String {
    object["metadata"][field].as_str().unwrap_or_default().to_owned()
}
