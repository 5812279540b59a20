//! What a pod and a namespace take in the snapshot and the index, counted by an allocator: the same on every machine.
#![expect(clippy::unwrap_used, reason = "a test ends at the first thing that fails")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use rolegate::cluster::index::{Event, Index};
use rolegate::cluster::{PodRecord, Snapshot};
use rolegate::policy::{NamespaceAnnotations, NamespaceFacts, PodFacts};
use rolegate::types::{PodIp, PodUid};

/// Most that a pod may take, bytes.
const MOST_PER_POD: usize = 800;
/// Most that a namespace may take where one in ten has `allowed-roles`, bytes.
const MOST_PER_NAMESPACE: usize = 160;
/// Most that is allocated for a namespace that changes among 10,000, bytes.
const MOST_PER_CHANGE: usize = 16 << 10;

/// Counts what this thread has, as an allocator gives it: in steps of 16 bytes, four of which are its own.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

fn given(layout: Layout) -> usize {
    (layout.size() + 4).next_multiple_of(16)
}

#[expect(unsafe_code, reason = "an allocator is")]
// SAFETY: the system's allocator does it all; counting touches thread-locals without destructors and allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.set(LIVE.get().wrapping_add(given(layout)));
        ALLOCATED.set(ALLOCATED.get().wrapping_add(given(layout)));
        // SAFETY: what the caller promises is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get().wrapping_sub(given(layout)));
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

fn pod(n: u32) -> PodRecord {
    let [_, _, high, low] = n.to_be_bytes();
    let ip = |text: String| text.parse::<PodIp>().unwrap();
    PodRecord {
        facts: PodFacts {
            uid: PodUid::new(&format!("0e1f77a2-5a5c-4d7c-9f0e-{n:012x}")),
            namespace: format!("team-{n}").into(),
            name: format!("worker-6d5f7c8b9-{n:05}").into(),
            service_account: format!("worker-{n}").into(),
            role: Some(format!("MyPodRole-{n}").into()),
            external_id: None,
        },
        ips: vec![ip(format!("100.97.{high}.{low}")), ip(format!("fd00:64::{n:x}"))],
        terminal: false,
        deleting: false,
        host_network: false,
        unreadable: false,
    }
}

fn namespace(n: u32) -> NamespaceFacts {
    let name = format!("team-{n}");
    let allowed_roles = n.is_multiple_of(10).then(|| format!(r#"["MyPodRole-*","{name}/*"]"#).into());
    NamespaceFacts::new(name, NamespaceAnnotations { allowed_roles, ..NamespaceAnnotations::default() })
}

fn listed(pods: u32, namespaces: u32) -> (Index, Arc<Snapshot>) {
    let mut index = Index::new();
    index.apply(Event::PodsInit);
    for n in 0..pods {
        index.apply(Event::PodInitApply(pod(n)));
    }
    index.apply(Event::PodsInitDone);
    index.apply(Event::NamespacesInit);
    for n in 0..namespaces {
        index.apply(Event::NamespaceInitApply(namespace(n)));
    }
    index.apply(Event::NamespacesInitDone);
    let snapshot = index.snapshot();
    (index, snapshot)
}

/// What is live of a cluster of that size, bytes.
fn live(pods: u32, namespaces: u32) -> usize {
    let before = LIVE.get();
    let listed = listed(pods, namespaces);
    let live = LIVE.get() - before;
    drop(listed);
    assert_eq!(LIVE.get(), before, "nothing is left of it");
    live
}

#[test]
fn a_pod_and_a_namespace_take_no_more_than_they_may() {
    let per_namespace = (live(250, 10_000) - live(250, 1_000)) / 9_000;
    let per_pod = (live(1_000, 10) - live(250, 10)) / 750;
    println!("{per_pod} bytes a pod, {per_namespace} a namespace");
    assert!(per_namespace <= MOST_PER_NAMESPACE, "{per_namespace} bytes a namespace");
    assert!(per_pod <= MOST_PER_POD, "{per_pod} bytes a pod");
}

#[test]
fn a_namespace_that_changes_copies_few_others() {
    let (mut index, read) = listed(250, 10_000);
    let changed = NamespaceFacts::new(
        "team-7",
        NamespaceAnnotations { imds_v1: Some("deny".into()), ..Default::default() },
    );
    let before = ALLOCATED.get();
    assert!(index.apply(Event::NamespaceApply(changed)));
    let published = index.snapshot();
    let allocated = ALLOCATED.get() - before;
    println!("{allocated} bytes a change");
    assert!(allocated <= MOST_PER_CHANGE, "{allocated} bytes");
    let denies = |snapshot: &Snapshot| snapshot.namespace("team-7").unwrap().annotations().imds_v1.is_some();
    assert!(denies(&published) && !denies(&read));
}
