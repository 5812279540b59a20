//! The watch and the look-up of callers, against a double on the same clock.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rolegate::cluster::Snapshot;
use rolegate::cluster::watch::{Watch, WatchGates};
use rolegate::config::{AnnotationKeys, ApiSource, Kubernetes, NodeSelection};
use rolegate::identity::{Identity, Unidentified};
use rolegate::metrics::Registry;
use rolegate::ready::Gates;
use rolegate_tests::kube_api::{KubeApi, Pod, Request, Resource};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Nothing takes longer than this of the test's time, which costs nothing.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);
/// A request of a pod is held for so long.
const HOLD: Duration = Duration::from_millis(900);
/// Without an event or a bookmark for so long, what is known is stale.
pub(crate) const STALE: Duration = Duration::from_secs(75);
/// Beside what a test measures, answers and time's own ticks take this at most.
pub(crate) const TICKS: Duration = Duration::from_millis(100);

pub(crate) struct World {
    pub(crate) api: KubeApi,
    pub(crate) gates: Gates,
    registry: Registry,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    identity: Identity,
    _node_addresses: watch::Sender<Arc<HashSet<rolegate::types::PodIp>>>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

/// A double with the namespace `default`, whose bookmarks come as often as the real one's.
pub(crate) fn api() -> KubeApi {
    let api = KubeApi::start().unwrap();
    api.faults().bookmark_every(Duration::from_secs(60));
    api.apply_namespace("default", &[("iam.amazonaws.com/allowed-roles", "[\"reader\"]")]);
    api
}

/// A pod of the node.
pub(crate) fn pod(name: &str, ip: &str) -> Pod {
    Pod::new("default", name).node("n1").ip(ip).role("reader")
}

impl World {
    /// The watch runs, and nothing is listed anew but when it must be.
    pub(crate) fn start(api: KubeApi) -> Self {
        let client = {
            let api = api.in_process();
            let service = tower::service_fn(move |request| api.clone().answer(request));
            kube::Client::new(service, "default")
        };
        let config = Kubernetes {
            api: ApiSource::InCluster,
            insecure: false,
            node: NodeSelection::Name("n1".into()),
            resync: Duration::ZERO,
            pin_roles: false,
            startup_taint: None,
        };
        let (gates, registry) = (Gates::new(), Registry::new());
        let own = WatchGates {
            pods: gates.add("pods", "not started"),
            namespaces: gates.add("namespaces", "not started"),
        };
        let (watch, snapshots) = Watch::new(config, AnnotationKeys::default(), own, &registry);
        let (node_addresses, addresses) = watch::channel(Arc::default());
        let identity = Identity::new(snapshots.clone(), addresses, &registry);
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(watch.with_client(client).run(shutdown.clone()));
        Self { api, gates, registry, snapshots, identity, _node_addresses: node_addresses, shutdown, tasks }
    }

    /// The same, once it is ready and both watches are open.
    pub(crate) async fn ready(api: KubeApi) -> Self {
        let world = Self::start(api);
        world.until_ready().await;
        world.until_watched(Resource::Pods, 1).await;
        world.until_watched(Resource::Namespaces, 1).await;
        world
    }

    pub(crate) async fn until_ready(&self) {
        let waited = tokio::time::timeout(PATIENCE, self.gates.wait()).await;
        assert!(waited.is_ok(), "{:?}", self.gates.list());
    }

    /// Waits until readers see what is wanted; how long that took.
    pub(crate) async fn until(&mut self, what: &str, wanted: impl FnMut(&Arc<Snapshot>) -> bool) -> Duration {
        let start = Instant::now();
        let seen = tokio::time::timeout(PATIENCE, self.snapshots.wait_for(wanted)).await;
        assert!(seen.is_ok(), "not seen: {what}");
        start.elapsed()
    }

    /// Waits until `ip` is that pod's; how long that took.
    pub(crate) async fn until_owner(&mut self, ip: &str, name: &str) -> Duration {
        let address = ip.parse().unwrap();
        let owned = |snapshot: &Arc<Snapshot>| match snapshot.owner(address) {
            Some(rolegate::cluster::Owner::Pod(pod)) => *pod.facts.name == *name,
            _ => false,
        };
        self.until(&format!("{ip} is {name}'s"), owned).await
    }

    /// Waits until that gate's reason is as wanted (empty: open).
    pub(crate) async fn until_gate(&self, name: &str, wanted: impl Fn(&str) -> bool) -> String {
        let mut states = self.gates.subscribe();
        let reason = |states: &Vec<rolegate::ready::GateState>| {
            let gate = states.iter().find(|gate| gate.name == name).unwrap();
            gate.state.clone().err().unwrap_or_default().into_owned()
        };
        let seen = states.wait_for(|states| wanted(&reason(states)));
        match tokio::time::timeout(PATIENCE, seen).await {
            Ok(states) => reason(&states.unwrap()),
            Err(_) => panic!("gate {name} stayed {:?}", self.gates.list()),
        }
    }

    /// What that gate says now; nothing where it is open.
    pub(crate) fn gate(&self, name: &str) -> String {
        let gates = self.gates.list();
        let gate = gates.iter().find(|gate| gate.name == name).unwrap();
        gate.state.clone().err().unwrap_or_default().into_owned()
    }

    pub(crate) async fn until_watched(&self, resource: Resource, count: usize) {
        let watched = |request: &&Request| request.is_watch(resource) && request.status == 200;
        self.requests(|requests| requests.iter().filter(watched).count() >= count).await;
    }

    /// Waits until enough was asked.
    pub(crate) async fn requests(&self, enough: impl Fn(&[Request]) -> bool) {
        let seen = self.api.wait_for(|requests| enough(requests).then_some(()));
        tokio::time::timeout(PATIENCE, seen).await.expect("enough is asked");
    }

    /// Lists of `resource` so far, pages counted one by one.
    pub(crate) fn lists(&self, resource: Resource) -> Vec<Request> {
        self.api.requests().into_iter().filter(|request| request.is_list(resource)).collect()
    }

    /// A pod asks from `ip`: its name.
    pub(crate) async fn ask(&self, ip: &str) -> Result<String, Unidentified> {
        let caller = self.identity.identify(ip.parse().unwrap(), None, Instant::now() + HOLD).await?;
        Ok(caller.pod.facts.name.to_string())
    }

    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap();
        let metric = family.get_metric().iter().find(|metric| {
            let has = |name, value| {
                metric.get_label().iter().any(|pair| pair.name() == name && pair.value() == value)
            };
            labels.iter().all(|(name, value)| has(*name, *value))
        });
        let metric = metric.unwrap();
        metric.get_counter().get_value() + metric.get_gauge().get_value()
    }

    pub(crate) fn restarts(&self, resource: Resource, reason: &str) -> f64 {
        let labels = [("resource", resource.name()), ("reason", reason)];
        self.metric("rolegate_kubernetes_watch_restarts_total", &labels)
    }

    pub(crate) fn events(&self, resource: Resource, kind: &str) -> f64 {
        self.metric("rolegate_kubernetes_events_total", &[("resource", resource.name()), ("kind", kind)])
    }

    pub(crate) fn age(&self, resource: Resource) -> f64 {
        self.metric("rolegate_kubernetes_last_event_age_seconds", &[("resource", resource.name())])
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.tasks.close();
        tokio::time::timeout(PATIENCE, self.tasks.wait()).await.expect("the watch ends at shutdown");
    }
}
