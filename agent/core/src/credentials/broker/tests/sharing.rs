//! One fetch per key, whoever waits and whoever leaves; keys never share; who goes first.

use super::*;

/// K14, P35: one call, however many wait for it.
#[tokio::test(start_paused = true)]
async fn five_hundred_waiters_are_one_call() {
    let bench = Bench::new();
    let waiters: Vec<_> = (0..500).map(|n| bench.spawn_get(ask("MyPodRole", &format!("pod-{n}")))).collect();
    let mut ids = std::collections::HashSet::new();
    for waiter in waiters {
        ids.insert(waiter.await.unwrap().unwrap().access_key_id.clone());
    }
    assert_eq!((ids.len(), bench.sts.calls()), (1, 1));
    assert_eq!(bench.metric("credentials_requests_total", &[("result", "coalesced")]), 499.0);
    assert_eq!(bench.metric("sts_calls_total", &[("result", "success"), ("cause", "demand")]), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_leaves_neither_cancels_nor_repeats_the_call() {
    let bench = Bench::new();
    *bench.sts.latency.lock() = Duration::from_secs(2);
    let ask = ask("MyPodRole", "a");
    let leaver = bench.spawn_get(ask.clone());
    sleep(Duration::from_millis(500)).await;
    leaver.abort();
    assert_eq!(bench.get(&ask).await.unwrap_err(), BrokerError::Timeout);
    let answered = bench.get(&ask).await.unwrap();
    assert_eq!((bench.sts.calls(), answered.access_key_id.as_str()), (1, "ASIA1-MyPodRole"));
    assert_eq!(bench.metric("credentials_requests_total", &[("result", "timeout")]), 1.0);
}

#[tokio::test(start_paused = true)]
async fn every_waiter_has_its_own_deadline() {
    let bench = Bench::new();
    *bench.sts.latency.lock() = Duration::from_millis(500);
    let (start, ask) = (Instant::now(), ask("MyPodRole", "a"));
    let (hasty, patient) = tokio::join!(
        bench.broker.get(&ask, start + Duration::from_millis(100)),
        bench.broker.get(&ask, start + HOLD),
    );
    assert_eq!(hasty.unwrap_err(), BrokerError::Timeout);
    assert!(patient.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_panics_fails_its_waiters_and_not_the_key() {
    let bench = Bench::new();
    bench.sts.always(Reply::Panic);
    let waiters = [bench.spawn_get(ask("MyPodRole", "a")), bench.spawn_get(ask("MyPodRole", "b"))];
    for waiter in waiters {
        assert!(matches!(waiter.await.unwrap(), Err(BrokerError::Unavailable { .. })));
    }
    bench.sts.always(Reply::Give);
    assert!(bench.get(&ask("MyPodRole", "a")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn keys_that_differ_in_anything_never_share() {
    let bench = Bench::new();
    bench.sts.script(|key| match key.external_id.as_ref().map(ExternalId::as_str) {
        Some("right") => Reply::Give,
        Some(_) | None => denied(),
    });
    let with = |id: Option<&str>| {
        let mut ask = ask("MyPodRole", "a");
        ask.key.external_id = id.map(|id| ExternalId::parse(id).unwrap());
        ask
    };
    expect_refused(&bench.get(&with(Some("wrong"))).await);
    assert!(bench.get(&with(Some("right"))).await.is_ok());
    expect_refused(&bench.get(&with(None)).await);
    expect_refused(&bench.get(&with(Some("wrong"))).await);
    assert!(bench.get(&with(Some("right"))).await.is_ok());
    let mut other_name = with(Some("right"));
    other_name.key.session_name = SessionName::parse("default.other").unwrap();
    let other = bench.get(&other_name).await.unwrap();
    assert_ne!(other.access_key_id, bench.get(&with(Some("right"))).await.unwrap().access_key_id);
    assert_eq!(bench.sts.calls(), 4);
}

#[tokio::test(start_paused = true)]
async fn two_hundred_and_fifty_pods_of_25_keys_make_25_calls_and_are_all_answered() {
    let bench = Bench::new();
    let start = Instant::now();
    let waiters: Vec<_> =
        (0..250).map(|n| bench.spawn_get(ask(&format!("role-{}", n % 25), &format!("pod-{n}")))).collect();
    for waiter in waiters {
        waiter.await.unwrap().unwrap();
    }
    assert_eq!(bench.sts.calls(), 25);
    assert!(start.elapsed() < Duration::from_millis(200), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn throttling_a_role_that_hangs_and_one_that_is_refused_hold_up_nobody_else() {
    let bench = Bench::new();
    let (mut second, mut left) = (Instant::now(), 10);
    bench.sts.script(move |key| match key.role.name() {
        "role-0" => Reply::Hang,
        "role-1" => denied(),
        _ => {
            if second.elapsed() >= Duration::from_secs(1) {
                (second, left) = (Instant::now(), 10);
            }
            if left == 0 {
                return Reply::Fail(SourceError::Throttled);
            }
            left -= 1;
            Reply::Give
        }
    });
    let start = Instant::now();
    let asks: Vec<_> = (0..25).map(|n| ask(&format!("role-{n}"), &format!("pod-{n}"))).collect();
    let served = futures::future::join_all(asks[2..].iter().map(|ask| bench.served_after(ask)));
    let (_, refused, slowest) = tokio::join!(bench.get(&asks[0]), bench.get(&asks[1]), served);
    expect_refused(&refused);
    // 23 roles at 10 per second need two seconds, and pauses of up to two more; the role that hangs takes five.
    assert!(slowest.iter().max().unwrap() < &Duration::from_millis(4_500), "{slowest:?}");
    assert!(start.elapsed() < Duration::from_millis(4_500));
    assert!(bench.sts.calls() < 75, "{} calls", bench.sts.calls());
}

#[tokio::test(start_paused = true)]
async fn demand_goes_before_prefetch_and_prefetch_before_refresh() {
    let pace = Pace::new(&config::Credentials { calls_in_flight: 1, ..config() }, 0);
    let blocker = pace.permit(&pace.ticket(Cause::Refresh, None)).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let tasks = TaskTracker::new();
    let mut hurried = None;
    for (name, cause) in [
        ("hurried", Cause::Refresh),
        ("refresh", Cause::Refresh),
        ("prefetch", Cause::Prefetch),
        ("demand", Cause::Demand),
    ] {
        let (pace, order, ticket) = (Arc::clone(&pace), Arc::clone(&order), pace.ticket(cause, None));
        hurried.get_or_insert_with(|| Arc::clone(&ticket));
        tasks.spawn(async move {
            let permit = pace.permit(&ticket).await;
            order.lock().push(name);
            drop(permit);
        });
    }
    sleep(Duration::from_millis(1)).await;
    pace.hurry(&hurried.unwrap(), &PodUid::new("a"));
    drop(blocker);
    tasks.close();
    tasks.wait().await;
    assert_eq!(*order.lock(), ["hurried", "demand", "prefetch", "refresh"]);
}

#[tokio::test(start_paused = true)]
async fn a_bucket_of_fifty_calls_is_refilled_by_five_per_second() {
    let bench = Bench::new();
    for n in 0..100 {
        drop(bench.spawn_get(ask(&format!("role-{n}"), &format!("pod-{n}"))));
    }
    sleep(Duration::from_millis(999)).await;
    assert!((50..=55).contains(&bench.sts.calls()), "{}", bench.sts.calls());
    sleep(Duration::from_secs(10)).await;
    assert_eq!(bench.sts.calls(), 100);
}

#[tokio::test(start_paused = true)]
async fn thirty_two_calls_are_in_flight_at_most() {
    let bench = Bench::new();
    *bench.sts.latency.lock() = Duration::from_secs(3);
    for n in 0..40 {
        drop(bench.spawn_get(ask(&format!("role-{n}"), &format!("pod-{n}"))));
    }
    sleep(Duration::from_secs(1)).await;
    assert_eq!((bench.sts.calls(), bench.metric("sts_calls_in_flight", &[])), (32, 32.0));
    sleep(Duration::from_secs(6)).await;
    assert_eq!((bench.sts.calls(), bench.metric("sts_calls_in_flight", &[])), (40, 0.0));
}

#[tokio::test(start_paused = true)]
async fn a_prefetch_in_the_queue_becomes_demand_when_a_pod_asks() {
    let bench = Bench::with(config::Credentials { calls_in_flight: 1, ..config() });
    bench.sts.script(|key| if key.role.name() == "slow" { Reply::Hang } else { Reply::Give });
    drop(bench.spawn_get(ask("slow", "s")));
    sleep(Duration::from_millis(1)).await;
    bench.want(&[(&key("first"), &["a"]), (&key("second"), &["b"])]);
    sleep(Duration::from_secs(4)).await;
    let asker = bench.spawn_get(ask("second", "b"));
    sleep(Duration::from_millis(10)).await;
    assert!(bench.broker.list().iter().all(|entry| entry.session.is_none()));
    sleep(Duration::from_millis(1_200)).await;
    let calls = bench.sts.calls.lock().iter().map(|(_, key)| key.role.name().to_owned()).collect::<Vec<_>>();
    assert_eq!(calls, ["slow", "second", "first"]);
    drop(asker);
}
