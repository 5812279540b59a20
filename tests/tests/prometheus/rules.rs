//! promtool on the rules, on their unit tests, and on a page of the real agent.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use regex::Regex;
use rolegate_tests::prometheus::{Prometheus, promtool};
use rolegate_tests::skip;
use rolegate_tests::world::{Options, World};
use serde_json::Value;

use crate::pages::Known;
use crate::{ALERTS, repository, text};

const UNIT_TESTS: &str = "tests/data/alerts_test.yaml";

#[test]
fn promtool_finds_the_rules_right_and_their_unit_tests_pass() {
    if let Some(why) = Prometheus::missing() {
        return skip("promtool_finds_the_rules_right_and_their_unit_tests_pass", &why);
    }
    promtool(&["check", "rules"], &repository(ALERTS)).unwrap();
    promtool(&["test", "rules"], &repository(UNIT_TESTS)).unwrap();
}

#[test]
fn every_alert_is_seen_to_fire_and_not_to_fire_by_a_unit_test() {
    let tests: Value = serde_saphyr::from_str(&text(UNIT_TESTS)).unwrap();
    let name = Regex::new(r#"alertname="(\w+)""#).unwrap();
    // Whether it fires, whether it does not.
    let mut seen: BTreeMap<String, (bool, bool)> =
        alerts().iter().map(|alert| (alert["alert"].as_str().unwrap().into(), (false, false))).collect();
    for test in tests["tests"].as_array().unwrap() {
        for expected in test["promql_expr_test"].as_array().unwrap() {
            let about = &name.captures(expected["expr"].as_str().unwrap()).unwrap()[1];
            let fires = !expected["exp_samples"].as_array().unwrap().is_empty();
            let seen = seen.get_mut(about).unwrap_or_else(|| panic!("there is no alert {about}"));
            *seen = (seen.0 | fires, seen.1 | !fires);
        }
    }
    seen.retain(|_, seen| *seen != (true, true));
    assert_eq!(seen, BTreeMap::new(), "(fires, does not)");
}

#[test]
fn promtool_and_our_own_page_find_that_of_a_running_agent_right() {
    let test = "promtool_and_our_own_page_find_that_of_a_running_agent_right";
    if let Some(why) = Prometheus::missing() {
        return skip(test, &why);
    }
    let Some(world) = World::for_test(test, &Options::default()) else { return };
    world.namespace("default", &["MyPodRole"]).unwrap();
    let pod = world.pod("default", "pod", |pod| pod.role("MyPodRole")).unwrap();
    let agent = world.agent(&[]).unwrap();
    agent.poll("the pod has a session", || Ok(pod.imds().credentials().is_ok())).unwrap();
    let page = agent.admin("/metrics").unwrap().body;

    let mut check = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    check.stdin.take().unwrap().write_all(&page).unwrap();
    let checked = check.wait_with_output().unwrap();
    let said = [checked.stdout, checked.stderr].concat();
    assert_eq!((checked.status.code(), String::from_utf8_lossy(&said).as_ref()), (Some(0), ""));
    // Labels are closed sets, all of whose values are written down.
    Known::new().check("/metrics", &String::from_utf8(page).unwrap());
}

/// The rules that are alerts.
pub(crate) fn alerts() -> Vec<Value> {
    rules().into_iter().filter(|rule| rule.get("alert").is_some()).collect()
}

/// All rules.
pub(crate) fn rules() -> Vec<Value> {
    let file: Value = serde_saphyr::from_str(&text(ALERTS)).unwrap();
    let groups = file["groups"].as_array().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}
