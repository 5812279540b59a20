//! What is read from where, what is said about mistakes, and the group "Logs".

use std::process::Output;

use rolegate::config;
use rolegate_tests::agent::{Agent, binary};
use rolegate_tests::cluster::Cluster;
use rolegate_tests::kube_api::Resource;

use super::{start_in, world};

/// Runs the binary to its end, with these variables and no others.
fn run(args: &[&str], env: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut command = std::process::Command::new(binary().unwrap());
    let Output { status, stdout, stderr } =
        command.args(args).env_clear().envs(env.iter().copied()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn help_is_grouped_and_version_and_page_are_printed() {
    let (code, help, errors) = run(&["--help"], &[]);
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    let at = |text: &str| help.find(text).unwrap_or_else(|| panic!("{text} is not in\n{help}"));
    let groups = [
        "\nKubernetes:\n",
        "\nRoles:\n",
        "\nNamespaces:\n",
        "\nCredentials:\n",
        "\nMetadata:\n",
        "\nListeners:\n",
        "\nRedirect:\n",
        "\nLogs and profile:\n",
    ];
    assert!(groups.map(at).is_sorted(), "{help}");
    assert!(at("--prefetch") > at("\nCredentials:\n") && at("--prefetch") < at("\nMetadata:\n"));
    assert!(run(&["run", "--help"], &[]).1.contains("\nCredentials:\n"));

    let (code, version, _) = run(&["--version"], &[]);
    assert_eq!(code, Some(0));
    assert!(version.starts_with("rolegate ") && version.contains(char::is_numeric), "{version}");

    let (code, page, _) = run(&["docs-flags"], &[]);
    assert_eq!(code, Some(0));
    assert_eq!(page.trim_end(), include_str!("../../../docs/flags.md").trim_end());
}

#[test]
fn all_mistakes_of_flags_and_variables_are_told_at_once() {
    let (code, printed, said) = run(
        &[
            "--no-such-flag=1",
            "--app-port=eighty",
            "--metadata-allow=iam/**,public-ipv4",
            "--metadata-allow=a//b",
            "--reconcile-period=1m",
            "--base-role-arn=arn:aws:iam::1:role/",
            "--default-role=a",
            "--auto-discover-default-role",
            "--iptables",
        ],
        &[("ROLEGATE_LOG_FORMAT", "logfmt"), ("ROLEGATE_METRICS_PORT", "70000"), ("ROLEGATE_IMDS_V1", "")],
    );
    assert_eq!((code, printed.as_str()), (Some(64), ""), "{said}");
    for mistake in [
        "--no-such-flag: there is no such flag",
        "--app-port=eighty: allowed is a number from 1 to 65535",
        "--metadata-allow=iam/**: iam, identity-credentials, security-credentials and user-data are never",
        "--metadata-allow=a//b: a segment is empty",
        "--reconcile-period=1m: allowed is a time from 1s to 5s",
        "--base-role-arn=arn:aws:iam::1:role/: the account",
        "--log-format=logfmt: allowed is text or json",
        "--metrics-port=70000: allowed is a number from 1 to 65535",
        "--default-role and --auto-discover-default-role exclude each other",
        "give --allow-node-role as well",
        "--node=NAME is needed",
        "--host-ip=ADDRESS is needed with --iptables",
    ] {
        assert!(said.contains(mistake), "{mistake}\n{said}");
    }
    assert!(
        said.contains("12 mistakes") && !said.contains("public-ipv4") && !said.contains("imds-v1"),
        "{said}"
    );
    assert_eq!(run(&["--prefetc", "--node=n"], &[]).0, Some(64));
    assert_eq!(run(&["no-such-command"], &[]).0, Some(64));
}

/// The configuration, or the mistakes, of `args` after what is always given, but for `without`.
fn read(without: &str, args: &[&str]) -> Result<String, String> {
    let usual = ["--node=n", "--host-ip=10.0.0.10", "--base-role-arn=arn:aws:iam::123456789012:role/"];
    let usual = usual.iter().filter(|flag| !flag.starts_with(&format!("{without}=")));
    let argv = std::iter::once(&"rolegate").chain(usual).chain(args).map(|arg| (*arg).into());
    config::parse(argv).map(|command| format!("{command:?}")).map_err(|exit| exit.text)
}

/// K8: `=false`, `=0` and an empty value of every flag that `--help` names mean what they say: none turns a flag on,
/// none takes the next argument for its value, and what is not understood ends the start.
#[test]
fn false_zero_and_empty_values_never_turn_a_flag_on_or_swallow_the_next_argument() {
    const NEXT: &str = "--drain-timeout=7s";
    let help = run(&["--help"], &[]).1;
    let flags: Vec<(&str, &str)> = help
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("--") && line.contains('<'))
        .filter_map(|line| line.split_once(['[', ' ']))
        .collect();
    assert!(flags.len() > 40, "{help}");
    for (flag, value) in flags {
        let with = |value: &str| read(flag, &[&format!("{flag}={value}")]);
        let (plain, bare) = (read(flag, &[]), read(flag, &[flag, NEXT]));
        assert!(plain.is_ok(), "{flag}: {plain:?}");
        assert_eq!(with(""), plain, "{flag}= is as if it were not given");
        if flag != "--drain-timeout" {
            assert_ne!(read(flag, &[NEXT]), plain);
            assert_eq!(read(flag, &[&format!("{flag}="), NEXT]), read(flag, &[NEXT]), "{flag}= {NEXT}");
        }
        if value.starts_with("=<") {
            // Some mean another word than true and false as well; none means off by anything else.
            for off in ["0", "f", "F", "False", "FALSE"] {
                assert_eq!(with(off), with("false"), "{flag}={off}");
            }
            assert_ne!(with("true"), with("false"), "{flag}");
            assert_eq!(bare, read(flag, &[&format!("{flag}=true"), NEXT]), "{flag} {NEXT}");
            assert!(read(flag, &[flag, "false"]).is_err(), "{flag} false");
            assert!(with("no").is_err_and(|said| said.contains(&format!("{flag}=no"))), "{flag}=no");
        } else {
            assert!(bare.is_err(), "{flag} takes {NEXT} for its value");
            for value in ["false", "0"] {
                match with(value) {
                    // The one whose default is 0.
                    Ok(_) if (flag, value) == ("--iam-role-error-ttl", "0") => {}
                    Ok(config) => {
                        assert_ne!(Ok(config), plain, "{flag}={value} is not as if it were not given")
                    }
                    Err(said) => assert!(said.contains(flag), "{flag}={value}: {said}"),
                }
            }
        }
    }
}

#[test]
fn cleanup_reads_variables_too() {
    let (code, _, said) =
        run(&["cleanup"], &[("ROLEGATE_OUTPUT", "xml"), ("ROLEGATE_PEERS", "maybe"), ("ROLEGATE_NODE", "n")]);
    assert_eq!(code, Some(64));
    assert!(said.contains("--output=xml") && said.contains("--peers=maybe"), "{said}");
    let (code, _, said) = run(&["cleanup", "--peers", "--output=json", "--node=n"], &[]);
    assert_eq!(code, Some(64));
    assert!(said.contains("--node: there is no such flag"), "{said}");
}

#[test]
fn log_is_written_as_told_and_a_flag_goes_before_its_variable() {
    let Some(world) = world("log_is_written_as_told_and_a_flag_goes_before_its_variable") else { return };
    let without = ["--iptables", "--log-format", "--log-level", "--node"];
    let env = [
        ("ROLEGATE_NODE", "node-3.example"),
        ("ROLEGATE_LOG_FORMAT", "json"),
        ("ROLEGATE_LOG_LEVEL", "warn"),
        ("ROLEGATE_NAMESPACE_RESTRICTIONS", "audit"),
    ];
    let levels = |agent: &Agent| -> Vec<String> {
        agent.lines().iter().filter_map(|line| line.text_of("level")).collect()
    };

    // Of the variables alone.
    let agent = start_in(&world, &without, &[], &env);
    agent.ready().unwrap();
    let said = levels(&agent);
    assert!(!said.is_empty() && said.iter().all(|level| level == "WARN"), "{}", agent.log());
    drop(agent);
    if !Cluster::wants_real() {
        let requests = world.cluster.double().unwrap().requests();
        let pods = requests.iter().find(|request| request.is_list(Resource::Pods)).unwrap();
        assert_eq!(pods.query["fieldSelector"], "spec.nodeName=node-3.example");
    }

    // Flags before them, defaults where neither is.
    let agent = start_in(&world, &without, &["--log-format=text", "--log-level=info", "--node=n"], &env);
    agent.wait_for_line("a line of text", |line| line.text.contains(" INFO ")).unwrap();
    agent.wait_for_line("the variable's restrictions", |line| line.text.contains("audit: ")).unwrap();
    agent.ready().unwrap();
    assert!(agent.lines().iter().all(|line| line.json.is_none() && !line.text.contains(" DEBUG ")));
    drop(agent);
    let agent = start_in(&world, &without, &["--verbose", "--node=n"], &[]);
    agent.wait_for_line("a line for debugging", |line| line.text.contains(" DEBUG ")).unwrap();
    agent.wait_for_line("the default's restrictions", |line| line.text.contains("enforce: ")).unwrap();
}
