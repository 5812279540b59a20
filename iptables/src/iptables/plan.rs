//! Compares a table with what it should be, and writes the batch that makes it so. Pure.

use std::collections::BTreeSet;

use super::desired::{Table, TableRules};
use super::drift::Drift;
use super::dump::{Dump, jumps_to};
use super::peers;

/// What is wrong with one table and the commands that put it right, to be committed as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TablePlan {
    pub(crate) table: Table,
    pub(crate) causes: BTreeSet<Drift>,
    commands: Vec<String>,
}

/// Compares `have` with `want`; `None`: nothing to do.
///
/// Our chain is emptied and filled, calls of it are deleted and one is inserted at the head, and other agents'
/// rules are deleted, all in one commit: a packet sees all of it or nothing.
pub(crate) fn compare(want: &TableRules, have: &Dump) -> Option<TablePlan> {
    let TableRules { table, rules } = want;
    let (hook, chain) = (table.hook(), table.chain());
    let Some(rules) = rules else {
        return removal(*table, have, true, Drift::ChainChanged);
    };
    let hooked = have.chain(hook).unwrap_or_default();
    let foreign = foreign(*table, have);
    let mut causes: BTreeSet<Drift> = foreign.iter().map(|(drift, _)| *drift).collect();
    causes.extend(own_drift(*table, rules, have.chain(chain), hooked));
    if causes.is_empty() {
        return None;
    }
    let mut commands = Vec::new();
    // In a batch that does not flush, declaring a chain of one's own empties it.
    commands.push(format!(":{chain} - [0:0]"));
    commands.extend(rules.iter().map(|rule| format!("-A {chain} {rule}")));
    commands
        .extend(hooked.iter().filter(|rule| jumps_to(rule, chain)).map(|rule| format!("-D {hook} {rule}")));
    commands.push(format!("-I {hook} 1 {}", table.jump()));
    commands.extend(foreign.into_iter().map(|(_, rule)| format!("-D {hook} {rule}")));
    Some(TablePlan { table: *table, causes, commands })
}

/// What takes our chain and the calls of it out of a table, and other agents' rules too if `peers`.
pub(crate) fn remove(table: Table, have: &Dump, peers: bool) -> Option<TablePlan> {
    removal(table, have, peers, Drift::OtherBackend)
}

/// The whole batch, as `iptables-restore --noflush` reads it. Tables are committed in the order given.
pub(crate) fn batch(plans: &[TablePlan]) -> String {
    let mut text = String::new();
    for plan in plans {
        text.push_str(&format!("*{}\n", plan.table.name()));
        for command in &plan.commands {
            text.push_str(command);
            text.push('\n');
        }
        text.push_str("COMMIT\n");
    }
    text
}

fn removal(table: Table, have: &Dump, peers: bool, ours: Drift) -> Option<TablePlan> {
    let chain = table.chain();
    let (mut causes, mut commands) = (BTreeSet::new(), Vec::new());
    for (caller, rules) in have.chains().filter(|(caller, _)| *caller != chain) {
        commands.extend(
            rules.iter().filter(|rule| jumps_to(rule, chain)).map(|rule| format!("-D {caller} {rule}")),
        );
    }
    if have.chain(chain).is_some() {
        commands.extend([format!("-F {chain}"), format!("-X {chain}")]);
    }
    if !commands.is_empty() {
        causes.insert(ours);
    }
    if peers {
        for (theirs, rule) in foreign(table, have) {
            causes.insert(theirs);
            commands.push(format!("-D {} {rule}", table.hook()));
        }
    }
    (!commands.is_empty()).then_some(TablePlan { table, causes, commands })
}

fn own_drift(table: Table, want: &[String], have: Option<&[String]>, hooked: &[String]) -> BTreeSet<Drift> {
    let mut causes = BTreeSet::new();
    let calls = hooked.iter().filter(|rule| jumps_to(rule, table.chain())).count();
    if have.is_none() && calls == 0 {
        causes.insert(Drift::Missing);
        return causes;
    }
    if have != Some(want) {
        causes.insert(Drift::ChainChanged);
    }
    match calls {
        0 => _ = causes.insert(Drift::JumpMissing),
        1 => {}
        _ => _ = causes.insert(Drift::JumpDuplicate),
    }
    if calls > 0 && hooked.first() != Some(&table.jump()) {
        causes.insert(Drift::JumpNotFirst);
    }
    causes
}

fn foreign(table: Table, have: &Dump) -> Vec<(Drift, &str)> {
    if table != Table::Nat {
        return Vec::new();
    }
    let hooked = have.chain(table.hook()).unwrap_or_default();
    hooked.iter().filter_map(|rule| Some((Drift::Foreign(peers::owner(rule)?), rule.as_str()))).collect()
}

#[cfg(test)]
mod tests;
