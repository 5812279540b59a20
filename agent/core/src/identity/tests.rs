use std::time::Duration;

use super::*;
use crate::cluster::index::{Event, Index};
use crate::cluster::testing::{mk_namespace, mk_pod};

/// PROTOCOL.md: a request is held for 900 ms at most.
const HOLD: Duration = Duration::from_millis(900);

struct World {
    index: Index,
    snapshots: watch::Sender<Arc<Snapshot>>,
    node: watch::Sender<Arc<HashSet<PodIp>>>,
    identity: Identity,
}

impl World {
    /// Nothing listed yet.
    fn unsynced() -> Self {
        let (snapshots, seen) = watch::channel(Arc::new(Snapshot::default()));
        let (node, node_seen) = watch::channel(Arc::new(HashSet::from([ip("10.0.0.1")])));
        let identity = Identity::new(seen, node_seen, &Registry::new());
        Self { index: Index::new(), snapshots, node, identity }
    }

    /// Lists complete: namespace `default` and no pod.
    fn synced() -> Self {
        let mut world = Self::unsynced();
        world.apply([Event::PodsInit, Event::PodsInitDone, Event::NamespacesInit]);
        world.apply([Event::NamespaceInitApply(mk_namespace("default", None)), Event::NamespacesInitDone]);
        world
    }

    fn apply(&mut self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            self.index.apply(event);
        }
        self.snapshots.send_replace(self.index.snapshot());
    }

    fn pods(&mut self, pods: impl IntoIterator<Item = PodRecord>) {
        self.apply(pods.into_iter().map(Event::PodApply));
    }

    async fn identify(&self, address: &str) -> Result<String, Unidentified> {
        let caller = self.identity.identify(ip(address), None, Instant::now() + HOLD).await?;
        Ok(caller.pod.facts.uid.to_string())
    }
}

fn ip(text: &str) -> PodIp {
    text.parse().unwrap()
}

/// P19: pod and namespace of a caller are of one snapshot.
#[tokio::test(start_paused = true)]
async fn a_known_address_is_its_pod_in_no_time_and_of_one_snapshot() {
    let mut world = World::synced();
    world.pods([mk_pod("u1", "a", &["10.1.0.11", "fd00::11"])]);
    let start = Instant::now();
    for address in ["10.1.0.11", "fd00::11", "::ffff:10.1.0.11"] {
        assert_eq!(world.identify(address).await.as_deref(), Ok("u1"), "{address}");
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
    let caller = world.identity.identify(ip("10.1.0.11"), None, start).await.unwrap();
    assert!(Arc::ptr_eq(caller.snapshot.namespace("default").unwrap(), &caller.namespace));
    assert!(Arc::ptr_eq(caller.snapshot.pod(&caller.pod.facts.uid).unwrap(), &caller.pod));
}

/// P19: however often both change while it is asked, no caller has the pod of one instant and the namespace of
/// another.
#[test]
fn pod_and_namespace_are_never_of_different_instants() {
    let mut world = World::synced();
    let (identity, last) = (world.identity.clone(), 20_000);
    let mut instant = |n: u32| {
        let mut pod = mk_pod("u1", "a", &["10.1.0.11"]);
        pod.facts.role = Some(Arc::from(n.to_string()));
        let namespace = mk_namespace("default", Some(&n.to_string()));
        world.apply([Event::PodApply(pod), Event::NamespaceApply(namespace)]);
    };
    instant(0);
    let (begun, begins) = std::sync::mpsc::channel();
    let asking = std::thread::spawn(move || {
        let (mut seen, mut role) = (HashSet::new(), String::new());
        while role != last.to_string() {
            let caller = identity.look_up(ip("10.1.0.11")).unwrap();
            assert_eq!(caller.pod.facts.role, caller.namespace.annotations().allowed_roles);
            role = caller.pod.facts.role.as_deref().unwrap().to_owned();
            seen.insert(role.clone());
            let _ = begun.send(());
        }
        seen.len()
    });
    begins.recv().unwrap();
    for n in 1..=last {
        instant(n);
    }
    assert!(asking.join().unwrap() > 1);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_address_is_answered_in_the_tick_that_makes_it_known() {
    let mut world = World::synced();
    let start = Instant::now();
    let identity = world.identity.clone();
    let (caller, ()) = tokio::join!(identity.identify(ip("10.1.0.11"), None, start + HOLD), async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        world.pods([mk_pod("u9", "z", &["10.1.0.99"])]);
        tokio::time::sleep(Duration::from_millis(1)).await;
        world.pods([mk_pod("u1", "a", &["10.1.0.11"])]);
    });
    assert_eq!(caller.unwrap().pod.facts.uid.as_str(), "u1");
    assert_eq!(start.elapsed(), Duration::from_millis(701));
    assert_eq!(world.identity.metrics.held_answered.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_address_that_stays_unknown_is_refused_at_the_deadline() {
    let world = World::synced();
    let start = Instant::now();
    assert_eq!(world.identify("10.1.0.11").await, Err(Unidentified::UnknownAddress));
    // tokio's timer wheel has millisecond ticks and rounds up.
    assert!(start.elapsed() - HOLD <= Duration::from_millis(1), "{:?}", start.elapsed());
    assert_eq!(world.identity.metrics.held_expired.get(), 1);
    assert_eq!(world.identity.metrics.refused(Unidentified::UnknownAddress).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_known_before_both_lists_are_complete() {
    let mut world = World::unsynced();
    assert_eq!(world.identify("10.1.0.11").await, Err(Unidentified::NotSynced));
    world.apply([
        Event::PodsInit,
        Event::PodInitApply(mk_pod("u1", "a", &["10.1.0.11"])),
        Event::PodsInitDone,
    ]);
    assert_eq!(world.identify("10.1.0.11").await, Err(Unidentified::NotSynced));
}

#[tokio::test(start_paused = true)]
async fn a_pod_seen_before_its_namespace_waits_for_the_namespace() {
    let mut world = World::synced();
    let mut pod = mk_pod("u1", "a", &["10.1.0.11"]);
    pod.facts.namespace = Arc::from("late");
    world.pods([pod]);
    assert_eq!(world.identify("10.1.0.11").await, Err(Unidentified::NamespaceUnknown));
    let start = Instant::now();
    let identity = world.identity.clone();
    let (caller, ()) = tokio::join!(identity.identify(ip("10.1.0.11"), None, start + HOLD), async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        world.apply([Event::NamespaceApply(mk_namespace("late", Some("[\"reader\"]")))]);
    });
    assert_eq!(caller.unwrap().namespace.annotations().allowed_roles.as_deref(), Some("[\"reader\"]"));
    assert_eq!(start.elapsed(), Duration::from_millis(10));
}

#[tokio::test(start_paused = true)]
async fn the_node_host_network_pods_and_shared_addresses_are_refused_at_once() {
    let mut world = World::synced();
    world.pods([
        PodRecord { host_network: true, ..mk_pod("u1", "a", &["10.0.0.2"]) },
        mk_pod("u2", "b", &["10.1.0.11"]),
        mk_pod("u3", "c", &["10.1.0.11"]),
        // A pod that claims the node's own address gets nothing for it.
        mk_pod("u4", "d", &["10.0.0.1"]),
    ]);
    let start = Instant::now();
    for (address, reason) in [
        ("10.0.0.1", Unidentified::NodeAddress),
        ("10.0.0.2", Unidentified::HostNetwork),
        ("10.1.0.11", Unidentified::Ambiguous),
    ] {
        assert_eq!(world.identify(address).await, Err(reason), "{address}");
        assert_eq!(world.identity.metrics.refused(reason).get(), 1);
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(world.identity.metrics.held_expired.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn addresses_the_node_gets_later_are_its_own_from_then_on() {
    let mut world = World::synced();
    world.pods([mk_pod("u1", "a", &["10.1.0.11"])]);
    assert!(world.identify("10.1.0.11").await.is_ok());
    world.node.send_replace(Arc::new(HashSet::from([ip("10.1.0.11")])));
    assert_eq!(world.identify("10.1.0.11").await, Err(Unidentified::NodeAddress));
}

#[tokio::test(start_paused = true)]
async fn a_second_claimant_that_appears_during_the_hold_ends_it() {
    let mut world = World::synced();
    let start = Instant::now();
    let identity = world.identity.clone();
    let (caller, ()) = tokio::join!(identity.identify(ip("10.1.0.11"), None, start + HOLD), async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        world.pods([mk_pod("u1", "a", &["10.1.0.11"]), mk_pod("u2", "b", &["10.1.0.11"])]);
    });
    assert_eq!(caller.unwrap_err(), Unidentified::Ambiguous);
    assert_eq!(start.elapsed(), Duration::from_millis(5));
    assert_eq!(world.identity.metrics.held_refused.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_pod_deleted_during_a_wait_is_no_longer_the_owner() {
    let mut world = World::synced();
    world.pods([mk_pod("u1", "a", &["10.1.0.11"])]);
    let caller = world.identity.identify(ip("10.1.0.11"), None, Instant::now() + HOLD).await.unwrap();
    let uid = caller.pod.facts.uid.clone();
    assert!(world.identity.still_owner(caller.ip, &uid).is_some());
    world.apply([Event::PodDelete(uid.clone())]);
    assert!(world.identity.still_owner(caller.ip, &uid).is_none());
    world.pods([mk_pod("u2", "b", &["10.1.0.11"])]);
    assert!(world.identity.still_owner(caller.ip, &uid).is_none(), "the address has moved on");
    // The caller itself still shows the instant it was found in.
    assert!(caller.snapshot.pod(&uid).is_some());
}

#[tokio::test(start_paused = true)]
async fn the_pod_found_after_a_wait_carries_what_changed_meanwhile() {
    let mut world = World::synced();
    world.pods([mk_pod("u1", "a", &["10.1.0.11"])]);
    let mut edited = mk_pod("u1", "a", &["10.1.0.11"]);
    edited.facts.role = Some(Arc::from("writer"));
    world.pods([edited]);
    let caller = world.identity.still_owner(ip("10.1.0.11"), &PodUid::new("u1")).unwrap();
    assert_eq!(caller.pod.facts.role.as_deref(), Some("writer"));
}

#[tokio::test(start_paused = true)]
async fn a_hold_ends_when_the_watch_ends() {
    let world = World::synced();
    let World { identity, snapshots, .. } = world;
    drop(snapshots);
    let start = Instant::now();
    let refused = identity.identify(ip("10.1.0.11"), None, start + HOLD).await.unwrap_err();
    assert_eq!((refused, start.elapsed()), (Unidentified::UnknownAddress, Duration::ZERO));
}

#[test]
fn every_reason_has_its_own_counter() {
    for (index, reason) in Unidentified::ALL.into_iter().enumerate() {
        assert_eq!(reason as usize, index, "{}", reason.code());
    }
}

/// What is published of shared interfaces, by address.
fn standings(of: &[(&str, Standing)]) -> Arc<Standings> {
    let of = of.iter().map(|(address, standing)| (ip(address), *standing)).collect();
    Arc::new(Standings { others_believed: false, of })
}

#[tokio::test(start_paused = true)]
async fn an_address_that_is_not_pinned_waits_for_its_pin_and_a_shared_one_for_nothing() {
    let mut world = World::synced();
    world.pods([mk_pod("u1", "a", &["10.1.0.11"]), mk_pod("u2", "b", &["10.1.0.12"])]);
    let (publish, seen) = watch::channel(standings(&[("10.1.0.12", Standing::Shared)]));
    let wanted = Arc::new(tokio::sync::Notify::new());
    world.identity = world.identity.among(Neighbours::new(seen, Arc::clone(&wanted)));
    let start = Instant::now();
    assert_eq!(world.identify("10.1.0.12").await, Err(Unidentified::SharedL2));
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(world.identify("10.1.0.11").await, Err(Unidentified::Unpinned), "not looked at yet");
    assert!(start.elapsed() >= HOLD);

    // Who keeps the pins is told, and the request is answered when it has published.
    let pinned = async {
        wanted.notified().await;
        publish.send_replace(standings(&[("10.1.0.11", Standing::Believed)]));
    };
    let (uid, ()) = tokio::join!(world.identify("10.1.0.11"), pinned);
    assert_eq!(uid.as_deref(), Ok("u1"));
    publish.send_replace(standings(&[("10.1.0.11", Standing::Unpinned)]));
    let caller = world.identity.look_up(ip("10.1.0.11")).unwrap();
    let attested = world.identity.attest(&caller, Instant::now() + HOLD).await;
    assert_eq!(attested, Err(Unidentified::Unpinned));
}
