//! Values become flags, each in the words that were given, and the agent takes them.

use std::collections::BTreeMap;

use rolegate_tests::agent::run_to_end;
use serde_json::{Value, json};

use super::{Chart, Rendered, at};

/// A value, what is given for it, and the argument that it becomes.
fn typed() -> Vec<(&'static str, Value, &'static str)> {
    vec![
        ("redirect", json!("route"), "--redirect=route"),
        ("redirect", json!("auto"), "--redirect=auto"),
        ("redirect", json!("none"), "--redirect=none"),
        ("redirect", json!(""), "--redirect=iptables"),
        ("host.iptables", json!(true), "--redirect=iptables"),
        ("host.iptables", json!(false), "--redirect=none"),
        ("host.ip", json!("$(HOST_IPS)"), "--host-ip=$(HOST_IPS)"),
        ("host.interface", json!("!eth0"), "--host-interface=!eth0"),
        ("host.port", json!(8282), "--app-port=8282"),
        ("prometheus.metricsPort", json!(9999), "--metrics-port=9999"),
        ("profile", json!("kube2iam"), "--profile=kube2iam"),
        (
            "baseRoleArn",
            json!("arn:aws:iam::123456789012:role/a/"),
            "--base-role-arn=arn:aws:iam::123456789012:role/a/",
        ),
        ("autoDiscoverBaseArn", json!(true), "--auto-discover-base-arn=true"),
        ("autoDiscoverBaseArn", json!(false), "--auto-discover-base-arn=false"),
        ("defaultRole", json!("MyPodRole"), "--default-role=MyPodRole"),
        ("allowNodeRole", json!(true), "--allow-node-role=true"),
        ("allowNodeRole", json!(false), "--allow-node-role=false"),
        ("sessionName", json!("{namespace}.{pod}"), "--session-name={namespace}.{pod}"),
        ("sessionDuration", json!("2h"), "--session-duration=2h"),
        ("iamRoleSessionTtl", json!("20m"), "--iam-role-session-ttl=20m"),
        ("namespaceRestrictions", json!("audit"), "--namespace-restrictions=audit"),
        ("namespaceRestrictions", json!(false), "--namespace-restrictions=false"),
        ("namespaceRestrictions", json!(true), "--namespace-restrictions=true"),
        ("namespaceRestrictionFormat", json!("regexp"), "--namespace-restriction-format=regexp"),
        ("imdsV1", json!("deny"), "--imds-v1=deny"),
        ("metadataAllow", json!(["tags/*", "public-*"]), "--metadata-allow=tags/*,public-*"),
        ("tokenHopLimit", json!(2), "--token-hop-limit=2"),
        ("sharedL2", json!("refuse"), "--shared-l2=refuse"),
        ("rulePreference", json!(100), "--rule-preference=100"),
        ("routeTable", json!(4_294_967_000_u64), "--route-table=4294967000"),
        ("stateDir", json!("/srv/r"), "--state-dir=/srv/r"),
        ("cniResults", json!("/srv/c"), "--cni-results=/srv/c"),
        ("logFormat", json!("text"), "--log-format=text"),
        ("logLevel", json!("debug"), "--log-level=debug"),
        ("verbose", json!(true), "--verbose=true"),
        ("aws.region", json!("eu-central-1"), "--region=eu-central-1"),
        ("startupTaint.enabled", json!(true), "--startup-taint=rolegate/agent-not-ready"),
    ]
}

/// That the agent has nothing against these arguments: of all mistakes, which it says at once, it names but the one
/// that is added.
fn assert_taken(rendered: &Rendered) {
    let mut args: Vec<String> = rendered
        .args()
        .iter()
        .map(|arg| {
            arg.replace("$(NODE_NAME)", "node-1")
                .replace("$(HOST_IPS)", "10.0.0.1,fd00::1")
                .replace("$(HOST_IP)", "10.0.0.1")
        })
        .collect();
    args.push("--drain-timeout=never".into());
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let output = run_to_end(None, &args).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{args:?}: {said}");
    let mistakes: Vec<&str> =
        said.lines().filter(|line| line.contains("--") && !line.contains("--help")).collect();
    assert!(matches!(mistakes[..], [only] if only.contains("--drain-timeout=never")), "{args:?}: {said}");
}

#[test]
fn each_value_becomes_its_flag_and_the_agent_takes_it() {
    let Some(chart) = Chart::for_test("each_value_becomes_its_flag_and_the_agent_takes_it") else { return };
    assert_taken(&chart.render(&json!({})));
    for (path, value, arg) in typed() {
        let rendered = chart.render(&at(path, value));
        assert!(rendered.has(arg), "{path}: {:?}", rendered.args());
        let flag = arg.split('=').next().unwrap();
        let given = rendered.args().iter().filter(|it| it.split('=').next() == Some(flag)).count();
        assert_eq!(given, 1, "{flag}: {:?}", rendered.args());
        assert_taken(&rendered);
    }
}

/// K8: kube2iam's chart gives the bare flag for `false`, `0` and nothing; here each is given as it is.
#[test]
fn false_zero_and_empty_extra_arguments_mean_what_they_say() {
    let Some(chart) = Chart::for_test("false_zero_and_empty_extra_arguments_mean_what_they_say") else {
        return;
    };
    for (flag, value, arg) in [
        ("namespace-restrictions", json!(false), "--namespace-restrictions=false"),
        ("namespace-restrictions", json!(true), "--namespace-restrictions=true"),
        ("iam-role-error-ttl", json!(0), "--iam-role-error-ttl=0"),
        ("iam-role-error-ttl", json!("0"), "--iam-role-error-ttl=0"),
        ("debug", json!(""), "--debug"),
        ("prefetch", json!(false), "--prefetch=false"),
        ("sts-burst", json!(1_000_000), "--sts-burst=1000000"),
        ("metadata-allow", json!(["a", "b"]), "--metadata-allow=a,b"),
        ("metadata-addr", json!("169.254.169.254:80"), "--metadata-addr=169.254.169.254:80"),
    ] {
        let rendered = chart.render(&json!({"extraArgs": {flag: value}}));
        assert!(rendered.has(arg), "{flag}: {:?}", rendered.args());
        assert_taken(&rendered);
    }
    // Helm itself takes a key without a value out.
    let rendered = chart.render(&json!({"extraArgs": {"debug": null}}));
    assert!(!rendered.args().iter().any(|arg| arg.starts_with("--debug")));
    assert!(!chart.render(&json!({"verbose": false})).args().iter().any(|arg| arg.starts_with("--verbose")));
}

#[test]
fn flag_that_the_chart_gives_is_refused_among_extra_arguments() {
    let Some(chart) = Chart::for_test("flag_that_the_chart_gives_is_refused_among_extra_arguments") else {
        return;
    };
    let mut given: BTreeMap<String, Value> = BTreeMap::default();
    for (path, value, _) in typed() {
        let values = at(path, value);
        for arg in chart.render(&values).args().iter().skip(1) {
            given.entry(arg[2..].split('=').next().unwrap().to_owned()).or_insert_with(|| values.clone());
        }
    }
    assert!(given.len() > 20, "{given:?}");
    for (flag, mut values) in given {
        // The base ARN that is found is given where nothing else is said: extraArgs then says it.
        if flag == "auto-discover-base-arn" {
            values = json!({"autoDiscoverBaseArn": true});
        }
        values["extraArgs"] = json!({&flag: "x"});
        let said = chart.refusal(&values);
        assert!(said.contains(&format!("extraArgs.{flag}: the chart itself gives --{flag}")), "{said}");
    }
    for (flag, instead) in [("iptables", "host.iptables"), ("startup-taint", "startupTaint.enabled")] {
        let said = chart.refusal(&json!({"extraArgs": {flag: true}}));
        assert!(said.contains(&format!("extraArgs.{flag}: say it with {instead}")), "{said}");
    }
}

#[test]
fn base_arn_is_discovered_unless_it_is_said() {
    let Some(chart) = Chart::for_test("base_arn_is_discovered_unless_it_is_said") else { return };
    let base = "arn:aws:iam::123456789012:role/";
    let discovers = |values: Value| {
        chart.render(&values).args().iter().any(|arg| arg.starts_with("--auto-discover-base-arn"))
    };
    assert!(discovers(json!({})));
    assert!(!discovers(json!({"baseRoleArn": base})));
    assert!(!discovers(json!({"extraArgs": {"base-role-arn": base}})));
    let rendered = chart.render(&json!({"extraArgs": {"auto-discover-base-arn": ""}}));
    assert!(rendered.has("--auto-discover-base-arn") && !rendered.has("--auto-discover-base-arn=true"));
}

#[test]
fn route_needs_no_address_and_the_guard_has_the_agents_preference() {
    let Some(chart) = Chart::for_test("route_needs_no_address_and_the_guard_has_the_agents_preference")
    else {
        return;
    };
    let rendered = chart.render(&json!({"redirect": "route", "rulePreference": 1000}));
    assert!(!rendered.args().iter().any(|arg| arg.starts_with("--host-ip")));
    assert_eq!(rendered.pod()["initContainers"][0]["args"], json!(["guard", "--rule-preference=1000"]));
    let extra = chart.render(&json!({"extraArgs": {"rule-preference": 1000}}));
    assert_eq!(extra.pod()["initContainers"], rendered.pod()["initContainers"]);
}
