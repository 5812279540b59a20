//! Where a connection was headed before the redirect: the IMDS, or this port itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::sys::socket::{getsockopt, sockopt};
use tokio::net::TcpStream;

/// The port of the IMDS ("Access instance metadata", EC2 user guide).
const IMDS_PORT: u16 = 80;

/// Whether a connection may be given credentials at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Its destination was an IMDS address on port 80: a rule of the node brought it here, or we listen there.
    Imds,
    /// It came straight to this port, or nobody knows.
    Elsewhere,
}

// === impl Destination ===

impl Destination {
    /// Looks at the address that `stream` came to (`at`), and else asks conntrack where it was headed. An untracked
    /// connection (ENOENT) was not captured.
    #[must_use]
    pub fn of(stream: &TcpStream, at: SocketAddr) -> Self {
        if at.port() == IMDS_PORT && is_imds(at.ip()) {
            return Self::Imds;
        }
        let original = match at {
            SocketAddr::V4(_) => getsockopt(stream, sockopt::OriginalDst).ok().map(|raw| {
                (IpAddr::V4(Ipv4Addr::from(u32::from_be(raw.sin_addr.s_addr))), u16::from_be(raw.sin_port))
            }),
            SocketAddr::V6(_) => getsockopt(stream, sockopt::Ip6tOriginalDst)
                .ok()
                .map(|raw| (IpAddr::V6(Ipv6Addr::from(raw.sin6_addr.s6_addr)), u16::from_be(raw.sin6_port))),
        };
        match original {
            Some((ip, IMDS_PORT)) if is_imds(ip) => Self::Imds,
            Some(_) | None => Self::Elsewhere,
        }
    }

    /// The metric label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Imds => "imds",
            Self::Elsewhere => "elsewhere",
        }
    }
}

fn is_imds(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4 == rolegate_iptables::IMDS_V4,
        IpAddr::V6(v6) => v6 == rolegate_iptables::IMDS_V6,
    }
}
