//! The node's own addresses, followed by netlink: a connection that comes from one of them is not a pod's.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::pin::pin;

use futures::{StreamExt, TryStreamExt};
use netlink_packet_route::address::AddressAttribute;
use rtnetlink::{Handle, MulticastGroup, new_multicast_connection};

/// Why the addresses are not known (any longer).
#[derive(Debug, thiserror::Error)]
pub enum AddressesError {
    /// No netlink socket.
    #[error("a netlink socket cannot be opened: {0}")]
    Socket(#[from] io::Error),
    /// The kernel refused the list.
    #[error("the node's addresses cannot be listed: {0}")]
    List(#[from] rtnetlink::Error),
    /// The socket's other end is gone.
    #[error("the netlink socket closed")]
    Closed,
}

/// Calls `seen` with all addresses of the node, now and after every change, for as long as the future is polled.
///
/// # Errors
/// [`AddressesError`]; it never ends otherwise.
pub async fn follow_addresses(mut seen: impl FnMut(HashSet<IpAddr>)) -> Result<(), AddressesError> {
    let groups = [MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
    let (connection, handle, mut changes) = new_multicast_connection(&groups)?;
    let following = pin!(async move {
        loop {
            seen(list(&handle).await?);
            changes.next().await.ok_or(AddressesError::Closed)?;
            // A burst (a pod's interfaces come up) is one change.
            while let Some(Some(_)) = futures::FutureExt::now_or_never(changes.next()) {}
        }
    });
    match futures::future::select(pin!(connection), following).await {
        futures::future::Either::Left(((), _)) => Err(AddressesError::Closed),
        futures::future::Either::Right((ended, _)) => ended,
    }
}

async fn list(handle: &Handle) -> Result<HashSet<IpAddr>, rtnetlink::Error> {
    let mut addresses = HashSet::new();
    let mut messages = handle.address().get().execute();
    while let Some(message) = messages.try_next().await? {
        for attribute in message.attributes {
            // On a point-to-point link `Address` is the peer's: `Local` is ours.
            if let AddressAttribute::Local(ip) = attribute {
                addresses.insert(ip);
            } else if let AddressAttribute::Address(ip @ IpAddr::V6(_)) = attribute {
                addresses.insert(ip);
            }
        }
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[tokio::test]
    async fn loopback_is_one_of_the_nodes_addresses() {
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let following = pin!(follow_addresses(move |addresses| drop(tell.send(addresses))));
        let first = match futures::future::select(following, pin!(told.recv())).await {
            futures::future::Either::Left((ended, _)) => panic!("{ended:?}"),
            futures::future::Either::Right((first, _)) => first.unwrap(),
        };
        assert!(first.contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)), "{first:?}");
    }
}
