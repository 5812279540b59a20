//! The listening sockets: where they are bound, and with which options.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, listen, setsockopt, socket,
    sockopt,
};
use rolegate_iptables::route::listen_at_imds;
use rolegate_iptables::{Family, IMDS_PORT};
use tracing::debug;

use super::queue::Pool;

/// What the kernel keeps of an answer after its connection ended here goes when nothing of it was taken for so long.
/// Otherwise the kernel tries on for a minute and more (`net.ipv4.tcp_orphan_retries`), and beyond a number of such sockets
/// (`net.ipv4.tcp_max_orphans`) resets whatever is closed on the node, everybody's.
pub(super) const UNREAD_ANSWER_MILLIS: u32 = 5_000;

/// The listening sockets, not yet served. No runtime is needed to make them.
#[derive(Debug)]
pub struct Listeners(pub(super) Vec<TcpListener>);

// === impl Listeners ===

impl Listeners {
    /// Where [`Self::bind`] listens.
    #[must_use]
    pub fn at_port(port: u16) -> [SocketAddr; 2] {
        [(Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into()]
    }

    /// Where [`Self::bind_at_imds`] listens.
    #[must_use]
    pub fn at_imds() -> [SocketAddr; 2] {
        [Family::V4, Family::V6].map(|family| (family.imds(), IMDS_PORT).into())
    }

    /// Binds `port` on every address of both families, but for what is in the pool; a host without IPv6 is not an error.
    ///
    /// # Errors
    /// When IPv4 cannot be bound, or somebody else has the port of either family: pods would be redirected to
    /// them. The error names the port.
    pub fn bind(port: u16, pool: &Pool) -> io::Result<Self> {
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("port {port} (--app-port) cannot be bound: {error}"))
        };
        let [v4, v6] = Self::at_port(port);
        let mut all = vec![pool.or_open(v4, || listener(v4)).map_err(named)?];
        match pool.or_open(v6, || listener(v6)) {
            Ok(v6) => all.push(v6),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(named(error)),
            Err(error) => debug!(%error, port, "IPv6 is not served: the port cannot be bound there"),
        }
        Ok(Self(all))
    }

    /// Listens at the IMDS addresses themselves, which are none of the host's, but for what is in the pool; a host
    /// without IPv6 is not an error.
    ///
    /// # Errors
    /// When one of them is somebody else's, or may not be listened at. The error names it.
    pub fn bind_at_imds(pool: &Pool) -> io::Result<Self> {
        let at_imds = |family: Family| {
            pool.or_open((family.imds(), IMDS_PORT).into(), || {
                let listener = listen_at_imds(family)?;
                setsockopt(&listener, sockopt::TcpUserTimeout, &UNREAD_ANSWER_MILLIS)?;
                Ok(listener)
            })
        };
        let mut all = vec![at_imds(Family::V4)?];
        match at_imds(Family::V6) {
            Ok(v6) => all.push(v6),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
            Err(error) => debug!(%error, "IPv6 is not served"),
        }
        Ok(Self(all))
    }

    /// Where it is listened at.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// The same sockets once more.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn clones(&self) -> io::Result<Vec<TcpListener>> {
        self.0.iter().map(TcpListener::try_clone).collect()
    }
}

pub(super) fn listener(addr: SocketAddr) -> io::Result<TcpListener> {
    let family = if addr.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Stream, flags, None)?;
    // A restarted agent must get its port back while old connections are in TIME_WAIT.
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    match addr {
        SocketAddr::V4(v4) => bind(fd.as_raw_fd(), &SockaddrIn::from(v4))?,
        SocketAddr::V6(v6) => {
            // IPv4 has its own socket: SO_ORIGINAL_DST is asked per family.
            setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
            bind(fd.as_raw_fd(), &SockaddrIn6::from(v6))?;
        }
    }
    // Every accepted connection has it from its listener.
    setsockopt(&fd, sockopt::TcpUserTimeout, &UNREAD_ANSWER_MILLIS)?;
    // As many connections wait to be accepted as the node allows (`net.core.somaxconn`); `Backlog::new` would refuse
    // more than the C library's `SOMAXCONN`, for musl 128.
    listen(&fd, Backlog::MAXALLOWABLE)?;
    Ok(TcpListener::from(fd))
}
