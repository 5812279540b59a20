//! What is said of packets that do not come here.

use rolegate_iptables::Links;
use rolegate_iptables::selftest::Detours;

/// Most interfaces that one reason names.
const NAMES_AT_MOST: usize = 4;

/// What does not come here, in words; `None`: all does.
pub(super) fn sentence(found: &Detours, links: &Links) -> Option<String> {
    let mut parts: Vec<String> = found
        .iter()
        .take(NAMES_AT_MOST)
        .map(|(link, (pod, detour))| {
            let name = links.names.get(link).map_or("an interface that is gone", String::as_str);
            format!("what comes in by {name} (as from {pod}) {}", detour.describe(links))
        })
        .collect();
    if found.len() > parts.len() {
        parts.push("...".to_owned());
    }
    (!parts.is_empty()).then(|| format!("not brought here by policy routing: {}", parts.join(", ")))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::net::IpAddr;

    use rolegate_iptables::selftest::Detour;

    use super::*;

    #[test]
    fn interfaces_that_packets_go_astray_from_are_named_and_not_all_of_many() {
        let names = (1..=9).map(|index| (index, format!("cali{index}"))).collect();
        let links = Links { names, uplinks: BTreeSet::new() };
        let astray = |indexes: std::ops::RangeInclusive<u32>| -> Detours {
            let pod = IpAddr::from([10, 1, 0, 1]);
            indexes.map(|index| (index, (pod, Detour::Forwarded(9)))).collect()
        };
        assert_eq!(sentence(&BTreeMap::new(), &links), None);
        assert_eq!(
            sentence(&astray(1..=1), &links).as_deref(),
            Some(
                "not brought here by policy routing: what comes in by cali1 (as from 10.1.0.1) goes out by cali9"
            )
        );
        let many = sentence(&astray(1..=8), &links).expect("some");
        assert!(many.ends_with(", ...") && !many.contains("cali5"), "{many}");
    }
}
