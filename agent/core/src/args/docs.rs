//! docs/flags.md, made from the flags themselves.

use std::fmt::Write as _;

use clap::{Arg, Command};

const HEAD: &str = "# Flags

`rolegate run` (`run` may be left out) takes these. Every flag is also read from the variable beside it; a flag
goes before its variable, a variable before the default. Empty values count as not given. All mistakes are
reported at once, with exit code 64. BOOL is `true` or `false`, and `true` where it is left out
(`--iptables`, `--iptables=true`); TIME is written as `15m`, `1h30m` or `900ms`.

This page is made from the binary: `rolegate docs-flags > docs/flags.md`.
";

const TAIL: &str = "
## Environment of AWS

`AWS_REGION` and `AWS_DEFAULT_REGION` are read where `--region` is absent, and
`AWS_STS_REGIONAL_ENDPOINTS=legacy` where `--use-regional-sts-endpoint` is. The SDK's own variables
(`AWS_ENDPOINT_URL_STS`, `AWS_USE_FIPS_ENDPOINT`, `AWS_USE_DUALSTACK_ENDPOINT`, `HTTPS_PROXY`) keep their meaning.
Proxies of the environment (`HTTPS_PROXY`, `NO_PROXY`) are for TLS to AWS alone: IMDS, the endpoints of container
credentials and the API server are never asked through one, whatever `HTTP_PROXY` says.
`HOST_IP` and `NODE_NAME` are not read: give them as `--host-ip=$(HOST_IP)` and `--node=$(NODE_NAME)`.

## rolegate guard

Closes the way from pods to the node's credentials and ends, with exit code 0 where it is closed: for boot, before the
kubelet starts (`deploy/node/rolegate-guard.service`). It asks neither the API server nor AWS. `--rule-preference`
(`ROLEGATE_RULE_PREFERENCE`) is the agent's; where they differ, whoever comes last moves the rules to its own.
`--output=json` (`ROLEGATE_OUTPUT`) prints the result for machines.

## rolegate cleanup

Removes what rolegate made on this node and nothing else, whatever `--rule-preference` and `--route-table` it was made
with. `--peers` (`ROLEGATE_PEERS`) removes the rules of kube2iam
and kiam as well; `--stay` (`ROLEGATE_STAY`) waits for SIGTERM afterwards, for a DaemonSet; `--output=json`
(`ROLEGATE_OUTPUT`) prints the result for machines.

## rolegate probe

Asks 169.254.169.254 and fd00:ec2::254 as any pod does, for a session token and for the name of its role, never for
credentials. Ends with exit code 0 where rolegate answers, which the token proves, and with 1 where something else does or
nobody. `helm test` runs it in a pod. `--wait` (`ROLEGATE_WAIT`, 30s) is how long it asks again where nobody answers or
the agent does not know the pod yet; `--output=json` (`ROLEGATE_OUTPUT`) prints the result for machines.
";

/// docs/flags.md: one table per group, as the flags say it.
#[must_use]
pub fn flags_markdown() -> String {
    let mut page = HEAD.to_owned();
    let mut heading = "";
    let command = super::command();
    for arg in &flags(&command) {
        let group = arg.get_help_heading().unwrap_or_default();
        if group != heading {
            heading = group;
            let _ = write!(page, "\n## {heading}\n\n");
            page.push_str(
                "| Flag | Variable | Default | Meaning | kube2iam |\n| --- | --- | --- | --- | --- |\n",
            );
        }
        page.push_str(&row(arg));
    }
    page.push_str(TAIL);
    page
}

/// The flags of a command (of `run`, where it is all of rolegate), in the order of its help.
pub(super) fn flags(command: &Command) -> Vec<Arg> {
    let is_flag = |arg: &&Arg| arg.get_help_heading().is_some() && arg.get_long().is_some();
    command.get_arguments().filter(is_flag).cloned().collect()
}

/// The variable of a flag.
pub(super) fn variable(arg: &Arg) -> String {
    let long = arg.get_long().unwrap_or_default();
    format!("ROLEGATE_{}", long.to_ascii_uppercase().replace('-', "_"))
}

fn row(arg: &Arg) -> String {
    let help = arg.get_long_help().or_else(|| arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let (meaning, remark) = help.split_once("\n\n").unwrap_or((&help, ""));
    let (meaning, default) = meaning.split_once(" [default: ").unwrap_or((meaning, "]"));
    let value = arg.get_value_names().and_then(|names| names.first()).map_or("", |name| name.as_str());
    let optional = arg.get_num_args().is_some_and(|count| count.min_values() == 0);
    let flag = match (arg.get_long().unwrap_or_default(), optional) {
        (long, true) => format!("--{long}[={value}]"),
        (long, false) => format!("--{long}={value}"),
    };
    let default = default.trim_end_matches(']');
    let default = if default.is_empty() { String::new() } else { format!("`{default}`") };
    let remark = remark.trim_start_matches("kube2iam: ");
    let cells = [format!("`{flag}`"), format!("`{}`", variable(arg)), default, flat(meaning), flat(remark)];
    format!("| {} |\n", cells.map(|cell| cell.replace('|', "\\|")).join(" | "))
}

fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
