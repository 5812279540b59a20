//! The table of pins as it should be.
//!
//! ```text
//! prerouting   ARP, neighbour discovery and packets to the metadata addresses go to the chains below, all others on
//! arp_sender   the sender's address      source4 the source
//! source6      the source                target6 the target (advertisements, duplicate address detection)
//!              a pinned port has none but its own; no other port has a pinned one
//! postrouting  packets from the metadata addresses
//! answers4/6   to a pinned address leave by its port
//! ```

use std::net::IpAddr;

use netlink_packet_netfilter::nftables::{MetaKey, Operator, Register};

use super::{Pin, Pins};
use crate::family::{Family, IMDS_V4, IMDS_V6};
use crate::nftables::{
    Base, Chain, Expression, HookNumber, LINK_HEADER, NETWORK_HEADER, TRANSPORT_HEADER, Table, TableFamily,
    accept, compare, drop, go_to, load_meta, load_payload, masked, meta, payload,
};

/// Before what bridges do with addresses (`NF_BR_PRI_NAT_DST_BRIDGED` is -300, linux/netfilter_bridge.h), and after
/// the table of first addresses, which has to see what is dropped here.
const BEFORE_NAT: i32 = -310;
/// After it (`NF_BR_PRI_NAT_SRC` is 300).
const AFTER_NAT: i32 = 310;
/// Ethertypes (IEEE), as they are in a frame.
pub(super) const ETH_IPV4: [u8; 2] = [0x08, 0x00];
pub(super) const ETH_ARP: [u8; 2] = [0x08, 0x06];
pub(super) const ETH_IPV6: [u8; 2] = [0x86, 0xdd];
const ETH_VLAN: [[u8; 2]; 2] = [[0x81, 0x00], [0x88, 0xa8]];
/// The protocol number of ICMPv6 (IANA).
pub(super) const ICMPV6: u8 = 58;
/// Types of neighbour discovery, router solicitation to redirect (RFC 4861, 4).
const DISCOVERY: [u8; 2] = [133, 137];
pub(super) const SOLICITATION: u8 = 135;
pub(super) const ADVERTISEMENT: u8 = 136;
/// Link-local addresses, `fe80::/10`, by their first two bytes.
pub(super) const LINK_LOCAL: [[u8; 2]; 2] = [[0xfe, 0x80], [0xfe, 0xbf]];
/// Interface names are compared as the kernel holds them (`IFNAMSIZ`).
pub(super) const NAME_BYTES: usize = 16;

/// Where an address is in a packet.
#[derive(Clone, Copy)]
pub(super) struct Field {
    base: u32,
    offset: u32,
    bytes: usize,
}

/// The sender's address of ARP for IPv4 over Ethernet (RFC 826).
pub(super) const ARP_SENDER: Field = Field { base: NETWORK_HEADER, offset: 14, bytes: 4 };
/// RFC 791, 3.1.
const SOURCE4: Field = Field { base: NETWORK_HEADER, offset: 12, bytes: 4 };
const DESTINATION4: Field = Field { base: NETWORK_HEADER, offset: 16, bytes: 4 };
/// RFC 8200, 3.
pub(super) const SOURCE6: Field = Field { base: NETWORK_HEADER, offset: 8, bytes: 16 };
const DESTINATION6: Field = Field { base: NETWORK_HEADER, offset: 24, bytes: 16 };
/// The target of solicitations and advertisements (RFC 4861, 4.3 and 4.4).
const TARGET6: Field = Field { base: TRANSPORT_HEADER, offset: 8, bytes: 16 };

pub(super) fn desired(pins: &Pins) -> Table {
    let base = |hook, priority| Some(Base { hook, priority });
    let chain = |name, base, rules| Chain { name, base, rules };
    let all: Vec<&Pin> = pins.pins.iter().collect();
    let held = |first: Vec<Vec<Expression>>, field, family| [first, held_to(&all, field, family)].concat();
    Table {
        family: TableFamily::Bridge,
        name: "rolegate",
        chains: vec![
            chain("arp_sender", None, held(vec![probes()], ARP_SENDER, Family::V4)),
            chain("source4", None, held(vec![], SOURCE4, Family::V4)),
            chain("source6", None, held(vec![none_yet(), link_local(SOURCE6)], SOURCE6, Family::V6)),
            chain("target6", None, held(vec![link_local(TARGET6)], TARGET6, Family::V6)),
            chain("answers4", None, answers(&all, DESTINATION4, Family::V4)),
            chain("answers6", None, answers(&all, DESTINATION6, Family::V6)),
            chain("prerouting", base(HookNumber::PreRouting, BEFORE_NAT), from_ports()),
            chain("postrouting", base(HookNumber::PostRouting, AFTER_NAT), from_node()),
        ],
    }
}

fn from_ports() -> Vec<Vec<Expression>> {
    let protocol = |ethertype: [u8; 2]| meta(MetaKey::EtherTypeProtocol, ethertype.to_vec());
    let mut rules = vec![
        [protocol(ETH_IPV4), is(DESTINATION4, &IMDS_V4.octets()), go_to("source4")].concat(),
        [protocol(ETH_IPV6), is(DESTINATION6, &IMDS_V6.octets()), go_to("source6")].concat(),
        [protocol(ETH_ARP), go_to("arp_sender")].concat(),
    ];
    // The outer tag is off before a frame comes here. Where it is that of VLAN 0, the kernel takes an inner one of VLAN
    // 0 off later, and would then see what nobody has looked at. (`meta ibrname`, to look at some bridges alone, is not
    // in every kernel.)
    rules.extend(ETH_VLAN.map(|tag| [protocol(tag), outer_vlan_0(), drop()].concat()));
    let discovery = |kind: Vec<Expression>, then: Vec<Expression>| {
        [protocol(ETH_IPV6), meta(MetaKey::L4Proto, vec![ICMPV6]), kind, then].concat()
    };
    let unspecified = is(SOURCE6, &[0; 16]);
    rules.extend([
        discovery(icmp_type(ADVERTISEMENT..=ADVERTISEMENT), go_to("target6")),
        discovery([icmp_type(SOLICITATION..=SOLICITATION), unspecified].concat(), go_to("target6")),
        discovery(icmp_type(DISCOVERY[0]..=DISCOVERY[1]), go_to("source6")),
    ]);
    rules
}

fn from_node() -> Vec<Vec<Expression>> {
    let protocol = |ethertype: [u8; 2]| meta(MetaKey::EtherTypeProtocol, ethertype.to_vec());
    vec![
        [protocol(ETH_IPV4), is(SOURCE4, &IMDS_V4.octets()), go_to("answers4")].concat(),
        [protocol(ETH_IPV6), is(SOURCE6, &IMDS_V6.octets()), go_to("answers6")].concat(),
    ]
}

/// Whoever looks whether an address is free has none (RFC 5227, 1.1).
fn probes() -> Vec<Expression> {
    [is(ARP_SENDER, &[0; 4]), accept()].concat()
}

/// In the frame as it came, the tag after both hardware addresses and its own type: 12 bits of VLAN (IEEE 802.1Q).
fn outer_vlan_0() -> Vec<Expression> {
    let load = load_payload(LINK_HEADER, 14, 2, Register::Reg1);
    vec![load, masked(vec![0x0f, 0xff]), compare(Operator::Equal, vec![0; 2])]
}

fn none_yet() -> Vec<Expression> {
    [is(SOURCE6, &[0; 16]), accept()].concat()
}

fn link_local(field: Field) -> Vec<Expression> {
    let [first, last] = LINK_LOCAL;
    let beginning = load_payload(field.base, field.offset, first.len(), Register::Reg1);
    let within = [
        compare(Operator::GreatherThanEqual, first.to_vec()),
        compare(Operator::LessThanEqual, last.to_vec()),
    ];
    [vec![beginning], within.into(), accept()].concat()
}

pub(super) fn icmp_type(types: std::ops::RangeInclusive<u8>) -> Vec<Expression> {
    let load = load_payload(TRANSPORT_HEADER, 0, 1, Register::Reg1);
    if types.start() == types.end() {
        return vec![load, compare(Operator::Equal, vec![*types.start()])];
    }
    let least = compare(Operator::GreatherThanEqual, vec![*types.start()]);
    vec![load, least, compare(Operator::LessThanEqual, vec![*types.end()])]
}

/// No pinned port has another address there than its own, and no other port has that.
fn held_to(pins: &[&Pin], field: Field, family: Family) -> Vec<Vec<Expression>> {
    let mut rules = Vec::new();
    let pinned = || pins.iter().filter(|pin| octets(pin, family).next().is_some());
    for pin in pinned() {
        let mut rule = meta(MetaKey::Iifname, padded(&pin.port));
        rule.push(field.load());
        rule.extend(octets(pin, family).map(|bytes| compare(Operator::NotEqual, bytes)));
        rule.extend(drop());
        rules.push(rule);
    }
    for pin in pinned() {
        rules.extend(octets(pin, family).map(|bytes| {
            let elsewhere =
                [load_meta(MetaKey::Iifname, Register::Reg1), compare(Operator::NotEqual, padded(&pin.port))];
            [is(field, &bytes), elsewhere.into(), drop()].concat()
        }));
    }
    rules
}

fn answers(pins: &[&Pin], field: Field, family: Family) -> Vec<Vec<Expression>> {
    let rule = |pin: &Pin, bytes: &[u8]| {
        let elsewhere =
            [load_meta(MetaKey::Oifname, Register::Reg1), compare(Operator::NotEqual, padded(&pin.port))];
        [is(field, bytes), elsewhere.into(), drop()].concat()
    };
    let of = |pin: &Pin| octets(pin, family).map(|bytes| rule(pin, &bytes)).collect::<Vec<_>>();
    pins.iter().flat_map(|pin| of(pin)).collect()
}

fn is(field: Field, bytes: &[u8]) -> Vec<Expression> {
    payload(field.base, field.offset, bytes.to_vec())
}

fn octets(pin: &Pin, family: Family) -> impl Iterator<Item = Vec<u8>> + '_ {
    pin.addresses.iter().filter(move |address| Family::of(**address) == family).map(|address| match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    })
}

pub(super) fn padded(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(NAME_BYTES, 0);
    bytes
}

// === impl Field ===

impl Field {
    fn load(self) -> Expression {
        self.load_into(Register::Reg1)
    }

    pub(super) fn load_into(self, register: Register) -> Expression {
        load_payload(self.base, self.offset, self.bytes, register)
    }
}
