//! The cluster's network: a world on one link with the nodes, and an instance metadata service for each node.
//!
//! ```text
//! world                               nodes
//!   br0  10.0.0.1 ------------------- eth0 10.0.0.10, pods 100.96.0.0/24
//!    :6443 API server   :4566 STS     eth0 10.0.0.20, pods 100.96.1.0/24
//!    :8010, :8020 IMDS of each node, at 169.254.169.254 for its packets
//! ```
//!
//! What pods send off their node wears a second address of the node (the next one after the first): the record
//! of an IMDS double tells a pod's request from one of the node's own network.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Result;

use crate::netns::NetNs;
use crate::topology::{IMDS_V4, WORLD_V4};

/// All nodes and the world.
const FABRIC: &str = "10.0.0.0/24";
/// The pods of all nodes.
pub(super) const PODS: &str = "100.96.0.0/16";

/// Where a node is in the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u8);

/// The network of a cluster: it lasts as long as the world's namespace.
#[derive(Debug)]
pub(super) struct Fabric {
    world: Arc<NetNs>,
}

// === impl Place ===

impl Place {
    /// The place of node number `n`, from 0.
    pub(super) fn of(n: u8) -> Self {
        Self(n)
    }

    /// The node's address.
    #[must_use]
    pub fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, 10 * (self.0 + 1))
    }

    /// What requests of its pods wear off the node.
    #[must_use]
    pub fn pods_wear(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, 10 * (self.0 + 1) + 1)
    }

    /// Its pods' addresses.
    #[must_use]
    pub fn pods(self) -> String {
        format!("100.96.{}.0/24", self.0)
    }

    /// The first of them, which its bridge has.
    pub(super) fn gateway(self) -> String {
        format!("100.96.{}.1", self.0)
    }

    /// Where the world has the IMDS double of this node.
    pub(super) fn imds(self) -> SocketAddr {
        (WORLD_V4, 8000 + 10 * (u16::from(self.0) + 1)).into()
    }
}

// === impl Fabric ===

impl Fabric {
    pub(super) fn new() -> Result<Self> {
        let world = NetNs::create("world")?;
        world.ip(&format!(
            "link add br0 type bridge\n\
             addr add {WORLD_V4}/24 dev br0\n\
             link set br0 up\n"
        ))?;
        world.sysctl("net/ipv4/ip_forward", "1")?;
        Ok(Self { world: Arc::new(world) })
    }

    /// Where API server, STS and IMDS are.
    pub(super) fn world(&self) -> &Arc<NetNs> {
        &self.world
    }

    /// Its packets to IMDS find its own double, whatever address of the node they wear. Once for each place.
    pub(super) fn imds_for(&self, place: Place) -> Result<()> {
        for source in [place.address().to_string(), place.pods_wear().to_string(), place.pods()] {
            self.world.run(
                "iptables",
                &[
                    &["-w", "-t", "nat", "-A", "PREROUTING", "-s", &source][..],
                    &["-d", &IMDS_V4.to_string(), "-p", "tcp", "--dport", "80"],
                    &["-j", "DNAT", "--to-destination", &place.imds().to_string()],
                ]
                .concat(),
            )?;
        }
        Ok(())
    }

    /// A new network for a node, linked to the world. A former one of this place must be gone.
    pub(super) fn node(&self, place: Place, all: &[Place]) -> Result<NetNs> {
        let ns = NetNs::create("node")?;
        let (address, port) = (place.address(), format!("node{}", place.0));
        // The link of a former network goes with it, but not at once.
        let _ = self.world.ip(&format!("link delete {port}\n"));
        self.world.ip(&format!(
            "link add {port} type veth peer name eth0 netns {}\n\
             link set {port} master br0 up\n\
             route replace {} via {address}\n",
            ns.name(),
            place.pods(),
        ))?;
        ns.ip(&format!(
            "link set eth0 up\n\
             addr add {address}/24 dev eth0\n\
             addr add {}/32 dev eth0\n\
             route add default via {WORLD_V4}\n",
            place.pods_wear(),
        ))?;
        for other in all.iter().filter(|other| **other != place) {
            ns.ip(&format!("route add {} via {}\n", other.pods(), other.address()))?;
        }
        ns.sysctl("net/ipv4/ip_forward", "1")?;
        for near in [FABRIC, PODS] {
            // Nodes and pods see each other as they are; IMDS is no part of the fabric.
            translate(&ns, place, &["-d", near, "-j", "RETURN"])?;
        }
        translate(&ns, place, &["-j", "SNAT", "--to-source", &place.pods_wear().to_string()])?;
        Ok(ns)
    }
}

/// A rule for what pods of the node send off it, as every CNI has some: connection tracking is in use.
fn translate(ns: &NetNs, place: Place, rule: &[&str]) -> Result<()> {
    let pods = place.pods();
    let head = ["-w", "-t", "nat", "-A", "POSTROUTING", "-s", &pods];
    ns.run("iptables", &[&head[..], rule].concat()).map(drop)
}
