//! Every drift by itself, and the batch that mends it.

use super::super::drift::Peer;
use super::*;

const JUMP: &str = "-A PREROUTING -m comment --comment rolegate -j ROLEGATE-PREROUTING";
const CHAIN: &str = ":ROLEGATE-PREROUTING - [0:0]\n-A ROLEGATE-PREROUTING -i lo -j RETURN";
const KUBE2IAM: &str =
    "-d 169.254.169.254/32 -i cbr0 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.10:8181";

fn want() -> TableRules {
    TableRules { table: Table::Nat, rules: Some(vec!["-i lo -j RETURN".to_owned()]) }
}

fn compared(have: &[&str]) -> Option<TablePlan> {
    compare(&want(), &Dump::parse(&format!("*nat\n:PREROUTING ACCEPT [0:0]\n{}\nCOMMIT\n", have.join("\n"))))
}

fn causes(have: &[&str]) -> Vec<Drift> {
    compared(have).map(|plan| plan.causes.into_iter().collect()).unwrap_or_default()
}

#[test]
fn what_is_right_is_left_alone() {
    assert_eq!(compared(&[CHAIN, JUMP]), None);
    assert_eq!(compared(&[CHAIN, JUMP, "-A PREROUTING -j KUBE-SERVICES"]), None);
}

#[test]
fn every_drift_has_its_name() {
    let other = "-A PREROUTING -j KUBE-SERVICES";
    assert_eq!(causes(&[]), [Drift::Missing]);
    assert_eq!(causes(&[other]), [Drift::Missing]);
    assert_eq!(causes(&[CHAIN]), [Drift::JumpMissing]);
    assert_eq!(causes(&[":ROLEGATE-PREROUTING - [0:0]", JUMP]), [Drift::ChainChanged]);
    assert_eq!(causes(&[CHAIN, "-A ROLEGATE-PREROUTING -j ACCEPT", JUMP]), [Drift::ChainChanged]);
    assert_eq!(causes(&[CHAIN, other, JUMP]), [Drift::JumpNotFirst]);
    assert_eq!(causes(&[CHAIN, JUMP, JUMP]), [Drift::JumpDuplicate]);
    assert_eq!(
        causes(&[CHAIN, JUMP, &format!("-A PREROUTING {KUBE2IAM}")]),
        [Drift::Foreign(Peer::Kube2iam)]
    );
    // A call with conditions is not the call that we want.
    assert_eq!(causes(&[CHAIN, "-A PREROUTING -i eth0 -j ROLEGATE-PREROUTING"]), [Drift::JumpNotFirst]);
}

#[test]
fn one_batch_fills_the_chain_moves_the_jump_and_replaces_the_foreign_rule() {
    let foreign = format!("-A PREROUTING {KUBE2IAM}");
    let conditional = "-A PREROUTING -i eth0 -j ROLEGATE-PREROUTING";
    let plan = compared(&[&foreign, "-A PREROUTING -j KUBE-SERVICES", JUMP, conditional]).expect("plan");
    assert_eq!(
        batch(&[plan]),
        format!(
            "*nat\n:ROLEGATE-PREROUTING - [0:0]\n-A ROLEGATE-PREROUTING -i lo -j RETURN\n\
             -D PREROUTING -m comment --comment rolegate -j ROLEGATE-PREROUTING\n\
             -D PREROUTING -i eth0 -j ROLEGATE-PREROUTING\n\
             -I PREROUTING 1 -m comment --comment rolegate -j ROLEGATE-PREROUTING\n\
             -D PREROUTING {KUBE2IAM}\nCOMMIT\n"
        )
    );
}

#[test]
fn a_table_that_should_have_nothing_of_ours_is_rid_of_it() {
    let want = TableRules { table: Table::Nat, rules: None };
    let have = Dump::parse(&format!("*nat\n:PREROUTING ACCEPT [0:0]\n{CHAIN}\n{JUMP}\nCOMMIT\n"));
    let plan = compare(&want, &have).expect("plan");
    assert_eq!(plan.causes, BTreeSet::from([Drift::ChainChanged]));
    assert_eq!(
        batch(&[plan]),
        "*nat\n-D PREROUTING -m comment --comment rolegate -j ROLEGATE-PREROUTING\n\
         -F ROLEGATE-PREROUTING\n-X ROLEGATE-PREROUTING\nCOMMIT\n"
    );
    assert_eq!(compare(&want, &Dump::parse("*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n")), None);
}

#[test]
fn removal_takes_calls_from_every_chain_and_peers_only_when_told() {
    let have = Dump::parse(&format!(
        "*nat\n:PREROUTING ACCEPT [0:0]\n:OTHER - [0:0]\n{CHAIN}\n{JUMP}\n-A OTHER -g ROLEGATE-PREROUTING\n\
         -A PREROUTING {KUBE2IAM}\nCOMMIT\n"
    ));
    let ours = "*nat\n-D OTHER -g ROLEGATE-PREROUTING\n\
                -D PREROUTING -m comment --comment rolegate -j ROLEGATE-PREROUTING\n\
                -F ROLEGATE-PREROUTING\n-X ROLEGATE-PREROUTING\n";
    let only_ours = remove(Table::Nat, &have, false).expect("plan");
    assert_eq!(batch(&[only_ours]), format!("{ours}COMMIT\n"));
    let with_peers = remove(Table::Nat, &have, true).expect("plan");
    assert_eq!(batch(&[with_peers]), format!("{ours}-D PREROUTING {KUBE2IAM}\nCOMMIT\n"));
}

#[test]
fn tables_are_committed_in_the_order_given() {
    let filter = TableRules { table: Table::Filter, rules: Some(vec!["-j DROP".to_owned()]) };
    let plans: Vec<TablePlan> =
        [filter, want()].iter().filter_map(|want| compare(want, &Dump::default())).collect();
    let text = batch(&plans);
    assert!(text.find("*filter").expect("filter") < text.find("*nat").expect("nat"), "{text}");
}
