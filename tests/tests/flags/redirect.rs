//! Flags of the group "Redirect".

use rolegate_tests::agent::run_to_end;
use rolegate_tests::topology::Backend;
use rolegate_tests::world::{Options, World};

use super::{ready, served, warns, world};

fn rules(world: &World, suffix: &str) -> String {
    world.topology.node().run(&format!("iptables-{suffix}-save"), &[]).unwrap()
}

#[test]
fn redirect_is_made_where_and_as_told() {
    let Some(world) = world("redirect_is_made_where_and_as_told") else { return };
    world.namespace("default", &["*"]).unwrap();
    let before = rules(&world, "nft");
    let agent = ready(&world, &["--iptables"], &["--resolve-duplicate-cache-ips"]);
    warns(&agent, "--iptables");
    warns(&agent, "--resolve-duplicate-cache-ips");
    drop(agent);
    drop(ready(&world, &["--iptables"], &["--redirect=none"]));
    assert_eq!(without_counts(&rules(&world, "nft")), without_counts(&before));

    let pod = world.pod("default", "client", |pod| pod.role("MyPodRole")).unwrap();
    for (flags, interface) in [
        (&["--iptables", "--host-interface=cali+"][..], "-i cali+"),
        (
            &["--redirect=iptables", "--host-interface=!eth0"],
            "-i eth0 -m comment --comment rolegate -j RETURN",
        ),
    ] {
        let agent = ready(
            &world,
            &["--iptables", "--host-ip"],
            &[flags, &["--host-ip=10.0.0.10", "--reconcile-period=1s"]].concat(),
        );
        assert!(served(&agent, &pod), "{}", agent.log());
        let rules = rules(&world, "nft");
        let to = rules.lines().find(|line| line.contains("--to-destination 10.0.0.10:8181"));
        assert!(to.is_some(), "{rules}");
        assert!(rules.lines().any(|line| line.contains(interface)), "{interface}\n{rules}");
    }
}

#[test]
fn pods_on_a_bridge_are_believed_where_and_as_told() {
    let Some(world) = world("pods_on_a_bridge_are_believed_where_and_as_told") else { return };
    world.namespace("default", &["*"]).unwrap();
    let pod = world.bridged_pod("default", "client", |pod| pod.role("MyPodRole")).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let elsewhere = format!("--cni-results={}", elsewhere.path().display());
    for (without, flags, believed) in [
        (&[][..], &[][..], true),
        (&["--cni-results"], &[&*elsewhere], false),
        (&["--cni-results"], &[&elsewhere, "--shared-l2=allow"], true),
        (&[], &["--shared-l2=refuse"], false),
    ] {
        let agent = ready(&world, without, flags);
        let status = pod.imds().get("/latest/meta-data/iam/security-credentials/").unwrap().status;
        assert_eq!(status, if believed { 200 } else { 500 }, "{flags:?}: {}", agent.log());
    }
}

#[test]
fn policy_rules_and_their_table_have_the_numbers_that_they_are_told() {
    let Some(world) = world("policy_rules_and_their_table_have_the_numbers_that_they_are_told") else {
        return;
    };
    world.namespace("default", &["*"]).unwrap();
    let pod = world.pod("default", "client", |pod| pod.role("MyPodRole")).unwrap();
    let node = world.topology.node();
    let dump = || {
        node.run("sh", &["-c", "ip rule; ip -6 rule; ip route show table all; ip -6 route show table all"])
            .unwrap()
    };
    let ours = |dump: &str| -> Vec<String> {
        let is_ours = |line: &&str| line.contains("169.254.169.254") || line.contains("nop");
        dump.lines()
            .filter(is_ours)
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect()
    };
    // As at boot, with another number than the agent has then.
    let guarded = run_to_end(Some(&**node), &["guard", "--rule-preference=700"]).unwrap();
    assert!(guarded.status.success(), "{guarded:?}");
    assert!(dump().contains("700:"), "{}", dump());
    let told = ["--redirect=route", "--rule-preference=300", "--route-table=1234"];
    let agent = ready(&world, &["--iptables"], &told);
    assert!(served(&agent, &pod), "{}", agent.log());
    let rules = [
        "300: from all to 169.254.169.254 iif lo goto 304",
        "301: from all to 169.254.169.254 lookup 1234",
        "302: from all to 169.254.169.254 prohibit",
        "304: from all nop",
        "304: from all nop",
        "local 169.254.169.254 dev lo table 1234 proto kernel scope host",
    ];
    assert_eq!(ours(&dump()), rules);
    drop(agent);
    // Other numbers replace those; and cleanup needs not be told any.
    let agent = ready(&world, &["--iptables"], &["--redirect=route"]);
    assert!(served(&agent, &pod), "{}", agent.log());
    assert!(!dump().contains("1234") && dump().contains("43518"), "{}", dump());
    drop(agent);
    let moved = ready(&world, &["--iptables"], &["--redirect=route", "--rule-preference=31000"]);
    drop(moved);
    assert!(run_to_end(Some(&**node), &["cleanup"]).unwrap().status.success());
    assert_eq!(ours(&dump()), Vec::<String>::new());
}

/// Counters and comments change by themselves.
fn without_counts(rules: &str) -> Vec<String> {
    let lines = rules.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split(" [").next().unwrap_or_default().to_owned()).collect()
}

/// Legacy tables notify nobody: only the timer finds out.
#[test]
fn rules_are_compared_as_often_as_told() {
    let test = "rules_are_compared_as_often_as_told";
    if !rolegate_tests::netns::on_path("iptables-legacy") {
        return rolegate_tests::skip(test, "there is no iptables-legacy");
    }
    if let Some(why) = World::missing() {
        return rolegate_tests::skip(test, &why);
    }
    let options = Options { backend: Backend::Legacy, ..Options::default() };
    let world = World::with(&options).unwrap();
    let agent = ready(&world, &[], &["--reconcile-period=1s"]);
    let node = world.topology.node();
    let mut removed = 0;
    // Each repair is an interval after the one before: ten of the default's would outlast the patience of `poll`.
    agent
        .poll("the rule is back for the tenth time", || {
            let there = rules(&world, "legacy").contains("-A PREROUTING");
            if there {
                node.run("iptables-legacy", &["-t", "nat", "-F", "PREROUTING"])?;
                removed += 1;
            }
            Ok(removed > 10)
        })
        .unwrap();
}
