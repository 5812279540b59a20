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

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Result;

use crate::netns::NetNs;
use crate::topology::{IMDS_V4, IMDS_V6, WORLD_V4};

/// All nodes and the world.
const FABRIC: &str = "10.0.0.0/24";
const FABRIC_V6: &str = "fd00:a::/64";
/// The pods of all nodes.
pub(super) const PODS: &str = "100.96.0.0/16";
/// As [`PODS`].
pub(super) const PODS_V6: &str = "fd00:64::/32";
/// The world's address on the fabric.
const WORLD_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xa, 0, 0, 0, 0, 0, 1);

/// Where a node is in the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u8);

/// The network of a cluster: it lasts as long as the world's namespace.
#[derive(Debug)]
pub(super) struct Fabric {
    world: Arc<NetNs>,
    dual_stack: bool,
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

    /// The node's IPv6 address, where it has one.
    #[must_use]
    pub fn address_v6(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0xa, 0, 0, 0, 0, 0, 0x10 * (u16::from(self.0) + 1))
    }

    /// As [`Place::pods_wear`].
    #[must_use]
    pub fn pods_wear_v6(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0xa, 0, 0, 0, 0, 0, 0x10 * (u16::from(self.0) + 1) + 1)
    }

    /// As [`Place::pods`].
    #[must_use]
    pub fn pods_v6(self) -> String {
        format!("fd00:64:{}::/64", self.0)
    }

    /// As [`Place::gateway`].
    pub(super) fn gateway_v6(self) -> String {
        format!("fd00:64:{}::1", self.0)
    }

    /// Where the world has the IMDS double of this node.
    pub(super) fn imds(self) -> SocketAddr {
        (WORLD_V4, 8000 + 10 * (u16::from(self.0) + 1)).into()
    }

    /// The same for IPv6.
    pub(super) fn imds_v6(self) -> SocketAddr {
        (WORLD_V6, self.imds().port()).into()
    }
}

// === impl Fabric ===

impl Fabric {
    pub(super) fn new(dual_stack: bool) -> Result<Self> {
        let world = NetNs::create("world")?;
        world.ip(&format!(
            "link add br0 type bridge\n\
             addr add {WORLD_V4}/24 dev br0\n\
             addr add {WORLD_V6}/64 dev br0 nodad\n\
             link set br0 up\n"
        ))?;
        forward(&world)?;
        Ok(Self { world: Arc::new(world), dual_stack })
    }

    /// Where API server, STS and IMDS are.
    pub(super) fn world(&self) -> &Arc<NetNs> {
        &self.world
    }

    /// Whether nodes and pods have IPv6 addresses, too.
    pub(super) fn dual_stack(&self) -> bool {
        self.dual_stack
    }

    /// Its packets to IMDS find its own double, whatever address of the node they wear. Once for each place.
    pub(super) fn imds_for(&self, place: Place) -> Result<()> {
        let v4 = [place.address().to_string(), place.pods_wear().to_string(), place.pods()];
        self.lead("iptables", &v4, IMDS_V4.into(), place.imds())?;
        let v6 = [place.address_v6().to_string(), place.pods_wear_v6().to_string(), place.pods_v6()];
        self.lead("ip6tables", &v6, IMDS_V6.into(), place.imds_v6())
    }

    fn lead(&self, program: &str, sources: &[String], from: IpAddr, to: SocketAddr) -> Result<()> {
        let (from, to) = (from.to_string(), to.to_string());
        for source in sources {
            let packets = ["-w", "-t", "nat", "-A", "PREROUTING", "-s", source, "-d", &from];
            let target = ["-p", "tcp", "--dport", "80", "-j", "DNAT", "--to-destination", &to];
            self.world.run(program, &[&packets[..], &target].concat())?;
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
        // The second address has no prefix: the kernel does not choose it as the source of the node's own packets.
        ns.ip(&format!(
            "link set eth0 up\n\
             addr add {address}/24 dev eth0\n\
             addr add {}/32 dev eth0\n\
             route add default via {WORLD_V4}\n",
            place.pods_wear(),
        ))?;
        let others = || all.iter().filter(|other| **other != place);
        for other in others() {
            ns.ip(&format!("route add {} via {}\n", other.pods(), other.address()))?;
        }
        forward(&ns)?;
        let near = [FABRIC, PODS];
        translate(&ns, "iptables", &place.pods(), &near, &place.pods_wear().to_string())?;
        if self.dual_stack {
            self.add_v6(&ns, place)?;
            for other in others() {
                ns.ip(&format!("route add {} via {}\n", other.pods_v6(), other.address_v6()))?;
            }
        }
        Ok(ns)
    }

    fn add_v6(&self, ns: &NetNs, place: Place) -> Result<()> {
        let address = place.address_v6();
        self.world.ip(&format!("route replace {} via {address}\n", place.pods_v6()))?;
        ns.ip(&format!(
            "addr add {address}/64 dev eth0 nodad\n\
             addr add {}/128 dev eth0 nodad preferred_lft 0\n\
             route add ::/0 via {WORLD_V6}\n",
            place.pods_wear_v6(),
        ))?;
        let near = [FABRIC_V6, PODS_V6];
        translate(ns, "ip6tables", &place.pods_v6(), &near, &place.pods_wear_v6().to_string())
    }
}

fn forward(ns: &NetNs) -> Result<()> {
    ns.sysctl("net/ipv4/ip_forward", "1")?;
    ns.sysctl("net/ipv6/conf/all/forwarding", "1")
}

/// What pods of the node send off it wears `source`, as every CNI has it, so connection tracking is in use. Nodes and pods
/// see each other as they are; IMDS is no part of the fabric.
fn translate(ns: &NetNs, program: &str, pods: &str, near: &[&str], source: &str) -> Result<()> {
    let head = ["-w", "-t", "nat", "-A", "POSTROUTING", "-s", pods];
    for near in near {
        ns.run(program, &[&head[..], &["-d", near, "-j", "RETURN"]].concat())?;
    }
    ns.run(program, &[&head[..], &["-j", "SNAT", "--to-source", source]].concat()).map(drop)
}
