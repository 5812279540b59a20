//! The guards hold whatever is flushed, are mended, stand in nobody's way and go without a trace.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rolegate_iptables::guard::{DEFAULT_PREFERENCE, Guard, GuardDrift, GuardOutcome};

use crate::host::{Netns, Programs, can_run};
use crate::rules::{desired, look};
use crate::traffic::{AGENT, IMDS, REAL, TARGETS, World, ask, ask_on, open};

/// What others do to a guard, and what is found wrong with it.
const DAMAGES: [(&str, GuardDrift); 8] = [
    ("nft delete table inet rolegate", GuardDrift::TableMissing),
    ("nft flush ruleset", GuardDrift::TableMissing),
    ("nft flush chain inet rolegate forward", GuardDrift::TableChanged),
    ("nft insert rule inet rolegate forward accept", GuardDrift::TableChanged),
    ("nft delete chain inet rolegate input", GuardDrift::TableChanged),
    ("nft add table inet rolegate '{ flags dormant; }'", GuardDrift::TableChanged),
    ("ip rule del pref 4; ip -6 rule del pref 4", GuardDrift::Rules),
    (
        "ip rule flush; ip rule add pref 32766 lookup main; ip rule add pref 32767 lookup default",
        GuardDrift::Rules,
    ),
];

fn reconcile(node: &Netns) -> GuardOutcome {
    node.block_on(|| async { Guard::new(DEFAULT_PREFERENCE).reconcile(&|_| {}).await })
}

fn stand(node: &Netns) -> GuardOutcome {
    let outcome = reconcile(node);
    assert!(outcome.errors.is_empty(), "{outcome:?}");
    outcome
}

fn everything(node: &Netns) -> String {
    node.sh("ip rule; ip -6 rule; nft list ruleset; ip route show table all; ip -6 route show table all")
}

fn answers(of: &Netns) -> [Option<[u8; 5]>; 2] {
    of.spawn(|| IMDS.map(ask)).join().expect("client")
}

#[test]
fn guards_alone_close_the_way_for_pods_and_leave_it_to_the_host() {
    if !can_run("guards_alone_close_the_way_for_pods_and_leave_it_to_the_host", &["nft"]) {
        return;
    }
    let world = World::new();
    let mut before = world.pod.spawn(|| IMDS.map(|imds| open(imds).expect("open"))).join().expect("client");
    for connection in &mut before {
        assert_eq!(ask_on(connection).as_ref(), Some(REAL));
    }
    let wrong = stand(&world.node).drift;
    assert_eq!(wrong, [GuardDrift::Rules, GuardDrift::TableMissing].into());
    assert_eq!(stand(&world.node).drift, [].into(), "nothing is written while all is right");
    assert_eq!(answers(&world.pod), [None, None]);
    assert_eq!(answers(&world.node), [Some(*REAL), Some(*REAL)]);
    for connection in &mut before {
        assert_eq!(ask_on(connection), None, "a connection from before");
    }
}

#[test]
fn each_guard_is_mended_and_the_other_holds_meanwhile() {
    if !can_run("each_guard_is_mended_and_the_other_holds_meanwhile", &["nft"]) {
        return;
    }
    let world = World::new();
    stand(&world.node);
    for (damage, drift) in DAMAGES {
        world.node.sh(damage);
        assert_eq!(answers(&world.pod), [None, None], "{damage}");
        assert_eq!(stand(&world.node).drift, [drift].into(), "{damage}");
        assert_eq!(stand(&world.node).drift, [].into(), "{damage}");
        assert_eq!(answers(&world.node), [Some(*REAL), Some(*REAL)], "{damage}");
    }
}

#[test]
fn no_connection_gets_through_while_guards_and_capture_are_torn_down_in_turns() {
    let test = "no_connection_gets_through_while_guards_and_capture_are_torn_down_in_turns";
    if !can_run(test, &["nft"]) {
        return;
    }
    let world = World::new();
    let programs = Programs::of("nft");
    let capture = desired("auto", &TARGETS, 8181);
    let mend = || {
        stand(&world.node);
        let outcome = look(&world.node, &programs, &capture);
        assert!(outcome.errors.is_empty(), "{outcome:?}");
    };
    mend();
    let stop = Arc::new(AtomicBool::new(false));
    let clients = world.clients(&stop);
    let flushes = [
        "nft flush ruleset",
        "ip rule del pref 4; ip -6 rule del pref 4",
        "iptables-nft -t nat -F; ip6tables-nft -t nat -F; iptables-nft -F; ip6tables-nft -F",
    ];
    for flush in flushes.into_iter().cycle().take(30) {
        world.node.sh(flush);
        mend();
        for (counts, _) in &clients {
            counts.wait_for_the_agent();
        }
    }
    stop.store(true, Ordering::Relaxed);
    for (counts, thread) in clients {
        thread.join().expect("client");
        assert_eq!(counts.real.load(Ordering::Relaxed), 0, "connections reached the real service");
        assert!(counts.agent.load(Ordering::Relaxed) > 30);
    }
}

#[test]
fn capture_is_untouched_by_the_guards() {
    if !can_run("capture_is_untouched_by_the_guards", &["nft"]) {
        return;
    }
    let world = World::new();
    let programs = Programs::of("nft");
    stand(&world.node);
    look(&world.node, &programs, &desired("auto", &TARGETS, 8181));
    assert_eq!(answers(&world.pod), [Some(*AGENT), Some(*AGENT)]);
}

#[test]
fn source_that_is_not_routed_where_it_came_in_is_dropped() {
    if !can_run("source_that_is_not_routed_where_it_came_in_is_dropped", &["nft"]) {
        return;
    }
    let world = World::new();
    let programs = Programs::of("nft");
    stand(&world.node);
    look(&world.node, &programs, &desired("auto", &TARGETS, 8181));
    // The address of somebody behind the uplink, and no reverse-path filter that would notice.
    world.node.sh("for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done");
    world.pod.sh("ip addr add 10.0.0.77/32 dev eth0; ip route change default via 10.1.0.1 src 10.0.0.77");
    assert_eq!(answers(&world.pod)[0], None);
    // The count of what was captured is the nat rule's: the packet did not come so far.
    let counted = world.node.sh("iptables-nft -t nat -L ROLEGATE-PREROUTING -v -x -n");
    assert!(
        counted.lines().any(|line| line.contains("DNAT") && line.trim_start().starts_with("0 ")),
        "{counted}"
    );
}

#[test]
fn cleanup_leaves_the_host_as_it_was() {
    if !can_run("cleanup_leaves_the_host_as_it_was", &["nft"]) {
        return;
    }
    let node = Netns::new();
    node.sh("nft add table inet other; nft add chain inet other forward; ip rule add pref 9 to 169.254.169.254 lookup main");
    let before = everything(&node);
    stand(&node);
    assert_ne!(everything(&node), before);
    let (removed, errors) = node.block_on(|| async { Guard::new(DEFAULT_PREFERENCE).cleanup().await });
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(removed, ["policy rules", "nftables table"]);
    assert_eq!(everything(&node), before);
    let again = node.block_on(|| async { Guard::new(DEFAULT_PREFERENCE).cleanup().await });
    assert!(again.0.is_empty() && again.1.is_empty(), "{again:?}");
}
