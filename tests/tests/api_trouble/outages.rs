//! An API server that is away, silent, slow, or another one.

use std::time::Duration;

use rolegate::identity::Unidentified;
use rolegate_tests::kube_api::{Answer, Resource};
use tokio::time::Instant;

use super::world::{STALE, TICKS, World, api, pod};

const BOTH: [Resource; 2] = [Resource::Pods, Resource::Namespaces];
const MINUTE: Duration = Duration::from_secs(60);
/// Between two tries when nothing works.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// P17: an API server that is away for an hour takes nothing from the pods that are known, is asked at most
/// 500 times meanwhile, and is followed again by itself once it is back.
#[tokio::test(start_paused = true)]
async fn an_hour_without_the_api_server_is_served_from_what_is_known() {
    let api = api();
    api.apply_pod(&pod("a", "10.1.0.11"));
    api.apply_pod(&pod("b", "10.1.0.12"));
    let mut world = World::ready(api).await;
    world.api.faults().down(true);
    let start = Instant::now();
    world.api.apply_pod(&pod("new", "10.1.0.13"));
    world.api.delete_pod("default", "b");
    let mut last = 0.0;
    for minute in 1..=60 {
        tokio::time::sleep_until(start + minute * MINUTE).await;
        assert_eq!(world.ask("10.1.0.11").await.as_deref(), Ok("a"), "minute {minute}");
        for resource in BOTH {
            let (age, due) = (world.age(resource), f64::from(minute) * 60.0);
            assert!(age > last && age >= due && age < due + 2.0, "{resource} is {age} s old at {due}");
            let reason = world.gate(resource.name());
            if minute == 1 {
                assert_eq!(reason, "", "{resource}: fresh for 75 s");
                continue;
            }
            assert!(
                reason.starts_with(&format!("{resource} stale: no event and no bookmark for ")),
                "{reason}"
            );
            assert!(reason.contains("connection refused"), "{reason}");
            let said: Vec<_> = reason.split([' ', ',']).skip(8).take(2).collect();
            let unit = if said[1] == "min" { 60.0 } else { 1.0 };
            let said = said[0].parse::<f64>().unwrap() * unit;
            let behind = LONGEST_PAUSE.as_secs_f64() + unit + 1.0;
            assert!((due - behind..=due + 1.0).contains(&said), "{due} s: {reason}");
        }
        last = f64::from(minute) * 60.0;
    }
    assert_eq!(world.ask("10.1.0.13").await, Err(Unidentified::UnknownAddress), "held, then refused");
    assert_eq!(world.ask("10.1.0.12").await.as_deref(), Ok("b"), "nobody said that it is gone");
    // Two resources, each tried again after 0.4 to 0.8 s, doubling up to 15 to 30 s: 120 to 246 times.
    let asked = world.api.turned_away();
    assert!((240..=500).contains(&asked), "{asked} requests in an hour");

    world.api.faults().down(false);
    let waited = world.until_owner("10.1.0.13", "new").await;
    assert!(waited <= LONGEST_PAUSE + TICKS, "{waited:?}");
    world.until_ready().await;
    assert_eq!(world.ask("10.1.0.12").await, Err(Unidentified::UnknownAddress), "deleted meanwhile");
    world.stop().await;
}

/// P17: a watch that brings nothing for 75 s, not even a bookmark, is reopened with a fresh list, and until that is
/// there the agent is not ready.
#[tokio::test(start_paused = true)]
async fn a_watch_that_stalls_without_closing_is_reopened_after_75_seconds() {
    let api = api();
    api.apply_pod(&pod("a", "10.1.0.11"));
    let mut world = World::ready(api).await;
    // An address changes hands, and nobody says so.
    world.api.faults().stall_watches();
    world.api.faults().delay_lists(Resource::Pods, Duration::from_secs(10));
    world.api.delete_pod("default", "a");
    world.api.apply_pod(&pod("b", "10.1.0.11"));
    world.api.apply_namespace("new", &[]);
    let start = Instant::now();
    tokio::time::sleep(STALE - Duration::from_secs(1)).await;
    assert_eq!((world.gate("pods"), world.lists(Resource::Pods).len()), (String::new(), 1));
    let reason = world.until_gate("pods", |reason| !reason.is_empty()).await;
    assert!(
        reason.starts_with("pods stale: no event and no bookmark for 75 s, 75 s are allowed"),
        "{reason}"
    );
    assert!(start.elapsed() <= STALE + TICKS, "{:?}", start.elapsed());
    world.until_owner("10.1.0.11", "b").await;
    assert!(start.elapsed() <= STALE + Duration::from_secs(10) + TICKS, "{:?}", start.elapsed());
    world.until_ready().await;
    for resource in BOTH {
        assert_eq!(world.restarts(resource, "stalled"), 1.0, "{resource}");
    }
    world.stop().await;
}

/// A quiet cluster is no stalled one: with a bookmark a minute nothing is listed again, and each resource costs
/// 13 requests an hour.
#[tokio::test(start_paused = true)]
async fn bookmarks_alone_keep_a_quiet_watch_alive_for_an_hour() {
    let world = World::ready(api()).await;
    for minute in 1..=60 {
        tokio::time::sleep(MINUTE).await;
        assert!(world.gates.ready(), "minute {minute}: {:?}", world.gates.list());
    }
    for resource in BOTH {
        assert_eq!(world.restarts(resource, "stalled"), 0.0, "{resource}");
        assert!(world.events(resource, "bookmark") >= 48.0, "{resource}");
        let requests = world.api.requests();
        let (lists, watches) = (
            requests.iter().filter(|request| request.is_list(resource)).count(),
            requests.iter().filter(|request| request.is_watch(resource)).count(),
        );
        // Each watch ends after 290 s, as it asked for.
        assert_eq!((lists, watches), (1, 13), "{resource}");
    }
    world.stop().await;
}

/// Nor is one without bookmarks, as of a resource that has not changed since the API server started: once a minute the
/// agent asks whether there was anything to say, which costs no list, and what happens is seen at once.
#[tokio::test(start_paused = true)]
async fn silence_in_which_nothing_happened_keeps_the_agent_ready_for_an_hour() {
    let api = api();
    api.faults().no_bookmarks();
    for n in 0..300 {
        api.apply_namespace(&format!("team-{n}"), &[]);
    }
    let mut world = World::ready(api).await;
    for minute in 1..=60 {
        tokio::time::sleep(MINUTE).await;
        // As in every cluster, something happens elsewhere.
        world.api.apply_pod(&pod("elsewhere", "10.1.0.99").node("n2"));
        world.api.delete_pod("default", "elsewhere");
        assert_eq!(world.gate("namespaces"), "", "minute {minute}");
    }
    assert_eq!(world.restarts(Resource::Namespaces, "stalled"), 0.0);
    let lists = world.lists(Resource::Namespaces);
    let (asked, listed): (Vec<_>, Vec<_>) =
        lists.iter().partition(|request| request.query.contains_key("resourceVersion"));
    // One page at the start; then every 67.5 s, while watches of 290 s end by themselves.
    assert_eq!((listed.len(), asked.len()), (1, 53));
    world.api.apply_pod(&pod("a", "10.1.0.11"));
    let waited = world.until_owner("10.1.0.11", "a").await;
    assert!(waited <= TICKS, "{waited:?}");
    world.stop().await;
}

/// Where another server may have taken over, silence is not vouched for: everything is listed once, before anything is
/// stale.
#[tokio::test(start_paused = true)]
async fn silence_after_a_broken_watch_is_ended_by_a_list_in_time() {
    let api = api();
    api.faults().no_bookmarks();
    let world = World::ready(api).await;
    world.api.faults().break_watches();
    let start = Instant::now();
    while start.elapsed() < 10 * MINUTE {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(world.gates.ready(), "{:?}: {:?}", start.elapsed(), world.gates.list());
    }
    for resource in BOTH {
        let lists = world.lists(resource);
        let listed = lists.iter().filter(|request| !request.query.contains_key("resourceVersion"));
        assert_eq!((listed.count(), world.restarts(resource, "stalled")), (2, 1.0), "{resource}");
    }
    world.stop().await;
}

/// K25: what vanished while another server took over, whose versions begin at 1, is forgotten with the first list
/// after 75 s of silence.
#[tokio::test(start_paused = true)]
async fn another_server_with_lower_versions_is_listed_anew() {
    let api = api();
    for n in 0..40 {
        api.apply_pod(&pod(&format!("p{n}"), &format!("10.1.0.{n}")));
    }
    let mut world = World::ready(api).await;
    world.api.faults().restart();
    world.api.delete_pod("default", "p7");
    world.api.apply_pod(&pod("new", "10.1.0.7"));
    let waited = world.until_owner("10.1.0.7", "new").await;
    assert!(waited <= STALE + TICKS, "{waited:?}");
    world.until("p7 is gone", |snapshot| snapshot.pods().len() == 40).await;
    // And from then on it is followed as the one before.
    world.api.apply_pod(&pod("newer", "10.1.0.99"));
    let waited = world.until_owner("10.1.0.99", "newer").await;
    assert!(waited <= Duration::from_secs(1), "{waited:?}");
    world.stop().await;
}

/// A page may take 29 s; after 30 s it is asked for again, and a list that was begun shows nothing.
#[tokio::test(start_paused = true)]
async fn a_slow_page_is_waited_for_half_a_minute() {
    let api = api();
    for n in 0..150 {
        api.apply_pod(&pod(&format!("p{n}"), &format!("10.1.0.{n}")));
    }
    api.faults().delay_lists(Resource::Pods, Duration::from_secs(31));
    let world = World::start(api);
    let reason = world.until_gate("pods", |reason| reason.contains("no answer")).await;
    assert_eq!(reason, "cannot list pods: no answer within 30 s");
    assert_eq!(world.ask("10.1.0.11").await, Err(Unidentified::NotSynced));
    world.api.faults().delay_lists(Resource::Pods, Duration::from_secs(29));
    world.until_ready().await;
    assert_eq!(world.ask("10.1.0.149").await.as_deref(), Ok("p149"));
    world.stop().await;
}

/// A page that comes byte by byte is given up after the same half minute: it cannot hold the agent.
#[tokio::test(start_paused = true)]
async fn a_list_that_trickles_is_given_up_after_half_a_minute() {
    let world = World::ready(api()).await;
    let trickle = Answer::Trickle(Duration::from_secs(5));
    world.api.faults().answer_lists_after(Resource::Pods, 0, 2, trickle);
    world.api.faults().expire();
    world.api.apply_pod(&pod("a", "10.1.0.11"));
    let start = Instant::now();
    let mut world = world;
    world.until_owner("10.1.0.11", "a").await;
    let (twice, pauses) = (Duration::from_secs(60), Duration::from_millis(2400));
    assert!(start.elapsed() >= twice && start.elapsed() <= twice + pauses + TICKS, "{:?}", start.elapsed());
    assert_eq!(world.restarts(Resource::Pods, "failed"), 2.0);
    world.stop().await;
}

/// A continue token that expires between two pages begins the list anew.
#[tokio::test(start_paused = true)]
async fn a_list_whose_next_page_is_gone_begins_anew() {
    let api = api();
    for n in 0..250 {
        api.apply_pod(&pod(&format!("p{n:03}"), &format!("10.1.0.{n}")));
    }
    api.faults().delay_lists(Resource::Pods, Duration::from_secs(10));
    let mut world = World::start(api);
    world.requests(|requests| requests.iter().any(|request| request.is_list(Resource::Pods))).await;
    world.api.faults().expire();
    world.api.delete_pod("default", "p000");
    world.until("every pod", |snapshot| snapshot.pods().len() == 249).await;
    assert_eq!(world.restarts(Resource::Pods, "gone"), 1.0);
    let statuses: Vec<_> = world.lists(Resource::Pods).iter().map(|request| request.status).collect();
    assert_eq!(statuses, [200, 410, 200, 200, 200]);
    world.stop().await;
}
