//! Mistaken values: each is refused, and the words say which and what is allowed.

use serde_json::{Value, json};

use super::{Chart, at};

#[test]
fn mistaken_values_are_refused_by_name() {
    let Some(chart) = Chart::for_test("mistaken_values_are_refused_by_name") else { return };
    let digest = json!("sha256:abc");
    for (path, value, said) in [
        ("redirects", json!("route"), "additional properties 'redirects' not allowed"),
        (
            "redirect",
            json!("ipvs"),
            "at '/redirect': value must be one of '', 'iptables', 'route', 'auto', 'none'",
        ),
        ("host.ports", json!(1), "at '/host': additional properties 'ports' not allowed"),
        ("host.port", json!(0), "at '/host/port': minimum: got 0, want 1"),
        ("host.port", json!(65536), "at '/host/port'"),
        ("host.iptables", json!("yes"), "at '/host/iptables'"),
        ("host.interface", json!(""), "at '/host/interface'"),
        ("hostNetwork", json!(false), "additional properties 'hostNetwork' not allowed"),
        ("profile", json!("kiam"), "at '/profile'"),
        ("baseRoleArn", json!("arn:aws:iam::1234:role/"), "at '/baseRoleArn'"),
        ("allowNodeRole", json!("no"), "at '/allowNodeRole'"),
        ("namespaceRestrictions", json!("strict"), "at '/namespaceRestrictions': value must be one of"),
        ("namespaceRestrictionFormat", json!("regex"), "at '/namespaceRestrictionFormat'"),
        ("imdsV1", json!("denied"), "at '/imdsV1': value must be one of '', 'allow', 'deny'"),
        ("sharedL2", json!("block"), "at '/sharedL2'"),
        ("sessionDuration", json!(3600), "at '/sessionDuration': got number, want string"),
        ("iamRoleSessionTtl", json!("15"), "at '/iamRoleSessionTtl'"),
        ("tokenHopLimit", json!(256), "at '/tokenHopLimit'"),
        ("rulePreference", json!(32766), "at '/rulePreference'"),
        ("metadataAllow", json!("tags/*"), "at '/metadataAllow'"),
        ("logFormat", json!("logfmt"), "at '/logFormat'"),
        ("logLevel", json!("verbose"), "at '/logLevel'"),
        ("stateDir", json!("var/lib"), "at '/stateDir'"),
        ("extraArgs.base-role", json!("x"), "at '/extraArgs': additional properties 'base-role' not allowed"),
        ("extraArgs.node", json!("x"), "extraArgs.node: the chart itself gives --node"),
        ("image.digest", digest, "at '/image/digest'"),
        ("image.tag", json!(1.1), "at '/image/tag': got number, want string"),
        ("image.pullPolicy", json!("always"), "at '/image/pullPolicy'"),
        ("image.repository", json!("jtblin/kube2iam"), "jtblin/kube2iam is kube2iam's image"),
        ("rbac.create", json!("yes"), "at '/rbac/create': got string, want boolean"),
        ("updateStrategy", json!("Recreate"), "at '/updateStrategy'"),
        ("maxSurge", json!(-1), "at '/maxSurge'"),
        ("maxSurge", json!(0), "maxSurge and maxUnavailable are both 0"),
        ("nodeSelector", json!({"a": true}), "at '/nodeSelector/a': got boolean, want string"),
        ("podAnnotations", json!({"a": 1}), "at '/podAnnotations/a'"),
        ("capabilities", json!(["NET_RAW"]), "at '/capabilities'"),
        ("extraHostPathMounts", json!([{"name": "a"}]), "at '/extraHostPathMounts/0': missing properties"),
        ("startupTaint.key", json!("it's"), "at '/startupTaint/key'"),
        ("prometheus.metricsPort", json!(0), "at '/prometheus/metricsPort': minimum: got 0, want 1"),
        ("prometheus.metricsPort", json!(8181), "prometheus.metricsPort: 8181 is host.port as well"),
        ("prometheus.podMonitor.port", json!("metrics"), "additional properties 'port' not allowed"),
        ("notes.nodeRoleArn", json!("nodes"), "at '/notes/nodeRoleArn'"),
    ] {
        let values = at(path, value);
        let refusal = chart.refusal(&values);
        assert!(refusal.contains(said), "{values}: {refusal}");
    }
}

#[test]
fn values_that_say_different_things_are_refused_together() {
    let Some(chart) = Chart::for_test("values_that_say_different_things_are_refused_together") else {
        return;
    };
    let both = json!({"prometheus": {"podMonitor": {"enabled": true}, "serviceMonitor": {"enabled": true}}});
    for (values, said) in [
        (
            json!({"host": {"iptables": true}, "redirect": "route"}),
            "host.iptables: true means redirect: iptables, and redirect says route",
        ),
        (
            json!({"host": {"iptables": false}, "redirect": "iptables"}),
            "host.iptables: false means redirect: none",
        ),
        (json!({"maxSurge": 1, "maxUnavailable": 1}), "Kubernetes wants one of them to be 0"),
        (both, "serviceMonitor and podMonitor are both enabled"),
    ] {
        let refusal = chart.refusal(&values);
        assert!(refusal.contains(said), "{values}: {refusal}");
    }
    let agree: [Value; 2] = [
        json!({"host": {"iptables": true}, "redirect": "iptables"}),
        json!({"host": {"iptables": false}, "redirect": "none"}),
    ];
    agree.iter().for_each(|values| drop(chart.render(values)));
}
