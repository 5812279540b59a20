//! The host's links and default routes, what pods are routed by, and when any of it changes (rtnetlink).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use futures::channel::mpsc::UnboundedReceiver;
use futures::{StreamExt, TryStreamExt, future, stream};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkAttribute;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};

use crate::family::{Family, IMDS_V4, IMDS_V6};
use crate::interfaces::InterfaceSpec;

/// A pod's start is a dozen notifications within a few milliseconds: they are one change.
const SETTLE: Duration = Duration::from_millis(50);
/// Longest that a burst holds the first of it back.
const SETTLE_AT_MOST: Duration = Duration::from_millis(200);

/// Routes asked for before the first answer is read: each is some 150 bytes, and the socket has room for hundreds.
const QUESTIONS_AT_ONCE: usize = 32;

/// Why the kernel's tables could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No socket, or it broke.
    #[error("netlink socket: {0}")]
    Socket(#[from] io::Error),
    /// The kernel refused.
    #[error("netlink request: {0}")]
    Request(#[from] rtnetlink::Error),
    /// Rules or routes were written and the kernel shows others.
    #[error("what was written does not stay")]
    NotHeld,
    /// The connection ended.
    #[error("netlink connection closed")]
    Closed,
}

/// The links and the uplinks at one instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// Every interface by its index.
    pub names: BTreeMap<u32, String>,
    /// Those of the default routes, both families, main table.
    pub uplinks: BTreeSet<String>,
}

/// What an [`InterfaceSpec`] comes to on this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkReport {
    /// Interfaces that it matches now.
    pub matching: Vec<String>,
    /// Interfaces that it does not match and pods are routed by, each with how many. Uplinks are not counted: an
    /// address whose interface is not there yet is routed that way.
    pub elsewhere: BTreeMap<String, usize>,
}

/// What a notification was about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Policy rules or routes to the metadata service came or went, or the kernel had to drop notifications. If not, links
    /// or other routes did.
    pub rules: bool,
}

/// Notifications of links, routes and rules that come and go.
pub struct LinkWatch {
    connection: Pin<Box<dyn Future<Output = ()> + Send>>,
    messages: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, rtnetlink::sys::SocketAddr)>,
    // Something changed that nobody has been told of.
    pending: Option<Change>,
    // The connection ends when nobody can ask any more.
    _handle: Handle,
}

// === impl Links ===

impl Links {
    /// Reads both from the kernel.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub async fn read() -> Result<Self, LinkError> {
        ask(|handle| async move {
            let mut names = BTreeMap::new();
            let mut links = std::pin::pin!(handle.link().get().execute());
            while let Some(link) = links.try_next().await? {
                let name = link.attributes.into_iter().find_map(|attribute| match attribute {
                    LinkAttribute::IfName(name) => Some(name),
                    _ => None,
                });
                names.extend(name.map(|name| (link.header.index, name)));
            }
            let mut uplinks = BTreeSet::new();
            for family in Family::ALL.into_iter().filter(|family| family.in_kernel()) {
                let mut routes = std::pin::pin!(handle.route().get(all_routes(family)).execute());
                while let Some(route) = routes.try_next().await? {
                    uplinks
                        .extend(default_route_links(&route).filter_map(|index| names.get(&index).cloned()));
                }
            }
            Ok(Self { names, uplinks })
        })
        .await
    }

    /// Whether pods can be behind it: it is neither an uplink nor `lo`.
    #[must_use]
    pub fn is_pod_side(&self, index: u32) -> bool {
        self.names.get(&index).is_some_and(|name| name != "lo" && !self.uplinks.contains(name))
    }

    /// What `spec` comes to, where pods are routed by `pod_links` (see [`pod_links`]).
    #[must_use]
    pub fn report(&self, spec: &InterfaceSpec, pod_links: &HashMap<IpAddr, u32>) -> LinkReport {
        let matches = |name: &&String| spec.matches(name, &self.uplinks);
        let matching = self.names.values().filter(|name| *name != "lo").filter(matches).cloned().collect();
        let mut elsewhere = BTreeMap::new();
        for name in pod_links.values().filter_map(|index| self.names.get(index)) {
            if !spec.matches(name, &self.uplinks) && !self.uplinks.contains(name) && name != "lo" {
                *elsewhere.entry(name.clone()).or_default() += 1;
            }
        }
        LinkReport { matching, elsewhere }
    }
}

/// The index of the interface that the node routes each address by; those that it has no route to are left out.
///
/// # Errors
/// When the kernel cannot be asked.
pub async fn pod_links(addresses: &[IpAddr]) -> Result<HashMap<IpAddr, u32>, LinkError> {
    ask(|handle| async move {
        let asked = stream::iter(addresses.to_vec()).map(move |address| link_of(handle.clone(), address));
        asked.buffer_unordered(QUESTIONS_AT_ONCE).try_filter_map(future::ok).try_collect().await
    })
    .await
}

/// The address, and the link that it is routed by.
async fn link_of(handle: Handle, address: IpAddr) -> Result<Option<(IpAddr, u32)>, rtnetlink::Error> {
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let Ok(request) = RouteMessageBuilder::<IpAddr>::new().destination_prefix(address, bits) else {
        return Ok(None);
    };
    let mut routes = std::pin::pin!(handle.route().get(request.build()).execute());
    match routes.next().await {
        Some(Ok(route)) if route.header.kind == RouteType::Unicast => {
            Ok(output_link(&route).map(|index| (address, index)))
        }
        // Unreachable, prohibited, no such network: an answer, too.
        Some(Ok(_) | Err(rtnetlink::Error::NetlinkError(_))) | None => Ok(None),
        Some(Err(error)) => Err(error),
    }
}

// === impl LinkWatch ===

impl LinkWatch {
    /// Starts to listen: what changes from now on is noticed.
    ///
    /// # Errors
    /// When there is no such socket.
    pub fn new() -> Result<Self, LinkError> {
        use MulticastGroup::{Ipv4Route, Ipv4Rule, Ipv6Route, Ipv6Rule, Link};
        let groups = [Link, Ipv4Route, Ipv4Rule, Ipv6Route, Ipv6Rule];
        let (connection, handle, messages) = rtnetlink::new_multicast_connection(&groups)?;
        Ok(Self { connection: Box::pin(connection), messages, pending: None, _handle: handle })
    }

    /// Waits for a change, then until it has been quiet for a moment: a burst is one change. Notifications that
    /// the kernel had to drop count as one. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// When the socket is gone: make a new one.
    pub async fn changed(&mut self) -> Result<Change, LinkError> {
        if self.pending.is_none() {
            self.pending = Some(self.next().await?);
        }
        // A stream of notifications that never rests must not hide that something changed.
        let _ = tokio::time::timeout(SETTLE_AT_MOST, async {
            while let Ok(Ok(change)) = tokio::time::timeout(SETTLE, self.next()).await {
                self.pending.get_or_insert_default().rules |= change.rules;
            }
        })
        .await;
        Ok(self.pending.take().unwrap_or_default())
    }

    async fn next(&mut self) -> Result<Change, LinkError> {
        let message = tokio::select! {
            biased;
            message = self.messages.next() => message,
            () = &mut self.connection => None,
        };
        let (message, _) = message.ok_or(LinkError::Closed)?;
        let rules = match message.payload {
            NetlinkPayload::InnerMessage(message) => match message {
                RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_) => true,
                RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
                    leads_to_imds(&route)
                }
                _ => false,
            },
            _ => true,
        };
        Ok(Change { rules })
    }
}

/// Runs one conversation with the kernel on a socket of its own.
pub(crate) async fn ask<T, F>(conversation: impl FnOnce(Handle) -> F) -> Result<T, LinkError>
where
    F: Future<Output = Result<T, rtnetlink::Error>>,
{
    let (connection, handle, _messages) = rtnetlink::new_connection()?;
    tokio::select! {
        biased;
        answer = conversation(handle) => Ok(answer?),
        () = connection => Err(LinkError::Closed),
    }
}

pub(crate) fn all_routes(family: Family) -> RouteMessage {
    match family {
        Family::V4 => RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
        Family::V6 => RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
    }
}

/// The interfaces of a route, if it is a default route of the main table. Other tables' default routes are for
/// chosen traffic only (a container network's own device among them), and to leave a pod's interface out of
/// `auto` is worse than to have an uplink in it.
fn default_route_links(route: &RouteMessage) -> impl Iterator<Item = u32> + '_ {
    let default = is_main(route)
        && route.header.destination_prefix_length == 0
        && route.header.kind == RouteType::Unicast;
    let hops = route.attributes.iter().filter_map(|attribute| match attribute {
        RouteAttribute::MultiPath(hops) => Some(hops.iter().map(|hop| hop.interface_index)),
        _ => None,
    });
    output_link(route).into_iter().chain(hops.flatten()).filter(move |_| default)
}

/// Its destination is the metadata service, and nothing else.
pub(crate) fn leads_to_imds(route: &RouteMessage) -> bool {
    let bits = route.header.destination_prefix_length;
    [(RouteAddress::Inet(IMDS_V4), 32), (RouteAddress::Inet6(IMDS_V6), 128)]
        .into_iter()
        .any(|(imds, all)| bits == all && route.attributes.contains(&RouteAttribute::Destination(imds)))
}

/// It is one of the main table.
pub(crate) fn is_main(route: &RouteMessage) -> bool {
    let main = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table == u32::from(RouteHeader::RT_TABLE_MAIN)),
        _ => None,
    });
    main.unwrap_or(route.header.table == RouteHeader::RT_TABLE_MAIN)
}

pub(crate) fn output_link(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Links {
        let names = ["lo", "eth0", "cali1", "cali2", "cbr0"];
        let names = (1..).zip(names).map(|(index, name)| (index, name.to_owned())).collect();
        Links { names, uplinks: BTreeSet::from(["eth0".to_owned()]) }
    }

    fn report(spec: &str, pod_links: &[(&str, u32)]) -> LinkReport {
        let pod_links = pod_links.iter().map(|(ip, index)| (ip.parse().expect(ip), *index)).collect();
        host().report(&InterfaceSpec::parse(spec).expect(spec), &pod_links)
    }

    #[test]
    fn a_wrong_name_shows_what_matches_and_where_pods_are() {
        let routed = [("10.1.0.1", 3), ("10.1.0.2", 4), ("10.1.0.3", 4)];
        let wrong = report("docker0", &routed);
        assert!(wrong.matching.is_empty());
        assert_eq!(wrong.elsewhere, BTreeMap::from([("cali1".to_owned(), 1), ("cali2".to_owned(), 2)]));
        let right = report("cal+", &routed);
        assert_eq!(right.matching, ["cali1", "cali2"]);
        assert!(right.elsewhere.is_empty());
    }

    #[test]
    fn a_pod_that_has_no_interface_yet_is_not_elsewhere() {
        assert!(report("cali+", &[("10.1.0.9", 2), ("10.1.0.8", 99)]).elsewhere.is_empty());
    }

    #[test]
    fn auto_matches_all_but_lo_and_uplinks() {
        assert_eq!(report("auto", &[("10.1.0.1", 3)]).matching, ["cali1", "cali2", "cbr0"]);
    }
}
