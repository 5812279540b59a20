//! Forgets tracked connections to the metadata service that are older than the rules (ctnetlink).
//!
//! NAT is decided by a connection's first packet: one that was open before the redirect stays with the real
//! service for good, unless its conntrack entry goes.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use netlink_packet_core::NLM_F_ACK;
use netlink_packet_netfilter::conntrack::{ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Tuple};
use netlink_packet_netfilter::{NetfilterMessageInner, NetfilterProtoFamily};

use crate::family::{Family, IMDS_V4, IMDS_V6};
use crate::nfnetlink::{Nfnetlink, NfnetlinkError};

/// Longest that the whole takes; a table of 262,144 entries is read in about a second.
const DEADLINE: Duration = Duration::from_secs(10);

/// `CTA_ID` and `CTA_ZONE` (linux/netfilter/nfnetlink_conntrack.h): with the original tuple they name one entry.
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;

/// Why entries could not be deleted.
#[derive(Debug, thiserror::Error)]
pub enum ConntrackError {
    /// The kernel could not be asked or refused.
    #[error("conntrack: {0}")]
    Netlink(#[from] NfnetlinkError),
    /// It took too long.
    #[error("conntrack: not done after {} s", DEADLINE.as_secs())]
    TimedOut,
}

/// One direction of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Direction {
    source: Option<IpAddr>,
    source_port: u16,
    destination: Option<IpAddr>,
}

/// Deletes every entry of both families that has the metadata service's address as source or destination in either
/// direction, and returns how many there were. Connections that already go to one of `redirected_to` are left: they are
/// what the rules want, and their answers would be cut. No conntrack in the kernel: there is nothing to delete.
///
/// # Errors
/// When the kernel cannot be asked or refuses.
pub async fn delete_imds_entries(redirected_to: &[SocketAddr]) -> Result<usize, ConntrackError> {
    let deleting = async {
        let mut deleted = 0;
        for family in Family::ALL {
            deleted += delete_family(family, redirected_to).await?;
        }
        Ok(deleted)
    };
    tokio::time::timeout(DEADLINE, deleting).await.map_err(|_| ConntrackError::TimedOut)?
}

async fn delete_family(family: Family, redirected_to: &[SocketAddr]) -> Result<usize, ConntrackError> {
    let protocol = match family {
        Family::V4 => NetfilterProtoFamily::IPv4,
        Family::V6 => NetfilterProtoFamily::IPv6,
    };
    let socket = match Nfnetlink::open() {
        Err(error) if is_absent(&error) => return Ok(0),
        opened => opened?,
    };
    let mut stale = Vec::new();
    let each = |message| {
        if let NetfilterMessageInner::Conntrack(ConntrackMessage::New(entry)) = message
            && is_stale(&entry, redirected_to)
        {
            stale.push(name_of(entry));
        }
    };
    match socket.dump(protocol, ConntrackMessage::Get(Vec::new()), each).await {
        Err(error) if is_absent(&error) => return Ok(0),
        dumped => dumped?,
    }
    let mut deleted = 0;
    for name in stale {
        match socket.exchange(protocol, NLM_F_ACK, ConntrackMessage::Delete(name), drop).await {
            Ok(()) => deleted += 1,
            // It ended by itself meanwhile.
            Err(error) if error.errno() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(deleted)
}

fn is_stale(entry: &[ConntrackAttribute], redirected_to: &[SocketAddr]) -> bool {
    let (mut original, mut reply) = (Direction::default(), Direction::default());
    for attribute in entry {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(tuples) => original = direction(tuples),
            ConntrackAttribute::CtaTupleReply(tuples) => reply = direction(tuples),
            _ => {}
        }
    }
    let redirected = is_imds(original.destination)
        && reply.source.is_some_and(|ip| redirected_to.contains(&SocketAddr::new(ip, reply.source_port)));
    let concerned = [original.source, original.destination, reply.source, reply.destination];
    !redirected && concerned.into_iter().any(is_imds)
}

fn direction(tuples: &[Tuple]) -> Direction {
    let mut direction = Direction::default();
    for tuple in tuples {
        match tuple {
            Tuple::Ip(addresses) => {
                for address in addresses {
                    match address {
                        IPTuple::SourceAddress(address) => direction.source = Some(*address),
                        IPTuple::DestinationAddress(address) => direction.destination = Some(*address),
                        _ => {}
                    }
                }
            }
            Tuple::Proto(parts) => {
                for part in parts {
                    if let ProtoTuple::SourcePort(port) = part {
                        direction.source_port = *port;
                    }
                }
            }
            _ => {}
        }
    }
    direction
}

fn is_imds(address: Option<IpAddr>) -> bool {
    address.is_some_and(|address| address == IMDS_V4 || address == IMDS_V6)
}

/// What names the entry alone, and not a later one of the same addresses and ports.
fn name_of(entry: Vec<ConntrackAttribute>) -> Vec<ConntrackAttribute> {
    use netlink_packet_core::Nla;
    let names = |attribute: &ConntrackAttribute| match attribute {
        ConntrackAttribute::CtaTupleOrig(_) => true,
        ConntrackAttribute::Other(other) => matches!(other.kind(), CTA_ID | CTA_ZONE),
        _ => false,
    };
    entry.into_iter().filter(names).collect()
}

/// No such protocol or subsystem: the kernel was built or runs without conntrack's netlink.
fn is_absent(error: &NfnetlinkError) -> bool {
    matches!(
        error.errno(),
        Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::EINVAL)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(original: [&str; 2], reply: [&str; 2], reply_port: u16) -> Vec<ConntrackAttribute> {
        let tuple = |[source, destination]: [&str; 2], port| {
            vec![
                Tuple::Ip(vec![
                    IPTuple::SourceAddress(source.parse().expect(source)),
                    IPTuple::DestinationAddress(destination.parse().expect(destination)),
                ]),
                Tuple::Proto(vec![ProtoTuple::SourcePort(port)]),
            ]
        };
        vec![
            ConntrackAttribute::CtaTupleOrig(tuple(original, 40_000)),
            ConntrackAttribute::CtaTupleReply(tuple(reply, reply_port)),
        ]
    }

    #[test]
    fn every_entry_with_the_address_goes_but_those_redirected_to_us() {
        let (pod, imds, host) = ("10.1.0.11", "169.254.169.254", "10.0.0.10");
        let ours = ["10.0.0.10:8181".parse().expect("address")];
        for (original, reply, port, stale) in [
            ([pod, imds], [imds, pod], 80, true),
            ([pod, imds], [imds, host], 80, true),
            ([pod, imds], [host, pod], 8181, false),
            ([pod, imds], [host, pod], 3100, true),
            ([pod, imds], ["10.0.0.99", pod], 8181, true),
            ([imds, pod], [pod, imds], 40_000, true),
            ([pod, "10.96.0.1"], [imds, pod], 80, true),
            (["fd00::1", "fd00:ec2::254"], ["fd00:ec2::254", "fd00::1"], 80, true),
            ([pod, host], [host, pod], 8181, false),
            ([pod, "10.1.0.12"], ["10.1.0.12", pod], 80, false),
        ] {
            assert_eq!(
                is_stale(&entry(original, reply, port), &ours),
                stale,
                "{original:?} {reply:?}:{port}"
            );
        }
    }
}
