//! Addresses while the API server is not heard.

use rolegate_tests::world::World;

use crate::{HASTY, allow_all, becomes, both, gets_nothing, is_in_the_trail, listed, plug_anew};

/// P17: with no event and no bookmark for 75 s only those are served whose interface and card are what they were, whether
/// they have asked before or not; not one on a bridge whose card nobody has seen; and not what is new behind a known
/// address, which never gets the earlier pod's role, before or after the API server is back.
#[test]
fn only_an_unchanged_witness_is_served_while_the_api_server_is_not_heard() {
    let test = "only_an_unchanged_witness_is_served_while_the_api_server_is_not_heard";
    let Some(world) = World::for_test_with_faults(test) else { return };
    allow_all(&world);
    let agent = world.agent(&[HASTY]).unwrap();
    let routed = world.pod("default", "routed", |pod| pod.role("MyPodRole")).unwrap();
    let bridged = world.bridged_pod("default", "bridged", |pod| pod.role("MyPodRole")).unwrap();
    let quiet = world.pod("default", "quiet", |pod| pod.role("MyPodRole")).unwrap();
    let unseen = world.bridged_pod("default", "unseen", |pod| pod.role("MyPodRole")).unwrap();
    let replaced = world.pod("default", "replaced", |pod| pod.role("MyPodRole")).unwrap();
    for pod in [&routed, &bridged, &replaced] {
        becomes(&agent, &pod.net, &both("MyPodRole"));
    }
    let faults = world.cluster.double().unwrap().faults();
    faults.down(true);
    let age = || agent.metric("rolegate_kubernetes_last_event_age_seconds{resource=\"pods\"}").unwrap();
    // Nothing but time makes it stale, and a wait is half a minute at most.
    for seconds in [25.0, 50.0, 75.5] {
        agent.poll(&format!("{seconds} s have passed"), || Ok(age() >= seconds)).unwrap();
    }
    for _ in 0..3 {
        for pod in [&routed, &bridged, &quiet] {
            assert_eq!(listed(&pod.net), both("MyPodRole"), "{}", agent.log());
            assert_eq!(pod.imds().credentials().unwrap()["Code"], "Success");
        }
    }
    gets_nothing(&agent, &unseen.net);
    is_in_the_trail(&agent, "unseen", "stale");
    let (_, net) = plug_anew(&world, replaced);
    gets_nothing(&agent, &net);
    is_in_the_trail(&agent, "replaced", "witness_changed");
    assert_eq!(listed(&routed.net), both("MyPodRole"));

    assert!(world.cluster.delete_pod("default", "replaced").unwrap());
    let later = world.run(net, "default", "later", |pod| pod.role("OtherRole")).unwrap();
    gets_nothing(&agent, &later.net);
    faults.down(false);
    // Within the longest pause between two tries, 30 s, and what two busy cores add.
    let back = || {
        let seen = listed(&later.net);
        assert!(!seen.contains(&Ok("MyPodRole".into())), "the earlier pod's: {}", agent.log());
        Ok(seen == both("OtherRole"))
    };
    agent.poll("followed again", back).or_else(|_| agent.poll("followed again", back)).unwrap();
    becomes(&agent, &unseen.net, &both("MyPodRole"));
}
