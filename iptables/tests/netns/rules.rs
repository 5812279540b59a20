//! Installed, left alone, mended and removed.

use std::collections::BTreeSet;
use std::net::IpAddr;

use futures::FutureExt;
use rolegate_iptables::iptables::{
    self, Backend, Cleanup, Desired, Drift, Iptables, Outcome, Peer, RuleWatch,
};
use rolegate_iptables::{Family, InterfaceSpec, Links};

use crate::host::{Netns, Programs, can_run, with_each_backend};

const TARGETS: &[&str] = &["10.0.0.10", "fd00:a::10"];
const KUBE2IAM: &str = "-p tcp -d 169.254.169.254 --dport 80 -j DNAT --to-destination 10.0.0.10:8181 -i cbr0";

pub(crate) fn desired(interfaces: &str, targets: &[&str], port: u16) -> Desired {
    let targets: Vec<IpAddr> = targets.iter().map(|target| target.parse().expect(target)).collect();
    Desired::new(InterfaceSpec::parse(interfaces).expect(interfaces), &targets, port).expect("desired")
}

/// One look, with the uplinks of the namespace.
pub(crate) fn look(netns: &Netns, programs: &Programs, desired: &Desired) -> Outcome {
    let (search, desired) = (programs.search.clone(), desired.clone());
    netns.block_on(|| async move {
        let host = Iptables::detect(&search).await.expect("back end");
        let links = Links::read().await.expect("links");
        host.reconcile(&desired, &links.uplinks, &|_| {}).await
    })
}

fn cleanup(netns: &Netns, programs: &Programs, peers: bool) -> Cleanup {
    let search = programs.search.clone();
    netns.block_on(move || async move { iptables::cleanup(&search, peers).await })
}

fn drifts(outcome: &Outcome) -> BTreeSet<Drift> {
    assert!(outcome.errors.is_empty(), "{outcome:?}");
    outcome.causes.iter().map(|cause| cause.drift).collect()
}

/// A node's tables with rules of others in them.
fn seed(netns: &Netns, programs: &Programs) {
    programs.sh(
        netns,
        "for c in \"$ipt\" \"$ip6t\"; do
         $c -t nat -N KUBE-SERVICES; $c -t nat -A PREROUTING -m comment --comment 'kubernetes service portals' -j KUBE-SERVICES
         $c -N KUBE-FORWARD; $c -A FORWARD -j KUBE-FORWARD; $c -P FORWARD DROP; $c -A KUBE-FORWARD -i cni0 -j ACCEPT
         done",
    );
}

#[test]
fn rules_are_installed_once_and_then_left_alone() {
    with_each_backend("rules_are_installed_once_and_then_left_alone", |programs| {
        let netns = Netns::new();
        seed(&netns, programs);
        let desired = desired("cali+,cbr0", TARGETS, 8181);
        let first = look(&netns, programs, &desired);
        assert!(first.changed);
        assert_eq!(drifts(&first), BTreeSet::from([Drift::Missing]));
        assert_eq!(programs.restores(), 2, "one batch for each family");
        let installed = programs.dump(&netns);
        let second = look(&netns, programs, &desired);
        assert!(!second.changed);
        assert_eq!(programs.restores(), 2);
        assert_eq!(programs.dump(&netns), installed);
        assert_eq!(
            programs.list(&netns, "nat", "PREROUTING")[0],
            "-A PREROUTING -m comment --comment rolegate -j ROLEGATE-PREROUTING"
        );
        assert_eq!(programs.list(&netns, "filter", "ROLEGATE-FORWARD").len(), 2);
        assert!(installed.contains("-i cbr0 -p tcp -m comment --comment rolegate -m tcp --dport 80 -j DNAT --to-destination [fd00:a::10]:8181"), "{installed}");
    });
}

#[test]
fn every_form_of_interfaces_reads_back_as_it_was_written() {
    with_each_backend("every_form_of_interfaces_reads_back_as_it_was_written", |programs| {
        let netns = Netns::new();
        for interfaces in
            ["cbr0", "cali+", "cali+,eni+,vlan.7", "!eth0", "!eth0,!ens+", "auto", "a=b~c@d-e_f"]
        {
            let desired = desired(interfaces, TARGETS, 8181);
            drifts(&look(&netns, programs, &desired));
            let before = programs.restores();
            assert!(!look(&netns, programs, &desired).changed, "{interfaces}");
            assert_eq!(programs.restores(), before, "{interfaces}");
        }
    });
}

#[test]
fn a_displaced_doubled_or_deleted_jump_is_put_right() {
    with_each_backend("a_displaced_doubled_or_deleted_jump_is_put_right", |programs| {
        let netns = Netns::new();
        seed(&netns, programs);
        let desired = desired("cali+", TARGETS, 8181);
        look(&netns, programs, &desired);
        let right = programs.dump(&netns);
        let jump = "-m comment --comment rolegate -j ROLEGATE-PREROUTING";
        for (damage, undo, drift) in [
            (
                "$ipt -t nat -I PREROUTING -i foo -j ACCEPT",
                "$ipt -t nat -D PREROUTING -i foo -j ACCEPT",
                Drift::JumpNotFirst,
            ),
            ("$ip6t -I FORWARD -i foo -j ACCEPT", "$ip6t -D FORWARD -i foo -j ACCEPT", Drift::JumpNotFirst),
            (
                &format!("$ipt -t nat -A PREROUTING {jump}; $ipt -t nat -A PREROUTING {jump}"),
                "true",
                Drift::JumpDuplicate,
            ),
            (&format!("$ipt -t nat -D PREROUTING {jump}"), "true", Drift::JumpMissing),
            ("$ip6t -F ROLEGATE-FORWARD", "true", Drift::ChainChanged),
            ("$ipt -t nat -I ROLEGATE-PREROUTING -j RETURN", "true", Drift::ChainChanged),
        ] {
            programs.sh(&netns, damage);
            let before = programs.restores();
            assert_eq!(drifts(&look(&netns, programs, &desired)), BTreeSet::from([drift]), "{damage}");
            assert_eq!(programs.restores(), before + 1, "{damage}");
            programs.sh(&netns, undo);
            assert_eq!(programs.dump(&netns), right, "{damage}");
        }
    });
}

#[test]
fn what_others_flush_is_restored() {
    with_each_backend("what_others_flush_is_restored", |programs| {
        let netns = Netns::new();
        let desired = desired("auto", TARGETS, 8181);
        look(&netns, programs, &desired);
        let right = programs.dump(&netns);
        let mut flushes = vec![
            "$ipt -t nat -F; $ipt -t nat -X",
            "$ipt -F; $ipt -X; $ip6t -t nat -F",
            "for t in ip ip6; do printf '*nat\\n:PREROUTING ACCEPT [0:0]\\nCOMMIT\\n' | ${t}tables-$backend-restore; done",
        ];
        if programs.backend == "nft" {
            flushes.push("nft flush ruleset");
        }
        for flush in flushes {
            programs.sh(&netns, &format!("backend={}; {flush}", programs.backend));
            assert!(!drifts(&look(&netns, programs, &desired)).is_empty(), "{flush}");
            assert_eq!(programs.dump(&netns), right, "{flush}");
        }
    });
}

#[test]
fn kube2iams_rule_is_replaced_in_the_batch_that_installs_ours() {
    with_each_backend("kube2iams_rule_is_replaced_in_the_batch_that_installs_ours", |programs| {
        let netns = Netns::new();
        seed(&netns, programs);
        programs.sh(&netns, &format!("$ipt -t nat -A PREROUTING {KUBE2IAM}"));
        programs.sh(&netns, "$ipt -t nat -A PREROUTING -p tcp -d 169.254.169.254 --dport 80 -j DNAT --to-destination 10.0.0.10:3100 ! -i eth0");
        programs.sh(&netns, "$ipt -t nat -A PREROUTING -p tcp -d 169.254.169.254 --dport 80 -j LOG");
        let outcome = look(&netns, programs, &desired("cbr0", TARGETS, 8181));
        assert_eq!(
            drifts(&outcome),
            BTreeSet::from([Drift::Missing, Drift::Foreign(Peer::Kube2iam), Drift::Foreign(Peer::Kiam)])
        );
        assert_eq!(programs.restores(), 2);
        let hooked = programs.list(&netns, "nat", "PREROUTING");
        assert_eq!(hooked.len(), 3, "ours, KUBE-SERVICES and the LOG rule: {hooked:?}");
    });
}

#[test]
fn cleanup_leaves_the_tables_as_they_were() {
    with_each_backend("cleanup_leaves_the_tables_as_they_were", |programs| {
        let netns = Netns::new();
        seed(&netns, programs);
        programs.sh(&netns, "$ipt -t nat -A PREROUTING -d 169.254.169.254/32 -i foo -j RETURN");
        let before = programs.dump(&netns);
        look(&netns, programs, &desired("!eth0", TARGETS, 8181));
        assert_ne!(programs.dump(&netns), before);
        let done = cleanup(&netns, programs, false);
        assert!(done.errors.is_empty(), "{done:?}");
        assert_eq!(done.removed.len(), 4, "{done:?}");
        assert_eq!(programs.dump(&netns), before);
        let again = cleanup(&netns, programs, false);
        assert!(again.removed.is_empty() && again.errors.is_empty(), "{again:?}");
    });
}

#[test]
fn leftovers_are_removed_and_no_program_runs_where_there_can_be_none() {
    with_each_backend("leftovers_are_removed_and_no_program_runs_where_there_can_be_none", |programs| {
        let netns = Netns::new();
        let leftovers = |search: std::ffi::OsString| {
            netns.block_on(move || async move { iptables::remove_leftovers(&search).await })
        };
        // Where a program is looked for, there is none: to look for one would be to run it.
        assert!(leftovers("/nowhere".into()).expect("nothing is there").is_empty());
        seed(&netns, programs);
        let before = programs.dump(&netns);
        assert!(look(&netns, programs, &desired("auto", TARGETS, 8181)).changed);
        let unable = leftovers("/nowhere".into());
        assert_eq!(unable.is_err(), programs.backend == "nft", "{unable:?}");
        assert_eq!(leftovers(programs.search.clone()).expect("removed").len(), 4);
        assert_eq!(programs.dump(&netns), before);
        assert!(leftovers(programs.search.clone()).expect("nothing is left").is_empty());
    });
}

#[test]
fn cleanup_takes_the_peers_rule_only_when_told() {
    with_each_backend("cleanup_takes_the_peers_rule_only_when_told", |programs| {
        let netns = Netns::new();
        programs.sh(&netns, &format!("$ipt -t nat -A PREROUTING {KUBE2IAM}"));
        assert!(cleanup(&netns, programs, false).removed.is_empty());
        assert_eq!(programs.list(&netns, "nat", "PREROUTING").len(), 1);
        assert_eq!(cleanup(&netns, programs, true).removed.len(), 1);
        assert!(programs.list(&netns, "nat", "PREROUTING").is_empty());
    });
}

#[test]
fn looking_at_legacy_tables_that_do_not_exist_does_not_make_them() {
    if !can_run("looking_at_legacy_tables_that_do_not_exist_does_not_make_them", &["nft", "legacy"]) {
        return;
    }
    let (netns, programs) = (Netns::new(), Programs::of_all("nft", &["nft", "legacy"]));
    look(&netns, &programs, &desired("auto", TARGETS, 8181));
    cleanup(&netns, &programs, true);
    assert_eq!(
        netns.sh("cat /proc/thread-self/net/ip_tables_names /proc/thread-self/net/ip6_tables_names"),
        ""
    );
}

#[test]
fn remains_in_the_other_back_end_are_taken_away_after_ours_stands() {
    if !can_run("remains_in_the_other_back_end_are_taken_away_after_ours_stands", &["nft", "legacy"]) {
        return;
    }
    let (netns, both) = (Netns::new(), Programs::of_all("nft", &["nft", "legacy"]));
    let legacy = Programs::of("legacy");
    seed(&netns, &both);
    look(&netns, &legacy, &desired("cbr0", TARGETS, 9999));
    legacy.sh(&netns, &format!("$ipt -t nat -A PREROUTING {KUBE2IAM}"));
    let outcome = look(&netns, &both, &desired("cbr0", TARGETS, 8181));
    assert_eq!(
        drifts(&outcome),
        BTreeSet::from([Drift::Missing, Drift::OtherBackend, Drift::Foreign(Peer::Kube2iam)])
    );
    assert!(legacy.list(&netns, "nat", "PREROUTING").is_empty());
    assert!(!legacy.dump(&netns).contains("ROLEGATE"));
    assert!(!look(&netns, &both, &desired("cbr0", TARGETS, 8181)).changed);
}

#[test]
fn the_back_end_is_the_kubelets_else_the_one_with_more_rules_else_nft() {
    if !can_run("the_back_end_is_the_kubelets_else_the_one_with_more_rules_else_nft", &["nft", "legacy"]) {
        return;
    }
    let both = Programs::of_all("nft", &["nft", "legacy"]);
    let detected = |netns: &Netns, programs: &Programs| {
        let search = programs.search.clone();
        netns.block_on(move || async move {
            let host = Iptables::detect(&search).await.expect("detected");
            Family::ALL.map(|family| host.backend(family).expect("back end"))
        })
    };
    let netns = Netns::new();
    assert_eq!(detected(&netns, &both), [Backend::Nft; 2], "nothing to go by");
    netns.sh("iptables-legacy -A INPUT -j ACCEPT");
    assert_eq!(detected(&netns, &both), [Backend::Legacy, Backend::Nft], "more rules, in one family");
    netns.sh("iptables-nft -t mangle -N KUBE-KUBELET-CANARY");
    assert_eq!(detected(&netns, &both), [Backend::Nft; 2], "the kubelet's chain");
    netns.sh("iptables-legacy -t mangle -N KUBE-KUBELET-CANARY");
    assert_eq!(detected(&netns, &both), [Backend::Nft; 2], "the kubelet's chain in both");
    netns.sh("iptables-nft -t mangle -X; ip6tables-legacy -t mangle -N KUBE-IPTABLES-HINT");
    assert_eq!(detected(&netns, &both), [Backend::Legacy; 2]);
    assert_eq!(detected(&netns, &Programs::of("nft")), [Backend::Nft; 2], "the only one there is");
}

#[test]
fn legacy_tables_that_cannot_be_read_are_no_reason_for_nft() {
    if !can_run("legacy_tables_that_cannot_be_read_are_no_reason_for_nft", &["nft", "legacy"]) {
        return;
    }
    let both = Programs::of_all("nft", &["nft", "legacy"]);
    both.wrap("iptables-legacy-save", "echo no right to it >&2; exit 1");
    let netns = Netns::new();
    let detect = || {
        let search = both.search.clone();
        netns.block_on(move || async move {
            let host = Iptables::detect(&search).await;
            (iptables::legacy_in_use(&search), host.map(|host| host.backend(Family::V4).expect("back end")))
        })
    };
    let (in_use, found) = detect();
    assert!(!in_use && found.is_ok_and(|found| found == Backend::Nft), "there are none");
    netns.sh("iptables-legacy -A INPUT -j ACCEPT");
    let (in_use, found) = detect();
    let error = found.expect_err("whose the node is cannot be told").to_string();
    assert!(in_use && error.contains("no right to it"), "{error}");
    netns.sh("iptables-nft -t mangle -N KUBE-KUBELET-CANARY");
    let (in_use, found) = detect();
    assert!(in_use && found.is_ok_and(|found| found == Backend::Nft), "the kubelet's chain tells");
}

#[test]
fn a_missing_iptables_is_named() {
    if !can_run("a_missing_iptables_is_named", &[]) {
        return;
    }
    let error = Netns::new()
        .block_on(|| async { Iptables::detect("/nonexistent".as_ref()).await.expect_err("none") });
    let text = error.to_string();
    assert!(
        text.starts_with("no iptables for IPv4: neither iptables-nft with iptables-nft-save and iptables-nft-restore, nor iptables-legacy"),
        "{text}"
    );
}

#[test]
fn a_family_without_target_is_dropped_and_loses_an_earlier_redirect() {
    with_each_backend("a_family_without_target_is_dropped_and_loses_an_earlier_redirect", |programs| {
        let netns = Netns::new();
        look(&netns, programs, &desired("cbr0", TARGETS, 8181));
        let v4_only = desired("cbr0", &["10.0.0.10"], 8181);
        assert_eq!(drifts(&look(&netns, programs, &v4_only)), BTreeSet::from([Drift::ChainChanged]));
        let v6 =
            netns.sh(&format!("ip6tables-{0}-save -t nat; ip6tables-{0}-save -t filter", programs.backend));
        assert!(!v6.contains("ROLEGATE-PREROUTING"), "{v6}");
        assert!(v6.contains("-A ROLEGATE-FORWARD -d fd00:ec2::254/128"), "{v6}");
        assert!(!look(&netns, programs, &v4_only).changed);
    });
}

#[test]
fn auto_follows_the_default_routes() {
    with_each_backend("auto_follows_the_default_routes", |programs| {
        let netns = Netns::new();
        netns.sh("for i in 0 1; do ip link add up$i type bridge; ip addr add 10.9.$i.2/24 dev up$i; ip link set up$i up; done
                  ip route add default via 10.9.0.1");
        let desired = desired("auto", TARGETS, 8181);
        look(&netns, programs, &desired);
        let returns = || {
            let rules = programs.list(&netns, "nat", "ROLEGATE-PREROUTING");
            rules
                .iter()
                .filter_map(|rule| Some(rule.strip_suffix("-j RETURN")?.split(' ').nth(3)?.to_owned()))
                .collect::<Vec<_>>()
        };
        assert_eq!(returns(), ["lo", "up0"]);
        netns.sh("ip route replace default via 10.9.1.1");
        assert_eq!(drifts(&look(&netns, programs, &desired)), BTreeSet::from([Drift::ChainChanged]));
        assert_eq!(returns(), ["lo", "up1"]);
    });
}

#[test]
fn rules_that_cannot_be_written_are_an_error_with_the_programs_own_words() {
    if !can_run("rules_that_cannot_be_written_are_an_error_with_the_programs_own_words", &["nft"]) {
        return;
    }
    let (netns, programs) = (Netns::new(), Programs::of("nft"));
    programs.wrap("iptables-nft-restore", "echo 'iptables-restore: line 2 failed' >&2; exit 1");
    let outcome = look(&netns, &programs, &desired("cbr0", TARGETS, 8181));
    let [error] = outcome.errors.as_slice() else { panic!("{outcome:?}") };
    let text = error.to_string();
    assert!(
        text.ends_with(
            "iptables-nft-restore --noflush --wait=5: exit status: 1: iptables-restore: line 2 failed"
        ),
        "{text}"
    );
    assert!(programs.restores() > 0, "the other family is installed all the same");
}

#[test]
fn a_table_that_cannot_be_read_keeps_no_other_from_being_mended() {
    if !can_run("a_table_that_cannot_be_read_keeps_no_other_from_being_mended", &["nft"]) {
        return;
    }
    let (netns, programs) = (Netns::new(), Programs::of("nft"));
    programs
        .wrap("iptables-nft", "case \"$*\" in *'-t nat'*) echo 'table is incompatible' >&2; exit 1;; esac");
    let outcome = look(&netns, &programs, &desired("cbr0", TARGETS, 8181));
    let [error] = outcome.errors.as_slice() else { panic!("{outcome:?}") };
    assert!(error.to_string().ends_with("-S PREROUTING: exit status: 1: table is incompatible"), "{error}");
    assert_eq!(programs.list(&netns, "filter", "ROLEGATE-FORWARD").len(), 2, "the drop stands all the same");
}

#[test]
fn a_change_of_nft_rules_is_told_once_and_links_are_none() {
    if !can_run("a_change_of_nft_rules_is_told_once_and_links_are_none", &["nft"]) {
        return;
    }
    let netns = Netns::new();
    let changing = netns.clone();
    netns.block_on(move || async move {
        let mut watch = RuleWatch::new().expect("watch");
        changing.sh("ip link add d1 type bridge");
        assert!(watch.changed().now_or_never().is_none(), "no rule has changed");
        // More than the socket's buffer holds.
        let many = "-A INPUT -m comment --comment much -j ACCEPT\n".repeat(500);
        for rules in ["-A INPUT -j ACCEPT\n", &many] {
            changing.sh(&format!("iptables-nft-restore --noflush <<X\n*filter\n{rules}COMMIT\nX"));
            watch.changed().await.expect("told");
            assert!(watch.changed().now_or_never().is_none(), "told twice");
        }
    });
}
