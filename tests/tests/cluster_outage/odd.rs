//! An API server that answers what was not asked, and objects that no API server makes.

use std::sync::Arc;

use rolegate_tests::kube_api::{Answer, Resource};
use serde_json::json;

use crate::{becomes, listed, role, world_with_faults};

/// Whatever comes instead of a list or a watch, pods that are known are served, new ones follow without a restart,
/// and nobody's page is repeated in the log.
#[test]
fn known_pods_are_served_and_new_ones_follow_whatever_the_api_server_says() {
    let test = "known_pods_are_served_and_new_ones_follow_whatever_the_api_server_says";
    let Some(world) = world_with_faults(test) else { return };
    let known = world.pod("default", "known", |pod| pod.role("MyPodRole")).unwrap();
    let agent = world.agent(&[]).unwrap();
    let faults = world.cluster.double().unwrap().faults();
    let net = world.pod("default", "net", |pod| pod.role("OtherRole")).unwrap();
    for (name, answer, said) in Answer::odd() {
        // A pod in place of the one before, at the same address, while list and watch fail in this way.
        world.delete(&net).unwrap();
        becomes(&agent, &net, &Err(500));
        let seen = agent.lines().len();
        faults.answer_lists_after(Resource::Pods, 0, 1, answer.clone());
        if !matches!(answer, Answer::Cut) {
            faults.answer_watches(Resource::Pods, 1, answer);
        }
        faults.expire();
        world.run(Arc::clone(&net.net), "default", "net", |pod| pod.role("OtherRole")).unwrap();
        assert_eq!(listed(known.imds()), role("MyPodRole"), "{name}");
        becomes(&agent, &net, &role("OtherRole"));
        let lines = agent.lines();
        let errors: Vec<_> = lines[seen..].iter().filter_map(|line| line.text_of("error")).collect();
        assert!(errors.iter().any(|error| error.contains(said)), "{name}: {errors:?}");
    }
    assert!(!agent.log().contains("sign in here"), "a page is not repeated");
}

/// A pod that cannot be read is reported and gets nothing; whose address it claims gets nothing either while both are
/// there; everybody else is served.
#[test]
fn pod_that_cannot_be_read_harms_nobody_but_whose_address_it_claims() {
    let test = "pod_that_cannot_be_read_harms_nobody_but_whose_address_it_claims";
    let Some(world) = world_with_faults(test) else { return };
    let known = world.pod("default", "known", |pod| pod.role("MyPodRole")).unwrap();
    let other = world.pod("default", "other", |pod| pod.role("OtherRole")).unwrap();
    let agent = world.agent(&[]).unwrap();
    becomes(&agent, &other, &role("OtherRole"));
    let odd = |name: &str| {
        json!({
            "metadata": {"name": name, "namespace": "default", "uid": name,
                         "annotations": {"iam.amazonaws.com/role": ["MyPodRole"]}},
            "spec": {"nodeName": rolegate_tests::world::NODE, "containers": []},
            "status": {"phase": "Running", "podIP": other.net.ip4().to_string()},
        })
    };
    let api = world.cluster.double().unwrap();
    api.faults().put(Resource::Pods, "default/odd", odd("odd"));
    becomes(&agent, &other, &Err(500));
    assert_eq!(listed(known.imds()), role("MyPodRole"));
    let reported = agent.wait_for_line("it is reported", |line| {
        line.text_of("message").as_deref() == Some("object cannot be read")
    });
    assert_eq!(reported.unwrap().text_of("name").as_deref(), Some("odd"));
    let counted = "rolegate_kubernetes_events_total{kind=\"unreadable\",resource=\"pods\"}";
    assert_eq!(agent.metric(counted).unwrap(), 1.0);
    assert!(api.delete_pod("default", "odd"));
    becomes(&agent, &other, &role("OtherRole"));
    // Alone at an address it is nobody.
    world.delete(&other).unwrap();
    api.faults().put(Resource::Pods, "default/odder", odd("odder"));
    agent.poll("it is known", || Ok(agent.metric(counted)? > 1.0)).unwrap();
    // An event is counted when it is read, and holds from the snapshot that follows it.
    becomes(&agent, &other, &Err(500));
    assert_eq!(listed(known.imds()), role("MyPodRole"));
}
