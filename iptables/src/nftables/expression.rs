//! What rules are made of, and the one form in which two of them are compared.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netlink_packet_core::{DefaultNla, Nla};
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, ExpressionAttribute, Expressions, Immediate, ListAttribute, Meta, MetaKey,
    Operator, Payload, Register, Verdict, VerdictAttribute,
};

use crate::family::Family;

/// `NFPROTO_IPV4` and `NFPROTO_IPV6` (linux/netfilter.h).
const NFPROTO: [(Family, u8); 2] = [(Family::V4, 2), (Family::V6, 10)];
/// TCP's number (IANA, protocol numbers).
const TCP: u8 = 6;
/// `NFT_PAYLOAD_LL_HEADER`, `NFT_PAYLOAD_NETWORK_HEADER` and `NFT_PAYLOAD_TRANSPORT_HEADER` (linux/netfilter/nf_tables.h), as are those below.
pub(crate) const LINK_HEADER: u32 = 0;
pub(crate) const NETWORK_HEADER: u32 = 1;
pub(crate) const TRANSPORT_HEADER: u32 = 2;
/// `NFTA_FIB_DREG`, `NFTA_FIB_RESULT`, `NFTA_FIB_FLAGS`.
const FIB: [u16; 3] = [1, 2, 3];
/// `NFT_FIB_RESULT_OIF`: the interface of the route.
const FIB_RESULT_OIF: u32 = 1;
/// `NFTA_FIB_F_SADDR | NFTA_FIB_F_IIF`: the route to the source, by the interface that the packet came in.
const FIB_SOURCE_BY_INPUT: u32 = 1 | 8;
/// `NF_DROP` and `NF_ACCEPT` (linux/netfilter.h).
const DROP: u32 = 0;
const ACCEPT: u32 = 1;

/// One expression of a rule.
pub(crate) type Expression = ListAttribute<ExpressionAttribute>;

/// An expression by its name and its attributes by their numbers.
type Plain = (String, BTreeMap<u16, Vec<u8>>);

/// `NFTA_DYNSET_*`: the set's name, the operation, the registers of key and data; what the kernel adds when it is asked:
/// how long an element lives, and flags.
const DYNSET_NAME: u16 = 1;
const DYNSET_OPERATION: u16 = 3;
const DYNSET_KEY: u16 = 4;
const DYNSET_DATA: u16 = 5;
const DYNSET_ADDED: [u16; 2] = [6, 9];
/// `NFTA_BITWISE_OP`: newer kernels say that it is the usual one, 0.
const BITWISE_ADDED: [u16; 1] = [6];
/// `NFT_DYNSET_OP_ADD`: what is there already stays as it is.
const DYNSET_ADD: u32 = 0;
/// Packets from `address`; offsets are those of the fields in the header (RFC 791, RFC 8200).
pub(crate) fn from(address: IpAddr) -> Vec<Expression> {
    address_at(if address.is_ipv4() { 12 } else { 8 }, address)
}

/// Packets to `address`.
pub(crate) fn to(address: IpAddr) -> Vec<Expression> {
    address_at(if address.is_ipv4() { 16 } else { 24 }, address)
}

fn address_at(offset: u32, address: IpAddr) -> Vec<Expression> {
    let bytes = match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let family = Family::of(address);
    let protocol = NFPROTO.iter().filter(|(of, _)| *of == family).map(|(_, number)| *number).collect();
    let mut all = meta(MetaKey::Nfproto, protocol);
    all.extend(payload(NETWORK_HEADER, offset, bytes));
    all
}

/// TCP packets to `port`.
pub(crate) fn tcp_port(port: u16) -> Vec<Expression> {
    let mut all = meta(MetaKey::L4Proto, vec![TCP]);
    all.extend(payload(TRANSPORT_HEADER, 2, port.to_be_bytes().to_vec()));
    all
}

/// Packets whose source is not routed by the interface that they came in.
pub(crate) fn spoofed() -> Vec<Expression> {
    let values = [u32::from(Register::Reg1), FIB_RESULT_OIF, FIB_SOURCE_BY_INPUT];
    let attributes = FIB.into_iter().zip(values).map(|(kind, value)| number(kind, value)).collect();
    let fib = Expressions::Other { expression_type: "fib".to_owned(), attributes };
    vec![fib.into(), compare(Operator::Equal, vec![0; 4])]
}

/// Goes no further.
pub(crate) fn drop() -> Vec<Expression> {
    vec![verdict(DROP)]
}

/// This chain has nothing against it.
pub(crate) fn accept() -> Vec<Expression> {
    vec![verdict(ACCEPT)]
}

/// Goes on in the chain of that name, and does not come back.
pub(crate) fn go_to(chain: &str) -> Vec<Expression> {
    vec![verdict_of(vec![VerdictAttribute::Code(Verdict::Goto), VerdictAttribute::Chain(chain.to_owned())])]
}

/// Remembers in `map` what the third register holds for what those from the first on hold, unless something is
/// remembered for that already.
pub(crate) fn remember(map: &str) -> Expression {
    let mut name = map.as_bytes().to_vec();
    name.push(0);
    let attributes = vec![
        DefaultNla::new(DYNSET_NAME, name),
        number(DYNSET_OPERATION, DYNSET_ADD),
        number(DYNSET_KEY, u32::from(Register::Reg1)),
        number(DYNSET_DATA, u32::from(Register::Reg3)),
    ];
    Expressions::Other { expression_type: "dynset".to_owned(), attributes }.into()
}

/// Packets of which `key` is `value`.
pub(crate) fn meta(key: MetaKey, value: Vec<u8>) -> Vec<Expression> {
    vec![load_meta(key, Register::Reg1), compare(Operator::Equal, value)]
}

/// Packets that have `value` at `offset` of a header.
pub(crate) fn payload(base: u32, offset: u32, value: Vec<u8>) -> Vec<Expression> {
    let load = load_payload(base, offset, value.len(), Register::Reg1);
    vec![load, compare(Operator::Equal, value)]
}

/// Takes `key` into a register.
pub(crate) fn load_meta(key: MetaKey, to: Register) -> Expression {
    Expressions::Meta(vec![Meta::Key(key), Meta::DestinationRegister(to)]).into()
}

/// Takes bytes of a header into a register.
pub(crate) fn load_payload(base: u32, offset: u32, bytes: usize, to: Register) -> Expression {
    Expressions::Payload(vec![
        Payload::DestinationRegister(to),
        Payload::Base(base),
        Payload::Offset(offset),
        Payload::Len(u32::try_from(bytes).unwrap_or(u32::MAX)),
    ])
    .into()
}

/// Keeps the bits of `mask` of what was loaded into the first register.
pub(crate) fn masked(mask: Vec<u8>) -> Expression {
    let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
    Expressions::Bitwise(vec![
        Bitwise::SourceRegister(Register::Reg1),
        Bitwise::DestinationRegister(Register::Reg1),
        Bitwise::Length(length),
        Bitwise::Xor(DataAttribute::Value(vec![0; mask.len()])),
        Bitwise::Mask(DataAttribute::Value(mask)),
    ])
    .into()
}

/// Compares what was loaded into the first register.
pub(crate) fn compare(operator: Operator, value: Vec<u8>) -> Expression {
    compare_register(Register::Reg1, operator, value)
}

/// Compares what was loaded into a register.
pub(crate) fn compare_register(register: Register, operator: Operator, value: Vec<u8>) -> Expression {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(register),
        Cmp::Op(operator),
        Cmp::Data(DataAttribute::Value(value)),
    ])
    .into()
}

fn verdict(code: u32) -> Expression {
    verdict_of(vec![VerdictAttribute::Code(Verdict::Other(code))])
}

fn verdict_of(attributes: Vec<VerdictAttribute>) -> Expression {
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(DataAttribute::Verdict(attributes)),
    ])
    .into()
}

fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}

/// The form for comparison: the kernel may give attributes in another order than they were sent in.
pub(crate) fn plain(expressions: &[Expression]) -> Vec<Plain> {
    expressions.iter().map(plain_one).collect()
}

fn plain_one(expression: &Expression) -> Plain {
    let mut plain = Plain::default();
    let ListAttribute::Element(parts) = expression else { return plain };
    for part in parts {
        match part {
            ExpressionAttribute::Name(name) => plain.0.clone_from(name),
            ExpressionAttribute::Data(data) => plain.1 = attributes(data),
            _ => {}
        }
    }
    plain
}

fn attributes(data: &Expressions) -> BTreeMap<u16, Vec<u8>> {
    match data {
        Expressions::Bitwise(all) => without(&BITWISE_ADDED, values(all)),
        Expressions::Cmp(all) => values(all),
        Expressions::Immediate(all) => values(all),
        Expressions::Lookup(all) => values(all),
        Expressions::Meta(all) => values(all),
        Expressions::Payload(all) => values(all),
        Expressions::Unknown(all) => values(all),
        Expressions::Other { expression_type, attributes } if expression_type == "dynset" => {
            without(&DYNSET_ADDED, values(attributes))
        }
        Expressions::Other { attributes, .. } => values(attributes),
        _ => BTreeMap::new(),
    }
}

/// The kernel adds these, and as zero.
fn without(added: &[u16], mut all: BTreeMap<u16, Vec<u8>>) -> BTreeMap<u16, Vec<u8>> {
    all.retain(|kind, bytes| !added.contains(kind) || bytes.iter().any(|byte| *byte != 0));
    all
}

fn values<T: Nla>(attributes: &[T]) -> BTreeMap<u16, Vec<u8>> {
    let value = |attribute: &T| {
        let mut bytes = vec![0; attribute.value_len()];
        attribute.emit_value(&mut bytes);
        // Whether an attribute is marked as nested is the writer's habit.
        (attribute.kind() & netlink_packet_core::NLA_TYPE_MASK, bytes)
    };
    attributes.iter().map(value).collect()
}
