//! Repair after repair while connections run: none of them gets through. And nothing is sent where nothing is wrong.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt;
use rolegate_iptables::guard::{DEFAULT_PREFERENCE, Guard};
use rolegate_iptables::iptables::{Iptables, RuleWatch};
use rolegate_iptables::route::{DEFAULT_TABLE, Route, listen_at_imds};
use rolegate_iptables::{Family, LinkWatch, Links};

use crate::host::{can_run, with_each_backend};
use crate::rules::desired;
use crate::traffic::{AGENT, TARGETS, World, serve_on};

const GUARD: Guard = Guard::new(DEFAULT_PREFERENCE);
const ROUTE: Route = Route::new(DEFAULT_PREFERENCE, DEFAULT_TABLE);

/// Repairs of policy routing and guards.
const REPAIRS: usize = 2_000;
/// Repairs of iptables and guards with each back end: some twenty programs run for each.
const REPAIRS_OF_IPTABLES: usize = 70;
/// After so many repairs all clients must have been served again.
const BREATH: usize = 50;

/// What others do to the guards, at no time to both of them.
const OF_GUARDS: [&str; 4] = [
    "nft delete table inet rolegate",
    "ip rule del pref 4\nip -6 rule del pref 4",
    "nft flush chain inet rolegate forward",
    "nft flush ruleset",
];
const OF_ROUTE: [&str; 2] = [
    "ip rule del pref 3\nip -6 rule del pref 3",
    "ip route flush table 43518\nip -6 route flush table 43518",
];
/// `IPT` is the back end's program.
const OF_IPTABLES: [&str; 3] =
    ["IPT -w -t nat -F", "IPT -w -t filter -F ROLEGATE-FORWARD", "IPT -w -t nat -F ROLEGATE-PREROUTING"];

/// Runs commands, one a line, without a shell: most of the time is theirs.
fn run(commands: &str) {
    for command in commands.lines() {
        let mut words = command.split_whitespace();
        let program = words.next().expect("a command");
        let mut command = Command::new(program);
        command.args(words).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().expect(program);
    }
}

/// Damages and mends in turns, while clients ask all the time.
fn let_nothing_through(
    world: &World,
    repairs: usize,
    damages: Vec<String>,
    mend: impl AsyncFn(&str) + Send + 'static,
) {
    let stop = Arc::new(AtomicBool::new(false));
    let clients = world.clients(&stop);
    let counts: Vec<_> = clients.iter().map(|(counts, _)| Arc::clone(counts)).collect();
    world.node.block_on(move || async move {
        for (n, damage) in damages.iter().cycle().take(repairs).enumerate() {
            run(damage);
            mend(damage).await;
            if n % BREATH == 0 {
                counts.iter().for_each(|counts| counts.wait_for_the_agent());
            }
        }
    });
    stop.store(true, Ordering::Relaxed);
    for (counts, thread) in clients {
        thread.join().expect("client");
        assert_eq!(counts.real.load(Ordering::Relaxed), 0, "connections reached the real service");
        assert!(counts.agent.load(Ordering::Relaxed) >= repairs / BREATH);
    }
}

fn lines(damages: &[&str]) -> Vec<String> {
    damages.iter().map(|damage| (*damage).to_owned()).collect()
}

/// P5: guards and policy routing, one thing after the other, 2,000 times.
#[test]
fn two_thousand_repairs_of_policy_routing_let_nothing_through() {
    if !can_run("two_thousand_repairs_of_policy_routing_let_nothing_through", &["nft"]) {
        return;
    }
    let world = World::new();
    for family in Family::ALL {
        serve_on(&world.node, move || listen_at_imds(family).expect("listening"), AGENT);
    }
    let damages = [lines(&OF_GUARDS), lines(&OF_ROUTE)].concat();
    world.node.block_on(|| async {
        GUARD.reconcile(&|_| {}).await;
        ROUTE.reconcile(&|| {}).await.expect("route");
    });
    let_nothing_through(&world, REPAIRS, damages, async |damage| {
        let outcome = GUARD.reconcile(&|_| {}).await;
        assert!(outcome.errors.is_empty(), "{damage}: {outcome:?}");
        let changed = ROUTE.reconcile(&|| {}).await.expect("route");
        assert_eq!(changed, outcome.drift.is_empty(), "{damage}: one thing was wrong");
    });
}

/// P5: guards and iptables.
#[test]
fn repairs_of_iptables_and_guards_in_a_row_let_nothing_through() {
    with_each_backend("repairs_of_iptables_and_guards_in_a_row_let_nothing_through", |programs| {
        let world = World::new();
        let desired = desired("auto", &TARGETS, 8181);
        let search = programs.search.clone();
        let of_backend = |damage: &str, family: &str| {
            damage.replace("IPT", &format!("{family}tables-{}", programs.backend))
        };
        let both = OF_IPTABLES.map(|line| format!("{}\n{}", of_backend(line, "ip"), of_backend(line, "ip6")));
        let damages = [lines(&OF_GUARDS), both.into()].concat();
        let mend = async move |damage: &str| {
            let guards = GUARD.reconcile(&|_| {}).await;
            let links = Links::read().await.expect("links");
            let host = Iptables::detect(&search).await.expect("back end");
            let rules = host.reconcile(&desired, &links.uplinks, &|_| {}).await;
            assert!(guards.errors.is_empty() && rules.errors.is_empty(), "{damage}: {guards:?} {rules:?}");
            assert!(!guards.drift.is_empty() || rules.changed, "{damage}: nothing was wrong");
        };
        let first = mend.clone();
        world.node.block_on(move || async move { first("nothing as yet").await });
        let_nothing_through(&world, REPAIRS_OF_IPTABLES, damages, mend);
    });
}

/// P5: where nothing is wrong nothing is written, of nf_tables, policy rules, routes or links.
#[test]
fn reconciliation_with_nothing_to_change_sends_nothing() {
    with_each_backend("reconciliation_with_nothing_to_change_sends_nothing", |programs| {
        let world = World::new();
        let (desired, search) = (desired("auto", &TARGETS, 8181), programs.search.clone());
        world.node.block_on(move || async move {
            let host = Iptables::detect(&search).await.expect("back end");
            let links = Links::read().await.expect("links");
            let reconcile = async || {
                let guards = GUARD.reconcile(&|_| {}).await;
                assert!(guards.errors.is_empty(), "{guards:?}");
                ROUTE.reconcile(&|| {}).await.expect("route");
                let rules = host.reconcile(&desired, &links.uplinks, &|_| {}).await;
                assert!(rules.errors.is_empty(), "{rules:?}");
            };
            let mut tables = RuleWatch::new().expect("watch of tables");
            let mut routes = LinkWatch::new().expect("watch of routes");
            reconcile().await;
            // Who listens is told; so silence says something.
            tables.changed().await.expect("told of tables");
            routes.changed().await.expect("told of rules and routes");
            for _ in 0..3 {
                reconcile().await;
            }
            assert!(tables.changed().now_or_never().is_none(), "nf_tables were written");
            assert!(routes.changed().now_or_never().is_none(), "rules, routes or links were written");
        });
        assert_eq!(programs.restores(), 2, "one for each family, at first");
    });
}
