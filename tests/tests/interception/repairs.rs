//! What somebody takes away is back without a restart, and the agent is not ready until then.

use rolegate_tests::agent::Agent;
use rolegate_tests::siege::{Capture, Siege};
use rolegate_tests::traffic::Got;

/// What is taken away, and the word for it in the reason of not being ready.
type Damage = (&'static str, &'static str);

const OF_GUARDS: [Damage; 3] = [
    ("ip rule del pref 4", "guard_rules"),
    ("ip -6 rule del pref 2", "guard_rules"),
    ("nft delete table inet rolegate", "guard_table_missing"),
];

/// The log tells the state that readiness has come to: a repair may be too quick for it.
const TRIES: usize = 5;

/// Messages since the first `from` lines.
fn said(agent: &Agent, from: usize, wanted: impl Fn(&str, &str) -> bool) -> bool {
    agent.lines()[from..]
        .iter()
        .any(|line| line.text_of("message").is_some_and(|message| wanted(&message, &line.text)))
}

fn repaired_without_a_restart(test: &str, capture: Capture, damages: &[Damage]) {
    let Some(mut siege) = Siege::for_test(test, capture) else { return };
    let agent = siege.agent(&[]).unwrap();
    siege.seal().unwrap();
    let whole = siege.ours().unwrap();
    for (damage, cause) in OF_GUARDS.iter().chain(damages) {
        let what = format!("{capture:?}, {damage}");
        let closed = (0..TRIES).any(|_| {
            let from = agent.lines().len();
            siege.on_node(damage).unwrap();
            let repaired = || Ok(said(&agent, from, |message, _| message == "repaired"));
            agent.poll(&format!("{what} is repaired"), repaired).unwrap();
            agent.ready().unwrap();
            assert_eq!(siege.ours().unwrap(), whole, "{what}: ready before all was back");
            said(&agent, from, |message, line| message == "not ready" && line.contains(cause))
        });
        assert!(closed, "{what}: it was ready all the time\n{}", agent.log());
    }
    siege.everybody_gets(2, |got| matches!(got, Got::Status(_))).unwrap();
    siege.nothing_leaked().unwrap();
}

/// P4: rules of the guards and the capture, its route, and the table of nftables.
#[test]
fn what_is_taken_from_policy_routing_is_back_before_the_agent_is_ready() {
    repaired_without_a_restart(
        "what_is_taken_from_policy_routing_is_back_before_the_agent_is_ready",
        Capture::Route,
        &[
            ("ip -6 rule del pref 3", "the policy routing is being repaired"),
            ("ip route flush table 43518", "the policy routing is being repaired"),
        ],
    );
}

/// P4: the guards beside iptables, and its chains in nf_tables.
#[test]
fn what_is_taken_from_nft_rules_is_back_before_the_agent_is_ready() {
    repaired_without_a_restart(
        "what_is_taken_from_nft_rules_is_back_before_the_agent_is_ready",
        Capture::IptablesNft,
        &[
            ("ip6tables-nft -w -t nat -F", "IPv6 nat: "),
            ("iptables-nft -w -F ROLEGATE-FORWARD", "IPv4 filter: chain_changed"),
        ],
    );
}

/// P4: the guards beside iptables, and its chains in x_tables, of which nobody is told.
#[test]
fn what_is_taken_from_legacy_rules_is_back_before_the_agent_is_ready() {
    repaired_without_a_restart(
        "what_is_taken_from_legacy_rules_is_back_before_the_agent_is_ready",
        Capture::IptablesLegacy,
        &[("iptables-legacy -w -t nat -F", "IPv4 nat: ")],
    );
}
