//! Capture `route`: forwarded traffic to the metadata addresses is delivered here, by policy routing.
//!
//! ```text
//! table T:  local IMDS dev lo
//! P+1:      to IMDS lookup T           between the host's exemption (P) and the prohibition (P+2) of the guard
//! ```
//!
//! A listener with `IP_TRANSPARENT` on IMDS:80 takes it. No netfilter, no connection tracking, no port on an address
//! of the node; the packets keep both their addresses, so that network policies mean what they say. The host itself
//! still reaches the real service. Taking any one part away leaves pods refused, not let through.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::AsRawFd;

use futures::TryStreamExt;
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, listen, setsockopt, socket,
    sockopt,
};
use nix::{setsockopt_impl, sockopt_impl};
use rtnetlink::{Handle, RouteMessageBuilder};

use crate::family::{Family, IMDS_PORT};
use crate::links::{LinkError, ask, leads_to_imds};
use crate::rules::{self, Action, Rule, families};

/// The table's number where nothing else is asked for: the address's last two bytes, and no CNI's.
pub const DEFAULT_TABLE: u32 = 43_518;

/// The table of the host's own addresses (`RT_TABLE_LOCAL`, linux/rtnetlink.h).
const RT_TABLE_LOCAL: u32 = 255;

/// The loopback device's index in every network namespace (`LOOPBACK_IFINDEX`, net/flow.h).
const LO: u32 = 1;

sockopt_impl!(
    /// `IPV6_TRANSPARENT`: the IPv6 form of `IP_TRANSPARENT`.
    Ipv6Transparent,
    SetOnly,
    libc::IPPROTO_IPV6,
    libc::IPV6_TRANSPARENT,
    bool
);

/// The capture, by the guard's preference and its own table.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    preference: u32,
    table: u32,
}

// === impl Route ===

impl Route {
    /// The capture beside a guard of this preference.
    #[must_use]
    pub const fn new(preference: u32, table: u32) -> Self {
        Self { preference, table }
    }

    fn rule(self, family: Family) -> Rule {
        let action = Action::Table(self.table);
        Rule { preference: self.preference + 1, to: Some(family.imds()), from_host: false, action }
    }

    /// Makes route and rule what they should be where they are not, and looks again. `true`: something was written. A family
    /// that is switched off is left to the guard. `before_write` is told beforehand; it is not called while all is right.
    ///
    /// # Errors
    /// When the kernel cannot be asked or refuses, or what was written does not stay.
    pub async fn reconcile(&self, before_write: &(dyn Fn() + Sync)) -> Result<bool, LinkError> {
        let mut changed = false;
        for family in families().filter(|family| family.is_on()) {
            if self.is_right(family).await? {
                continue;
            }
            before_write();
            changed = true;
            // The route first: a rule that leads to an empty table leads on, to the prohibition.
            self.add_route(family).await?;
            rules::make(&[self.rule(family)], family).await?;
            let mut found = false;
            for route in self.routes(family).await? {
                if self.is_right_one(&route) && !found {
                    found = true;
                } else {
                    delete(route).await?;
                }
            }
            if !self.is_right(family).await? {
                return Err(LinkError::NotHeld);
            }
        }
        Ok(changed)
    }

    /// Takes both away, whatever numbers they were made with. `false`: there was neither.
    ///
    /// # Errors
    /// When the kernel cannot be asked or refuses.
    pub async fn cleanup(&self) -> Result<bool, LinkError> {
        let mut any = false;
        for family in families() {
            any |= rules::remove(&[self.rule(family)], family).await?;
            for route in self.routes(family).await?.into_iter().filter(is_ours) {
                delete(route).await?;
                any = true;
            }
        }
        Ok(any)
    }

    async fn is_right(self, family: Family) -> Result<bool, LinkError> {
        let routes = self.routes(family).await?;
        let right = matches!(routes.as_slice(), [route] if self.is_right_one(route));
        Ok(right && rules::are_there(&[self.rule(family)], family).await?)
    }

    async fn add_route(self, family: Family) -> Result<(), LinkError> {
        let (imds, bits) = (family.imds(), if family == Family::V4 { 32 } else { 128 });
        let builder = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(imds, bits)
            .map_err(|error| io::Error::other(error.to_string()))?;
        let mut route = builder.table_id(self.table).output_interface(LO).build();
        route.header.kind = RouteType::Local;
        route.header.protocol = RouteProtocol::Kernel;
        route.header.scope = if family == Family::V4 { RouteScope::Host } else { RouteScope::Universe };
        ask(|handle: Handle| async move { handle.route().add(route).replace().execute().await }).await
    }

    /// Our route, as the kernel has it, those in other tables that an earlier start made, and what others put in front of it
    /// or behind.
    async fn routes(self, family: Family) -> Result<Vec<RouteMessage>, LinkError> {
        let wanted = match family {
            Family::V4 => RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
            Family::V6 => RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
        };
        let all: Vec<RouteMessage> =
            ask(|handle: Handle| async move { handle.route().get(wanted).execute().try_collect().await })
                .await?;
        let concerns =
            |route: &RouteMessage| is_ours(route) || table(route) == self.table && leads_to_imds(route);
        Ok(all.into_iter().filter(concerns).collect())
    }

    fn is_right_one(self, route: &RouteMessage) -> bool {
        table(route) == self.table && is_ours(route)
    }
}

/// One that is not there any more is gone already.
async fn delete(route: RouteMessage) -> Result<(), LinkError> {
    let deleted = ask(|handle: Handle| async move { handle.route().del(route).execute().await });
    rules::tolerate(deleted.await, libc::ESRCH)
}

/// What the kernel makes by itself for an address of the host is in its own table, and what others make is not by
/// `protocol kernel`.
fn is_ours(route: &RouteMessage) -> bool {
    let header = &route.header;
    header.kind == RouteType::Local
        && header.protocol == RouteProtocol::Kernel
        && header.tos == 0
        && table(route) != RT_TABLE_LOCAL
        && leads_to_imds(route)
        && route.attributes.contains(&RouteAttribute::Oif(LO))
}

fn table(route: &RouteMessage) -> u32 {
    let table = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    table.unwrap_or_else(|| route.header.table.into())
}

/// Listens on the metadata service's own address and port, which is no address of the host. As many connections wait to be
/// accepted as the node allows (`net.core.somaxconn`).
///
/// # Errors
/// When somebody else has it, or the capability `NET_ADMIN` (for the address) or `NET_BIND_SERVICE` (for the port) is
/// missing: the error says which address.
pub fn listen_at_imds(family: Family) -> io::Result<TcpListener> {
    let at = SocketAddr::new(family.imds(), IMDS_PORT);
    listen_at(at).map_err(|error| {
        io::Error::new(error.kind(), format!("{at} (--redirect=route) cannot be listened at: {error}"))
    })
}

fn listen_at(at: SocketAddr) -> io::Result<TcpListener> {
    let domain = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(domain, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    match at {
        SocketAddr::V4(v4) => {
            setsockopt(&fd, sockopt::IpTransparent, &true)?;
            bind(fd.as_raw_fd(), &SockaddrIn::from(v4))?;
        }
        SocketAddr::V6(v6) => {
            setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
            setsockopt(&fd, Ipv6Transparent, &true)?;
            bind(fd.as_raw_fd(), &SockaddrIn6::from(v6))?;
        }
    }
    listen(&fd, Backlog::MAXALLOWABLE)?;
    Ok(TcpListener::from(fd))
}
