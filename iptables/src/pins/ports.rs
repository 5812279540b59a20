//! The node's bridges and their ports (rtnetlink).

use std::collections::{BTreeMap, BTreeSet};

use futures::TryStreamExt;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo};

use super::first::PortKey;
use crate::links::{LinkError, ask};

/// One port of a bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its index and name.
    pub key: PortKey,
    /// The index of the bridge.
    pub bridge: u32,
    /// Its own hardware address, not that of what is behind it.
    pub mac: Vec<u8>,
}

/// Links at one instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// Every link there is.
    pub links: BTreeSet<PortKey>,
    /// Bridges by their index.
    pub bridges: BTreeMap<u32, String>,
    /// Their ports.
    pub ports: Vec<Port>,
}

// === impl Ports ===

impl Ports {
    /// Reads all of them from the kernel.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub async fn read() -> Result<Self, LinkError> {
        ask(|handle| async move {
            let mut all = Self::default();
            let mut enslaved = Vec::new();
            let mut links = std::pin::pin!(handle.link().get().execute());
            while let Some(link) = links.try_next().await? {
                let index = link.header.index;
                let (mut name, mut mac, mut controller, mut bridge) = (None, Vec::new(), None, false);
                for attribute in link.attributes {
                    match attribute {
                        LinkAttribute::IfName(is) => name = Some(is),
                        LinkAttribute::Address(is) => mac = is,
                        LinkAttribute::Controller(is) => controller = Some(is),
                        LinkAttribute::LinkInfo(infos) => {
                            bridge = infos.contains(&LinkInfo::Kind(InfoKind::Bridge));
                        }
                        _ => {}
                    }
                }
                let Some(name) = name else { continue };
                let key = PortKey { index, name };
                all.links.insert(key.clone());
                if bridge {
                    all.bridges.insert(index, key.name.clone());
                }
                enslaved.extend(controller.map(|bridge| Port { key, bridge, mac }));
            }
            // A link may be under a bond or a VRF as well.
            enslaved.retain(|port| all.bridges.contains_key(&port.bridge));
            all.ports = enslaved;
            Ok(all)
        })
        .await
    }
}
