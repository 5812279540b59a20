//! Flags to configuration, and every mistake at once.

use super::*;
use std::time::Duration;

const NODE: &str = "--node=node-1";

fn exit_or(args: &[&str], env: &[(&str, &str)]) -> Result<Command, Exit> {
    let argv = std::iter::once("rolegate").chain(args.iter().copied()).map(OsString::from).collect();
    let lookup = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    command(args::read_with(argv, |name| lookup(name).map(OsString::from))?, lookup)
}

fn config_with(args: &[&str], env: &[(&str, &str)]) -> Config {
    match exit_or(args, env) {
        Ok(Command::Run(config)) => *config,
        other => panic!("{other:?}"),
    }
}

fn config(args: &[&str]) -> Config {
    config_with(args, &[])
}

fn mistakes(args: &[&str]) -> String {
    let exit = exit_or(args, &[]).unwrap_err();
    assert_eq!((exit.code, exit.to_stdout), (64, false));
    exit.text
}

fn warns(config: &Config, flag: &str) -> bool {
    config.warnings.iter().any(|warning| warning.contains(flag))
}

#[test]
fn kube2iams_manifest_works() {
    let config = config(&[
        "--auto-discover-base-arn",
        "--host-interface=cbr0",
        "--host-ip=10.0.0.10",
        "--iptables=true",
    ]);
    let address = "10.0.0.10".parse::<IpAddr>().unwrap();
    assert!(config.discovery.base_arn);
    assert_eq!(config.redirect.mode, RedirectMode::Iptables);
    assert_eq!(config.redirect.interfaces, "cbr0");
    assert_eq!(config.redirect.host_ips, [address]);
    assert_eq!(config.kubernetes.node, NodeSelection::ByHostIp(address));
    assert_eq!(config.server.app_port, 8181);
    assert_eq!(config.policy.restrictions, Restrictions::Enforce);
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn every_flag_of_kube2iam_is_taken() {
    let config = config(&[
        "--api-server=https://10.0.0.1:6443",
        "--api-token=planted",
        "--app-port=8282",
        "--auto-discover-base-arn=false",
        "--auto-discover-default-role=false",
        "--backoff-max-elapsed-time=500ms",
        "--backoff-max-interval=1s",
        "--base-role-arn=arn:aws:iam::123456789012:role/team",
        "--cache-resync-period=1h",
        "--debug",
        "--default-role=Fallback",
        "--host-interface=docker0",
        "--host-ip=10.0.0.10",
        "--iam-external-id=example.com/external-id",
        "--iam-role-error-ttl=30s",
        "--iam-role-key=example.com/role",
        "--iam-role-session-ttl=20m",
        "--insecure",
        "--iptables",
        "--log-format=json",
        "--log-level=warning",
        "--metadata-addr=169.254.169.253",
        "--metrics-port=8282",
        "--namespace-key=example.com/allowed-roles",
        "--namespace-restriction-format=regexp",
        "--namespace-restrictions",
        "--node=node-1",
        "--resolve-duplicate-cache-ips",
        "--use-regional-sts-endpoint",
        "--verbose",
    ]);
    assert!(matches!(&config.kubernetes.api, ApiSource::Server { url, token: Some(token) }
        if url == "https://10.0.0.1:6443" && token.expose() == "planted"));
    assert_eq!((config.server.app_port, config.server.metrics_port), (8282, 8282));
    assert_eq!(config.imds.hold, Duration::from_millis(500));
    assert_eq!(config.policy.base.unwrap().as_str(), "arn:aws:iam::123456789012:role/team/");
    assert_eq!(config.kubernetes.resync, Duration::from_secs(3600));
    assert!(config.debug && config.kubernetes.insecure && config.credentials.regional_endpoint);
    assert_eq!(config.policy.default_role.as_deref(), Some("Fallback"));
    assert_eq!(config.redirect.interfaces, "docker0");
    assert_eq!(config.policy.keys.role, "example.com/role");
    assert_eq!(config.policy.keys.external_id, "example.com/external-id");
    assert_eq!(config.policy.keys.allowed_roles, "example.com/allowed-roles");
    assert_eq!(config.credentials.error_ttl, Some(Duration::from_secs(30)));
    assert_eq!(config.credentials.refresh_age, Duration::from_secs(1200));
    assert_eq!(config.log, Log { format: LogFormat::Json, level: "debug".to_owned() });
    assert_eq!(config.imds.upstream, "169.254.169.253:80".parse().unwrap());
    assert_eq!(config.policy.format, PatternFormat::Regexp);
    assert_eq!(config.policy.restrictions, Restrictions::Enforce);
    assert_eq!(config.kubernetes.node, NodeSelection::Name("node-1".to_owned()));
    let warned = |flag| config.warnings.iter().any(|warning| warning.starts_with(flag));
    assert!(
        warned("--backoff-max-interval") && warned("--resolve-duplicate-cache-ips") && warned("--insecure")
    );
    let kubeconfig = self::config(&[NODE, "--kubeconfig=/etc/kubeconfig"]);
    assert!(matches!(kubeconfig.kubernetes.api, ApiSource::Kubeconfig(path) if path.ends_with("kubeconfig")));
}

#[test]
fn defaults_are_those_of_the_page_about_flags() {
    let config = config(&[NODE]);
    assert!(matches!(config.kubernetes.api, ApiSource::InCluster));
    assert_eq!(config.kubernetes.resync, Duration::from_secs(1800));
    assert_eq!(config.policy.restrictions, Restrictions::Enforce);
    assert_eq!(config.policy.session_duration, Duration::from_secs(3600));
    assert_eq!(config.policy.session_name, "{namespace}.{service-account}");
    assert_eq!(config.policy.keys, AnnotationKeys::default());
    assert_eq!(config.policy.node, "node-1");
    assert_eq!(config.credentials.refresh_age, Duration::from_secs(900));
    let credentials = &config.credentials;
    assert_eq!(
        (credentials.calls_in_flight, credentials.calls_burst, credentials.calls_per_second),
        (32, 50, 5)
    );
    assert!(credentials.prefetch && credentials.regional_endpoint && credentials.error_ttl.is_none());
    assert_eq!(config.imds.upstream, "169.254.169.254:80".parse().unwrap());
    assert_eq!(config.imds.hold, Duration::from_millis(900));
    assert!(config.imds.allow_v1 && !config.imds.metadata_everything);
    assert_eq!(config.imds.token_hop_limit, 1);
    assert_eq!((config.server.app_port, config.server.metrics_port), (8181, 9543));
    assert_eq!((config.server.connections_per_pod, config.server.connections), (128, 4096));
    assert_eq!(config.redirect.mode, RedirectMode::None);
    assert_eq!(config.redirect.interfaces, "auto");
    assert!(warns(&config, "--iptables") && warns(&config, "--base-role-arn"));
}

#[test]
fn all_mistakes_are_reported_at_once_with_flag_value_and_what_is_allowed() {
    let text = mistakes(&[
        "--app-port=eighty",
        "--metrics-port=70000",
        "--base-role-arn=arn:aws:iam::1234567890108:role/",
        "--iam-role-session-ttl=15",
        "--namespace-restriction-format=regex",
        "--log-format=logfmt",
        "--iptables=yes",
        "--session-name={sa}",
        "--host-ip=localhost",
        "--no-such-flag=1",
    ]);
    for expected in [
        "10 mistakes",
        "--app-port=eighty: allowed is a number from 1 to 65535",
        "--metrics-port=70000: allowed is a number from 1 to 65535",
        "--base-role-arn=arn:aws:iam::1234567890108:role/: the account is not 12 digits",
        "--iam-role-session-ttl=15: allowed is a time from 1s to 24h",
        "--namespace-restriction-format=regex: allowed is glob or regexp",
        "--log-format=logfmt: allowed is text or json",
        "--iptables=yes: allowed is true or false",
        "--session-name={sa}: {sa} is no placeholder; there are {namespace}",
        "--host-ip=localhost: allowed is an address of this node",
        "--no-such-flag: there is no such flag",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
}

#[test]
fn base_arn_is_named_when_it_is_none() {
    for wrong in ["arn:aws:iam::1234567890108:role/", "aws:arn:iam::123456789012:role/", "123456789012"] {
        let text = mistakes(&[NODE, &format!("--base-role-arn={wrong}")]);
        assert!(text.contains("--base-role-arn=") && text.contains(wrong), "{text}");
    }
}

#[test]
fn node_is_named_or_found_and_never_all_nodes() {
    let text = mistakes(&[]);
    assert!(text.contains("--node=NAME") && text.contains("--host-ip=ADDRESS"), "{text}");
    assert!(mistakes(&["--node=$(NODE_NAME)"]).contains("--node=$(NODE_NAME): allowed is a node's name"));
    assert!(mistakes(&[NODE, "--iptables"]).contains("--host-ip=ADDRESS is needed with --iptables"));
    let both = config(&[NODE, "--host-ip=10.0.0.10,fd00:a::10", "--iptables"]);
    assert_eq!(both.redirect.host_ips.len(), 2);
    let text = mistakes(&[NODE, "--host-ip=10.0.0.10", "--host-ip=10.0.0.11", "--host-ip=127.0.0.1"]);
    assert!(text.contains("--host-ip=10.0.0.11: ") && text.contains("--host-ip=127.0.0.1: "), "{text}");
}

#[test]
fn startup_taint_is_a_key_or_a_switch() {
    let taint = |args: &[&str], env: &[(&str, &str)]| {
        let args = [&["--node=n"], args].concat();
        config_with(&args, env).kubernetes.startup_taint
    };
    let default = Some("rolegate/agent-not-ready".to_owned());
    assert_eq!(taint(&[], &[]), None);
    assert_eq!(taint(&["--startup-taint"], &[]), default);
    assert_eq!(taint(&["--startup-taint=example.com/new"], &[]), Some("example.com/new".into()));
    assert_eq!(taint(&[], &[("ROLEGATE_STARTUP_TAINT", "true")]), default);
    assert_eq!(taint(&["--startup-taint=false"], &[("ROLEGATE_STARTUP_TAINT", "true")]), None);
    assert_eq!(taint(&[], &[("ROLEGATE_STARTUP_TAINT", "0")]), None);
    for odd in ["no", "new-node", "a b/c", "example.com/new:NoSchedule", "/", "example.com/"] {
        let said = mistakes(&["--node=n", &format!("--startup-taint={odd}")]);
        assert!(said.contains(&format!("--startup-taint={odd}")), "{said}");
    }
}

#[test]
fn flags_that_say_two_things_exclude_each_other() {
    for (args, one, other) in [
        (
            ["--base-role-arn=arn:aws:iam::123456789012:role/", "--auto-discover-base-arn"],
            "--base-role-arn",
            "--auto-discover-base-arn",
        ),
        (
            ["--default-role=arn:aws:iam::123456789012:role/x", "--auto-discover-default-role"],
            "--default-role",
            "--auto-discover-default-role",
        ),
        (["--kubeconfig=/k", "--api-server=https://h"], "--kubeconfig", "--api-server"),
        (["--redirect=none", "--iptables"], "--redirect", "--iptables"),
        (["--iam-role-key=a/b", "--iam-external-id=a/b"], "--iam-role-key", "--iam-external-id"),
        (
            ["--namespace-key=iam.amazonaws.com/permitted", "--debug"],
            "--namespace-key",
            "--namespace-permitted-key",
        ),
    ] {
        let text = mistakes(&[&[NODE][..], &args].concat());
        assert!(text.contains(&format!("{one} and {other} exclude each other")), "{text}");
    }
}

#[test]
fn nodes_own_role_as_default_needs_its_flag() {
    let text = mistakes(&[NODE, "--auto-discover-default-role"]);
    assert!(text.contains("give --allow-node-role as well"), "{text}");
    let config = config(&[NODE, "--auto-discover-default-role", "--allow-node-role"]);
    assert!(
        config.discovery.default_role && config.policy.allow_node_role && warns(&config, "--allow-node-role")
    );
}

#[test]
fn profile_sets_defaults_and_flags_go_before_it() {
    let kube2iam = config(&[NODE, "--profile=kube2iam"]);
    assert_eq!(kube2iam.policy.restrictions, Restrictions::Off);
    assert!(kube2iam.imds.metadata_everything);
    assert_eq!(kube2iam.policy.session_duration, Duration::from_secs(3600));
    let flagged =
        config(&[NODE, "--profile=kube2iam", "--namespace-restrictions", "--metadata-allow=placement/*"]);
    assert_eq!(flagged.policy.restrictions, Restrictions::Enforce);
    assert!(!flagged.imds.metadata_everything);
    assert_eq!(flagged.imds.metadata_allow, ["placement/*"]);
}

#[test]
fn patterns_of_metadata_are_checked_one_by_one() {
    let text = mistakes(&[NODE, "--metadata-allow=tags/**,iam/*", "--metadata-allow=a//b"]);
    assert!(text.contains("2 mistakes") && !text.contains("tags"), "{text}");
    assert!(text.contains("--metadata-allow=iam/*: ") && text.contains("--metadata-allow=a//b: "), "{text}");
}

#[test]
fn restrictions_take_words_and_booleans() {
    for (flag, expected) in [
        ("--namespace-restrictions", Restrictions::Enforce),
        ("--namespace-restrictions=true", Restrictions::Enforce),
        ("--namespace-restrictions=false", Restrictions::Off),
        ("--namespace-restrictions=enforce", Restrictions::Enforce),
        ("--namespace-restrictions=annotated", Restrictions::Annotated),
        ("--namespace-restrictions=audit", Restrictions::Audit),
        ("--namespace-restrictions=off", Restrictions::Off),
    ] {
        assert_eq!(config(&[NODE, flag]).policy.restrictions, expected, "{flag}");
    }
}

/// K17: what STS does not give is not asked for, and a session that would end before its refresh is a mistake.
#[test]
fn sessions_outlive_the_age_of_refresh() {
    for (args, expected) in [
        (&["--iam-role-session-ttl=45m"][..], 5400),
        (&["--iam-role-session-ttl=8h"], 43_200),
        (&["--session-duration=15m", "--iam-role-session-ttl=5m"], 900),
        (&["--profile=kube2iam"], 3600),
    ] {
        let config = config(&[&[NODE][..], args].concat());
        assert_eq!(config.policy.session_duration, Duration::from_secs(expected), "{args:?}");
    }
    for args in [
        &["--session-duration=15m"][..],
        &["--iam-role-session-ttl=20m", "--session-duration=20m"],
        &["--iam-role-session-ttl=13h"],
    ] {
        let text = mistakes(&[&[NODE][..], args].concat());
        assert!(text.contains("allowed is a time shorter than that of the session"), "{text}");
    }
    assert!(mistakes(&[NODE, "--session-duration=14m"]).contains("allowed is a time from 15m to 12h"));
}

#[test]
fn waiting_is_never_longer_than_sdks_wait() {
    for (value, expected, warned) in
        [("2s", 900, true), ("0", 900, true), ("900ms", 900, false), ("100ms", 100, false)]
    {
        let config = config(&[NODE, &format!("--backoff-max-elapsed-time={value}")]);
        assert_eq!(config.imds.hold, Duration::from_millis(expected), "{value}");
        assert_eq!(warns(&config, "--backoff-max-elapsed-time"), warned, "{value}");
    }
}

#[test]
fn region_and_endpoint_come_from_flag_then_variable_then_aws_variable() {
    let aws = [("AWS_REGION", "eu-west-1"), ("AWS_DEFAULT_REGION", "eu-west-2")];
    let region = |args: &[&str], env: &[(&str, &str)]| config_with(args, env).credentials.region;
    assert_eq!(region(&[NODE], &aws).as_deref(), Some("eu-west-1"));
    assert_eq!(region(&[NODE], &aws[1..]).as_deref(), Some("eu-west-2"));
    assert_eq!(region(&[NODE], &[]), None);
    let ours = [("ROLEGATE_REGION", "eu-central-1"), aws[0]];
    assert_eq!(region(&[NODE], &ours).as_deref(), Some("eu-central-1"));
    assert_eq!(region(&[NODE, "--region=us-east-1"], &ours).as_deref(), Some("us-east-1"));
    let legacy = [("AWS_STS_REGIONAL_ENDPOINTS", "legacy")];
    assert!(!config_with(&[NODE], &legacy).credentials.regional_endpoint);
    assert!(config_with(&[NODE, "--use-regional-sts-endpoint"], &legacy).credentials.regional_endpoint);
    assert!(!config(&[NODE, "--use-regional-sts-endpoint=false"]).credentials.regional_endpoint);
}

#[test]
fn redirect_is_one_of_those_that_there_are() {
    for (mode, is) in [
        ("auto", RedirectMode::Auto),
        ("iptables", RedirectMode::Iptables),
        ("route", RedirectMode::Route),
        ("none", RedirectMode::None),
    ] {
        let config = config(&[NODE, &format!("--redirect={mode}"), "--host-ip=10.0.0.10"]);
        assert_eq!(config.redirect.mode, is);
    }
    for mode in ["auto", "route"] {
        assert!(config(&[NODE, &format!("--redirect={mode}")]).redirect.host_ips.is_empty());
    }
    assert!(mistakes(&[NODE, "--redirect=tproxy"]).contains("auto, iptables, route or none"));
}

#[test]
fn numbers_of_rules_and_table_leave_the_kernels_alone() {
    let redirect = config(&[NODE, "--rule-preference=32761", "--route-table=252"]).redirect;
    assert_eq!((redirect.preference, redirect.table), (32_761, 252));
    for preference in ["0", "32762", "-1", "two"] {
        let text = mistakes(&[NODE, &format!("--rule-preference={preference}")]);
        assert!(text.contains("--rule-preference") && text.contains("a number from 1 to 32761"), "{text}");
    }
    for table in ["0", "253", "254", "255", "4294967296", "main"] {
        let text = mistakes(&[NODE, &format!("--route-table={table}")]);
        assert!(text.contains("--route-table") && text.contains("253 to 255"), "{text}");
    }
}

#[test]
fn default_role_is_checked_as_far_as_the_base_is_known() {
    let base = "--base-role-arn=arn:aws:iam::123456789012:role/";
    for (args, fine) in [
        (&["--default-role=team/x", base][..], true),
        (&["--default-role=team/x", "--auto-discover-base-arn"], true),
        (&["--default-role=arn:aws:iam::123456789012:role/x"], true),
        (&["--default-role=x"], false),
        (&["--default-role=arn:x", base], false),
        (&["--default-role=a b", "--auto-discover-base-arn"], false),
    ] {
        let all = [&[NODE][..], args].concat();
        assert_eq!(exit_or(&all, &[]).is_ok(), fine, "{args:?}");
    }
}

#[test]
fn token_is_never_shown() {
    let text = mistakes(&["--api-token=plan\tted", "--api-server=https://user:planted@h"]);
    assert!(!text.contains("planted") && !text.contains("plan"), "{text}");
    let config = config(&[NODE, "--api-token=planted", "--api-server=https://h"]);
    assert!(!format!("{config:?}").contains("planted"));
}

#[test]
fn cleanup_has_flags_of_its_own() {
    let cleanup = |args: &[&str], env: &[(&str, &str)]| match exit_or(args, env) {
        Ok(Command::Cleanup { peers, stay, json }) => Some((peers, stay, json)),
        _ => None,
    };
    assert_eq!(cleanup(&["cleanup"], &[]), Some((false, false, false)));
    assert_eq!(cleanup(&["cleanup", "--peers", "--stay", "--output=json"], &[]), Some((true, true, true)));
    let env = [("ROLEGATE_PEERS", "true"), ("ROLEGATE_OUTPUT", "json"), ("ROLEGATE_NODE", "node-1")];
    assert_eq!(cleanup(&["cleanup"], &env), Some((true, false, true)));
    assert_eq!(cleanup(&["cleanup", "--peers=false", "--output=text"], &env), Some((false, false, false)));
    let text = mistakes(&["cleanup", "--output=xml", "--peers=maybe"]);
    assert!(
        text.contains("--output=xml: allowed is text or json") && text.contains("--peers=maybe"),
        "{text}"
    );
}

#[test]
fn probe_has_flags_of_its_own() {
    let probe = |args: &[&str]| match exit_or(args, &[]) {
        Ok(Command::Probe { patience, json }) => Some((patience, json)),
        _ => None,
    };
    assert_eq!(probe(&["probe"]), Some((Duration::from_secs(30), false)));
    assert_eq!(probe(&["probe", "--wait=0", "--output=json"]), Some((Duration::ZERO, true)));
    let text = mistakes(&["probe", "--wait=soon", "--node=n"]);
    assert!(text.contains("--node: there is no such flag"), "{text}");
    assert!(mistakes(&["probe", "--wait=soon"]).contains("--wait=soon: allowed is a time"));
}
