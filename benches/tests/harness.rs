//! The latency harness against servers of its own: who is counted, and what is an error.
#![expect(clippy::unwrap_used, reason = "a test ends at the first thing that fails")]

use std::net::SocketAddr;
use std::time::Duration;

use rolegate_benches::bare::{Answer, serve};
use rolegate_benches::load::{Plan, Target};
use rolegate_benches::report::{Row, table, to_json};
use tokio::net::TcpListener;

fn plan(addrs: &[SocketAddr]) -> Plan {
    Plan {
        targets: addrs
            .iter()
            .map(|addr| format!("at-{}={addr}", addr.port()).parse::<Target>().unwrap())
            .collect(),
        rate: 100,
        warm_up: Duration::from_millis(100),
        duration: Duration::from_millis(300),
        connections: 4,
        requests: vec![b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_vec()],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_target_gets_its_share_and_failures_are_told_from_answers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let fine = listener.local_addr().unwrap();
    let answer = Answer { headers: Vec::new(), body: "the same bytes".into(), others: Vec::new() };
    let serving = tokio_util::task::TaskTracker::new().spawn(serve(listener, answer));
    // Bound and dropped: nobody listens there.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();

    let plan = plan(&[fine, gone]);
    let outcomes = tokio::task::spawn_blocking(move || plan.run(|| ()).unwrap()).await.unwrap();
    serving.abort();

    assert_eq!((outcomes[0].latency.len(), outcomes[0].errors), (30, 0), "{:?}", outcomes[0].first_error);
    assert_eq!((outcomes[1].latency.len(), outcomes[1].errors), (0, 30));
    assert!(outcomes[1].first_error.as_ref().unwrap().starts_with("connect"));
    let rows: Vec<Row> = outcomes
        .into_iter()
        .map(|outcome| Row {
            name: "x".into(),
            outcome,
            cpu: Some(Duration::from_millis(30)),
            requests_per_turn: 1,
        })
        .collect();
    assert_eq!(to_json(&rows)[0]["cpu_us_per_request"], 1000.0);
    assert_eq!(to_json(&rows)[0]["ratio_to_first"]["p50"], 1.0);
    assert_eq!(table(&rows).lines().count(), 4);
}
