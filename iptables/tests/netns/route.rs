//! Capture `route` with its guards: captured or refused, whichever part is taken away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rolegate_iptables::Family;
use rolegate_iptables::guard::{DEFAULT_PREFERENCE, Guard};
use rolegate_iptables::route::{DEFAULT_TABLE, Route, listen_at_imds};

use crate::host::{Netns, can_run};
use crate::traffic::{AGENT, IMDS, REAL, World, ask, open, serve_on};

/// What others take away, and whether pods are still served then.
const DAMAGES: [(&str, bool); 10] = [
    ("nft flush ruleset", true),
    ("ip rule del pref 3; ip -6 rule del pref 3", false),
    ("ip rule del pref 4; ip -6 rule del pref 4", true),
    ("ip route flush table 43518; ip -6 route flush table 43518", false),
    (
        "ip rule flush; ip rule add pref 32766 lookup main; ip -6 rule flush; ip -6 rule add pref 32766 lookup main",
        false,
    ),
    ("conntrack -F 2>/dev/null || true", true),
    // Routes of others in our table, in front of ours: nothing is forwarded all the same.
    (
        "ip route replace 169.254.169.254 via 10.0.0.1 table 43518
         ip -6 route replace fd00:ec2::254 via fd00:a::1 table 43518",
        false,
    ),
    (
        "ip route add 169.254.169.254 via 10.0.0.1 tos 0x10 table 43518
         ip -6 route add fd00:ec2::254 via fd00:a::1 metric 1 table 43518
         ip route del local 169.254.169.254 table 43518",
        false,
    ),
    ("ip route add unreachable 169.254.169.254 metric 7 table 43518", true),
    ("ip -6 route add local fd00:ec2::254 dev lo metric 7 table 43518", true),
];

fn capture(node: &Netns) {
    node.block_on(|| async {
        let guards = Guard::new(DEFAULT_PREFERENCE).reconcile(&|_| {}).await;
        assert!(guards.errors.is_empty(), "{guards:?}");
        Route::new(DEFAULT_PREFERENCE, DEFAULT_TABLE).reconcile(&|| {}).await.expect("route");
    });
}

fn answers(of: &Netns) -> [Option<[u8; 5]>; 2] {
    of.spawn(|| IMDS.map(ask)).join().expect("client")
}

/// A world whose agent listens on the metadata addresses themselves.
fn world() -> World {
    let world = World::new();
    for family in Family::ALL {
        serve_on(&world.node, move || listen_at_imds(family).expect("listening"), AGENT);
    }
    world
}

#[test]
fn pods_are_captured_and_the_host_is_not() {
    if !can_run("pods_are_captured_and_the_host_is_not", &["nft"]) {
        return;
    }
    let world = world();
    assert_eq!(answers(&world.pod), [Some(*REAL), Some(*REAL)], "nothing leads to the listener yet");
    capture(&world.node);
    assert_eq!(answers(&world.pod), [Some(*AGENT), Some(*AGENT)]);
    assert_eq!(answers(&world.node), [Some(*REAL), Some(*REAL)]);
    let again = world.node.block_on(|| async {
        Route::new(DEFAULT_PREFERENCE, DEFAULT_TABLE).reconcile(&|| panic!("all is right")).await
    });
    assert!(!again.expect("right"));
    // A service of the host at all its addresses is not at this one.
    world.node.spawn(|| {
        let listener = std::net::TcpListener::bind("0.0.0.0:10250").expect("free");
        let _ = listener.accept();
    });
    let other = world.pod.spawn(|| open("169.254.169.254:10250").is_some()).join().expect("client");
    assert!(!other, "another port of the address");
}

#[test]
fn whichever_part_is_taken_away_pods_are_captured_or_refused() {
    let test = "whichever_part_is_taken_away_pods_are_captured_or_refused";
    if !can_run(test, &["nft"]) {
        return;
    }
    let world = world();
    capture(&world.node);
    let stop = Arc::new(AtomicBool::new(false));
    let clients = world.clients(&stop);
    for (damage, served) in DAMAGES {
        world.node.sh(damage);
        let expected = if served { Some(*AGENT) } else { None };
        assert_eq!(answers(&world.pod), [expected, expected], "{damage}");
        capture(&world.node);
        assert_eq!(answers(&world.pod), [Some(*AGENT), Some(*AGENT)], "{damage}");
        let table = world.node.sh("ip route show table 43518; ip -6 route show table 43518");
        assert_eq!(table.lines().count(), 2, "{damage}: {table}");
        assert_eq!(answers(&world.node), [Some(*REAL), Some(*REAL)], "{damage}");
    }
    stop.store(true, Ordering::Relaxed);
    for (counts, thread) in clients {
        thread.join().expect("client");
        assert_eq!(counts.real.load(Ordering::Relaxed), 0, "connections reached the real service");
    }
}

/// Guards and capture at other preferences and by another table, as an agent with other flags has them.
fn capture_at(node: &Netns, preference: u32, table: u32) {
    node.block_on(move || async move {
        let guards = Guard::new(preference).reconcile(&|_| {}).await;
        assert!(guards.errors.is_empty(), "{guards:?}");
        Route::new(preference, table).reconcile(&|| {}).await.expect("route");
    });
}

#[test]
fn other_numbers_replace_the_old_ones_and_open_nothing_meanwhile() {
    let test = "other_numbers_replace_the_old_ones_and_open_nothing_meanwhile";
    if !can_run(test, &["nft"]) {
        return;
    }
    let world = world();
    // Somebody else's, which look like ours and are not.
    world.node.sh(
        "ip rule add pref 1039 from 10.99.0.0/16 to 169.254.169.254 prohibit protocol kernel; ip rule add pref 1040 to 169.254.169.254 lookup main; ip rule add pref 1041 to 169.254.169.253 lookup 43518 protocol kernel
         ip route add local 169.254.169.254 dev lo table 900; ip rule add pref 42 nop protocol kernel",
    );
    let numbers = "ip rule; ip -6 rule; ip route show table all; ip -6 route show table all";
    let before = world.node.sh(numbers);
    capture(&world.node);
    let stop = Arc::new(AtomicBool::new(false));
    let clients = world.clients(&stop);
    for (preference, table) in [(100, 43_518), (4, 777), (4, 778), (DEFAULT_PREFERENCE, DEFAULT_TABLE)] {
        capture_at(&world.node, preference, table);
        assert_eq!(answers(&world.pod), [Some(*AGENT), Some(*AGENT)], "{preference} {table}");
        assert_eq!(answers(&world.node), [Some(*REAL), Some(*REAL)], "{preference} {table}");
    }
    stop.store(true, Ordering::Relaxed);
    for (counts, thread) in clients {
        thread.join().expect("client");
        assert_eq!(counts.real.load(Ordering::Relaxed), 0, "connections reached the real service");
    }
    capture_at(&world.node, 300, 555);
    world.node.block_on(|| async {
        assert!(Route::new(DEFAULT_PREFERENCE, DEFAULT_TABLE).cleanup().await.expect("removed"));
        let (_, errors) = Guard::new(DEFAULT_PREFERENCE).cleanup().await;
        assert!(errors.is_empty(), "{errors:?}");
    });
    assert_eq!(world.node.sh(numbers), before);
}

#[test]
fn where_nobody_listens_nothing_is_open() {
    if !can_run("where_nobody_listens_nothing_is_open", &["nft"]) {
        return;
    }
    let world = World::new();
    capture(&world.node);
    assert_eq!(answers(&world.pod), [None, None]);
}

#[test]
fn cleanup_of_the_route_leaves_the_host_as_it_was() {
    if !can_run("cleanup_of_the_route_leaves_the_host_as_it_was", &["nft"]) {
        return;
    }
    let node = Netns::new();
    node.sh("ip route add local 169.254.169.253 dev lo table 43518");
    let everything =
        |node: &Netns| node.sh("ip rule; ip -6 rule; ip route show table all; ip -6 route show table all");
    let before = everything(&node);
    capture(&node);
    assert_ne!(everything(&node), before);
    node.block_on(|| async {
        assert!(Route::new(DEFAULT_PREFERENCE, DEFAULT_TABLE).cleanup().await.expect("removed"));
        let (_, errors) = Guard::new(DEFAULT_PREFERENCE).cleanup().await;
        assert!(errors.is_empty(), "{errors:?}");
    });
    assert_eq!(everything(&node), before);
}

#[test]
fn address_that_somebody_else_listens_at_is_named() {
    if !can_run("address_that_somebody_else_listens_at_is_named", &["nft"]) {
        return;
    }
    let node = Netns::new();
    node.spawn(|| {
        let _first = listen_at_imds(Family::V4).expect("free");
        let error = listen_at_imds(Family::V4).expect_err("taken").to_string();
        assert!(error.starts_with("169.254.169.254:80 (--redirect=route) cannot be listened at"), "{error}");
    })
    .join()
    .expect("listeners");
}
