//! What each port of a bridge claimed first: remembered by the kernel, as nothing that an agent may do sees frames.
//!
//! A map per family, `first4` and `first6`, from a port (index and name) to the address of its first ARP or neighbour
//! discovery. What is there already is not overwritten, so no later claim counts, nor a port's flapping; a port that is
//! plugged anew is another one. Ports that were there before the table are in the set `older`: what they claim first is
//! no more than what they happened to claim next.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_netfilter::NetfilterMessageInner;
use netlink_packet_netfilter::nftables::{
    DataAttribute, ListAttribute, MetaKey, NfTablesMessage, Operator, Register, SetAttribute, SetDescription,
    SetElementAttribute, SetElementList, SetElementMessage, SetFlags, SetMessage,
};

use super::PinsError;
use super::table::{
    ADVERTISEMENT, ARP_SENDER, ETH_ARP, ETH_IPV6, ICMPV6, LINK_LOCAL, NAME_BYTES, SOLICITATION, SOURCE6,
    icmp_type, padded,
};
use crate::nfnetlink::{Nfnetlink, NfnetlinkError, Request};
use crate::nftables::{
    Base, Chain, Expression, HookNumber, Table, TableFamily, compare_register, load_meta, meta, remember,
};

/// Before the pins: a claim that they drop is a claim.
const BEFORE_PINS: i32 = -320;
const MAPS: [&str; 2] = ["first4", "first6"];
const OLDER: &str = "older";
/// More ports than a bridge can have (`BR_MAX_PORTS` is 1023); when it is full nothing more is remembered.
const MOST_PORTS: u32 = 4_096;
/// As many elements as fit into one attribute of 64 KiB, with room to spare.
const ELEMENTS_AT_ONCE: usize = 500;
/// How `nft list` shows them: an index and a name; addresses (nftables, `include/datatype.h`).
const SHOWN_PORT: u32 = 20 << 6 | 41;
const SHOWN_ADDRESS: [u32; 2] = [7, 8];

/// A port: an index may be used again, and so may a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortKey {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
}

/// What the kernel remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FirstSeen {
    /// The first address of each family that each port claimed, older ones included.
    pub claims: BTreeMap<PortKey, BTreeSet<IpAddr>>,
    /// Ports that were there before.
    pub older: BTreeSet<PortKey>,
}

// === impl FirstSeen ===

impl FirstSeen {
    /// What the kernel remembers of `links`, which are all that there are; what it remembers of others is forgotten.
    /// Where the table is gone or changed it is made again with what is `known`, and links that are not known are
    /// older than it. `true`: it was made.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub async fn read(known: Option<&Self>, links: &BTreeSet<PortKey>) -> Result<(Self, bool), PinsError> {
        match Self::read_once(known, links).await {
            // It was flushed between two questions: now it is seen that it is gone.
            Err(PinsError::Table(error)) if error.errno() == Some(libc::ENOENT) => {
                Self::read_once(known, links).await
            }
            outcome => outcome,
        }
    }

    async fn read_once(known: Option<&Self>, links: &BTreeSet<PortKey>) -> Result<(Self, bool), PinsError> {
        let table = table();
        if table.drift().await?.is_some() {
            let again = Self::again(known, links);
            table.write_with(again.requests()).await?;
            return Ok((again, true));
        }
        let seen = Self::dump().await?;
        let (seen, gone) = seen.split(links);
        if gone != Self::default() {
            let requests = gone.elements(NfTablesMessage::DeleteSetElement, 0);
            Nfnetlink::open()?.transact(TableFamily::Bridge, requests).await?;
        }
        Ok((seen, false))
    }

    /// What is remembered from the table's making on.
    fn again(known: Option<&Self>, links: &BTreeSet<PortKey>) -> Self {
        let Some(known) = known else { return Self { older: links.clone(), claims: BTreeMap::new() } };
        let (mut again, _) = known.clone().split(links);
        let unknown = links.iter().filter(|link| !again.claims.contains_key(*link));
        again.older.extend(unknown.cloned().collect::<Vec<_>>());
        again
    }

    /// Those of `links`, and the others.
    fn split(self, links: &BTreeSet<PortKey>) -> (Self, Self) {
        let (claims, gone_claims) = self.claims.into_iter().partition(|(port, _)| links.contains(port));
        let (older, gone_older) = self.older.into_iter().partition(|port| links.contains(port));
        (Self { claims, older }, Self { claims: gone_claims, older: gone_older })
    }

    async fn dump() -> Result<Self, NfnetlinkError> {
        let socket = Nfnetlink::open()?;
        let mut seen = Self::default();
        for set in MAPS.into_iter().chain([OLDER]) {
            let attributes =
                vec![SetElementList::Table(NAME.to_owned()), SetElementList::Set(set.to_owned())];
            let get = NfTablesMessage::GetSetElement(SetElementMessage { attributes });
            socket.dump(TableFamily::Bridge, get, |message| seen.see(set, message)).await?;
        }
        Ok(seen)
    }

    fn see(&mut self, set: &str, message: NetfilterMessageInner) {
        let NetfilterMessageInner::NfTables(NfTablesMessage::NewSetElement(message)) = message else {
            return;
        };
        let lists = message.attributes.into_iter().filter_map(|attribute| match attribute {
            SetElementList::Elements(elements) => Some(elements),
            _ => None,
        });
        for element in lists.flatten() {
            let ListAttribute::Element(attributes) = element else { continue };
            let (mut port, mut address) = (None, None);
            for attribute in attributes {
                match attribute {
                    SetElementAttribute::Key(DataAttribute::Value(bytes)) => port = PortKey::read(&bytes),
                    SetElementAttribute::Data(DataAttribute::Value(bytes)) => address = read_address(&bytes),
                    _ => {}
                }
            }
            match (port, address) {
                (Some(port), Some(address)) => drop(self.claims.entry(port).or_default().insert(address)),
                (Some(port), None) if set == OLDER => drop(self.older.insert(port)),
                _ => {}
            }
        }
    }

    /// Sets and elements, to be made before the rules.
    fn requests(&self) -> Vec<Request> {
        let sets = [
            new_set(MAPS[0], 1, Some((SHOWN_ADDRESS[0], 4))),
            new_set(MAPS[1], 2, Some((SHOWN_ADDRESS[1], 16))),
            new_set(OLDER, 3, None),
        ];
        let elements = self.elements(NfTablesMessage::NewSetElement, NLM_F_CREATE);
        sets.into_iter().chain(elements).collect()
    }

    fn elements(&self, message: fn(SetElementMessage) -> NfTablesMessage, flags: u16) -> Vec<Request> {
        let mut of = BTreeMap::<&str, Vec<ListAttribute<SetElementAttribute>>>::new();
        for (port, addresses) in &self.claims {
            for address in addresses {
                let (map, bytes) = match address {
                    IpAddr::V4(v4) => (MAPS[0], v4.octets().to_vec()),
                    IpAddr::V6(v6) => (MAPS[1], v6.octets().to_vec()),
                };
                let data = SetElementAttribute::Data(DataAttribute::Value(bytes));
                of.entry(map).or_default().push(ListAttribute::Element(vec![port.attribute(), data]));
            }
        }
        let older = self.older.iter().map(|port| ListAttribute::Element(vec![port.attribute()]));
        of.entry(OLDER).or_default().extend(older);
        let mut requests = Vec::new();
        for (set, elements) in of {
            for some in elements.chunks(ELEMENTS_AT_ONCE) {
                let attributes = vec![
                    SetElementList::Table(NAME.to_owned()),
                    SetElementList::Set(set.to_owned()),
                    SetElementList::Elements(some.to_vec()),
                ];
                requests.push(Request { flags, message: message(SetElementMessage { attributes }) });
            }
        }
        requests
    }
}

// === impl PortKey ===

impl PortKey {
    /// Index (in the order of this machine) and name.
    fn bytes(&self) -> Vec<u8> {
        [self.index.to_ne_bytes().to_vec(), padded(&self.name)].concat()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (index, name) = bytes.split_first_chunk::<4>()?;
        let name = name.get(..NAME_BYTES)?.split(|byte| *byte == 0).next()?;
        Some(Self { index: u32::from_ne_bytes(*index), name: str::from_utf8(name).ok()?.to_owned() })
    }

    fn attribute(&self) -> SetElementAttribute {
        SetElementAttribute::Key(DataAttribute::Value(self.bytes()))
    }
}

fn read_address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|octets| Ipv4Addr::from(octets).into());
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|octets| Ipv6Addr::from(octets).into())).ok()
}

const NAME: &str = "rolegate_first";

pub(super) fn table() -> Table {
    let [first_link_local, _] = LINK_LOCAL;
    let to_map = |map| [load_port(), vec![remember(map)]].concat();
    let arp = [
        meta(MetaKey::EtherTypeProtocol, ETH_ARP.to_vec()),
        vec![ARP_SENDER.load_into(Register::Reg3)],
        // Whoever looks whether an address is free has none.
        vec![compare_register(Register::Reg3, Operator::NotEqual, vec![0; 4])],
        to_map(MAPS[0]),
    ];
    let discovery = [
        meta(MetaKey::EtherTypeProtocol, ETH_IPV6.to_vec()),
        meta(MetaKey::L4Proto, vec![ICMPV6]),
        icmp_type(SOLICITATION..=ADVERTISEMENT),
        vec![SOURCE6.load_into(Register::Reg3)],
        vec![compare_register(Register::Reg3, Operator::NotEqual, vec![0; 16])],
        // Neither link-local nor multicast: both are above what pods have.
        vec![compare_register(Register::Reg3, Operator::LessThan, first_link_local.to_vec())],
        to_map(MAPS[1]),
    ];
    let base = Some(Base { hook: HookNumber::PreRouting, priority: BEFORE_PINS });
    let rules = vec![arp.concat(), discovery.concat()];
    Table { family: TableFamily::Bridge, name: NAME, chains: vec![Chain { name: "prerouting", base, rules }] }
}

/// The port that a frame came in by, as [`PortKey::bytes`].
fn load_port() -> Vec<Expression> {
    vec![load_meta(MetaKey::Iif, Register::Reg1), load_meta(MetaKey::Iifname, Register::Reg32_01)]
}

/// A set of ports, or a map from ports to what is shown so and that long.
fn new_set(name: &str, id: u32, data: Option<(u32, u32)>) -> Request {
    let mut attributes = vec![
        SetAttribute::Table(NAME.to_owned()),
        SetAttribute::Name(name.to_owned()),
        SetAttribute::KeyType(SHOWN_PORT),
        SetAttribute::KeyLen(u32::try_from(4 + NAME_BYTES).unwrap_or(u32::MAX)),
        SetAttribute::Id(id),
        SetAttribute::Description(vec![SetDescription::Size(MOST_PORTS)]),
    ];
    match data {
        Some((shown, bytes)) => attributes.extend([
            SetAttribute::Flags(SetFlags::Map | SetFlags::Eval),
            SetAttribute::DataType(shown),
            SetAttribute::DataLen(bytes),
        ]),
        None => attributes.push(SetAttribute::Flags(SetFlags::empty())),
    }
    Request { flags: NLM_F_CREATE, message: NfTablesMessage::NewSet(SetMessage { attributes }) }
}
