//! Which test shows which flag: a flag without one fails here.

use std::collections::BTreeSet;

/// Flag, and the test that shows its effect or its warning.
const SHOWN: &[(&str, &str)] = &[
    ("node", "node_is_the_one_named_or_that_of_the_host_ip"),
    ("kubeconfig", "api_server_is_reached_with_a_token_and_verified_unless_told_otherwise"),
    ("api-server", "api_server_is_reached_with_a_token_and_verified_unless_told_otherwise"),
    ("api-token", "api_server_is_reached_with_a_token_and_verified_unless_told_otherwise"),
    ("insecure", "api_server_is_reached_with_a_token_and_verified_unless_told_otherwise"),
    ("cache-resync-period", "everything_is_listed_anew_after_the_resync_period"),
    ("startup-taint", "startup_taint_goes_by_its_key"),
    ("base-role-arn", "keys_base_defaults_and_session_names_are_as_told"),
    ("auto-discover-base-arn", "nodes_own_role_is_given_only_where_told_and_names_need_a_base"),
    ("default-role", "keys_base_defaults_and_session_names_are_as_told"),
    ("auto-discover-default-role", "nodes_own_role_is_given_only_where_told_and_names_need_a_base"),
    ("allow-node-role", "nodes_own_role_is_given_only_where_told_and_names_need_a_base"),
    ("iam-role-key", "keys_base_defaults_and_session_names_are_as_told"),
    ("iam-external-id", "keys_base_defaults_and_session_names_are_as_told"),
    ("session-name", "keys_base_defaults_and_session_names_are_as_told"),
    ("pin-roles", "pinned_roles_outlive_their_annotation"),
    ("namespace-restrictions", "restrictions_and_profile_say_who_is_served"),
    ("namespace-restriction-format", "keys_base_defaults_and_session_names_are_as_told"),
    ("namespace-key", "keys_base_defaults_and_session_names_are_as_told"),
    ("namespace-permitted-key", "keys_base_defaults_and_session_names_are_as_told"),
    ("namespace-default-role-key", "keys_base_defaults_and_session_names_are_as_told"),
    ("iam-role-session-ttl", "sessions_are_asked_for_where_and_as_long_as_told"),
    ("session-duration", "sessions_are_asked_for_where_and_as_long_as_told"),
    ("iam-role-error-ttl", "sessions_are_asked_for_where_and_as_long_as_told"),
    ("region", "sessions_are_asked_for_where_and_as_long_as_told"),
    ("use-regional-sts-endpoint", "sessions_are_asked_for_where_and_as_long_as_told"),
    ("prefetch", "sessions_are_asked_for_where_and_as_long_as_told"),
    ("sts-calls-in-flight", "calls_in_flight_are_limited"),
    ("sts-burst", "calls_are_as_far_apart_as_told"),
    ("sts-rate", "calls_are_as_far_apart_as_told"),
    ("metadata-addr", "metadata_is_asked_for_passed_on_and_guarded_as_told"),
    ("metadata-allow", "metadata_is_asked_for_passed_on_and_guarded_as_told"),
    ("imds-v1", "metadata_is_asked_for_passed_on_and_guarded_as_told"),
    ("token-hop-limit", "metadata_is_asked_for_passed_on_and_guarded_as_told"),
    ("state-dir", "metadata_is_asked_for_passed_on_and_guarded_as_told"),
    ("backoff-max-elapsed-time", "request_waits_for_its_pod_as_long_as_told_and_no_longer_than_sdks"),
    ("backoff-max-interval", "metadata_is_asked_for_passed_on_and_guarded_as_told"),
    ("app-port", "ports_and_pages_are_where_they_are_told"),
    ("metrics-port", "ports_and_pages_are_where_they_are_told"),
    ("connections-per-pod", "connections_are_limited_and_waited_for_as_told"),
    ("max-connections", "connections_are_limited_and_waited_for_as_told"),
    ("drain-timeout", "connections_are_limited_and_waited_for_as_told"),
    ("debug", "ports_and_pages_are_where_they_are_told"),
    ("iptables", "redirect_is_made_where_and_as_told"),
    ("redirect", "redirect_is_made_where_and_as_told"),
    ("host-interface", "redirect_is_made_where_and_as_told"),
    ("host-ip", "redirect_is_made_where_and_as_told"),
    ("shared-l2", "pods_on_a_bridge_are_believed_where_and_as_told"),
    ("cni-results", "pods_on_a_bridge_are_believed_where_and_as_told"),
    ("rule-preference", "policy_rules_and_their_table_have_the_numbers_that_they_are_told"),
    ("route-table", "policy_rules_and_their_table_have_the_numbers_that_they_are_told"),
    ("reconcile-period", "rules_are_compared_as_often_as_told"),
    ("resolve-duplicate-cache-ips", "redirect_is_made_where_and_as_told"),
    ("log-format", "log_is_written_as_told_and_a_flag_goes_before_its_variable"),
    ("log-level", "log_is_written_as_told_and_a_flag_goes_before_its_variable"),
    ("verbose", "log_is_written_as_told_and_a_flag_goes_before_its_variable"),
    ("profile", "restrictions_and_profile_say_who_is_served"),
];

const SOURCES: [&str; 7] = [
    include_str!("command_line.rs"),
    include_str!("credentials.rs"),
    include_str!("kubernetes.rs"),
    include_str!("listeners.rs"),
    include_str!("metadata.rs"),
    include_str!("policy.rs"),
    include_str!("redirect.rs"),
];

/// The page is what the binary prints (a test in `command_line` sees to it).
const PAGE: &str = include_str!("../../../docs/flags.md");

#[test]
fn every_flag_of_the_page_is_shown_by_a_test_that_uses_it() {
    let documented: BTreeSet<&str> = PAGE
        .lines()
        .filter_map(|line| line.strip_prefix("| `--"))
        .filter_map(|line| line.split(['=', '[', '`']).next())
        .collect();
    let shown: BTreeSet<&str> = SHOWN.iter().map(|(flag, _)| *flag).collect();
    assert_eq!(documented, shown);
    for (flag, test) in SHOWN {
        let body = SOURCES.iter().find_map(|source| body(source, test));
        let body = body.unwrap_or_else(|| panic!("there is no test {test}"));
        let variable = format!("ROLEGATE_{}", flag.to_uppercase().replace('-', "_"));
        assert!(body.contains(&format!("--{flag}")) || body.contains(&variable), "{test} has no --{flag}");
    }
}

/// The text of the test of that name.
fn body<'s>(source: &'s str, test: &str) -> Option<&'s str> {
    let (_, rest) = source.split_once(&format!("#[test]\nfn {test}() {{"))?;
    rest.split("\n}\n").next()
}
