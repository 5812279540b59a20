//! Fifteen minutes, an hour, a day: refresh ahead, forgetting, durations.

use super::*;

#[tokio::test(start_paused = true)]
async fn three_replicas_share_a_session_that_is_renewed_at_fifteen_minutes_without_a_wait() {
    let bench = Bench::new();
    bench.want(&[(&key("MyPodRole"), &["a", "b", "c"])]);
    let first = bench.get(&ask("MyPodRole", "a")).await.unwrap();
    for pod in ["b", "c"] {
        assert_eq!(bench.get(&ask("MyPodRole", pod)).await.unwrap().access_key_id, first.access_key_id);
    }
    assert_eq!(bench.sts.calls(), 1);
    assert_eq!(first.document, first.access_key_id.as_bytes());
    *bench.sts.latency.lock() = Duration::from_secs(3);
    sleep(MINUTE * 14).await;
    assert_eq!(bench.get(&ask("MyPodRole", "a")).await.unwrap().access_key_id, first.access_key_id);
    let mut renewed = None;
    for _ in 0..80 {
        sleep(Duration::from_secs(1)).await;
        let asked = Instant::now();
        let session = bench.get(&ask("MyPodRole", "a")).await.unwrap();
        assert_eq!(asked.elapsed(), Duration::ZERO, "no request waits for a refresh");
        renewed = (session.access_key_id != first.access_key_id).then_some(session).or(renewed);
    }
    assert!(renewed.is_some());
    assert_eq!(bench.sts.calls(), 2);
    assert_eq!(bench.metric("sts_calls_total", &[("cause", "refresh")]), 1.0);
}

#[tokio::test(start_paused = true)]
async fn over_a_day_what_is_handed_out_lives_45_minutes_or_more_and_never_goes_backwards() {
    let bench = Bench::new();
    let keys: Vec<_> = (0..20).map(|n| key(&format!("role-{n}"))).collect();
    let wanted: Vec<_> = keys.iter().map(|key| (key, ["a"].as_slice())).collect();
    bench.want(&wanted);
    sleep(MINUTE).await;
    let mut last = vec![SystemTime::UNIX_EPOCH; keys.len()];
    for _ in 0..24 * 60 {
        sleep(MINUTE).await;
        for (key, last) in keys.iter().zip(&mut last) {
            let session = bench.broker.cached(key).unwrap();
            let left = session.expiration.duration_since(bench.clock.now()).unwrap();
            assert!(left >= MINUTE * 45 - Duration::from_secs(1), "{left:?}");
            assert!(session.expiration >= *last);
            *last = session.expiration;
        }
    }
    // One call per key and 14 to 15 minutes, and not more.
    assert!((20 * 96..=20 * 104).contains(&bench.sts.calls()), "{}", bench.sts.calls());
    assert_eq!(bench.metric("credentials_requests_total", &[("result", "stale")]), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_keys_of_one_age_are_all_refreshed_in_time_and_not_at_once() {
    let bench = Bench::new();
    let keys: Vec<_> = (0..100).map(|n| key(&format!("role-{n}"))).collect();
    let wanted: Vec<_> = keys.iter().map(|key| (key, ["a"].as_slice())).collect();
    bench.want(&wanted);
    sleep(MINUTE * 14).await;
    assert_eq!(bench.sts.calls(), 100);
    sleep(MINUTE * 2).await;
    assert!(keys.iter().all(|key| bench.sts.calls_of(key) == 2));
    let times: Vec<_> = bench.sts.calls.lock()[100..].iter().map(|(at, _)| *at).collect();
    assert!(times[99].duration_since(times[0]) > Duration::from_secs(30));
}

/// As all nodes of a large fleet see it that start together.
#[tokio::test(start_paused = true)]
async fn what_came_while_sts_throttled_is_refreshed_over_half_of_the_time_and_evenly_from_then_on() {
    let bench = Bench::new();
    let keys: Vec<_> = (0..100).map(|n| key(&format!("role-{n}"))).collect();
    let mut throttled = 0;
    bench.sts.script(move |_| {
        throttled += 1;
        if throttled <= 10 { Reply::Fail(SourceError::Throttled) } else { Reply::Give }
    });
    let wanted: Vec<_> = keys.iter().map(|key| (key, ["a"].as_slice())).collect();
    bench.want(&wanted);
    sleep(MINUTE * 7).await;
    assert_eq!(bench.sts.calls(), 110);
    sleep(MINUTE * 10).await;
    let times: Vec<_> = bench.sts.calls.lock()[110..210].iter().map(|(at, _)| *at).collect();
    let over = times[99].duration_since(times[0]);
    assert!(over > MINUTE * 6 && over < MINUTE * 9, "{over:?}");
    for key in &keys {
        let left = bench.broker.cached(key).unwrap().expiration.duration_since(bench.clock.now()).unwrap();
        assert!(left >= MINUTE * 45 - Duration::from_secs(1), "{left:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_made_again_is_served_from_the_cache_while_others_live() {
    let bench = Bench::new();
    bench.want(&[(&key("MyPodRole"), &["a", "b"])]);
    let first = bench.get(&ask("MyPodRole", "a")).await.unwrap();
    sleep(MINUTE * 5).await;
    bench.want(&[(&key("MyPodRole"), &["b"])]);
    bench.want(&[(&key("MyPodRole"), &["b", "c"])]);
    assert_eq!(bench.get(&ask("MyPodRole", "c")).await.unwrap().access_key_id, first.access_key_id);
    assert_eq!(bench.sts.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn when_all_are_gone_the_next_pod_gets_a_session_of_its_own() {
    let bench = Bench::new();
    bench.want(&[(&key("MyPodRole"), &["a", "b"])]);
    let first = bench.get(&ask("MyPodRole", "a")).await.unwrap();
    bench.want(&[]);
    assert!(bench.broker.cached(&key("MyPodRole")).is_none());
    let second = bench.get(&ask("MyPodRole", "c")).await.unwrap();
    assert_ne!(second.access_key_id, first.access_key_id);
    // Gone and made again between two looks.
    bench.want(&[(&key("MyPodRole"), &["c"])]);
    bench.want(&[(&key("MyPodRole"), &["d"])]);
    let third = bench.get(&ask("MyPodRole", "d")).await.unwrap();
    assert_ne!(third.access_key_id, second.access_key_id);
    assert_eq!(bench.sts.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn nobody_wants_it_nobody_refreshes_it() {
    let bench = Bench::new();
    bench.want(&[(&key("kept"), &["a"]), (&key("left"), &["b"])]);
    sleep(MINUTE).await;
    bench.want(&[(&key("kept"), &["a"])]);
    bench.get(&ask("passing", "c")).await.unwrap();
    sleep(HOUR * 5).await;
    assert_eq!((bench.sts.calls_of(&key("left")), bench.sts.calls_of(&key("passing"))), (1, 2));
    assert!(bench.sts.calls_of(&key("kept")) >= 20);
    assert_eq!(bench.broker.list().len(), 1);
    assert_eq!(bench.metric("credentials_sessions", &[]), 1.0);
    let ends = bench.metric("credentials_earliest_expiry_timestamp_seconds", &[]);
    assert!(ends > 1_800_000_000.0 + 5.0 * 3_600.0, "{ends}");
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_asked_for_is_refreshed_though_no_desired_set_has_it() {
    let bench = Bench::new();
    for _ in 0..60 {
        let asked = Instant::now();
        bench.get(&ask("MyPodRole", "a")).await.unwrap();
        assert!(asked.elapsed() == Duration::ZERO || bench.sts.calls() == 1);
        sleep(MINUTE).await;
    }
    assert_eq!(bench.sts.calls(), 5);
}

#[tokio::test(start_paused = true)]
async fn without_prefetch_a_key_is_fetched_when_asked_for_and_then_refreshed() {
    let bench = Bench::with(config::Credentials { prefetch: false, ..config() });
    bench.want(&[(&key("MyPodRole"), &["a"])]);
    sleep(MINUTE).await;
    assert_eq!(bench.sts.calls(), 0);
    bench.get(&ask("MyPodRole", "a")).await.unwrap();
    sleep(MINUTE * 16).await;
    assert_eq!(bench.sts.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn short_sessions_are_refreshed_at_half_their_life_and_served_until_a_tenth_is_left() {
    let bench = Bench::new();
    bench.sts.always(Reply::GiveFor(Duration::from_secs(20)));
    bench.want(&[(&key("MyPodRole"), &["a"])]);
    sleep(Duration::from_secs(1)).await;
    for _ in 0..600 {
        sleep(Duration::from_secs(1)).await;
        let session = bench.broker.cached(&key("MyPodRole")).unwrap();
        let left = session.expiration.duration_since(bench.clock.now()).unwrap();
        assert!(left >= Duration::from_secs(9), "{left:?}");
    }
    bench.sts.always(unavailable());
    let mut last_left = Duration::MAX;
    while let Some(session) = bench.broker.cached(&key("MyPodRole")) {
        last_left = session.expiration.duration_since(bench.clock.now()).unwrap();
        sleep(Duration::from_millis(100)).await;
    }
    assert!((2_000..2_200).contains(&last_left.as_millis()), "{last_left:?}");
}

#[tokio::test(start_paused = true)]
async fn a_duration_the_role_does_not_allow_becomes_an_hour_at_once_and_for_good() {
    for message in [
        "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining.",
        "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.",
    ] {
        let bench = Bench::new();
        bench.sts.script(move |key| {
            let error = SourceError::Rejected { code: "ValidationError".into(), message: message.into() };
            if key.duration > HOUR { Reply::Fail(error) } else { Reply::Give }
        });
        let asked = |name: &str| {
            let mut ask = ask("MyPodRole", "a");
            ask.key.duration = HOUR * 2;
            ask.key.session_name = SessionName::parse(name).unwrap();
            ask
        };
        let session = bench.get(&asked("first")).await.unwrap();
        assert_eq!(session.expiration.duration_since(session.received).unwrap(), HOUR);
        bench.get(&asked("second")).await.unwrap();
        let durations: Vec<_> =
            bench.sts.calls.lock().iter().map(|(_, key)| key.duration.as_secs()).collect();
        assert_eq!(durations, [7_200, 3_600, 3_600]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_steps_never_makes_an_ended_session_good() {
    let received = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let held = |received: SystemTime, expiration: SystemTime| {
        let session = Session {
            access_key_id: "ASIA".into(),
            secret_access_key: Secret::new(String::new()),
            token: Secret::new(String::new()),
            expiration,
            received,
            document: Bytes::new(),
        };
        Held::new(Arc::new(session), HOUR, MINUTE * 15, |age| age)
    };
    let kept = held(received, received + HOUR).unwrap();
    assert!(kept.usable(received) && kept.usable(received - HOUR));
    assert!(!kept.usable(received + HOUR), "an hour forward: it may have ended");
    assert!(!kept.usable(received + MINUTE * 59), "a minute before its end");
    // The clock was an hour behind when the session came: it lives an hour all the same.
    let behind = held(received - HOUR, received + HOUR).unwrap();
    assert!(held(received + HOUR, received + HOUR).is_none(), "an hour ahead: ended on arrival");
    tokio::time::advance(MINUTE * 59).await;
    assert!(!kept.usable(received - HOUR), "an hour back: its age is not forgotten");
    assert!(!behind.usable(received));
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_ends_earlier_than_what_is_held_is_not_handed_out() {
    let bench = Bench::new();
    bench.want(&[(&key("MyPodRole"), &["a"])]);
    sleep(MINUTE).await;
    let first = bench.broker.cached(&key("MyPodRole")).unwrap();
    bench.sts.always(Reply::GiveFor(MINUTE * 20));
    sleep(MINUTE * 15).await;
    assert!(bench.sts.calls() > 1);
    assert_eq!(bench.broker.cached(&key("MyPodRole")).unwrap().access_key_id, first.access_key_id);
    sleep(MINUTE * 60).await;
    assert_ne!(bench.broker.cached(&key("MyPodRole")).unwrap().access_key_id, first.access_key_id);
}

#[tokio::test(start_paused = true)]
async fn shutdown_ends_every_task_of_the_broker() {
    let bench = Bench::new();
    bench.want(&[(&key("MyPodRole"), &["a"])]);
    sleep(MINUTE).await;
    bench.sts.always(Reply::Hang);
    let waiter = bench.spawn_get(ask("other", "b"));
    sleep(Duration::from_millis(1)).await;
    bench.shutdown.cancel();
    bench.tasks.close();
    let start = Instant::now();
    bench.tasks.wait().await;
    assert!(start.elapsed() <= Duration::from_secs(6), "{:?}", start.elapsed());
    assert_eq!(waiter.await.unwrap().unwrap_err(), BrokerError::Timeout);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_hangs_does_not_hold_up_shutdown() {
    let bench = Bench::new();
    bench.want(&[(&key("MyPodRole"), &["a"])]);
    sleep(MINUTE * 14).await;
    bench.sts.always(Reply::Hang);
    while bench.metric("sts_calls_in_flight", &[]) < 1.0 {
        sleep(Duration::from_millis(100)).await;
    }
    bench.shutdown.cancel();
    bench.tasks.close();
    let start = Instant::now();
    bench.tasks.wait().await;
    assert_eq!(start.elapsed(), Duration::ZERO);
}

/// Not paused: where two looks at the clock differ.
#[tokio::test]
async fn what_is_wanted_is_fetched_and_refreshed_where_time_does_not_stand_still() {
    let bench = Bench::with(config::Credentials { refresh_age: Duration::from_millis(100), ..config() });
    *bench.sts.latency.lock() = Duration::ZERO;
    bench.want(&[(&key("MyPodRole"), &["a"])]);
    let refreshed = async {
        while bench.sts.calls() < 3 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), refreshed).await.expect("prefetched, and refreshed twice");
    assert_eq!(bench.metric("sts_calls_total", &[("cause", "prefetch")]), 1.0);
}
