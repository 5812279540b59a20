//! The dashboard: of Grafana's form, of metrics that there are, and with data in every panel once pods have asked.

use std::collections::BTreeSet;

use rolegate_tests::dashboard::{Dashboard, PanelKind};
use rolegate_tests::prometheus::Prometheus;
use rolegate_tests::skip;
use rolegate_tests::world::World;
use serde_json::Value;

use crate::pages::Known;
use crate::{ALERTS, CONFIG, text};

const DASHBOARD: &str = "deploy/helm/rolegate/files/dashboard.json";

#[test]
fn the_dashboard_is_of_grafanas_form() {
    let whole: Value = serde_json::from_str(&text(DASHBOARD)).unwrap();
    assert!(whole["schemaVersion"].as_u64().unwrap() >= 39);
    for variable in ["datasource", "node", "instance"] {
        let variables = whole["templating"]["list"].as_array().unwrap();
        assert!(variables.iter().any(|it| it["name"] == variable), "{variable}");
    }
    let dashboard = Dashboard::read(&text(DASHBOARD)).unwrap();
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in &dashboard.panels {
        let title = &panel.title;
        assert!(!title.is_empty() && ids.insert(panel.id), "{title}: its title and id are its own");
        assert!(panel.x + panel.w <= 24, "{title} is within the 24 columns");
        for cell in
            (panel.y..panel.y + panel.h).flat_map(|y| (panel.x..panel.x + panel.w).map(move |x| (x, y)))
        {
            assert!(taken.insert(cell), "{title} lies over another");
        }
        if panel.kind == PanelKind::Row {
            continue;
        }
        assert!(
            !panel.description.is_empty() && !panel.unit.is_empty(),
            "{title} has a description and a unit"
        );
        assert!(!panel.queries.is_empty(), "{title} asks for something");
    }
    for (panel, json) in dashboard.panels.iter().zip(whole["panels"].as_array().unwrap()) {
        for target in json["targets"].as_array().unwrap_or(&Vec::new()) {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{}", panel.title);
        }
    }
}

#[test]
fn the_dashboard_names_metrics_and_pages_that_there_are() {
    let known = Known::new();
    for panel in Dashboard::read(&text(DASHBOARD)).unwrap().panels {
        for query in panel.queries {
            known.check(&panel.title, &query.expr);
            assert!(
                query.expr.contains(r#"node=~"$node""#) || query.expr.contains("ALERTS"),
                "{}",
                panel.title
            );
        }
        for link in panel.links {
            let page = link.split_once("/blob/main/").unwrap().1;
            assert!(!text(page).is_empty());
        }
    }
}

#[test]
fn every_panel_has_data_once_pods_have_asked() {
    let test = "every_panel_has_data_once_pods_have_asked";
    if let Some(why) = Prometheus::missing() {
        return skip(test, &why);
    }
    let Some(world) = World::for_test_with_faults(test) else { return };
    world.namespace("default", &["MyPodRole"]).unwrap();
    world.cluster.apply_namespace("odd", &[("iam.amazonaws.com/allowed-roles", "no list")]).unwrap();
    let pod = world.pod("default", "pod", |pod| pod.role("MyPodRole")).unwrap();
    let refused = world.pod("odd", "refused", |pod| pod.role("MyPodRole")).unwrap();
    let agent = world.agent(&[]).unwrap();
    let rules = text(ALERTS);
    let prometheus = Prometheus::start(world.topology.node(), CONFIG, &[("alerts.yaml", &rules)]).unwrap();
    // What happens once must have been seen not to have happened.
    prometheus
        .wait_for("a scrape", |it| Ok((!it.query("rolegate_build_info")?.is_empty()).then_some(())))
        .unwrap();
    world.topology.node().run("iptables-nft", &["-t", "nat", "-F", "PREROUTING"]).unwrap();
    let mended = r#"rolegate_redirect_repairs_total{cause="jump_missing"}"#;
    agent.poll("the rules are mended", || Ok(agent.metric(mended)? > 0.0)).unwrap();
    world.cluster.double().unwrap().faults().expire();
    let _other = world.pod("default", "other", |pod| pod.role("MyPodRole").service_account("other")).unwrap();

    let dashboard = Dashboard::read(&text(DASHBOARD)).unwrap();
    let mut empty = Vec::new();
    prometheus
        .wait_for("data in every panel", |prometheus| {
            empty.clear();
            // The first may come before the agent knows the pods.
            let _ = pod.imds().credentials();
            let _ = refused.imds().get("/latest/meta-data/iam/security-credentials/none");
            let _ = refused.imds().credentials();
            for panel in &dashboard.panels {
                for query in &panel.queries {
                    let expr = query.expanded("10m", "10m");
                    let samples = prometheus.query(&expr)?;
                    if !samples.iter().any(|sample| sample.value.is_finite()) {
                        empty.push((panel.title.clone(), expr));
                    }
                    for sample in samples {
                        for label in query.legend_labels() {
                            anyhow::ensure!(
                                sample.labels.contains_key(&label),
                                "{}: no {label}",
                                panel.title
                            );
                        }
                    }
                }
            }
            Ok(empty.is_empty().then_some(()))
        })
        .unwrap_or_else(|error| panic!("{error:#}; empty: {empty:#?}"));
}
