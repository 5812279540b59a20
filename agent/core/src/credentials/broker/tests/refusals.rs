//! What STS refuses is remembered, briefly; a pod that was not told yet, or was edited, asks anew.

use super::*;

#[tokio::test(start_paused = true)]
async fn ten_seconds_of_retries_are_one_call() {
    let bench = Bench::new();
    bench.sts.always(denied());
    bench.want(&[(&key("MyPodRole"), &["a"])]);
    for _ in 0..50 {
        expect_refused(&bench.get(&ask("MyPodRole", "a")).await);
        sleep(Duration::from_millis(200)).await;
    }
    assert!(bench.sts.calls() <= 2, "{}", bench.sts.calls());
    assert!(bench.metric("credentials_requests_total", &[("result", "refused_remembered")]) >= 48.0);
}

#[tokio::test(start_paused = true)]
async fn what_is_remembered_grows_from_15_seconds_to_two_minutes() {
    let bench = Bench::new();
    bench.sts.always(denied());
    let start = Instant::now();
    while start.elapsed() < MINUTE * 8 {
        expect_refused(&bench.get(&ask("MyPodRole", "a")).await);
        sleep(Duration::from_millis(100)).await;
    }
    let times: Vec<_> = bench.sts.calls.lock().iter().map(|(at, _)| *at).collect();
    let pauses: Vec<_> = times.windows(2).map(|pair| pair[1].duration_since(pair[0]).as_secs()).collect();
    assert_eq!(pauses, [15, 30, 60, 120, 120, 120]);
}

#[tokio::test(start_paused = true)]
async fn error_ttl_is_a_fixed_time() {
    let bench = Bench::with(config::Credentials { error_ttl: Some(Duration::from_secs(40)), ..config() });
    bench.sts.always(denied());
    let start = Instant::now();
    while start.elapsed() < MINUTE * 3 {
        expect_refused(&bench.get(&ask("MyPodRole", "a")).await);
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(bench.sts.calls(), 5);
    bench.sts.always(Reply::Give);
    assert!(bench.get(&ask("MyPodRole", "made-again")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_pod_of_a_new_uid_is_served_at_its_first_request() {
    let bench = Bench::new();
    bench.sts.always(denied());
    bench.want(&[(&key("MyPodRole"), &["a"])]);
    expect_refused(&bench.get(&ask("MyPodRole", "a")).await);
    sleep(Duration::from_secs(20)).await;
    expect_refused(&bench.get(&ask("MyPodRole", "a")).await);
    bench.sts.always(Reply::Give);
    expect_refused(&bench.get(&ask("MyPodRole", "a")).await);
    assert!(bench.get(&ask("MyPodRole", "b")).await.is_ok());
    assert!(bench.get(&ask("MyPodRole", "a")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_edited_annotation_is_served_at_the_next_request() {
    let bench = Bench::new();
    bench.sts.always(denied());
    expect_refused(&bench.get(&ask("MyPodRole", "a")).await);
    bench.sts.always(Reply::Give);
    assert!(bench.get(&Ask { revision: 1, ..ask("MyPodRole", "a") }).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn replicas_do_not_clear_for_each_other_again_and_again() {
    let bench = Bench::new();
    bench.sts.always(denied());
    for _ in 0..10 {
        for pod in ["a", "b", "c"] {
            expect_refused(&bench.get(&ask("MyPodRole", pod)).await);
        }
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(bench.sts.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn all_who_waited_for_a_refusal_were_told() {
    let bench = Bench::new();
    bench.sts.always(denied());
    let waiters: Vec<_> = (0..100).map(|n| bench.spawn_get(ask("MyPodRole", &format!("pod-{n}")))).collect();
    for waiter in waiters {
        expect_refused(&waiter.await.unwrap());
    }
    for n in 0..100 {
        expect_refused(&bench.get(&ask("MyPodRole", &format!("pod-{n}"))).await);
    }
    assert_eq!(bench.sts.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_session_is_kept_through_a_refusal_until_a_minute_before_its_end() {
    let bench = Bench::new();
    bench.want(&[(&key("MyPodRole"), &["a"])]);
    let first = bench.get(&ask("MyPodRole", "a")).await.unwrap();
    bench.sts.always(denied());
    for _ in 0..59 {
        sleep(MINUTE).await;
        let left = first.expiration.duration_since(bench.clock.now()).unwrap();
        if left <= MINUTE {
            break;
        }
        assert_eq!(bench.get(&ask("MyPodRole", "a")).await.unwrap().access_key_id, first.access_key_id);
    }
    sleep(MINUTE).await;
    expect_refused(&bench.get(&ask("MyPodRole", "a")).await);
    assert!((20..40).contains(&bench.sts.calls()), "{}", bench.sts.calls());
}

#[tokio::test(start_paused = true)]
async fn what_sts_rejects_keeps_its_code_and_is_remembered_too() {
    let bench = Bench::new();
    let (code, message) = ("RegionDisabledException", "STS is not activated in this region");
    bench.sts.always(Reply::Fail(SourceError::Rejected { code: code.into(), message: message.into() }));
    let rejected = BrokerError::Rejected { code: code.into(), message: message.into() };
    for _ in 0..2 {
        assert_eq!(bench.get(&ask("MyPodRole", "a")).await.unwrap_err(), rejected);
    }
    assert_eq!((bench.sts.calls(), rejected.code()), (1, "rejected"));
}
