//! The rendered rules, word for word.

use super::*;

fn desired(interfaces: &str, targets: &[&str]) -> Desired {
    let targets: Vec<IpAddr> = targets.iter().map(|target| target.parse().expect(target)).collect();
    Desired::new(InterfaceSpec::parse(interfaces).expect(interfaces), &targets, 8181).expect("desired")
}

fn lines(desired: &Desired, family: Family, uplinks: &[&str]) -> Vec<String> {
    let uplinks = uplinks.iter().map(|name| (*name).to_owned()).collect();
    let tables = desired.render(family, &uplinks).into_iter();
    tables
        .flat_map(|TableRules { table, rules }| {
            rules.unwrap_or_default().into_iter().map(move |rule| format!("{}: {rule}", table.name()))
        })
        .collect()
}

#[test]
fn a_list_is_one_redirect_for_each_pattern() {
    assert_eq!(
        lines(&desired("cali+,cbr0", &["10.0.0.10"]), Family::V4, &["eth0"]),
        [
            "filter: -d 169.254.169.254/32 -m comment --comment rolegate -j DROP",
            "filter: -s 169.254.169.254/32 -m comment --comment rolegate -j DROP",
            "nat: -d 169.254.169.254/32 -i cali+ -p tcp -m comment --comment rolegate -m tcp --dport 80 \
             -j DNAT --to-destination 10.0.0.10:8181",
            "nat: -d 169.254.169.254/32 -i cbr0 -p tcp -m comment --comment rolegate -m tcp --dport 80 \
             -j DNAT --to-destination 10.0.0.10:8181",
        ]
    );
}

#[test]
fn excepted_interfaces_return_before_the_redirect() {
    assert_eq!(
        lines(&desired("!eth0,!ens+", &["10.0.0.10"]), Family::V4, &["eth9"])[2..],
        [
            "nat: -i eth0 -m comment --comment rolegate -j RETURN",
            "nat: -i ens+ -m comment --comment rolegate -j RETURN",
            "nat: -d 169.254.169.254/32 -p tcp -m comment --comment rolegate -m tcp --dport 80 \
             -j DNAT --to-destination 10.0.0.10:8181",
        ]
    );
}

#[test]
fn auto_excepts_lo_and_the_uplinks_of_the_moment() {
    let desired = desired("auto", &["10.0.0.10", "fd00:a::10"]);
    assert_eq!(
        lines(&desired, Family::V6, &["eth0", "eth1", "lo"]),
        [
            "filter: -d fd00:ec2::254/128 -m comment --comment rolegate -j DROP",
            "filter: -s fd00:ec2::254/128 -m comment --comment rolegate -j DROP",
            "nat: -i lo -m comment --comment rolegate -j RETURN",
            "nat: -i eth0 -m comment --comment rolegate -j RETURN",
            "nat: -i eth1 -m comment --comment rolegate -j RETURN",
            "nat: -d fd00:ec2::254/128 -p tcp -m comment --comment rolegate -m tcp --dport 80 \
             -j DNAT --to-destination [fd00:a::10]:8181",
        ]
    );
    assert_eq!(
        lines(&desired, Family::V4, &[])[2..],
        [
            "nat: -i lo -m comment --comment rolegate -j RETURN",
            "nat: -d 169.254.169.254/32 -p tcp -m comment --comment rolegate -m tcp --dport 80 \
             -j DNAT --to-destination 10.0.0.10:8181",
        ]
    );
}

#[test]
fn a_family_without_a_target_is_dropped_and_has_no_chain_in_nat() {
    let [filter, nat] = desired("cbr0", &["10.0.0.10"]).render(Family::V6, &BTreeSet::new());
    assert_eq!(filter.rules.map(|rules| rules.len()), Some(2));
    assert_eq!(nat.rules, None);
}

#[test]
fn a_target_that_pods_cannot_reach_is_refused() {
    let new = |targets: &[&str], port| {
        let targets: Vec<IpAddr> = targets.iter().map(|target| target.parse().expect(target)).collect();
        Desired::new(InterfaceSpec::Auto, &targets, port)
    };
    for wrong in [
        "127.0.0.1",
        "::1",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "ff02::1",
        "fe80::1",
        "169.254.169.254",
        "fd00:ec2::254",
    ] {
        assert_eq!(new(&[wrong], 8181), Err(TargetError::Address(wrong.parse().expect(wrong))), "{wrong}");
    }
    let mapped = new(&["::ffff:127.0.0.1"], 8181);
    assert_eq!(mapped, Err(TargetError::Address("127.0.0.1".parse().expect("address"))));
    assert_eq!(new(&["10.0.0.1"], 0), Err(TargetError::Port));
    assert_eq!(new(&["10.0.0.1", "::ffff:10.0.0.2"], 8181), Err(TargetError::Twice(Family::V4)));
}
