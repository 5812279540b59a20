//! One pod's share of the calls: what a pod that asks for ever other roles costs the others.

use super::*;

/// How long the slowest of `count` pods waits that nobody knew yet, each for a role of its own.
async fn newcomers(bench: &Bench, round: &str, count: usize) -> Duration {
    let asks: Vec<_> =
        (0..count).map(|n| ask(&format!("{round}-{n}"), &format!("pod-{round}-{n}"))).collect();
    let served = futures::future::join_all(asks.iter().map(|ask| bench.served_after(ask))).await;
    served.into_iter().max().unwrap()
}

/// P38: a pod with a thousand calls waiting leaves half the bucket to others, and is passed by each of them.
#[tokio::test(start_paused = true)]
async fn a_pod_that_asks_for_a_thousand_roles_at_once_holds_up_nobody() {
    let bench = Bench::new();
    for n in 0..1_000 {
        drop(bench.spawn_get(ask(&format!("greedy-{n}"), "greedy")));
    }
    sleep(Duration::from_secs(1)).await;
    assert!((25..=31).contains(&bench.sts.calls()), "half of the bucket: {}", bench.sts.calls());
    assert_eq!(newcomers(&bench, "first", 20).await, Duration::from_millis(150));
    // The bucket has its lower half back after that many fifths of a second.
    sleep(Duration::from_secs(4)).await;
    assert_eq!(newcomers(&bench, "later", 15).await, Duration::from_millis(150));
}

/// P38: also where the pod has been let alone, had all it wanted, and the bucket is empty: its calls go last.
#[tokio::test(start_paused = true)]
async fn pods_take_turns_where_the_bucket_is_empty() {
    let bench = Bench::new();
    for n in 0..60 {
        drop(bench.spawn_get(ask(&format!("crowd-{n}"), &format!("crowd-{n}"))));
    }
    sleep(Duration::from_millis(1)).await;
    for n in 0..1_000 {
        drop(bench.spawn_get(ask(&format!("greedy-{n}"), "greedy")));
    }
    // Two seconds for the ten of the crowd that are ahead, and a fifth of a second for the pod itself.
    let waited = newcomers(&bench, "late", 1).await;
    assert!(waited < Duration::from_millis(2_600), "{waited:?}");
}

/// P38: what nobody wants any more is not waited for: no queue grows, no session of others goes.
#[tokio::test(start_paused = true)]
async fn a_pod_whose_annotation_is_edited_in_a_loop_has_a_handful_of_calls_waiting() {
    let bench = Bench::new();
    let honest = key("honest");
    for n in 0..600 {
        let greedy = ask(&format!("greedy-{n}"), "greedy");
        bench.want(&[(&honest, &["honest"]), (&greedy.key, &["greedy"])]);
        drop(bench.spawn_get(greedy));
        sleep(Duration::from_millis(100)).await;
    }
    // A flight and a request for each tenth of the second that a request is held.
    assert!(bench.tasks.len() < 25, "{} tasks", bench.tasks.len());
    assert!(bench.broker.list().len() < 20, "{} keys", bench.broker.list().len());
    assert!(bench.sts.calls() <= 25 + 5 * 60 + 2, "{} calls", bench.sts.calls());
    assert!(bench.broker.cached(&honest).is_some());
    assert_eq!(newcomers(&bench, "late", 20).await, Duration::from_millis(150));
}

#[tokio::test(start_paused = true)]
async fn a_call_in_the_line_of_a_greedy_pod_is_made_sooner_for_another_that_joins() {
    let bench = Bench::new();
    for n in 0..200 {
        drop(bench.spawn_get(ask(&format!("greedy-{n}"), "greedy")));
    }
    sleep(Duration::from_millis(1)).await;
    let start = Instant::now();
    bench.get(&ask("greedy-199", "another")).await.unwrap();
    assert!(start.elapsed() <= Duration::from_millis(150), "{:?}", start.elapsed());
}
