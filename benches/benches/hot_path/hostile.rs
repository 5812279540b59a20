//! Lists of allowed roles at their limits, and the role that takes longest to hold against them.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion};
use rolegate::policy::{Denied, NamespaceFacts, PatternFormat, PodFacts, Policy};

use rolegate_benches::cluster::{namespace, pod};
use rolegate_benches::node::rules;

/// More roles than answers are remembered of one namespace: each is matched anew.
const ROLES: usize = 100;
/// As the agent reads them.
const MOST_ENTRIES: usize = 256;
const MOST_LIST_BYTES: usize = 64 << 10;
const MOST_ENTRY_BYTES: usize = 2_048;

/// P32: compiling and matching lists of any content takes bounded time.
pub(crate) fn lists(c: &mut Criterion) {
    let mut group = c.benchmark_group("hostile_list");
    let entry = |piece: &str, bytes: usize| piece.repeat(bytes / piece.len());
    let fill = |piece: &str, bytes: usize| {
        vec![entry(piece, bytes); (MOST_LIST_BYTES / (bytes + 3)).min(MOST_ENTRIES)]
    };
    let glob = |entries: Vec<String>| (PatternFormat::Glob, entries);
    let regexp = |entries: Vec<String>| (PatternFormat::Regexp, entries);
    for (name, (format, entries)) in [
        ("one_glob", glob(vec![entry("*a", MOST_ENTRY_BYTES)])),
        ("globs_of_256_bytes", glob(fill("*a", 250))),
        ("globs_of_2048_bytes", glob(fill("*a", MOST_ENTRY_BYTES))),
        ("one_expression", regexp(biggest(1))),
        ("expressions", regexp(biggest(MOST_ENTRIES))),
        ("backtracking_expressions", regexp(vec!["(a+)+b".to_owned(); MOST_ENTRIES])),
    ] {
        let policy = Policy::new(rules(format), None);
        let list = json(&entries);
        let pods: Vec<PodFacts> = (0..ROLES).map(asking).collect();
        let compiled = namespace(7, &list);
        assert!(is_list(&policy, &pods[0], &compiled), "{name}");
        group.bench_function(format!("{name}/compile"), |b| {
            b.iter_batched(
                || namespace(7, &list),
                |fresh| policy.problems(black_box(&fresh)),
                BatchSize::PerIteration,
            );
        });
        let mut turn = pods.iter().cycle();
        group.bench_function(format!("{name}/match"), |b| {
            b.iter(|| policy.decide(black_box(turn.next().unwrap()), &compiled));
        });
    }
    group.finish();
}

/// A pod whose role is as long as a role may be, and all of what the patterns want but for its end.
fn asking(n: usize) -> PodFacts {
    let path = "a".repeat(510);
    PodFacts { role: Some(Arc::from(format!("{path}/{}{n:03}", "a".repeat(61)))), ..pod(7, "").facts }
}

/// So many expressions, as big as they may be together.
fn biggest(entries: usize) -> Vec<String> {
    let policy = Policy::new(rules(PatternFormat::Regexp), None);
    let made = |n: usize| vec![format!("(?:a?){{{n}}}b"); entries];
    let fits = |n: usize| is_list(&policy, &asking(0), &namespace(7, &json(&made(n))));
    let (mut fitting, mut too_big) = (1_usize, 10_000);
    while too_big - fitting > 1 {
        let middle = fitting.midpoint(too_big);
        if fits(middle) { fitting = middle } else { too_big = middle }
    }
    made(fitting)
}

fn is_list(policy: &Policy, pod: &PodFacts, namespace: &NamespaceFacts) -> bool {
    matches!(policy.decide(pod, namespace).outcome, Err(Denied::NotInList { .. }))
}

fn json(entries: &[String]) -> String {
    format!("[{}]", entries.iter().map(|entry| format!("\"{entry}\"")).collect::<Vec<_>>().join(","))
}
