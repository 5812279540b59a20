//! The watch of the agent against an API server that lists in pages, forgets, stalls, refuses and dies.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking, its helpers too")]

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rolegate::cluster::watch::{Watch, WatchGates};
use rolegate::cluster::{Owner, Snapshot};
use rolegate::config::{AnnotationKeys, ApiSource, Kubernetes, NodeSelection};
use rolegate::identity::Identity;
use rolegate::metrics::Registry;
use rolegate::ready::Gates;
use rolegate::types::{PodIp, Secret};
use rolegate_tests::kube_api::{KubeApi, Pod, Resource};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What must happen happens sooner; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Longer than any test: nothing stalls.
const NO_STALL: Duration = Duration::from_secs(3600);

struct World {
    api: KubeApi,
    gates: Gates,
    registry: Registry,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    node: watch::Receiver<Option<String>>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    kubeconfig: tempfile::NamedTempFile,
}

impl World {
    /// A watch of node `n1`, configured by a kubeconfig.
    fn start(api: KubeApi) -> Self {
        Self::start_with(api, NO_STALL, |_| {})
    }

    /// The same, with an impatience of its own and whatever else is changed.
    fn start_with(api: KubeApi, stall_limit: Duration, edit: impl FnOnce(&mut Kubernetes)) -> Self {
        let kubeconfig = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&kubeconfig, api.kubeconfig()).unwrap();
        let mut config = Kubernetes {
            api: ApiSource::Kubeconfig(kubeconfig.path().to_owned()),
            insecure: false,
            node: NodeSelection::Name("n1".into()),
            resync: Duration::from_secs(1800),
            pin_roles: false,
            startup_taint: None,
        };
        edit(&mut config);
        let (gates, registry) = (Gates::new(), Registry::new());
        let own = WatchGates {
            pods: gates.add("pods", "not started"),
            namespaces: gates.add("namespaces", "not started"),
        };
        let (watch, snapshots) = Watch::new(config, AnnotationKeys::default(), own, &registry);
        let watch = watch.with_stall_limit(stall_limit);
        let (node, shutdown, tasks) = (watch.node(), CancellationToken::new(), TaskTracker::new());
        tasks.spawn(watch.run(shutdown.clone()));
        Self { api, gates, registry, snapshots, node, shutdown, tasks, kubeconfig }
    }

    /// Waits until readers see what is wanted.
    async fn until(&mut self, what: &str, wanted: impl FnMut(&Arc<Snapshot>) -> bool) -> Arc<Snapshot> {
        let seen = tokio::time::timeout(PATIENCE, self.snapshots.wait_for(wanted)).await;
        Arc::clone(&seen.unwrap_or_else(|_| panic!("not seen: {what}")).unwrap())
    }

    async fn synced(&mut self) -> Arc<Snapshot> {
        self.until("both lists", |snapshot| snapshot.synced()).await
    }

    /// Waits until `ip` belongs to that pod.
    async fn until_owner(&mut self, ip: &str, name: &str) -> Arc<Snapshot> {
        self.until(name, |snapshot| owner(snapshot, ip).as_deref() == Some(name)).await
    }

    /// Waits until that gate's reason is as wanted (empty: open), and returns it.
    async fn until_gate(&self, name: &str, wanted: impl Fn(&str) -> bool) -> String {
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

    async fn requests(&self, what: &str, enough: impl Fn(&[rolegate_tests::kube_api::Request]) -> bool) {
        let seen = self.api.wait_for(|requests| enough(requests).then_some(()));
        tokio::time::timeout(PATIENCE, seen).await.unwrap_or_else(|_| panic!("not asked: {what}"));
    }

    /// Waits until `count` watches of `resource` were opened in all.
    async fn until_watched(&self, resource: Resource, count: usize) {
        self.requests(&format!("{count} watches of {resource}"), |requests| {
            requests.iter().filter(|request| request.is_watch(resource) && request.status == 200).count()
                >= count
        })
        .await;
    }

    fn lists(&self, resource: Resource) -> usize {
        self.api.requests().iter().filter(|request| request.is_list(resource)).count()
    }

    fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
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

    fn restarts(&self, resource: &str, reason: &str) -> f64 {
        let labels = [("resource", resource), ("reason", reason)];
        self.metric("rolegate_kubernetes_watch_restarts_total", &labels)
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.tasks.close();
        tokio::time::timeout(PATIENCE, self.tasks.wait()).await.expect("the watch ends at shutdown");
    }
}

fn api() -> KubeApi {
    let api = KubeApi::start().unwrap();
    api.apply_namespace("default", &[("iam.amazonaws.com/allowed-roles", "[\"reader\"]")]);
    api
}

fn pod(name: &str, ip: &str) -> Pod {
    Pod::new("default", name).node("n1").ip(ip).role("reader")
}

fn ip(text: &str) -> PodIp {
    text.parse().unwrap()
}

/// Name of the one pod that an address belongs to.
fn owner(snapshot: &Snapshot, address: &str) -> Option<String> {
    match snapshot.owner(ip(address)) {
        Some(Owner::Pod(pod)) => Some(pod.facts.name.to_string()),
        _ => None,
    }
}

/// K26: only pods of the node are asked for, and of namespaces their metadata.
#[tokio::test]
async fn pods_of_the_node_alone_and_namespaces_are_listed_in_pages_and_then_watched() {
    let api = api();
    for n in 0..250 {
        api.apply_pod(&pod(&format!("mine-{n}"), &format!("10.1.0.{n}")));
        api.apply_pod(&pod(&format!("theirs-{n}"), &format!("10.2.0.{n}")).node("n2"));
    }
    for n in 0..600 {
        api.apply_namespace(&format!("ns-{n}"), &[]);
    }
    let mut world = World::start(api);
    let snapshot = world.synced().await;
    assert_eq!((snapshot.pods().len(), snapshot.namespace_count()), (250, 601));
    assert_eq!(owner(&snapshot, "10.1.0.7").as_deref(), Some("mine-7"));
    assert!(snapshot.owner(ip("10.2.0.7")).is_none());
    let namespace = snapshot.namespace("default").unwrap();
    assert_eq!(namespace.annotations().allowed_roles.as_deref(), Some("[\"reader\"]"));

    world.until_watched(Resource::Pods, 1).await;
    world.until_watched(Resource::Namespaces, 1).await;
    for request in world.api.requests() {
        let query = |key| request.query.get(key).map(String::as_str);
        let pods = request.path == "/api/v1/pods";
        assert_eq!(query("fieldSelector"), pods.then_some("spec.nodeName=n1"), "{request:?}");
        assert_eq!(request.accept.contains("as=PartialObjectMetadata"), !pods, "{request:?}");
        match query("watch") {
            Some(_) => assert_eq!(query("allowWatchBookmarks"), Some("true"), "{request:?}"),
            None => assert_eq!(query("limit"), Some(if pods { "100" } else { "500" }), "{request:?}"),
        }
    }
    assert_eq!((world.lists(Resource::Pods), world.lists(Resource::Namespaces)), (3, 2));
    world.stop().await;
}

#[tokio::test]
async fn what_happens_to_pods_and_namespaces_is_seen() {
    let mut world = World::start(api());
    world.synced().await;
    world.api.apply_pod(&Pod::new("late", "a").node("n1").ip("10.1.0.11").ip("fd00::11").role("reader"));
    let snapshot = world.until_owner("fd00::11", "a").await;
    assert_eq!(owner(&snapshot, "10.1.0.11").as_deref(), Some("a"));
    world.api.apply_namespace("late", &[]);
    world.until("the namespace", |snapshot| snapshot.namespace("late").is_some()).await;

    world.api.apply_pod(&pod("host", "10.0.0.1").host_network(true));
    world
        .until("the host's", |snapshot| matches!(snapshot.owner(ip("10.0.0.1")), Some(Owner::HostNetwork)))
        .await;
    world.api.apply_pod(&Pod::new("late", "a").node("n1").ip("10.1.0.11").role("writer"));
    world
        .until("the edit", |snapshot| match snapshot.owner(ip("10.1.0.11")) {
            Some(Owner::Pod(pod)) => pod.facts.role.as_deref() == Some("writer"),
            _ => false,
        })
        .await;
    world.api.apply_pod(&Pod::new("late", "a").node("n1").ip("10.1.0.11").phase("Succeeded"));
    world.until("its end", |snapshot| snapshot.owner(ip("10.1.0.11")).is_none()).await;
    assert!(world.api.delete_pod("late", "a"));
    assert!(world.api.delete_namespace("late"));
    world.until("the deletion", |snapshot| snapshot.namespace("late").is_none()).await;
    world.until("the deletion", |snapshot| snapshot.pods().len() == 1).await;
    assert_eq!((world.lists(Resource::Pods), world.lists(Resource::Namespaces)), (1, 1));
    world.stop().await;
}

#[tokio::test]
async fn a_watch_that_is_cut_or_breaks_is_resumed_without_a_list_and_misses_nothing() {
    let mut world = World::start(api());
    world.synced().await;
    world.until_watched(Resource::Pods, 1).await;
    world.api.faults().cut_watches();
    world.api.apply_pod(&pod("a", "10.1.0.11"));
    world.until_owner("10.1.0.11", "a").await;
    world.until_watched(Resource::Pods, 2).await;
    world.api.faults().break_watches();
    world.api.delete_pod("default", "a");
    world.api.apply_pod(&pod("b", "10.1.0.11"));
    world.until_owner("10.1.0.11", "b").await;
    assert_eq!((world.lists(Resource::Pods), world.lists(Resource::Namespaces)), (1, 1));
    assert!(world.restarts("pods", "ended") >= 1.0);
    // What was seen is not asked for again: it would bring back the pods of before for a moment.
    let requests = world.api.requests();
    let versions: Vec<u64> = requests
        .iter()
        .filter(|request| request.is_watch(Resource::Pods))
        .map(|request| request.query["resourceVersion"].parse().unwrap())
        .collect();
    assert!(versions.last() > versions.first(), "{versions:?}");
    world.stop().await;
}

/// K25: the deletion that no watch brought is found out by the next list.
#[tokio::test]
async fn what_was_deleted_unseen_is_gone_after_410() {
    let mut world = World::start(api());
    world.api.apply_pod(&pod("a", "10.1.0.11"));
    world.until_owner("10.1.0.11", "a").await;
    world.api.faults().hold(Resource::Pods);
    world.api.delete_pod("default", "a");
    world.api.apply_pod(&pod("b", "10.1.0.11"));
    world.api.faults().expire();
    let snapshot = world.until_owner("10.1.0.11", "b").await;
    assert_eq!(snapshot.pods().len(), 1);
    assert!(world.restarts("pods", "gone") >= 1.0);
    world.stop().await;
}

#[tokio::test]
async fn a_missing_rule_of_rbac_is_named_by_the_gate_until_it_is_there() {
    for verb in ["list", "watch"] {
        for resource in [Resource::Pods, Resource::Namespaces] {
            let api = api();
            api.faults().refuse(verb, resource);
            let world = World::start(api);
            let reason = world.until_gate(resource.name(), |reason| reason.contains("forbidden")).await;
            assert!(reason.starts_with(&format!("cannot {verb} {resource}: forbidden;")), "{reason}");
            assert!(reason.contains(&format!("a ClusterRole with list and watch on {resource}")), "{reason}");
            assert!(reason.contains(&format!("cannot {verb} resource \"{resource}\"")), "{reason}");
            world.api.faults().allow(verb, resource);
            tokio::time::timeout(PATIENCE, world.gates.wait()).await.expect("ready by itself");
            world.stop().await;
        }
    }
}

#[tokio::test]
async fn a_token_that_is_no_longer_good_is_said_and_a_new_one_is_read() {
    let mut world = World::start(api());
    let first = world.api.token();
    world.synced().await;
    world.api.faults().set_token("another");
    world.api.faults().cut_watches();
    let reason = world.until_gate("pods", |reason| !reason.is_empty()).await;
    assert!(reason.ends_with("pods: unauthorized; is the token valid for this API server?"), "{reason}");
    assert!(!reason.contains(&first) && !reason.contains("another"));
    std::fs::write(&world.kubeconfig, world.api.kubeconfig()).unwrap();
    tokio::time::timeout(PATIENCE, world.gates.wait()).await.expect("ready by itself");
    world.stop().await;
}

/// A kubeconfig that names another server is read when the first one has been silent for the limit, and what only that
/// one knew is forgotten.
#[tokio::test]
async fn a_server_at_another_address_is_followed_once_the_first_is_silent() {
    let first = api();
    first.apply_pod(&pod("a", "10.1.0.11"));
    let mut world = World::start_with(first, Duration::from_millis(300), |_| {});
    world.until_owner("10.1.0.11", "a").await;
    let second = api();
    second.apply_pod(&pod("b", "10.1.0.12"));
    std::fs::write(&world.kubeconfig, second.kubeconfig()).unwrap();
    world.api.faults().down(true);
    let snapshot = world.until_owner("10.1.0.12", "b").await;
    assert_eq!(snapshot.pods().len(), 1);
    world.stop().await;
}

#[tokio::test]
async fn by_address_and_token_the_certificate_is_checked_unless_told_otherwise() {
    for insecure in [true, false] {
        let api = api();
        let (url, token) = (api.url(), Some(Secret::new(api.token())));
        let mut world = World::start_with(api, NO_STALL, |config| {
            config.api = ApiSource::Server { url, token };
            config.insecure = insecure;
        });
        if insecure {
            world.synced().await;
        } else {
            // What the system has as roots (perhaps none) does not know the test's authority.
            world.until_gate("pods", |reason| reason.to_lowercase().contains("certificate")).await;
            assert_eq!(world.api.requests(), []);
        }
        world.stop().await;
    }
}

#[tokio::test]
async fn every_resync_period_there_is_a_new_list() {
    let period = Duration::from_millis(50);
    let mut world = World::start_with(api(), NO_STALL, |config| config.resync = period);
    world.synced().await;
    world.until_watched(Resource::Pods, 3).await;
    assert!(world.lists(Resource::Pods) >= 3);
    assert!(world.restarts("pods", "resync") >= 2.0);
    world.stop().await;
}

/// K12: what waits for the API server waits in the background, and for ever.
#[tokio::test]
async fn started_while_the_api_server_is_down_it_comes_up_by_itself() {
    let api = api();
    api.apply_pod(&pod("a", "10.1.0.11"));
    api.faults().down(true);
    let mut world = World::start(api);
    world.until_gate("pods", |reason| reason.starts_with("cannot list pods: ")).await;
    assert!(!world.snapshots.borrow().synced());
    world.api.faults().down(false);
    world.until_owner("10.1.0.11", "a").await;
    tokio::time::timeout(PATIENCE, world.gates.wait()).await.expect("ready by itself");
    world.stop().await;
}

#[tokio::test]
async fn the_node_is_found_by_the_hosts_address_and_never_all_pods_are_watched() {
    let api = api();
    api.apply_pod(&pod("a", "10.1.0.11"));
    api.apply_pod(&pod("b", "10.2.0.11").node("n2"));
    let host: IpAddr = "10.0.0.1".parse().unwrap();
    let mut world = World::start_with(api, NO_STALL, |config| config.node = NodeSelection::ByHostIp(host));
    let reason = world.until_gate("pods", |reason| reason.contains("--host-ip")).await;
    assert!(reason.starts_with("no live pod has the address 10.0.0.1"), "{reason}");
    assert_eq!(*world.node.borrow(), None);

    world.api.apply_pod(&Pod::new("kube-system", "old").node("n2").ip("10.0.0.1").phase("Failed"));
    world.api.apply_pod(&Pod::new("kube-system", "agent").node("n1").ip("10.0.0.1").host_network(true));
    let snapshot = world.synced().await;
    assert_eq!(world.node.borrow_and_update().as_deref(), Some("n1"));
    assert_eq!(snapshot.pods().len(), 2);
    for request in world.api.requests().iter().filter(|request| request.path == "/api/v1/pods") {
        let selector = request.query.get("fieldSelector").map(String::as_str);
        assert!(matches!(selector, Some("status.podIP=10.0.0.1" | "spec.nodeName=n1")), "{request:?}");
    }
    world.stop().await;
}

#[tokio::test]
async fn a_request_of_an_unknown_address_is_answered_when_the_watch_brings_the_pod() {
    let mut world = World::start(api());
    world.synced().await;
    world.until_watched(Resource::Pods, 1).await;
    let (_node, node_addresses) = watch::channel(Arc::new(HashSet::new()));
    let identity = Identity::new(world.snapshots.clone(), node_addresses, &world.registry);
    world.api.faults().hold(Resource::Pods);
    world.api.apply_pod(&pod("a", "10.1.0.11"));
    let asked = identity.identify(ip("10.1.0.11"), None, Instant::now() + PATIENCE);
    let (caller, ()) = tokio::join!(biased; asked, async {
        world.api.faults().release(Resource::Pods);
    });
    let caller = caller.unwrap();
    assert_eq!(&*caller.pod.facts.name, "a");
    assert_eq!(caller.namespace.annotations().allowed_roles.as_deref(), Some("[\"reader\"]"));
    assert_eq!(world.metric("rolegate_identity_held_total", &[("outcome", "answered")]), 1.0);
    world.stop().await;
}

/// K26: whatever an object carries, what is kept of it is a few fields.
#[tokio::test]
async fn of_an_object_nothing_but_its_facts_is_kept() {
    let api = api();
    let ballast = "x".repeat(200_000);
    api.apply_pod(&pod("a", "10.1.0.11").annotation("example.com/ballast", &ballast));
    api.apply_namespace("heavy", &[("example.com/ballast", &ballast)]);
    let mut world = World::start(api);
    let snapshot = world.synced().await;
    assert_eq!(snapshot.pods().len(), 1);
    assert!(snapshot.namespace("heavy").is_some());
    assert!(format!("{snapshot:?}").len() < 4_000);
    assert_eq!(world.metric("rolegate_kubernetes_objects", &[("resource", "namespaces")]), 2.0);
    world.stop().await;
}
