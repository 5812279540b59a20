//! Answers that are not what was asked for.

use std::time::Duration;

use rolegate::identity::Unidentified;
use rolegate_tests::kube_api::{Answer, Resource};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::world::{World, api, pod};

/// A watch that lived so long worked: what fails next is tried again as soon as the first time.
const STEADY: Duration = Duration::from_secs(10);

/// Whatever comes instead of a page changes nothing of what is known, is said in few words, and is tried again.
#[tokio::test(start_paused = true)]
async fn whatever_comes_instead_of_a_page_changes_nothing_and_is_tried_again() {
    let api = api();
    for n in 0..150 {
        api.apply_pod(&pod(&format!("p{n:03}"), &format!("10.1.0.{n}")));
    }
    let mut world = World::ready(api).await;
    for (row, (name, answer, _)) in Answer::odd().into_iter().enumerate() {
        let (old, new) = (format!("p{row:03}"), format!("q{row:03}"));
        // The second page, and the first one after that.
        world.api.faults().answer_lists_after(Resource::Pods, 1, 2, answer);
        world.api.faults().hold(Resource::Pods);
        world.api.faults().expire();
        world.api.delete_pod("default", &old);
        world.api.apply_pod(&pod(&new, &format!("10.1.0.{row}")));
        let failed = world.restarts(Resource::Pods, "failed");
        let address = format!("10.1.0.{row}").parse().unwrap();
        let replaced = |snapshot: &std::sync::Arc<rolegate::cluster::Snapshot>| {
            assert_eq!(
                snapshot.pods().len(),
                150,
                "{name}: whatever is published, no pod is missing from it"
            );
            matches!(snapshot.owner(address), Some(rolegate::cluster::Owner::Pod(pod)) if *pod.facts.name == *new)
        };
        let waited = world.until(name, replaced).await;
        assert!(waited < Duration::from_secs(5), "{name}: {waited:?}");
        assert_eq!(world.restarts(Resource::Pods, "failed"), failed + 2.0, "{name}");
        world.api.faults().release(Resource::Pods);
        tokio::time::sleep(STEADY).await;
    }
    world.stop().await;
}

/// Before the first list the gate says what came instead, without repeating anybody's page.
#[tokio::test(start_paused = true)]
async fn what_comes_instead_of_the_first_list_is_said_in_few_words() {
    for (name, answer, said) in Answer::odd() {
        let api = api();
        api.faults().answer_lists_after(Resource::Pods, 0, 3, answer);
        let world = World::start(api);
        let reason = world.until_gate("pods", |reason| reason.starts_with("cannot list pods: ")).await;
        assert!(reason.contains(said), "{name}: {reason}");
        assert!(
            reason.len() < 500 && !reason.contains("sign in") && !reason.contains('\u{1b}'),
            "{name}: {reason}"
        );
        assert_eq!(world.ask("10.1.0.11").await, Err(Unidentified::NotSynced), "{name}");
        world.until_ready().await;
        assert_eq!(world.lists(Resource::Pods).len(), 4, "{name}");
        world.stop().await;
    }
}

/// A watch that cannot be opened, or that brings what is no event, is opened again; nothing of it is lost.
#[tokio::test(start_paused = true)]
async fn whatever_comes_instead_of_an_event_is_got_past() {
    let mut world = World::ready(api()).await;
    let error =
        |code: u16| json!({"type": "ERROR", "object": {"kind": "Status", "code": code, "message": "no"}});
    let lines = [
        ("an error that is not 410", error(500).to_string()),
        ("an error without a status", json!({"type": "ERROR", "object": {}}).to_string()),
        ("an error of a type that no server sends", json!({"type": "ERROR", "object": [1]}).to_string()),
        ("garbage", "{\"type\":\"ADDED\",\"object\":{".to_owned()),
        ("a page", "<html>".to_owned()),
        ("a line that does not end", "x".repeat(9 << 20)),
        ("an unknown type", json!({"type": "MERGED", "object": {}}).to_string()),
        ("a bookmark without a version", json!({"type": "BOOKMARK", "object": {"metadata": {}}}).to_string()),
        ("410", error(410).to_string()),
    ];
    for (row, (name, line)) in lines.iter().enumerate() {
        let before = world.restarts(Resource::Pods, "failed") + world.restarts(Resource::Pods, "gone");
        world.api.faults().hold(Resource::Pods);
        world.api.apply_pod(&pod(&format!("l{row}"), &format!("10.1.1.{row}")));
        world.api.faults().say(Resource::Pods, line);
        world.api.faults().release(Resource::Pods);
        let waited = world.until_owner(&format!("10.1.1.{row}"), &format!("l{row}")).await;
        assert!(waited < Duration::from_secs(2), "{name}: {waited:?}");
        let after = world.restarts(Resource::Pods, "failed") + world.restarts(Resource::Pods, "gone");
        assert_eq!(after, before + 1.0, "{name}");
        tokio::time::sleep(STEADY).await;
    }
    for (row, (name, answer, _)) in Answer::odd().into_iter().enumerate() {
        if matches!(answer, Answer::Cut) {
            continue;
        }
        world.api.faults().answer_watches(Resource::Pods, 2, answer);
        world.api.faults().cut_watches();
        world.api.apply_pod(&pod(&format!("w{row}"), &format!("10.1.2.{row}")));
        let waited = world.until_owner(&format!("10.1.2.{row}"), &format!("w{row}")).await;
        assert!(waited < Duration::from_secs(5), "{name}: {waited:?}");
        tokio::time::sleep(STEADY).await;
    }
    // An empty line is no event, and no error.
    let before = world.restarts(Resource::Pods, "failed");
    world.api.faults().say(Resource::Pods, "\r");
    world.api.apply_pod(&pod("last", "10.1.3.1"));
    world.until_owner("10.1.3.1", "last").await;
    assert_eq!(world.restarts(Resource::Pods, "failed"), before);
    world.stop().await;
}

/// `Retry-After` is the least that is waited, whatever the status; a minute is the most.
#[tokio::test(start_paused = true)]
async fn retry_after_is_waited_for_up_to_a_minute() {
    let in_body = json!({"kind": "Status", "code": 503, "details": {"retryAfterSeconds": 20}}).to_string();
    let header = |status, seconds| Answer::Page {
        status,
        content_type: "text/plain",
        retry_after: Some(seconds),
        body: "Too many requests, please try again later.".into(),
    };
    for (name, answer, least, most) in [
        ("429, 20 s", header(429, 20), 20, 23),
        ("503, 20 s", header(503, 20), 20, 23),
        ("20 s in the status", Answer::page(503, "application/json", &in_body), 20, 23),
        ("429, at once", header(429, 0), 0, 2),
        ("429, an hour", header(429, 3600), 60, 67),
        ("429, for ever", header(429, u32::MAX), 60, 67),
    ] {
        let api = api();
        api.faults().answer_lists_after(Resource::Pods, 0, 1, answer.clone());
        let world = World::start(api);
        world.until_ready().await;
        let lists = world.lists(Resource::Pods);
        let waited = lists[1].at - lists[0].at;
        let bounds = Duration::from_secs(least)..=Duration::from_secs(most);
        assert!(bounds.contains(&waited), "{name}: {waited:?}");

        // And of a watch.
        let start = Instant::now();
        world.api.faults().answer_watches(Resource::Pods, 1, answer);
        world.api.faults().cut_watches();
        world.until_watched(Resource::Pods, 2).await;
        assert!(bounds.contains(&start.elapsed()), "{name}: {:?}", start.elapsed());
        assert_eq!(world.ask("10.1.0.11").await, Err(Unidentified::UnknownAddress), "{name}");
        world.stop().await;
    }
}

fn odd_pod(uid: &str, name: &str, ip: &str, odd: (&str, Value)) -> Value {
    let mut object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": uid,
                     "annotations": {"iam.amazonaws.com/role": "reader"}},
        "spec": {"nodeName": "n1", "containers": []},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
    });
    *object.pointer_mut(odd.0).unwrap() = odd.1;
    object
}

/// One object that cannot be read is reported, gets nothing, and takes nothing from the others, whether it is
/// listed or comes by a watch; times that no client could read harm nobody, since nobody needs them.
#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_read_harms_no_other() {
    let api = api();
    api.apply_pod(&pod("a", "10.1.0.11"));
    api.apply_pod(&pod("claimed", "10.1.0.13"));
    let oddities = [
        ("/metadata/annotations", json!({"iam.amazonaws.com/role": ["reader"]})),
        ("/metadata/annotations", json!("reader")),
        ("/metadata/name", json!(7)),
        ("/spec", json!({"nodeName": "n1", "hostNetwork": "maybe"})),
        ("/status/phase", json!({"a": 1})),
    ];
    for (row, odd) in oddities.iter().enumerate() {
        let object = odd_pod(&format!("odd{row}"), "odd", &format!("10.1.9.{row}"), odd.clone());
        api.faults().put(Resource::Pods, &format!("default/odd{row}"), object);
    }
    // Odd, and it claims the address of another.
    let thief = odd_pod("thief", "thief", "10.1.0.13", ("/metadata/annotations", json!(5)));
    api.faults().put(Resource::Pods, "default/thief", thief);
    // Not odd at all: nobody needs to read it.
    let late = (
        "/metadata",
        json!({"name": "late", "namespace": "default", "uid": "late",
        "creationTimestamp": "9999-12-31T23:59:59Z", "managedFields": [{"time": "9999-12-31T23:59:59Z"}],
        "annotations": {"iam.amazonaws.com/role": "reader"}}),
    );
    api.faults().put(Resource::Pods, "default/late", odd_pod("late", "late", "10.1.0.14", late));
    api.faults().put(
        Resource::Namespaces,
        "odd",
        json!({"kind": "Namespace",
        "metadata": {"name": "odd", "uid": "n", "annotations": {"iam.amazonaws.com/allowed-roles": 5}}}),
    );
    api.apply_pod(&rolegate_tests::kube_api::Pod::new("odd", "b").node("n1").ip("10.1.0.15").role("reader"));

    let mut world = World::ready(api).await;
    assert_eq!(world.ask("10.1.0.11").await.as_deref(), Ok("a"));
    assert_eq!(world.ask("10.1.0.14").await.as_deref(), Ok("late"));
    assert_eq!(
        world.ask("10.1.0.13").await,
        Err(Unidentified::Ambiguous),
        "of two claimants nobody is served"
    );
    assert_eq!(
        world.ask("10.1.0.15").await,
        Err(Unidentified::NamespaceUnknown),
        "never: it allows everything"
    );
    for (row, odd) in oddities.iter().enumerate() {
        let asked = world.ask(&format!("10.1.9.{row}")).await;
        assert_eq!(asked, Err(Unidentified::UnknownAddress), "{odd:?}");
    }
    assert_eq!(world.events(Resource::Pods, "unreadable"), 6.0);
    assert_eq!(world.events(Resource::Namespaces, "unreadable"), 1.0);

    // A pod that turns odd is not served as it was before, and is served again when that is over.
    let uid = world.api.apply_pod(&pod("turns", "10.1.0.16"));
    world.until_owner("10.1.0.16", "turns").await;
    let odd = odd_pod(&uid, "turns", "10.1.0.16", ("/status/phase", json!(1)));
    world.api.faults().put(Resource::Pods, "default/turns", odd);
    world.until("nobody's", |snapshot| snapshot.owner("10.1.0.16".parse().unwrap()).is_none()).await;
    world.api.apply_pod(&pod("turns", "10.1.0.16"));
    world.until_owner("10.1.0.16", "turns").await;
    world.api.faults().put(
        Resource::Namespaces,
        "default",
        json!({"metadata": {"name": "default", "annotations": []}}),
    );
    world.until("unknown", |snapshot| snapshot.namespace("default").is_none()).await;
    assert_eq!(world.ask("10.1.0.11").await, Err(Unidentified::NamespaceUnknown));
    assert_eq!(world.restarts(Resource::Pods, "failed"), 0.0);
    world.stop().await;
}

/// Objects as large as they come are listed in smaller pages, so that no answer takes more than 8 MiB of memory.
#[tokio::test(start_paused = true)]
async fn a_page_of_enormous_objects_is_asked_for_in_smaller_ones() {
    let api = api();
    let ballast = "x".repeat(1_000_000);
    for n in 0..30 {
        api.apply_pod(
            &pod(&format!("p{n:02}"), &format!("10.1.0.{n}")).annotation("example.com/ballast", &ballast),
        );
    }
    let world = World::ready(api).await;
    assert_eq!(world.ask("10.1.0.29").await.as_deref(), Ok("p29"));
    let limits: Vec<_> = world.lists(Resource::Pods).iter().map(|list| list.query["limit"].clone()).collect();
    assert_eq!(limits[..2], ["100", "10"]);
    assert!(limits[2..].iter().all(|limit| limit == "1") && limits.len() == 2 + 30, "{limits:?}");
    world.stop().await;
}
