//! The interface that an accepted TCP connection came in by, as its socket remembers it.
//!
//! The kernel keeps the interface of the handshake's last packet with the socket (`mc_index` and `mcast_oif`, set in
//! `tcp_v4_syn_recv_sock` and `tcp_v6_syn_recv_sock`) and tells it as ancillary data of a stream's packet options.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::socket::{SockaddrLike, SockaddrStorage, getsockname, setsockopt, sockopt};

/// Room for the one message that is asked for: a header and 20 bytes, the longer of the two.
const ROOM_BYTES: usize = 64;
/// A message's header: a length as long as a word, then level and type (`struct cmsghdr`).
const HEADER_BYTES: usize = size_of::<usize>() + 8;
/// `IPV6_2292PKTOPTIONS` (linux/in6.h).
const IPV6_2292PKTOPTIONS: libc::c_int = 6;

/// The index of the interface that `connection` came in by.
///
/// # Errors
/// When the kernel does not tell it: what is no TCP connection has none.
pub fn incoming_interface(connection: &impl AsFd) -> io::Result<u32> {
    let fd = connection.as_fd();
    let at: SockaddrStorage = getsockname(fd.as_raw_fd())?;
    let index = if at.family() == Some(nix::sys::socket::AddressFamily::Inet) {
        setsockopt(&fd, sockopt::Ipv4PacketInfo, &true)?;
        let told = read_options(fd, libc::IPPROTO_IP, libc::IP_PKTOPTIONS);
        setsockopt(&fd, sockopt::Ipv4PacketInfo, &false)?;
        // `struct in_pktinfo`: the index is first.
        find(&told?, libc::IPPROTO_IP, libc::IP_PKTINFO, 0)
    } else {
        setsockopt(&fd, sockopt::Ipv6RecvPacketInfo, &true)?;
        let told = read_options(fd, libc::IPPROTO_IPV6, IPV6_2292PKTOPTIONS);
        setsockopt(&fd, sockopt::Ipv6RecvPacketInfo, &false)?;
        // `struct in6_pktinfo`: the index follows the address.
        find(&told?, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, 16)
    };
    index.filter(|index| *index > 0).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}

#[expect(unsafe_code, reason = "no crate asks for this option")]
fn read_options(fd: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int) -> io::Result<Vec<u8>> {
    let mut room = [0u8; ROOM_BYTES];
    let mut length = libc::socklen_t::try_from(ROOM_BYTES).unwrap_or(0);
    // SAFETY: the descriptor is open for as long as it is borrowed; `room` is writable for `length` bytes, and both
    // live beyond the call, after which the kernel keeps neither.
    let failed =
        unsafe { libc::getsockopt(fd.as_raw_fd(), level, option, room.as_mut_ptr().cast(), &raw mut length) };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(room[..ROOM_BYTES.min(usize::try_from(length).unwrap_or(0))].to_vec())
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
            assert_eq!(incoming_interface(&accepted).unwrap(), 1, "{at}");
            assert_eq!(incoming_interface(&accepted).unwrap(), 1, "asked again");
        }
    }

    #[test]
    fn what_is_no_connection_has_no_interface() {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(incoming_interface(&udp).is_err());
    }
}
