//! What is read, from where, and what is said when it cannot be.

use super::*;

fn argv(args: &[&str]) -> Vec<OsString> {
    std::iter::once("rolegate").chain(args.iter().copied()).map(OsString::from).collect()
}

fn read(args: &[&str], env: &[(&str, &str)]) -> Result<Invocation, Exit> {
    let env = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
    read_with(argv(args), env)
}

fn run(args: &[&str], env: &[(&str, &str)]) -> RunArgs {
    match read(args, env) {
        Ok(Invocation::Run { args, unknown }) if unknown.is_empty() => *args,
        other => panic!("{other:?}"),
    }
}

#[test]
fn definitions_are_sound() {
    command().debug_assert();
}

#[test]
fn run_is_the_default_subcommand() {
    for args in [&["--iptables", "--app-port", "8282"][..], &["run", "--iptables", "--app-port=8282"]] {
        let read = run(args, &[]);
        assert_eq!(read.redirect.iptables.as_deref(), Some("true"));
        assert_eq!(read.server.app_port.as_deref(), Some("8282"));
    }
    assert!(run(&[], &[]).redirect.iptables.is_none());
}

#[test]
fn flag_goes_before_the_variable_and_the_last_of_a_repeated_flag_counts() {
    let env =
        [("ROLEGATE_NODE", "from-env"), ("ROLEGATE_IPTABLES", "true"), ("ROLEGATE_HOST_IP", "10.0.0.9")];
    let from_env = run(&[], &env);
    assert_eq!(from_env.kubernetes.node.as_deref(), Some("from-env"));
    assert_eq!(from_env.redirect.iptables.as_deref(), Some("true"));
    for subcommand in [&[][..], &["run"]] {
        let flags = ["--node=a", "--node=b", "--iptables=false", "--host-ip=10.0.0.10"];
        let both = run(&[subcommand, &flags].concat(), &env);
        assert_eq!(both.kubernetes.node.as_deref(), Some("b"));
        assert_eq!(both.redirect.iptables.as_deref(), Some("false"));
        assert_eq!(both.redirect.host_ip, ["10.0.0.10"]);
    }
    assert!(run(&[], &[("ROLEGATE_NODE", "")]).kubernetes.node.is_none());
}

#[test]
fn every_flag_of_run_can_come_from_its_variable() {
    for arg in docs::flags(&command()) {
        let variable = docs::variable(&arg);
        let Ok(Invocation::Run { args, .. }) = read(&[], &[(&variable, "planted")]) else {
            panic!("{variable}");
        };
        let planted = format!("{args:?}").contains("planted") || args.kubernetes.api_token.is_some();
        assert!(planted, "{variable}");
    }
}

#[test]
fn unknown_flags_are_all_named_and_what_is_known_is_still_read() {
    let args = ["--nodes=secret-1", "--iptable", "--api-tokn", "secret-2", "--node=n", "-x"];
    let Ok(Invocation::Run { args, unknown }) = read(&args, &[]) else {
        panic!("read");
    };
    assert_eq!(args.kubernetes.node.as_deref(), Some("n"));
    assert_eq!(unknown.len(), 4, "{unknown:?}");
    for (name, sentence) in ["--nodes", "--iptable", "--api-tokn", "-x"].iter().zip(&unknown) {
        assert!(sentence.contains(name) && !sentence.contains("secret"), "{sentence}");
    }
}

#[test]
fn what_leaves_nothing_to_be_read_ends_with_64() {
    for args in [&["serve"][..], &["--nodes=a", "serve"], &["--node"], &["cleanup", "--node=a"]] {
        let exit = read(args, &[]).unwrap_err();
        assert_eq!((exit.code, exit.to_stdout), (EXIT_USAGE, false), "{args:?}");
        assert!(!exit.text.is_empty(), "{args:?}");
    }
}

#[test]
fn help_is_grouped_and_version_names_the_source() {
    let help = read(&["--help"], &[]).unwrap_err();
    assert_eq!((help.code, help.to_stdout), (0, true));
    for heading in
        ["Kubernetes:", "Roles:", "Namespaces:", "Credentials:", "Metadata:", "Listeners:", "Redirect:"]
    {
        assert!(help.text.contains(&format!("\n{heading}\n")), "{heading}");
    }
    assert!(help.text.contains("cleanup") && !help.text.contains("docs-flags"));
    let version = read(&["--version"], &[]).unwrap_err();
    assert_eq!((version.code, version.to_stdout), (0, true));
    assert!(
        version.text.starts_with("rolegate 0.1.0 (") && version.text.ends_with(")\n"),
        "{}",
        version.text
    );
}

#[test]
fn token_is_not_seen_in_the_debug_form_of_the_flags() {
    assert!(!format!("{:?}", run(&["--api-token=planted"], &[])).contains("planted"));
}

#[test]
fn page_about_flags_is_what_the_binary_says() {
    let page = include_str!("../../../../docs/flags.md");
    let exit = read(&["docs-flags"], &[]).unwrap_err();
    assert_eq!((exit.code, exit.to_stdout), (0, true));
    assert!(page == exit.text, "docs/flags.md is stale: rolegate docs-flags > docs/flags.md");
}
