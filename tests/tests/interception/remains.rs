//! What is left: all of it after the agent's end, nothing of it after `rolegate cleanup`, and all of others' after both.

use regex::Regex;
use rolegate_tests::agent::run_to_end;
use rolegate_tests::siege::Capture;
use rolegate_tests::topology::imds_v4;
use rolegate_tests::traffic::{Got, Traffic};
use rolegate_tests::world::World;

/// Of others: rules beside ours and much like ours, in every table and place that the agent writes to. Where a table has
/// nothing of others, iptables leaves an empty one.
const FOREIGN: &str = r#"set -e
for f in -4 -6; do
  imds=169.254.169.254; other=169.254.169.253; [ $f = -6 ] && imds=fd00:ec2::254 && other=fd00:ec2::253
  ip $f rule add pref 1 to $other lookup main
  ip $f rule add pref 3 to $other lookup 43518
  ip $f rule add pref 4 to $imds prohibit
  ip $f rule add pref 5 lookup main suppress_prefixlength 0
  ip $f route add local $other dev lo table 43518
  ip $f route add prohibit default table 43519
done
nft -f - <<'X'
table inet other {
  set s { type ipv4_addr; elements = { 169.254.169.254 }; }
  chain forward { type filter hook forward priority 0; ip daddr @s drop; }
}
table inet rolegate2 {
  chain input { type filter hook input priority -10; }
}
X
for p in iptables-nft ip6tables-nft iptables-legacy ip6tables-legacy; do
  $p -w -N ROLEGATE-FOREIGN; $p -w -A ROLEGATE-FOREIGN -j RETURN; $p -w -A FORWARD -j ROLEGATE-FOREIGN
  $p -w -A FORWARD -p udp --dport 9 -m comment --comment rolegate -j DROP
  $p -w -t nat -A PREROUTING -p tcp --dport 9 -j RETURN
  $p -w -t nat -A POSTROUTING -o none -j MASQUERADE
done"#;

const DUMP: &str = "for f in -4 -6; do ip $f rule; ip $f route show table all; done; nft list ruleset
for p in iptables ip6tables; do for b in nft legacy; do $p-$b-save; done; done; ip -o link | wc -l";

/// Everything on the node that routes or filters, without counters and comments.
fn everything(world: &World) -> Vec<String> {
    let dump = world.topology.node().run("sh", &["-ec", DUMP]).unwrap();
    let counters = Regex::new(r"\[\d+:\d+\]|packets \d+ bytes \d+|handle \d+").unwrap();
    dump.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| counters.replace_all(line, "").into_owned())
        .collect()
}

fn assert_same(now: &[String], before: &[String], what: &str) {
    let lacks = |from: &[String], these: &[String]| -> Vec<String> {
        these.iter().filter(|line| !from.contains(line)).cloned().collect()
    };
    assert_eq!(lacks(now, before), Vec::<String>::new(), "{what}: gone");
    assert_eq!(lacks(before, now), Vec::<String>::new(), "{what}: new");
    assert_eq!(now, before, "{what}: the order");
}

fn cleanup(world: &World, args: &[&str]) -> String {
    let output = run_to_end(Some(world.topology.node()), args).unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn leaves_all_then_nothing(test: &str, capture: Capture) {
    let Some(world) = capture.world(test) else { return };
    world.topology.node().run("sh", &["-c", FOREIGN]).unwrap();
    let pod = world.pod("default", "pod", |pod| pod.role("MyPodRole")).unwrap();
    world.topology.bridge().unwrap();
    let before = everything(&world);
    let agent = capture.agent(&world, &[]).unwrap();
    let installed = everything(&world);
    assert_ne!(installed, before);
    agent.sigterm().unwrap();
    assert!(agent.wait().unwrap().success(), "{}", agent.log());
    assert_same(&everything(&world), &installed, &format!("{capture:?}, after the end"));
    let traffic = Traffic::start(&pod.net, imds_v4());
    traffic.wait_for(3, |got| got == Got::Nothing).unwrap();

    let said: serde_json::Value =
        serde_json::from_str(&cleanup(&world, &["cleanup", "--output", "json"])).unwrap();
    assert_eq!(said["errors"].as_array().unwrap().len(), 0, "{said}");
    assert!(!said["removed"].as_array().unwrap().is_empty(), "{said}");
    assert_same(&everything(&world), &before, &format!("{capture:?}, cleaned up"));
    assert!(cleanup(&world, &["cleanup"]).contains("nothing of rolegate's was found"));
}

/// P11: the end takes nothing away, and `rolegate cleanup` takes what is ours and nothing else, whatever else is there.
#[test]
fn cleanup_removes_what_is_ours_and_nothing_else() {
    for capture in Capture::ALL {
        leaves_all_then_nothing("cleanup_removes_what_is_ours_and_nothing_else", capture);
    }
}
