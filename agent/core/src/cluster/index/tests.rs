use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::cluster::testing::{mk_namespace, mk_pod};

fn ip(text: &str) -> PodIp {
    text.parse().unwrap()
}

fn with(pods: impl IntoIterator<Item = PodRecord>) -> Index {
    let mut index = Index::new();
    for pod in pods {
        index.apply(Event::PodApply(pod));
    }
    index
}

/// UID of the pod that owns an address, if exactly one does.
fn owner(index: &Index, text: &str) -> Option<String> {
    match index.snapshot().owner(ip(text)) {
        Some(Owner::Pod(pod)) => Some(pod.facts.uid.to_string()),
        _ => None,
    }
}

#[test]
fn both_addresses_of_a_dual_stack_pod_are_its_own() {
    let index = with([mk_pod("u1", "a", &["10.1.0.11", "fd00::11"])]);
    assert_eq!(owner(&index, "10.1.0.11").as_deref(), Some("u1"));
    assert_eq!(owner(&index, "fd00::11").as_deref(), Some("u1"));
    assert_eq!(owner(&index, "::ffff:10.1.0.11").as_deref(), Some("u1"));
    assert!(index.snapshot().owner(ip("10.1.0.12")).is_none());
}

#[test]
fn a_pinned_pod_keeps_the_role_it_was_first_seen_with_and_a_new_one_does_not() {
    let edited = |uid: &str| {
        let mut pod = mk_pod(uid, "a", &["10.1.0.11"]);
        pod.facts.role = Some("admin".into());
        pod
    };
    let role = |index: &Index| match index.snapshot().owner(ip("10.1.0.11")) {
        Some(Owner::Pod(pod)) => pod.facts.role.as_deref().map(str::to_owned),
        _ => None,
    };
    let mut index = Index::with_pinned_roles(true);
    index.apply(Event::PodApply(mk_pod("u1", "a", &["10.1.0.11"])));
    index.apply(Event::PodApply(edited("u1")));
    assert_eq!(role(&index).as_deref(), Some("reader"));
    begin(&mut index, vec![edited("u1")]);
    index.apply(Event::PodsInitDone);
    assert_eq!(role(&index).as_deref(), Some("reader"));
    index.apply(Event::PodApply(edited("u2")));
    assert_eq!(role(&index).as_deref(), Some("admin"));
}

#[test]
fn a_terminal_phase_frees_the_address_at_once() {
    let mut index = with([mk_pod("u1", "a", &["10.1.0.11"])]);
    index.apply(Event::PodApply(PodRecord { terminal: true, ..mk_pod("u1", "a", &["10.1.0.11"]) }));
    assert!(index.snapshot().owner(ip("10.1.0.11")).is_none());
    assert!(index.snapshot().pod(&PodUid::new("u1")).is_some());
    index.apply(Event::PodApply(mk_pod("u2", "b", &["10.1.0.11"])));
    assert_eq!(owner(&index, "10.1.0.11").as_deref(), Some("u2"));
}

#[test]
fn a_terminating_pod_keeps_its_address_until_it_is_gone() {
    let mut index = with([PodRecord { deleting: true, ..mk_pod("u1", "a", &["10.1.0.11"]) }]);
    assert_eq!(owner(&index, "10.1.0.11").as_deref(), Some("u1"));
    assert!(index.apply(Event::PodDelete(PodUid::new("u1"))));
    assert!(index.snapshot().owner(ip("10.1.0.11")).is_none());
    assert!(!index.apply(Event::PodDelete(PodUid::new("u1"))));
}

#[test]
fn two_live_claimants_are_ambiguous_and_deleting_ones_yield_to_exactly_one() {
    let deleting = |uid, name| PodRecord { deleting: true, ..mk_pod(uid, name, &["10.1.0.11"]) };
    let mut index = with([mk_pod("u1", "a", &["10.1.0.11"]), mk_pod("u2", "b", &["10.1.0.11"])]);
    let ambiguous = |index: &Index| match index.snapshot().owner(ip("10.1.0.11")) {
        Some(Owner::Ambiguous(all)) => all.len(),
        _ => 0,
    };
    assert_eq!(ambiguous(&index), 2);
    index.apply(Event::PodApply(deleting("u1", "a")));
    assert_eq!(owner(&index, "10.1.0.11").as_deref(), Some("u2"));
    index.apply(Event::PodApply(deleting("u2", "b")));
    assert_eq!(ambiguous(&index), 2);
    index.apply(Event::PodApply(mk_pod("u3", "c", &["10.1.0.11"])));
    assert_eq!(owner(&index, "10.1.0.11").as_deref(), Some("u3"));
    index.apply(Event::PodApply(mk_pod("u4", "d", &["10.1.0.11"])));
    assert_eq!(ambiguous(&index), 4);
}

#[test]
fn a_host_network_pod_never_owns_an_address() {
    let host = PodRecord { host_network: true, ..mk_pod("u1", "a", &["10.0.0.1"]) };
    let mut index = with([host.clone()]);
    assert!(matches!(index.snapshot().owner(ip("10.0.0.1")), Some(Owner::HostNetwork)));
    index.apply(Event::PodApply(mk_pod("u2", "b", &["10.0.0.1"])));
    assert_eq!(owner(&index, "10.0.0.1").as_deref(), Some("u2"));
    assert_eq!(owner(&with([mk_pod("u2", "b", &["10.0.0.1"]), host]), "10.0.0.1").as_deref(), Some("u2"));
}

#[test]
fn a_pod_created_anew_under_its_name_replaces_one_whose_deletion_was_missed() {
    let mut index = with([mk_pod("u1", "a", &["10.1.0.11"])]);
    index.apply(Event::PodApply(mk_pod("u2", "a", &["10.1.0.12"])));
    assert!(index.snapshot().pod(&PodUid::new("u1")).is_none());
    assert!(index.snapshot().owner(ip("10.1.0.11")).is_none());
    // The deletion that comes late is of the pod of before.
    assert!(!index.apply(Event::PodDelete(PodUid::new("u1"))));
    assert_eq!(owner(&index, "10.1.0.12").as_deref(), Some("u2"));
}

#[test]
fn deleted_pod_is_gone_after_interrupted_relist() {
    let mut index = with([mk_pod("u1", "a", &["10.1.0.11"]), mk_pod("u2", "b", &["10.1.0.12"])]);
    index.apply(Event::PodsInit);
    index.apply(Event::PodInitApply(mk_pod("u1", "a", &["10.1.0.11"])));
    assert_eq!(owner(&index, "10.1.0.12").as_deref(), Some("u2"), "stays visible during the list");
    index.apply(Event::PodsInit);
    index.apply(Event::PodInitApply(mk_pod("u2", "b", &["10.1.0.12"])));
    assert!(index.apply(Event::PodsInitDone));
    assert_eq!(owner(&index, "10.1.0.11"), None);
    assert_eq!(owner(&index, "10.1.0.12").as_deref(), Some("u2"));
}

#[test]
fn synced_needs_both_lists_even_if_they_are_empty() {
    let mut index = Index::new();
    for event in [Event::PodsInit, Event::NamespacesInit] {
        assert!(!index.apply(event));
    }
    assert!(index.apply(Event::PodsInitDone));
    assert!(!index.snapshot().synced());
    assert!(index.apply(Event::NamespacesInitDone));
    assert!(index.snapshot().synced());
}

#[test]
fn a_pod_event_shares_the_namespaces_and_a_namespace_event_the_pods() {
    let mut index = with([mk_pod("u1", "a", &["10.1.0.11"])]);
    index.apply(Event::NamespaceApply(mk_namespace("default", None)));
    let before = index.snapshot();
    index.apply(Event::PodApply(mk_pod("u2", "b", &["10.1.0.12"])));
    let after = index.snapshot();
    assert!(Arc::ptr_eq(&before.namespaces, &after.namespaces));
    index.apply(Event::NamespaceApply(mk_namespace("other", None)));
    assert!(Arc::ptr_eq(&after.owners, &index.snapshot().owners));
    assert!(Arc::ptr_eq(&after.pods, &index.snapshot().pods));
    assert_eq!(before.namespace_count(), 1, "a snapshot never changes");
}

#[test]
fn unchanged_annotations_keep_the_namespace_that_is_known() {
    let mut index = Index::new();
    index.apply(Event::NamespaceApply(mk_namespace("default", Some("[\"reader\"]"))));
    let known = Arc::clone(index.snapshot().namespace("default").unwrap());
    assert!(!index.apply(Event::NamespaceApply(mk_namespace("default", Some("[\"reader\"]")))));
    index.apply(Event::NamespacesInit);
    index.apply(Event::NamespaceInitApply(mk_namespace("default", Some("[\"reader\"]"))));
    index.apply(Event::NamespacesInitDone);
    assert!(Arc::ptr_eq(&known, index.snapshot().namespace("default").unwrap()));
    assert!(index.apply(Event::NamespaceApply(mk_namespace("default", None))));
    assert_eq!(index.snapshot().namespace("default").unwrap().annotations().allowed_roles, None);
}

#[test]
fn what_changes_nothing_is_not_published() {
    let mut index = with([mk_pod("u1", "a", &["10.1.0.11"])]);
    assert!(!index.apply(Event::PodApply(mk_pod("u1", "a", &["10.1.0.11"]))));
    assert!(!index.apply(Event::NamespaceDelete(Arc::from("default"))));
    assert!(!index.apply(Event::PodsInitDone), "no list was begun");
}

// What a cluster may go through; few names, addresses and UIDs, so that they clash.

fn pod() -> impl Strategy<Value = PodRecord> {
    let flags = (prop::bool::weighted(0.2), prop::bool::weighted(0.3), prop::bool::weighted(0.2));
    (0..6u8, 0..4u8, prop::collection::vec(0..4u8, 0..3), flags).prop_map(|(uid, name, ips, flags)| {
        let ips: Vec<_> = ips.iter().map(|n| format!("10.1.0.{n}")).collect();
        let ips: Vec<_> = ips.iter().map(String::as_str).collect();
        PodRecord {
            terminal: flags.0,
            deleting: flags.1,
            host_network: flags.2,
            ..mk_pod(&format!("u{uid}"), &format!("p{name}"), &ips)
        }
    })
}

/// A list as the API server gives it: names and UIDs are unique.
fn list() -> impl Strategy<Value = Vec<PodRecord>> {
    prop::collection::vec(pod(), 0..6).prop_map(|mut pods| {
        pods.sort_by(|a, b| a.facts.uid.cmp(&b.facts.uid));
        pods.dedup_by(|a, b| a.facts.uid == b.facts.uid);
        pods.sort_by(|a, b| a.facts.name.cmp(&b.facts.name));
        pods.dedup_by(|a, b| a.facts.name == b.facts.name);
        pods
    })
}

#[derive(Clone, Debug)]
enum Step {
    Apply(PodRecord),
    Delete(u8),
    FailedList(Vec<PodRecord>),
    List(Vec<PodRecord>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => pod().prop_map(Step::Apply),
        2 => (0..6u8).prop_map(Step::Delete),
        1 => list().prop_map(Step::FailedList),
        1 => list().prop_map(Step::List),
    ];
    prop::collection::vec(step, 0..24)
}

fn take(index: &mut Index, step: Step) {
    match step {
        Step::Apply(pod) => {
            index.apply(Event::PodApply(pod));
        }
        Step::Delete(uid) => {
            index.apply(Event::PodDelete(PodUid::new(&format!("u{uid}"))));
        }
        Step::FailedList(pods) => begin(index, pods),
        Step::List(pods) => {
            begin(index, pods);
            index.apply(Event::PodsInitDone);
        }
    }
}

fn begin(index: &mut Index, pods: Vec<PodRecord>) {
    index.apply(Event::PodsInit);
    for pod in pods {
        index.apply(Event::PodInitApply(pod));
    }
}

proptest! {
    #[test]
    fn any_history_ends_equal_to_the_last_full_list(steps in steps(), last in list()) {
        let mut index = Index::new();
        for step in steps {
            take(&mut index, step);
        }
        take(&mut index, Step::List(last.clone()));
        let mut fresh = Index::new();
        take(&mut fresh, Step::List(last));
        prop_assert_eq!(&*index.now.pods, &*fresh.now.pods);
        let view = |index: &Index| -> BTreeMap<PodIp, String> {
            index.now.owners.iter().map(|(ip, owner)| (*ip, describe(owner))).collect()
        };
        prop_assert_eq!(view(&index), view(&fresh));
    }

    #[test]
    fn an_address_never_maps_to_a_dead_or_host_network_pod_or_to_the_wrong_one(steps in steps()) {
        let mut index = Index::new();
        for step in steps {
            take(&mut index, step);
            let snapshot = index.snapshot();
            for (ip, owner) in snapshot.owners.iter() {
                let claimants: Vec<_> = snapshot
                    .pods()
                    .filter(|pod| pod.ips.contains(ip) && !pod.terminal && !pod.host_network)
                    .collect();
                let staying = claimants.iter().filter(|pod| !pod.deleting).count();
                match owner {
                    Owner::Pod(pod) => {
                        prop_assert!(claimants.iter().any(|claimant| Arc::ptr_eq(claimant, pod)));
                        prop_assert!(claimants.len() == 1 || (staying == 1 && !pod.deleting));
                    }
                    Owner::Ambiguous(all) => {
                        prop_assert_eq!(all.len(), claimants.len());
                        prop_assert!(all.len() > 1 && staying != 1);
                    }
                    Owner::HostNetwork => prop_assert!(claimants.is_empty()),
                }
            }
            let live = snapshot.pods().filter(|pod| !pod.terminal).flat_map(|pod| &pod.ips);
            for ip in live {
                prop_assert!(snapshot.owner(*ip).is_some());
            }
            let mut names: Vec<_> = snapshot.pods().map(|pod| &pod.facts.name).collect();
            names.sort();
            names.dedup();
            prop_assert_eq!(names.len(), snapshot.pods().len());
        }
    }
}

fn describe(owner: &Owner) -> String {
    match owner {
        Owner::Pod(pod) => pod.facts.uid.to_string(),
        Owner::HostNetwork => "host network".to_owned(),
        Owner::Ambiguous(all) => {
            let mut uids: Vec<_> = all.iter().map(|pod| pod.facts.uid.to_string()).collect();
            uids.sort();
            uids.join(" ")
        }
    }
}
