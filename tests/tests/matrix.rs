//! Every capture, every flush, every end of the agent, both families, both kinds of pods: nobody gets the node's
//! credentials, from the first agent's readiness on.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use nix::sys::signal::Signal;
use rolegate_tests::agent::Agent;
use rolegate_tests::siege::{Capture, Siege};
use rolegate_tests::traffic::Got;
use tokio::time::Instant;

/// Requests of each pod and family that are looked at in each state.
const ROUND: usize = 2;

/// How often guards and capture are taken away, if not as often as the tests say; how long repairs took is printed. For an
/// hour or so: `ROLEGATE_REPAIRS=20000`.
const REPAIRS: &str = "ROLEGATE_REPAIRS";

/// What others run: firewalls that reload, network daemons that restart, operators who tidy up; and the parts of one
/// guard or of the capture, while the rest stands. Each for both families.
const FLUSHES: [(&str, &str); 14] = [
    ("nft flush ruleset", "nft flush ruleset"),
    ("iptables-nft -t nat -F", "for f in iptables-nft ip6tables-nft; do $f -w -t nat -F; done"),
    (
        "iptables-nft -F of both tables",
        "for f in iptables-nft ip6tables-nft; do $f -w -t nat -F; $f -w -F; done",
    ),
    ("iptables-legacy -t nat -F", "for f in iptables-legacy ip6tables-legacy; do $f -w -t nat -F; done"),
    (
        "iptables-legacy -F of both tables",
        "for f in iptables-legacy ip6tables-legacy; do $f -w -t nat -F; $f -w -F; done",
    ),
    (
        "foreign iptables-nft-restore",
        "for f in ip ip6; do printf '*nat\\nCOMMIT\\n*filter\\nCOMMIT\\n' | ${f}tables-nft-restore -w; done",
    ),
    (
        "foreign iptables-legacy-restore",
        "for f in ip ip6; do printf '*nat\\nCOMMIT\\n*filter\\nCOMMIT\\n' | ${f}tables-legacy-restore -w; done",
    ),
    (
        "removal of all our policy rules",
        "for f in -4 -6; do printf 'rule del pref %s\\n' 4 3 2 6 | ip -force $f -batch -; done",
    ),
    ("removal of the prohibition", "for f in -4 -6; do ip $f rule del pref 4; done"),
    ("removal of the rule of capture route", "for f in -4 -6; do ip $f rule del pref 3; done"),
    ("flush of our routing table", "for f in -4 -6; do ip $f route flush table 43518; done"),
    ("removal of our nft table", "nft delete table inet rolegate"),
    ("flush of a chain of our nft table", "nft flush chain inet rolegate forward"),
    ("conntrack -F", "conntrack -F"),
];

/// How an agent ends. The OOM killer's way is `SIGKILL`, too (`oom_kill_process`, mm/oom_kill.c).
#[derive(Clone, Copy, Debug)]
enum End {
    Sigkill,
    Sigterm,
    Upgrade,
}

fn served(got: Got) -> bool {
    matches!(got, Got::Status(_))
}

fn refused(got: Got) -> bool {
    got == Got::Nothing
}

/// Everybody gets what is wanted, the host the real service, and nothing has leaked: in the state of this name.
fn assert_state(siege: &Siege, state: &str, wanted: impl Fn(Got) -> bool) {
    let host = siege.host_reaches_the_real_service();
    let all = host.and_then(|()| siege.everybody_gets(ROUND, wanted)).and_then(|()| siege.nothing_leaked());
    all.unwrap_or_else(|error| panic!("{state}: {error:#}"));
}

/// Flushed, and nobody mends.
fn flushed_while_dead(siege: &Siege, cell: &str, flush: &str) -> Agent {
    siege.on_node(flush).unwrap();
    assert_state(siege, &format!("{cell}, dead"), refused);
    siege.agent(&[]).unwrap_or_else(|error| panic!("{cell}: {error:#}"))
}

/// Another version takes the place of this one, and the flush comes while both are there.
fn flushed_while_upgraded(siege: &Siege, agent: &Agent, cell: &str, flush: &str) -> Agent {
    let new = siege.start_agent(&["--reconcile-period=1s"]).unwrap();
    siege.on_node(flush).unwrap();
    agent.sigterm().unwrap();
    assert!(agent.wait().unwrap().success(), "{cell}: {}", agent.log());
    new.ready().unwrap_or_else(|error| panic!("{cell}: {error:#}"));
    new
}

fn every_cell(test: &str, capture: Capture) {
    let Some(mut siege) = Siege::for_test(test, capture) else { return };
    let mut agent = siege.agent(&["--reconcile-period=1s"]).unwrap();
    siege.seal().unwrap();
    let whole = siege.ours().unwrap();
    for (name, flush) in FLUSHES {
        siege.on_node(flush).unwrap();
        agent.poll(&format!("{name} is mended"), || Ok(siege.ours()? == whole)).unwrap();
        assert_state(&siege, &format!("{capture:?}, {name}, running"), served);
    }
    for end in [End::Sigkill, End::Sigterm, End::Upgrade] {
        for (name, flush) in FLUSHES {
            let cell = format!("{capture:?}, {name}, {end:?}");
            agent = match end {
                End::Upgrade => flushed_while_upgraded(&siege, &agent, &cell, flush),
                End::Sigkill | End::Sigterm => {
                    let signal = if matches!(end, End::Sigkill) { Signal::SIGKILL } else { Signal::SIGTERM };
                    agent.signal(signal).unwrap();
                    agent.wait().unwrap();
                    assert_eq!(siege.ours().unwrap(), whole, "{cell}: the end took something away");
                    flushed_while_dead(&siege, &cell, flush)
                }
            };
            assert_eq!(siege.ours().unwrap(), whole, "{cell}, back\n{}", agent.log());
            assert_state(&siege, &format!("{cell}, back"), served);
        }
    }
    assert_is_where_it_was_meant(&whole, capture);
}

/// Else one half of this suite would test the other twice.
fn assert_is_where_it_was_meant(whole: &str, capture: Capture) {
    let ours = whole.lines().filter(|line| line.starts_with("iptables-") && line.contains("DNAT"));
    let backends: Vec<&str> = ours.filter_map(|line| line.split(' ').next()).collect();
    let expected: &[&str] = match capture {
        Capture::IptablesNft => &["iptables-nft"],
        Capture::IptablesLegacy => &["iptables-legacy"],
        Capture::Route => &[],
    };
    assert_eq!(backends, expected, "{whole}");
}

/// Takes guards and capture away in turns, as fast as the agent puts all of it back.
///
/// All of it: a repair that is only counted may be the last one's, and with the next damage both guards would be gone.
fn tampered_with(test: &str, capture: Capture, times: usize, damages: &[&str]) {
    let Some(mut siege) = Siege::for_test(test, capture) else { return };
    let times = std::env::var_os(REPAIRS).and_then(|times| times.to_str()?.parse().ok()).unwrap_or(times);
    let agent = siege.agent(&[]).unwrap();
    siege.seal().unwrap();
    let whole = siege.ours().unwrap();
    let mut took = Vec::new();
    for damage in damages.iter().cycle().take(times) {
        siege.on_node(damage).unwrap();
        let damaged = Instant::now();
        agent.poll(&format!("{damage} is mended"), || Ok(siege.ours()? == whole)).unwrap();
        took.push(damaged.elapsed());
    }
    took.sort();
    let (median, longest) = (took.get(took.len() / 2), took.last());
    println!("{capture:?}: {times} repairs, seen after {median:?} (median), {longest:?} (longest)");
    agent.ready().unwrap();
    assert_state(&siege, "after all", served);
}

/// P5: the whole agent; rules and routes are mended within a tenth of a second, so there are many.
#[test]
fn agent_with_policy_routing_that_is_tampered_with_lets_nothing_through() {
    let damages = [
        "ip rule del pref 4; ip -6 rule del pref 4",
        "ip rule del pref 3; ip -6 rule del pref 3",
        "ip route flush table 43518; ip -6 route flush table 43518",
        "ip rule del pref 4; ip rule del pref 3",
        "nft delete table inet rolegate",
    ];
    let test = "agent_with_policy_routing_that_is_tampered_with_lets_nothing_through";
    tampered_with(test, Capture::Route, 100, &damages);
}

/// P5: the whole agent; changes of tables are looked at twice a second.
#[test]
fn agent_with_iptables_that_is_tampered_with_lets_nothing_through() {
    let damages = [
        "ip rule del pref 4; ip -6 rule del pref 4",
        "nft delete table inet rolegate",
        "iptables-nft -w -t nat -F; ip6tables-nft -w -t nat -F",
        "nft flush ruleset",
    ];
    let test = "agent_with_iptables_that_is_tampered_with_lets_nothing_through";
    tampered_with(test, Capture::IptablesNft, 32, &damages);
}

/// K7, K24, P1, P2, P3, P8: iptables on a node whose rules are in nf_tables.
#[test]
fn nothing_opens_a_node_with_nft_rules() {
    every_cell("nothing_opens_a_node_with_nft_rules", Capture::IptablesNft);
}

/// K7, K24, P1, P2, P3, P8: iptables on a node whose rules are in x_tables.
#[test]
fn nothing_opens_a_node_with_legacy_rules() {
    every_cell("nothing_opens_a_node_with_legacy_rules", Capture::IptablesLegacy);
}

/// P1, P2, P3, P8: policy routing.
#[test]
fn nothing_opens_a_node_with_policy_routing() {
    every_cell("nothing_opens_a_node_with_policy_routing", Capture::Route);
}
