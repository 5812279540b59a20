//! Asks on a link who has an address, by the kernel's own resolution: whoever has it answers, silent until then or not.

use std::net::IpAddr;

use netlink_packet_route::neighbour::{NeighbourFlags, NeighbourState};

use crate::links::{LinkError, ask};

/// Has the kernel forget who has `address` on the interface `link`, and ask everybody there. What ports answer is seen
/// by [`super::first`].
///
/// # Errors
/// When the kernel does not do it.
pub async fn solicit(link: u32, address: IpAddr) -> Result<(), LinkError> {
    ask(|handle| async move {
        let neighbours = handle.neighbours();
        // `NTF_USE`: an entry that is not there is made and resolved at once (`neigh_add`, net/core/neighbour.c).
        let asked =
            neighbours.add(link, address).state(NeighbourState::None).flags(NeighbourFlags::Use).replace();
        let known = neighbours.add(link, address).message_mut().clone();
        // Most often there is none.
        let _ = neighbours.del(known).execute().await;
        asked.execute().await
    })
    .await
}
