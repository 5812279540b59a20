//! Whether the kernel delivers here what pods send to the metadata service: a look-up for the pod's own packet.
//!
//! It is `ip route get IMDS from POD iif INTERFACE ipproto tcp dport 80`, which asks policy rules, routes and the check of
//! sources as the packet itself does. Without the source IPv4 refuses to answer for an interface. What forwards without asking them ([`crate::dataplane`]) it does not see, nor
//! a mark that others' rules of netfilter put on packets.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::{StreamExt, TryStreamExt};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use rtnetlink::{Handle, RouteMessageBuilder};

use crate::family::{Family, IMDS_PORT};
use crate::links::{LinkError, Links, all_routes, ask, is_main, output_link};
use crate::rules::families;

/// Most addresses of one network that are tried for one that is not the host's own.
const TRIES: u128 = 64;

/// Where a pod's packet goes instead of coming here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detour {
    /// Off the host, by this interface.
    Forwarded(u32),
    /// Nowhere: the kernel refuses it, as it said.
    Refused(String),
}

/// What is not delivered: by the interface that the pods of it are behind, an address of one of them and what
/// becomes of its packets.
pub type Detours = BTreeMap<u32, (IpAddr, Detour)>;

/// Looks up, for each of these addresses and the interface that it is behind, where its packets for the metadata
/// service go. Empty: all come here.
///
/// # Errors
/// When the kernel cannot be asked.
pub async fn detours(pods: &HashMap<IpAddr, u32>) -> Result<Detours, LinkError> {
    ask(|handle| async move {
        let mut detours = Detours::new();
        for (pod, link) in pods {
            let Some(request) = packet(*pod, *link) else { continue };
            let answer = std::pin::pin!(handle.route().get(request).execute()).next().await;
            let detour = match answer {
                Some(Ok(route)) if route.header.kind == RouteType::Local => continue,
                Some(Ok(route)) => Detour::of(&route),
                Some(Err(rtnetlink::Error::NetlinkError(error))) => {
                    Detour::Refused(io::Error::from(error).to_string())
                }
                Some(Err(error)) => return Err(error),
                None => Detour::Refused("no answer".to_owned()),
            };
            detours.insert(*link, (*pod, detour));
        }
        Ok(detours)
    })
    .await
}

/// Addresses that the main table routes by interfaces that are neither uplinks nor `lo`, each with its interface:
/// those of pods, before anybody has said what pods there are. Of a network it is one address that is not the host's.
///
/// # Errors
/// When the kernel cannot be asked.
pub async fn routed_addresses(links: &Links) -> Result<HashMap<IpAddr, u32>, LinkError> {
    let mut found = HashMap::new();
    for family in families() {
        let wanted = all_routes(family);
        let routes: Vec<RouteMessage> =
            ask(|handle: Handle| async move { handle.route().get(wanted).execute().try_collect().await })
                .await?;
        let own: HashSet<IpAddr> = routes
            .iter()
            .filter(|route| route.header.kind == RouteType::Local)
            .filter_map(destination)
            .collect();
        for route in routes.iter().filter(|route| is_main(route) && is_direct(route)) {
            let link = output_link(route).filter(|link| links.is_pod_side(*link));
            let address = destination(route)
                .and_then(|network| address_in(network, route.header.destination_prefix_length, &own));
            found.extend(address.zip(link));
        }
    }
    Ok(found)
}

/// The pod's packet as a question.
fn packet(pod: IpAddr, link: u32) -> Option<RouteMessage> {
    let (imds, bits) = match Family::of(pod) {
        Family::V4 => (Family::V4.imds(), 32),
        Family::V6 => (Family::V6.imds(), 128),
    };
    let request = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(imds, bits)
        .and_then(|request| request.source_prefix(pod, bits))
        .ok()?;
    let tcp = u8::try_from(libc::IPPROTO_TCP).ok()?;
    Some(request.input_interface(link).ip_protocol(tcp).dport(IMDS_PORT).build())
}

/// To a neighbour, not by way of a router.
fn is_direct(route: &RouteMessage) -> bool {
    let by_router =
        |attribute: &RouteAttribute| matches!(attribute, RouteAttribute::Gateway(_) | RouteAttribute::Via(_));
    route.header.kind == RouteType::Unicast && !route.attributes.iter().any(by_router)
}

fn destination(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
        RouteAttribute::Destination(RouteAddress::Inet6(v6)) if !v6.is_unicast_link_local() => {
            Some(IpAddr::V6(*v6))
        }
        _ => None,
    })
}

/// An address of the network that is not one of `own`.
fn address_in(network: IpAddr, prefix: u8, own: &HashSet<IpAddr>) -> Option<IpAddr> {
    let full = if network.is_ipv4() { 32 } else { 128 };
    if prefix == full {
        return Some(network);
    }
    let size = 1_u128.checked_shl(u32::from(full - prefix)).unwrap_or(u128::MAX);
    let nth = |n: u128| match network {
        IpAddr::V4(v4) => {
            u32::try_from(n).ok().map(|n| Ipv4Addr::from_bits(v4.to_bits().wrapping_add(n)).into())
        }
        IpAddr::V6(v6) => Some(Ipv6Addr::from_bits(v6.to_bits().wrapping_add(n)).into()),
    };
    (1..size.min(TRIES)).filter_map(nth).find(|address| !own.contains(address))
}

// === impl Detour ===

impl Detour {
    fn of(route: &RouteMessage) -> Self {
        match output_link(route) {
            Some(link) => Self::Forwarded(link),
            None => Self::Refused(format!("{:?}", route.header.kind)),
        }
    }

    /// In words, with the names of interfaces.
    #[must_use]
    pub fn describe(&self, links: &Links) -> String {
        match self {
            Self::Forwarded(link) => match links.names.get(link) {
                Some(name) => format!("goes out by {name}"),
                None => "goes elsewhere".to_owned(),
            },
            Self::Refused(error) => format!("is refused ({error})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    #[test]
    fn address_of_a_network_is_the_first_that_is_not_the_hosts() {
        let own = HashSet::from([ip("10.2.0.1"), ip("10.2.0.2"), ip("fd00:2::1"), ip("10.3.0.1")]);
        for (network, prefix, expected) in [
            ("10.1.0.11", 32, Some("10.1.0.11")),
            ("10.2.0.0", 24, Some("10.2.0.3")),
            ("fd00:2::", 64, Some("fd00:2::2")),
            ("fd00:1::11", 128, Some("fd00:1::11")),
            ("10.3.0.0", 31, None),
        ] {
            assert_eq!(address_in(ip(network), prefix, &own), expected.map(ip), "{network}/{prefix}");
        }
    }
}
