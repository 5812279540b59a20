use std::time::UNIX_EPOCH;

use super::*;

const KEY: &str = "rolegate/agent-not-ready";

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

fn node(spec: &Value, status: &Value) -> Node {
    let node = json!({"kind": "Node", "metadata": {"name": "n1"}, "spec": spec, "status": status});
    Node::read(node.to_string().as_bytes()).unwrap()
}

fn tainted(taints: &Value) -> Node {
    node(&json!({"taints": taints}), &json!({}))
}

fn waiting(gates: &[(&'static str, &'static str)]) -> Waiting {
    let state = |(name, why): &(&'static str, &'static str)| {
        let state = if why.is_empty() { Ok(()) } else { Err((*why).into()) };
        GateState { name, state }
    };
    Waiting::of(&gates.iter().map(state).collect::<Vec<_>>())
}

fn condition(node: &Node, waiting: &Waiting, now: SystemTime) -> Option<Value> {
    let patch = node.condition_patch(waiting, now)?;
    let conditions = patch["status"]["conditions"].as_array().unwrap();
    assert_eq!((conditions.len(), &conditions[0]["type"]), (1, &json!(CONDITION)));
    Some(conditions[0].clone())
}

#[test]
fn all_taints_of_the_key_go_and_others_stay_as_they_are() {
    let ours = json!({"key": KEY, "effect": "NoSchedule"});
    let also_ours =
        json!({"key": KEY, "value": "yes", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"});
    let other =
        json!({"key": "example.com/gpu", "value": "true", "effect": "NoSchedule", "novel": [1, {"a": null}]});
    let near = json!({"key": format!("{KEY}-yet"), "effect": "NoSchedule"});

    let taints = json!([ours, other, also_ours, near]);
    let patch = tainted(&taints).taint_patch(KEY).unwrap();
    let wanted = json!([
        {"op": "test", "path": "/spec/taints", "value": taints},
        {"op": "replace", "path": "/spec/taints", "value": [other, near]},
    ]);
    assert_eq!(patch, wanted);

    let patch = tainted(&json!([ours])).taint_patch(KEY).unwrap();
    let wanted = json!([
        {"op": "test", "path": "/spec/taints", "value": [ours]},
        {"op": "remove", "path": "/spec/taints"},
    ]);
    assert_eq!(patch, wanted);
}

#[test]
fn without_the_taint_nothing_is_written() {
    for taints in [json!(null), json!([]), json!([{"key": "example.com/gpu", "effect": "NoSchedule"}, {}, 7])]
    {
        assert_eq!(tainted(&taints).taint_patch(KEY), None, "{taints}");
    }
    assert_eq!(node(&json!({}), &json!({})).taint_patch(KEY), None);
}

#[test]
fn what_is_no_node_is_not_taken_for_one_without_taints() {
    for text in ["", "{}", "[]", "null", "<html>", r#"{"kind":"Status","code":200}"#, r#"{"kind":"Node""#] {
        assert!(Node::read(text.as_bytes()).is_none(), "{text}");
    }
    let deep = (0..300).fold(json!({}), |inner, _| json!({"f:a": inner}));
    let text = json!({"kind": "Node", "metadata": {"managedFields": [{"fieldsV1": deep}]}}).to_string();
    assert!(Node::read(text.as_bytes()).is_some(), "what others write into metadata counts for nothing");
}

#[test]
fn condition_says_what_is_waited_for_and_whether_requests_are_captured() {
    let fresh = node(&json!({}), &json!({"conditions": null}));
    for (gates, status, reason, message) in [
        (&[("redirect", ""), ("pods", "")][..], "True", "Ready", "captured and answered"),
        (
            &[("redirect", "rules missing"), ("pods", "not listed")],
            "False",
            "NotIntercepting",
            "redirect: rules missing; pods: not listed",
        ),
        (
            &[("redirect", ""), ("identity", "asked"), ("pods", "stale")],
            "False",
            "NotAnswering",
            "waits for identity: asked; pods: stale",
        ),
        (&[("novel", "closed"), ("pods", "stale")], "False", "NotIntercepting", "novel: closed"),
    ] {
        let said = condition(&fresh, &waiting(gates), at(0)).unwrap();
        assert_eq!(
            (said["status"].as_str(), said["reason"].as_str()),
            (Some(status), Some(reason)),
            "{gates:?}"
        );
        assert!(said["message"].as_str().unwrap().contains(message), "{said}");
        assert_eq!(said["lastHeartbeatTime"], "2027-01-15T08:00:00Z");
        assert_eq!(said["lastTransitionTime"], said["lastHeartbeatTime"]);
    }
    let long = Waiting { gates: vec!["pods"], text: "x".repeat(5000) };
    assert_eq!(long.message().len(), MAX_MESSAGE_CHARS);
}

#[test]
fn time_of_the_transition_is_kept_while_the_status_is() {
    let (ready, stale) = (waiting(&[]), waiting(&[("pods", "stale")]));
    let mut known = condition(&node(&json!({}), &json!({})), &ready, at(0)).unwrap();
    let since = known["lastTransitionTime"].clone();
    let with = |known: &Value| {
        node(&json!({}), &json!({"conditions": [{"type": "Ready", "status": "False"}, known]}))
    };

    let beat = condition(&with(&known), &ready, at(300)).unwrap();
    assert_eq!(beat["lastTransitionTime"], since);
    assert_ne!(beat["lastHeartbeatTime"], since);
    let lost = condition(&with(&beat), &stale, at(310)).unwrap();
    assert_eq!(lost["lastTransitionTime"], lost["lastHeartbeatTime"]);
    let other = condition(&with(&lost), &waiting(&[("redirect", "gone")]), at(320)).unwrap();
    assert_eq!(other["lastTransitionTime"], lost["lastTransitionTime"], "False for another reason");

    known.as_object_mut().unwrap().remove("lastTransitionTime");
    assert_eq!(
        condition(&with(&known), &ready, at(300)).unwrap()["lastTransitionTime"],
        "2027-01-15T08:05:00Z"
    );
}

#[test]
fn what_was_said_a_moment_ago_is_not_said_again() {
    let ready = waiting(&[]);
    let known = condition(&node(&json!({}), &json!({})), &ready, at(0)).unwrap();
    let with = |known: &Value| node(&json!({}), &json!({"conditions": [known]}));
    assert_eq!(condition(&with(&known), &ready, at(149)), None);
    assert!(condition(&with(&known), &ready, at(150)).is_some());
    assert!(condition(&with(&known), &waiting(&[("pods", "stale")]), at(1)).is_some());
    // A clock that was ahead, or whatever somebody else wrote there.
    assert!(condition(&with(&known), &ready, at(0) - Duration::from_secs(60)).is_some());
    for odd in ["", "yesterday", "2027-13-45T99:00:00Z"] {
        let mut known = known.clone();
        known["lastHeartbeatTime"] = json!(odd);
        assert!(condition(&with(&known), &ready, at(1)).is_some(), "{odd}");
    }
}
