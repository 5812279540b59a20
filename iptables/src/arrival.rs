//! The interface that an accepted TCP connection came in by, as its socket remembers it.
//!
//! The kernel keeps the interface of the handshake's last packet with the socket (`mc_index` and `mcast_oif`, set in
//! `tcp_v4_syn_recv_sock` and `tcp_v6_syn_recv_sock`) and tells it as ancillary data of a stream's packet options.
//!
//! There is one gap: where bridges hand IPv6 packets to ip6tables (`bridge-nf-call-ip6tables`, which Kubernetes asks for)
//! and their destination is translated there, the kernel notes the interface that has the new destination
//! (`ip6_rcv_core` takes the device of the route that is there already). `Arrival::at` knows; the spoof check of the
//! guard (`guard::table`) comes before that.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::socket::{setsockopt, sockopt};

use crate::family::IMDS_V6;

/// Room for the one message that is asked for: a header and 20 bytes, the longer of the two.
const ROOM_BYTES: usize = 64;
/// A message's header: a length as long as a word, then level and type (`struct cmsghdr`).
const HEADER_BYTES: usize = size_of::<usize>() + 8;
/// `IPV6_2292PKTOPTIONS` (linux/in6.h).
const IPV6_2292PKTOPTIONS: libc::c_int = 6;

/// Whether bridges hand IPv6 packets to ip6tables (kernel documentation, `ip-sysctl`, /proc/sys/net/bridge).
const BRIDGES_CALL_IP6TABLES: &str = "/proc/sys/net/bridge/bridge-nf-call-ip6tables";

/// Where a connection came in, as the kernel tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    told: u32,
    /// What its destination was translated to, if that may have been within a bridge.
    translated: Option<Ipv6Addr>,
}

// === impl Arrival ===

impl Arrival {
    /// Has the connections that `listener` accepts tell at once where they came in: one system call each instead of three.
    /// Where that cannot be, they are asked to tell it one by one. Over IPv6 the kernel would keep a packet for each.
    pub fn expect_at(listener: &impl AsFd) {
        let _ = setsockopt(listener, sockopt::Ipv4PacketInfo, &true);
    }

    /// Where `connection`, whose own address is `at`, came in.
    ///
    /// # Errors
    /// When the kernel does not tell it: what is no TCP connection came in nowhere.
    pub fn of(connection: &impl AsFd, at: SocketAddr) -> io::Result<Self> {
        let fd = connection.as_fd();
        let (told, translated) = match at {
            SocketAddr::V6(at) => {
                setsockopt(&fd, sockopt::Ipv6RecvPacketInfo, &true)?;
                let told = told_v6(fd);
                setsockopt(&fd, sockopt::Ipv6RecvPacketInfo, &false)?;
                (told?, Some(*at.ip()).filter(|ip| *ip != IMDS_V6))
            }
            SocketAddr::V4(_) => {
                let mut told = told_v4(fd)?;
                if told.is_none() {
                    setsockopt(&fd, sockopt::Ipv4PacketInfo, &true)?;
                    told = told_v4(fd)?;
                    setsockopt(&fd, sockopt::Ipv4PacketInfo, &false)?;
                }
                (told, None)
            }
        };
        let told = told.filter(|index| *index > 0);
        told.map(|told| Self { told, translated }).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    /// The index of the interface that it came in by, if its source is behind that of index `source`: of a bridge
    /// (`bridged`) this is believed where the kernel tells the interface that has the connection's own address, which
    /// `owner` knows.
    pub(crate) fn at(self, source: u32, bridged: bool, owner: impl FnOnce(Ipv6Addr) -> Option<u32>) -> u32 {
        let forgotten = self.told != source
            && bridged
            && bridges_call_ip6tables()
            && self.translated.and_then(owner) == Some(self.told);
        if forgotten { source } else { self.told }
    }
}

fn bridges_call_ip6tables() -> bool {
    std::fs::read(BRIDGES_CALL_IP6TABLES).is_ok_and(|value| value.first() == Some(&b'1'))
}

/// `struct in_pktinfo`: the index is first.
fn told_v4(fd: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let mut room = [0; ROOM_BYTES];
    let told = read_options(fd, libc::IPPROTO_IP, libc::IP_PKTOPTIONS, &mut room)?;
    Ok(find(told, libc::IPPROTO_IP, libc::IP_PKTINFO, 0))
}

/// `struct in6_pktinfo`: the index follows the address.
fn told_v6(fd: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let mut room = [0; ROOM_BYTES];
    let told = read_options(fd, libc::IPPROTO_IPV6, IPV6_2292PKTOPTIONS, &mut room)?;
    Ok(find(told, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, 16))
}

#[expect(unsafe_code, reason = "no crate asks for this option")]
fn read_options<'a>(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    room: &'a mut [u8; ROOM_BYTES],
) -> io::Result<&'a [u8]> {
    let mut length = libc::socklen_t::try_from(ROOM_BYTES).unwrap_or(0);
    // SAFETY: the descriptor is open for as long as it is borrowed; `room` is writable for `length` bytes, and both
    // live beyond the call, after which the kernel keeps neither.
    let failed =
        unsafe { libc::getsockopt(fd.as_raw_fd(), level, option, room.as_mut_ptr().cast(), &raw mut length) };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(&room[..ROOM_BYTES.min(usize::try_from(length).unwrap_or(0))])
}

/// The four bytes at `offset` of the first message, if it is of this kind.
fn find(told: &[u8], level: libc::c_int, kind: libc::c_int, offset: usize) -> Option<u32> {
    let int = |at: usize| Some(i32::from_ne_bytes(told.get(at..at + 4)?.try_into().ok()?));
    let is_it = int(HEADER_BYTES - 8)? == level && int(HEADER_BYTES - 4)? == kind;
    u32::try_from(int(HEADER_BYTES + offset)?).ok().filter(|_| is_it)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn a_connection_from_the_host_itself_came_by_lo() {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            // A host without IPv6.
            let Ok(listener) = TcpListener::bind(at) else { continue };
            let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            let own = accepted.local_addr().unwrap();
            let at_source = |source| Arrival::of(&accepted, own).unwrap().at(source, false, |_| None);
            assert_eq!(at_source(1), 1, "{at}");
            assert_eq!(at_source(2), 1, "{at}, asked again");
        }
    }

    #[test]
    fn connections_of_a_listener_that_expects_it_tell_it_unasked() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connect = || TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = || (connect(), listener.accept().unwrap().0);
        let (_client, before) = accepted();
        assert_eq!(told_v4(before.as_fd()).unwrap(), None);
        Arrival::expect_at(&listener);
        let (_client, after) = accepted();
        assert_eq!(told_v4(after.as_fd()).unwrap(), Some(1));
    }

    #[test]
    fn what_is_no_connection_has_no_interface() {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(Arrival::of(&udp, udp.local_addr().unwrap()).is_err());
    }
}
