//! What is pinned, and where each address stands: a function of what was seen at one instant.
//!
//! Whose a port is comes from the CNI's result, else from the first address that the port claimed since it was plugged.
//! The forwarding database and the neighbour table are not asked: pods write them. Where two ports are said to have one
//! address neither has it, but a result goes before a claim.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use rolegate_iptables::pins::first::{FirstSeen, PortKey};
use rolegate_iptables::pins::ports::{Port, Ports};
use rolegate_iptables::pins::{Pin, Pins};

use crate::cni::Attachment;
use crate::identity::Standing;
use crate::types::PodIp;

/// A port that says an address is its own.
pub(super) type Claim = (PortKey, IpAddr);

/// What was seen.
pub(super) struct Seen<'a> {
    /// Links, bridges and ports.
    pub(super) links: &'a Ports,
    /// What the CNI returned.
    pub(super) attachments: &'a [Attachment],
    /// What ports claimed first.
    pub(super) first: &'a FirstSeen,
    /// Claims about which everybody on the bridge was asked, and has had the time to contradict.
    pub(super) heard: &'a BTreeSet<Claim>,
    /// The interface that each pod's address is routed by.
    pub(super) routed: &'a HashMap<IpAddr, u32>,
}

/// What follows from it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) pins: Pins,
    pub(super) standings: HashMap<PodIp, Standing>,
    /// Interfaces that several pods share: bridges, and others, which cannot be pinned.
    pub(super) shared: BTreeSet<String>,
    /// Ports of pods' bridges that are not pinned, and why.
    pub(super) unpinned: BTreeMap<String, Unpinned>,
    /// Addresses that several ports are said to have.
    pub(super) disputed: BTreeSet<IpAddr>,
    /// Claims that could be believed, by the bridge that they are on.
    pub(super) claims: BTreeMap<Claim, u32>,
}

/// Why a port has no pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unpinned {
    /// It was there before what is claimed first was remembered, and the CNI's results do not name it.
    Older,
    /// It has claimed no address yet, or is not heard yet.
    Silent,
    /// Its address is another port's as well, or results contradict each other.
    Disputed,
}

/// Whose a port is said to be.
enum Word {
    Result(BTreeSet<IpAddr>),
    Claim(BTreeSet<IpAddr>),
    /// Claimed by a port that is not believed; it is a claim against others nevertheless.
    Older(BTreeSet<IpAddr>),
    /// Results that differ.
    Contradictory(BTreeSet<IpAddr>),
}

// === impl Unpinned ===

impl Unpinned {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Older => "older than the agent, and not in the CNI's results",
            Self::Silent => "has claimed no address yet",
            Self::Disputed => "another port has its address",
        }
    }
}

// === impl Plan ===

impl Plan {
    /// What is pinned where, and which addresses are believed.
    pub(super) fn of(seen: &Seen<'_>) -> Self {
        let (mut plan, none) = (Self::default(), BTreeSet::new());
        let bridges: HashSet<u32> =
            seen.routed.values().copied().filter(|link| seen.links.bridges.contains_key(link)).collect();
        let ports = seen.links.ports.iter().filter(|port| bridges.contains(&port.bridge));
        let words: Vec<(&Port, Word)> = ports.map(|port| (port, Word::of(seen, port))).collect();
        let of_results = times(words.iter().filter_map(|(_, word)| word.of_results()));
        let claimed = times(words.iter().filter_map(|(_, word)| word.of_claims()));
        let twice = |times: &BTreeMap<IpAddr, usize>, address: &IpAddr| times.get(address) > Some(&1);
        for (port, word) in &words {
            let (said, why) = match word {
                Word::Result(said) => (said, Unpinned::Disputed),
                Word::Claim(said) => (said, Unpinned::Silent),
                Word::Older(_) => (&none, Unpinned::Older),
                Word::Contradictory(_) => (&none, Unpinned::Disputed),
            };
            let by_result = matches!(word, Word::Result(_));
            let (mine, disputed): (BTreeSet<IpAddr>, BTreeSet<IpAddr>) = said.iter().partition(|address| {
                !twice(&of_results, address)
                    && (by_result || !of_results.contains_key(address) && !twice(&claimed, address))
            });
            let mine = if by_result { mine } else { plan.heard(seen, port, mine) };
            let port = port.key.name.clone();
            if mine.is_empty() {
                let why = if disputed.is_empty() { why } else { Unpinned::Disputed };
                plan.unpinned.insert(port, why);
            } else {
                plan.pins.pins.insert(Pin { port, addresses: mine });
            }
            plan.disputed.extend(disputed);
        }
        plan.stand(seen);
        plan
    }

    /// A pod may claim an address whose owner has not said a word yet: those claims count that were asked about.
    fn heard(&mut self, seen: &Seen<'_>, port: &Port, claimed: BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        let claim = |address: &IpAddr| (port.key.clone(), *address);
        self.claims.extend(claimed.iter().map(|address| (claim(address), port.bridge)));
        claimed.into_iter().filter(|address| seen.heard.contains(&claim(address))).collect()
    }

    fn stand(&mut self, seen: &Seen<'_>) {
        let mut on_link = HashMap::<(u32, bool), usize>::new();
        for (address, link) in seen.routed {
            *on_link.entry((*link, address.is_ipv4())).or_default() += 1;
        }
        let ports: HashMap<&str, &Port> =
            seen.links.ports.iter().map(|port| (port.key.name.as_str(), port)).collect();
        let pinned: HashMap<(u32, IpAddr), u32> = self
            .pins
            .pins
            .iter()
            .filter_map(|pin| Some((*ports.get(pin.port.as_str())?, pin)))
            .flat_map(|(port, pin)| {
                pin.addresses.iter().map(move |address| ((port.bridge, *address), port.key.index))
            })
            .collect();
        let names: HashMap<u32, &str> =
            seen.links.links.iter().map(|link| (link.index, link.name.as_str())).collect();
        for (address, link) in seen.routed {
            let bridge = seen.links.bridges.contains_key(link);
            let several = on_link.get(&(*link, address.is_ipv4())).is_some_and(|addresses| *addresses > 1);
            let standing = match (bridge, several) {
                (true, _) => {
                    pinned.get(&(*link, *address)).map_or(Standing::Unpinned, |port| Standing::Pinned(*port))
                }
                (false, true) => Standing::Shared,
                (false, false) => Standing::Believed,
            };
            if bridge || several {
                self.shared.extend(names.get(link).map(|name| (*name).to_owned()));
            }
            self.standings.insert(PodIp::new(*address), standing);
        }
    }
}

// === impl Word ===

impl Word {
    fn of(seen: &Seen<'_>, port: &Port) -> Self {
        let name = port.key.name.as_str();
        let results: BTreeSet<&BTreeSet<IpAddr>> = seen
            .attachments
            .iter()
            .filter(|attachment| attachment.names(name, &port.mac))
            .map(|attachment| &attachment.addresses)
            .collect();
        match results.len() {
            0 => {}
            1 => return Self::Result(results.into_iter().flatten().copied().collect()),
            _ => return Self::Contradictory(results.into_iter().flatten().copied().collect()),
        }
        let claimed = seen.first.claims.get(&port.key).into_iter().flatten().copied();
        // What is no address of a pod here is nothing to hold others to: it may be the gateway's.
        let claimed = claimed.filter(|address| seen.routed.get(address) == Some(&port.bridge)).collect();
        if seen.first.older.contains(&port.key) { Self::Older(claimed) } else { Self::Claim(claimed) }
    }

    fn of_results(&self) -> Option<&BTreeSet<IpAddr>> {
        match self {
            Self::Result(said) | Self::Contradictory(said) => Some(said),
            Self::Claim(_) | Self::Older(_) => None,
        }
    }

    fn of_claims(&self) -> Option<&BTreeSet<IpAddr>> {
        match self {
            Self::Claim(said) | Self::Older(said) => Some(said),
            Self::Result(_) | Self::Contradictory(_) => None,
        }
    }
}

/// How many say each.
fn times<'a>(all: impl Iterator<Item = &'a BTreeSet<IpAddr>>) -> BTreeMap<IpAddr, usize> {
    let mut times = BTreeMap::new();
    for address in all.flatten() {
        *times.entry(*address).or_default() += 1;
    }
    times
}

#[cfg(test)]
mod tests;
