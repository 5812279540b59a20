//! Whatever fails, and in whatever order: nothing that has ended, nothing of another key, one call at a time.

use std::ops::Range;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A while in which STS behaves in one way.
#[derive(Clone, Debug)]
struct While {
    seconds: u64,
    latency: Duration,
    reply: Reply,
    /// Who asks meanwhile, and which of the keys live pods want.
    asking: Vec<usize>,
    wanted: Vec<usize>,
}

const KEYS: usize = 4;

fn reply() -> impl Strategy<Value = Reply> {
    prop_oneof![
        4 => Just(Reply::Give),
        1 => (1_u64..5_400).prop_map(|seconds| Reply::GiveFor(Duration::from_secs(seconds))),
        3 => Just(unavailable()),
        1 => Just(Reply::Fail(SourceError::Throttled)),
        1 => Just(denied()),
        2 => Just(Reply::Hang),
    ]
}

fn one_while(seconds: Range<u64>) -> impl Strategy<Value = While> {
    (seconds, 0_u64..8_000, reply(), vec(0..KEYS, 0..3), vec(0..KEYS, 0..KEYS)).prop_map(
        |(seconds, millis, reply, asking, wanted)| While {
            seconds,
            latency: Duration::from_millis(millis),
            reply,
            asking,
            wanted,
        },
    )
}

/// Runs a story in paused time.
fn told<F: Future>(story: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(story)
}

fn every_key() -> Vec<SessionKey> {
    (0..KEYS).map(|n| key(&format!("role-{n}"))).collect()
}

/// The floor: a minute, or a tenth of a short life.
fn has_life_left(bench: &Bench, session: &Session) {
    let left = session.expiration.duration_since(bench.clock.now()).unwrap_or_default();
    let life = session.expiration.duration_since(session.received).unwrap().min(HOUR);
    let floor = (life / 10).min(MINUTE);
    assert!(left >= floor, "{left:?} left of {life:?}");
}

async fn live_through(whiles: Vec<While>) {
    let bench = Bench::new();
    let keys = every_key();
    for now in whiles {
        *bench.sts.latency.lock() = now.latency;
        bench.sts.always(now.reply);
        let wanted: Vec<_> = now.wanted.iter().map(|n| (&keys[*n], ["a", "b"].as_slice())).collect();
        bench.want(&wanted);
        let end = Instant::now() + Duration::from_secs(now.seconds);
        while Instant::now() < end {
            for n in &now.asking {
                if let Ok(session) = bench.get(&ask(&format!("role-{n}"), "a")).await {
                    has_life_left(&bench, &session);
                }
            }
            sleep(Duration::from_secs(1 + now.seconds / 20)).await;
            for session in keys.iter().filter_map(|key| bench.broker.cached(key)) {
                has_life_left(&bench, &session);
            }
        }
    }
    // Service returns, and the calls that hang yet end: whatever was, all are served soon.
    *bench.sts.latency.lock() = Duration::from_millis(20);
    bench.sts.always(Reply::Give);
    let wanted: Vec<_> = keys.iter().map(|key| (key, ["new"].as_slice())).collect();
    sleep(CALL_TIMEOUT).await;
    bench.want(&wanted);
    let asks: Vec<_> = (0..KEYS).map(|n| ask(&format!("role-{n}"), "new")).collect();
    let served = futures::future::join_all(asks.iter().map(|ask| bench.served_after(ask))).await;
    assert!(served.iter().all(|waited| *waited <= Duration::from_secs(2)), "{served:?}");
}

/// Everything that a session is asked for with, each part of few values so that tuples come again.
fn tuple() -> impl Strategy<Value = SessionKey> {
    (0..2_usize, 0..3_usize, 0..2_usize, 0..2_u64).prop_map(|(role, id, name, hours)| SessionKey {
        external_id: [None, Some("id-1"), Some("id-2")][id].map(|id| ExternalId::parse(id).unwrap()),
        session_name: SessionName::parse(&format!("default.account-{name}")).unwrap(),
        duration: HOUR / 2 * (u32::try_from(hours).unwrap() + 1),
        ..key(&format!("role-{role}"))
    })
}

async fn ask_for(tuples: Vec<(SessionKey, bool, u64)>) {
    let bench = Bench::new();
    for (n, (key, fine, pause)) in tuples.into_iter().enumerate() {
        let (asked, pod) = (key.clone(), format!("pod-{}", n % 3));
        // What STS says of a tuple is said of that one alone.
        bench.sts.script(move |called| if fine && *called == asked { Reply::Give } else { denied() });
        let ask = Ask { key: key.clone(), asker: PodUid::new(&pod), revision: 0 };
        match bench.get(&ask).await {
            Ok(session) => assert_eq!(session.token.expose(), format!("{key:?}"), "of another tuple"),
            Err(BrokerError::Unauthorized { message }) => {
                assert_eq!(message, format!("no to {key:?}"), "the refusal of another tuple");
            }
            Err(other) => panic!("{other:?}"),
        }
        sleep(Duration::from_secs(pause)).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// P35: whatever the schedule of failures, latencies and wishes, no session past its end less the floor is
    /// ever handed out, and at most one call for a key is under way (the scripted STS sees to that).
    #[test]
    fn no_schedule_of_failures_makes_an_ended_session_good_or_two_calls_of_one_key(
        whiles in vec(one_while(1..1_800), 1..8)
    ) {
        told(live_through(whiles));
    }

    /// The same where everything changes within the time of one call.
    #[test]
    fn no_haste_makes_two_calls_of_one_key(whiles in vec(one_while(1..4), 1..40)) {
        told(live_through(whiles));
    }

    /// P33, K1: what was got, or refused, with one tuple of role, external id, session name and duration is
    /// never told for another.
    #[test]
    fn what_one_tuple_got_no_other_gets(tuples in vec((tuple(), any::<bool>(), 0_u64..200), 1..40)) {
        told(ask_for(tuples));
    }
}
