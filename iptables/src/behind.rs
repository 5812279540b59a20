//! What is behind an address: the interface that the node routes it by, and the hardware address of its neighbour there.
//!
//! Asked of the kernel once for each address, and remembered until the kernel says that something changed. Its notices are
//! taken in before each look: what it has said before a look is known in it.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rtnetlink::{MulticastGroup, RouteMessageBuilder};

use crate::arrival::Arrival;
use crate::links::output_link;

/// Addresses remembered; beyond it they are asked for anew.
const MOST_REMEMBERED: usize = 4_096;
/// Notices taken in at a look; with more of them on their way nothing is taken for known. The socket holds some hundred.
const MOST_NOTICES: usize = 1_024;
/// A notice of a neighbour is some 100 bytes; of longer ones only the head is looked at.
const NOTICE_BYTES: usize = 2_048;
/// Where a netlink message says what it is (`nlmsg_type` of `struct nlmsghdr`), and the numbers of neighbours that came
/// and went (linux/rtnetlink.h).
const TYPE_AT: usize = 4;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;

/// The address of a network card; Ethernet's has six bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct HardwareAddress(Arc<[u8]>);

/// What is behind an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behind {
    /// The index of the interface that the node routes the address by.
    pub interface: u32,
    /// Whom the node sends to there, if the interface has such addresses and the kernel knows it.
    pub hardware: Option<HardwareAddress>,
    /// Who else may be behind that interface.
    pub shared: Shared,
    /// Of a bridge, the index of the port that is held to the address, for whoever knows it: it is not asked for here.
    pub port: Option<u32>,
}

/// Who is behind an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shared {
    /// One pod: it is a link to its own, and there is no other hop between.
    Own,
    /// Those on a bridge, each with a card.
    Bridge,
    /// Others, and nothing tells them apart.
    Others,
}

/// What is behind addresses, remembered.
#[derive(Debug)]
pub struct Surroundings {
    notices: Socket,
    known: HashMap<IpAddr, Known>,
    /// Which interface has an address of the node.
    owners: HashMap<Ipv6Addr, u32>,
    changes: u64,
}

/// A conversation with the kernel.
#[derive(Debug)]
pub struct Questions {
    socket: Socket,
    last: u32,
}

/// A moment; what the kernel said after it may be out of date if something changed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(u64);

/// What the kernel said of an address.
#[derive(Clone, Debug)]
pub struct Known {
    behind: Behind,
    /// Its next hop: the address itself, or a gateway.
    neighbour: IpAddr,
}

// === impl HardwareAddress ===

impl HardwareAddress {
    /// These bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl fmt::Display for HardwareAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, byte) in self.0.iter().enumerate() {
            let colon = if place == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for HardwareAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// === impl Known ===

impl Known {
    /// What is behind the address.
    #[must_use]
    pub fn behind(&self) -> &Behind {
        &self.behind
    }
}

// === impl Surroundings ===

impl Surroundings {
    /// Listens to the kernel; nothing is known yet.
    ///
    /// # Errors
    /// When there is no such socket.
    pub fn new() -> io::Result<Self> {
        use MulticastGroup::{Ipv4Route, Ipv4Rule, Ipv6Ifaddr, Ipv6Route, Ipv6Rule, Link, Neigh};
        let mut notices = Socket::new(NETLINK_ROUTE)?;
        notices.bind_auto()?;
        for group in [Link, Neigh, Ipv4Route, Ipv4Rule, Ipv6Ifaddr, Ipv6Route, Ipv6Rule] {
            notices.add_membership(group as u32)?;
        }
        Ok(Self { notices, known: HashMap::new(), owners: HashMap::new(), changes: 0 })
    }

    /// What is behind `address`, if that is known and nothing has changed since.
    pub fn known(&mut self, address: IpAddr) -> Option<&Behind> {
        self.take_in();
        self.known.get(&address).map(Known::behind)
    }

    /// The index of the interface that a connection came in by whose source is where `source` says.
    pub fn came_in_by(&mut self, arrival: Arrival, source: &Behind) -> u32 {
        arrival.at(source.interface, source.shared == Shared::Bridge, |address| {
            if let Some(known) = self.owners.get(&address) {
                return Some(*known);
            }
            let found = Questions::new().and_then(|mut questions| questions.owner(address)).ok()??;
            self.owners.insert(address, found);
            Some(found)
        })
    }

    /// Now, before [`Questions::behind`] is asked.
    pub fn moment(&mut self) -> Moment {
        self.take_in();
        Moment(self.changes)
    }

    /// Remembers what the kernel said since `asked`, unless something changed meanwhile: then it is asked anew.
    pub fn learn(&mut self, asked: Moment, address: IpAddr, known: Known) {
        self.take_in();
        if self.known.len() >= MOST_REMEMBERED {
            self.known.clear();
        }
        if asked == Moment(self.changes) {
            self.known.insert(address, known);
        }
    }

    /// Reads every notice that is there.
    fn take_in(&mut self) {
        let mut room = [0; NOTICE_BYTES];
        for _ in 0..MOST_NOTICES {
            match self.notices.recv(&mut &mut room[..], libc::MSG_DONTWAIT) {
                Ok(length) => self.notice(room.get(..length).unwrap_or(&room)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.forget_all();
                    // Notices were lost, and more may be there; another error is there at the next look, too.
                    if error.raw_os_error() != Some(libc::ENOBUFS) {
                        return;
                    }
                }
            }
        }
        // They come faster than they are read.
        self.forget_all();
    }

    fn notice(&mut self, notice: &[u8]) {
        let kind = notice.get(TYPE_AT..TYPE_AT + 2).and_then(|bytes| bytes.try_into().ok());
        match kind.map(u16::from_ne_bytes) {
            Some(RTM_NEWNEIGH | RTM_DELNEIGH) => match NetlinkMessage::deserialize(notice) {
                Ok(NetlinkMessage {
                    payload: NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(neighbour)),
                    ..
                }) => self.neighbour(&neighbour, hardware(&neighbour).as_ref()),
                Ok(NetlinkMessage {
                    payload: NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelNeighbour(neighbour)),
                    ..
                }) => self.neighbour(&neighbour, None),
                Ok(_) | Err(_) => self.forget_all(),
            },
            Some(_) | None => self.forget_all(),
        }
    }

    /// A neighbour has this hardware address now. Bridges tell of what is behind their ports in the same way.
    fn neighbour(&mut self, message: &NeighbourMessage, hardware: Option<&HardwareAddress>) {
        if !matches!(message.header.family, AddressFamily::Inet | AddressFamily::Inet6) {
            return;
        }
        self.changes += 1;
        let (interface, address) = (message.header.ifindex, destination(message));
        self.known.retain(|_, known| {
            known.behind.interface != interface
                || Some(known.neighbour) != address
                || known.behind.hardware.as_ref() == hardware
        });
    }

    fn forget_all(&mut self) {
        self.changes += 1;
        self.known.clear();
        self.owners.clear();
    }
}

// === impl Questions ===

impl Questions {
    /// A socket to ask by.
    ///
    /// # Errors
    /// When there is none.
    pub fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        Ok(Self { socket, last: 0 })
    }

    /// What is behind `address` now; `None`: it is not reached over an interface. May wait for who changes links: not for
    /// a thread that others wait for.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn behind(&mut self, address: IpAddr) -> io::Result<Option<Known>> {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let to = RouteMessageBuilder::<IpAddr>::new().destination_prefix(address, bits);
        let to = to.map_err(|error| io::Error::other(error.to_string()))?.build();
        let Some(RouteNetlinkMessage::NewRoute(route)) = self.ask(RouteNetlinkMessage::GetRoute(to))? else {
            return Ok(None);
        };
        let Some(interface) = output_link(&route).filter(|_| route.header.kind == RouteType::Unicast) else {
            return Ok(None);
        };
        let gateway = next_hop(&route);
        let shared = if gateway.is_some() { Shared::Others } else { self.shared(interface)? };
        let neighbour = gateway.unwrap_or(address);
        let hardware = self.hardware(interface, neighbour)?;
        Ok(Some(Known { behind: Behind { interface, hardware, shared, port: None }, neighbour }))
    }

    /// The index of the interface that has an address of the node. The kernel answers without waiting for anybody.
    fn owner(&mut self, address: Ipv6Addr) -> io::Result<Option<u32>> {
        let mut wanted = AddressMessage::default();
        wanted.header.family = AddressFamily::Inet6;
        wanted.attributes.push(AddressAttribute::Address(address.into()));
        Ok(match self.ask(RouteNetlinkMessage::GetAddress(wanted))? {
            Some(RouteNetlinkMessage::NewAddress(answer)) => Some(answer.header.index),
            Some(_) | None => None,
        })
    }

    fn shared(&mut self, interface: u32) -> io::Result<Shared> {
        let mut wanted = LinkMessage::default();
        wanted.header.index = interface;
        let Some(RouteNetlinkMessage::NewLink(link)) = self.ask(RouteNetlinkMessage::GetLink(wanted))? else {
            return Ok(Shared::Others);
        };
        let is = |kind: InfoKind| {
            let kind = LinkInfo::Kind(kind);
            let has =
                |it: &LinkAttribute| matches!(it, LinkAttribute::LinkInfo(infos) if infos.contains(&kind));
            link.attributes.iter().any(has)
        };
        Ok(match (is(InfoKind::Bridge), is(InfoKind::Veth)) {
            (true, _) => Shared::Bridge,
            (_, true) => Shared::Own,
            _ => Shared::Others,
        })
    }

    /// The hardware address of one neighbour, if the kernel has it.
    fn hardware(&mut self, interface: u32, address: IpAddr) -> io::Result<Option<HardwareAddress>> {
        let mut wanted = NeighbourMessage::default();
        wanted.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        wanted.header.ifindex = interface;
        wanted.attributes.push(NeighbourAttribute::Destination(address.into()));
        match self.ask(RouteNetlinkMessage::GetNeighbour(wanted))? {
            Some(RouteNetlinkMessage::NewNeighbour(neighbour)) => Ok(hardware(&neighbour)),
            Some(_) | None => Ok(None),
        }
    }

    /// The answer to one question; `None`: the kernel says that there is none.
    fn ask(&mut self, question: RouteNetlinkMessage) -> io::Result<Option<RouteNetlinkMessage>> {
        self.last = self.last.wrapping_add(1);
        let mut head = NetlinkHeader::default();
        head.flags = NLM_F_REQUEST;
        head.sequence_number = self.last;
        let mut message = NetlinkMessage::new(head, NetlinkPayload::from(question));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        loop {
            // It has answered before the question's `send` returns.
            let (bytes, _) = self.socket.recv_from_full()?;
            let answer = NetlinkMessage::deserialize(&bytes).map_err(io::Error::other)?;
            // What is left of a question that failed half-way is not the answer to this one.
            if answer.header.sequence_number == self.last {
                return Ok(match answer.payload {
                    NetlinkPayload::InnerMessage(answer) => Some(answer),
                    _ => None,
                });
            }
        }
    }
}

fn next_hop(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(v4)) | RouteAttribute::Via(RouteVia::Inet(v4)) => {
            Some(IpAddr::V4(*v4))
        }
        RouteAttribute::Gateway(RouteAddress::Inet6(v6)) | RouteAttribute::Via(RouteVia::Inet6(v6)) => {
            Some(IpAddr::V6(*v6))
        }
        _ => None,
    })
}

fn hardware(neighbour: &NeighbourMessage) -> Option<HardwareAddress> {
    neighbour.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => Some(HardwareAddress::new(bytes)),
        _ => None,
    })
}

fn destination(neighbour: &NeighbourMessage) -> Option<IpAddr> {
    neighbour.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn an_address_of_the_host_has_its_interface() {
        let mut questions = Questions::new().unwrap();
        assert_eq!(questions.owner("2001:db8::1".parse().unwrap()).unwrap(), None);
        if TcpListener::bind("[::1]:0").is_ok() {
            assert_eq!(questions.owner(Ipv6Addr::LOCALHOST).unwrap(), Some(1));
        }
    }
}
