//! Flags of the group "Redirect".

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
