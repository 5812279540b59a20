//! A node with its pods, the fabric around it and the world behind, as network namespaces.
//!
//! ```text
//! world                          node                       pods
//!   lo   169.254.169.254           eth0 10.0.0.10           eth0 100.96.1.x
//!        fd00:ec2::254                  fd00:a::10               fd00:64:1::x
//!   br0  10.0.0.1 --------------- default route
//!        fd00:a::1                 cali1.. no IPv4 address, proxy_arp, a /32 route per pod
//!         |                        cbr0    100.96.1.1, made with the first bridged pod
//!        outside 10.0.0.20
//! ```
//!
//! The node translates the source of what pods send off it, as every CNI does: connection tracking is in use
//! before the agent starts. It has an address for that alone, so that the record of the IMDS double tells a
//! pod's request ([`SNAT_V4`]) from one of the node or the agent ([`NODE_V4`]).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use parking_lot::Mutex;
use serde_json::json;

use crate::netns::NetNs;

/// Where pods and the node reach IMDS.
pub const IMDS_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// Where pods and the node reach IMDS over IPv6.
pub const IMDS_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
/// The world's address on the fabric: API server, STS, S3.
pub const WORLD_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The node's address.
pub const NODE_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 10);
/// The node's IPv6 address.
pub const NODE_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xa, 0, 0, 0, 0, 0, 0x10);
/// The node's second address, which everything that pods send off the node wears.
pub const SNAT_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 11);
/// As [`SNAT_V4`], for IPv6.
pub const SNAT_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xa, 0, 0, 0, 0, 0, 0x11);
/// Another host on the same fabric.
pub const OUTSIDE_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 20);

const POD_V4_NET: &str = "100.96.1.0/24";
const POD_V6_NET: &str = "fd00:64:1::/64";

/// Which `iptables` the node's own rules are written with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// `iptables-nft`.
    #[default]
    Nft,
    /// `iptables-legacy`.
    Legacy,
}

/// One node on a fabric.
#[derive(Debug)]
pub struct Topology {
    world: Arc<NetNs>,
    node: Arc<NetNs>,
    outside: NetNs,
    links: AtomicUsize,
    bridge: Mutex<bool>,
}

/// A pod's network: its namespace and the link that leads to it. Dropping it removes both.
#[derive(Debug)]
pub struct PodNet {
    ns: NetNs,
    node: Arc<NetNs>,
    link: String,
    ip4: Ipv4Addr,
    ip6: Option<Ipv6Addr>,
    /// What the CNI would have left on disk for it.
    result: Mutex<Option<PathBuf>>,
}

// === impl Backend ===

impl Backend {
    /// The suffix of the programs: `iptables-nft-save`.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        }
    }
}

// === impl Topology ===

impl Topology {
    /// World, node and outside host, no pods; the rule for sources is written with `iptables-nft`.
    ///
    /// # Errors
    /// What `ip` or `iptables` said.
    pub fn new() -> Result<Self> {
        Self::with_backend(Backend::Nft)
    }

    /// As [`Topology::new`], with a choice of `iptables`.
    ///
    /// # Errors
    /// What `ip` or `iptables` said.
    pub fn with_backend(backend: Backend) -> Result<Self> {
        let world = NetNs::create("world")?;
        let node = NetNs::create("node")?;
        let outside = NetNs::create("outside")?;
        world.ip(&format!(
            "addr add {IMDS_V4}/32 dev lo\n\
             addr add {IMDS_V6}/128 dev lo nodad\n\
             link add br0 type bridge\n\
             addr add {WORLD_V4}/24 dev br0\n\
             addr add fd00:a::1/64 dev br0 nodad\n\
             link set br0 up\n\
             link add node type veth peer name eth0 netns {node}\n\
             link add outside type veth peer name eth0 netns {outside}\n\
             link set node master br0 up\n\
             link set outside master br0 up\n\
             route add {POD_V4_NET} via {NODE_V4}\n\
             route add {POD_V6_NET} via {NODE_V6}\n",
            node = node.name(),
            outside = outside.name(),
        ))?;
        node.ip(&host("10.0.0.10", "fd00:a::10"))?;
        outside.ip(&host("10.0.0.20", "fd00:a::20"))?;
        outside
            .ip(&format!("route add {POD_V4_NET} via {NODE_V4}\nroute add {POD_V6_NET} via {NODE_V6}\n"))?;
        // No prefix: the kernel does not choose it as the source of the node's own packets.
        node.ip(&format!(
            "addr add {SNAT_V4}/32 dev eth0\naddr add {SNAT_V6}/128 dev eth0 nodad preferred_lft 0\n"
        ))?;
        for setting in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            node.sysctl(setting, "1")?;
            world.sysctl(setting, "1")?;
        }
        translate_sources(&node, backend)?;
        Ok(Self {
            world: Arc::new(world),
            node: Arc::new(node),
            outside,
            links: AtomicUsize::new(0),
            bridge: Mutex::new(false),
        })
    }

    /// Where IMDS, STS, the API server and S3 are.
    #[must_use]
    pub fn world(&self) -> &Arc<NetNs> {
        &self.world
    }

    /// The node: the agent's place, and that of host-network pods.
    #[must_use]
    pub fn node(&self) -> &Arc<NetNs> {
        &self.node
    }

    /// Another host beside the node.
    #[must_use]
    pub fn outside(&self) -> &NetNs {
        &self.outside
    }

    /// The node's rules of both families: tables, chains and rules, without comments and counters.
    ///
    /// # Errors
    /// What `iptables-save` said.
    pub fn rules(&self, backend: Backend) -> Result<Vec<String>> {
        let mut rules = Vec::new();
        for family in ["iptables", "ip6tables"] {
            let dump = self.node.run(&format!("{family}-{}-save", backend.suffix()), &[])?;
            let lines = dump.lines().filter(|line| !line.starts_with('#'));
            rules.extend(lines.map(|line| format!("{family} {}", line.split(" [").next().unwrap_or(line))));
        }
        Ok(rules)
    }

    /// A pod behind a veth of its own without an address (`cali1`, `cali2`, …), as Calico and the VPC CNI do it.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn routed_pod(&self, name: &str, ip4: Ipv4Addr, ip6: Option<Ipv6Addr>) -> Result<PodNet> {
        let link = self.next_link("cali");
        let ns = NetNs::create(name)?;
        self.node.ip(&format!(
            "link add {link} type veth peer name eth0 netns {pod}\n\
             addr add fe80::1/64 dev {link} nodad\n\
             link set {link} up\n\
             route add {ip4}/32 dev {link}\n",
            pod = ns.name(),
        ))?;
        self.node.sysctl(&format!("net/ipv4/conf/{link}/proxy_arp"), "1")?;
        // As Calico does: otherwise the first answer is put off by up to 0.8 s.
        self.node.sysctl(&format!("net/ipv4/neigh/{link}/proxy_delay"), "0")?;
        ns.ip(&format!(
            "link set eth0 up\n\
             addr add {ip4}/32 dev eth0\n\
             route add 169.254.1.1 dev eth0 scope link\n\
             route add default via 169.254.1.1\n"
        ))?;
        if let Some(ip6) = ip6 {
            self.node.ip(&format!("route add {ip6}/128 dev {link}\n"))?;
            ns.ip(&format!("addr add {ip6}/128 dev eth0 nodad\nroute add ::/0 via fe80::1 dev eth0\n"))?;
        }
        Ok(PodNet { ns, node: Arc::clone(&self.node), link, ip4, ip6, result: Mutex::default() })
    }

    /// A pod on the bridge `cbr0`, as kubenet does it. The bridge is made with the first one.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn bridged_pod(&self, name: &str, ip4: Ipv4Addr, ip6: Option<Ipv6Addr>) -> Result<PodNet> {
        self.bridge()?;
        let link = self.next_link("veth");
        let (ns, node) = (NetNs::create(name)?, Arc::clone(&self.node));
        let pod = PodNet { ns, node, link, ip4, ip6, result: Mutex::default() };
        pod.plug()?;
        Ok(pod)
    }

    fn next_link(&self, prefix: &str) -> String {
        format!("{prefix}{}", self.links.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Makes `cbr0` if it is not there.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn bridge(&self) -> Result<()> {
        let mut made = self.bridge.lock();
        if !*made {
            self.node.ip("link add cbr0 type bridge\n\
                 addr add 100.96.1.1/24 dev cbr0\n\
                 addr add fd00:64:1::1/64 dev cbr0 nodad\n\
                 link set cbr0 up\n")?;
            *made = true;
        }
        Ok(())
    }
}

fn host(v4: &str, v6: &str) -> String {
    format!(
        "link set eth0 up\n\
         addr add {v4}/24 dev eth0\n\
         addr add {v6}/64 dev eth0 nodad\n\
         route add default via {WORLD_V4}\n\
         route add ::/0 via fd00:a::1\n"
    )
}

fn translate_sources(node: &NetNs, backend: Backend) -> Result<()> {
    for (program, net, source) in
        [("iptables", POD_V4_NET, IpAddr::V4(SNAT_V4)), ("ip6tables", POD_V6_NET, IpAddr::V6(SNAT_V6))]
    {
        let program = format!("{program}-{}", backend.suffix());
        let source = source.to_string();
        let rule = ["-A", "POSTROUTING", "-s", net, "!", "-d", net, "-j", "SNAT", "--to-source", &source];
        node.run(&program, &[&["-w", "-t", "nat"], &rule[..]].concat())?;
    }
    Ok(())
}

// === impl PodNet ===

impl PodNet {
    /// The pod's namespace.
    #[must_use]
    pub fn ns(&self) -> &NetNs {
        &self.ns
    }

    /// The node's end of the pod's link: `cali1`, or a port of `cbr0`.
    #[must_use]
    pub fn host_link(&self) -> &str {
        &self.link
    }

    /// The pod's IPv4 address.
    #[must_use]
    pub fn ip4(&self) -> Ipv4Addr {
        self.ip4
    }

    /// The pod's IPv6 address, if it has one.
    #[must_use]
    pub fn ip6(&self) -> Option<Ipv6Addr> {
        self.ip6
    }

    /// The hardware addresses of a bridged pod: of the port, and of the pod's own interface.
    #[must_use]
    pub fn macs(&self) -> [String; 2] {
        let [_, b, c, d] = self.ip4.octets();
        [0, 1].map(|end| format!("02:00:{end:02x}:{b:02x}:{c:02x}:{d:02x}"))
    }

    /// Plugs a bridged pod's link in, as the bridge plugin does.
    fn plug(&self) -> Result<()> {
        let Self { ns, link, ip4, .. } = self;
        let [port, pod] = self.macs();
        self.node.ip(&format!(
            "link add {link} address {port} type veth peer name eth0 address {pod} netns {ns}\n\
             link set {link} master cbr0 up\n",
            ns = ns.name(),
        ))?;
        ns.ip(&format!("link set eth0 up\naddr add {ip4}/24 dev eth0\nroute add default via 100.96.1.1\n"))?;
        if let Some(ip6) = self.ip6 {
            ns.ip(&format!("addr add {ip6}/64 dev eth0 nodad\nroute add ::/0 via fd00:64:1::1\n"))?;
        }
        Ok(())
    }

    /// Takes a bridged pod's link away and plugs in another one of the same name.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn replug(&self) -> Result<()> {
        self.node.ip(&format!("link delete {}\n", self.link))?;
        self.plug()
    }

    /// Leaves in `directory` what libcni would have, until the pod's network goes. Older runtimes tell
    /// plugins no `uid`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn leave_result(
        &self,
        directory: &Path,
        [namespace, name]: [&str; 2],
        uid: Option<&str>,
    ) -> Result<()> {
        let [port, pod] = self.macs();
        let ips: Vec<_> = self
            .ips()
            .into_iter()
            .map(|ip| json!({"address": format!("{ip}/{}", if ip.is_ipv4() { 24 } else { 64 }), "interface": 2}))
            .collect();
        let mut args = vec![["IgnoreUnknown", "1"], ["K8S_POD_NAMESPACE", namespace], ["K8S_POD_NAME", name]];
        args.extend(uid.map(|uid| ["K8S_POD_UID", uid]));
        let result = json!({
            "kind": "cniCacheV1",
            "containerId": self.ns.name(),
            "config": "e30=",
            "ifName": "eth0",
            "networkName": "kubenet",
            "cniArgs": args,
            "result": {
                "cniVersion": "1.0.0",
                "dns": {},
                "interfaces": [
                    {"name": "cbr0", "mac": "02:00:02:00:00:00"},
                    {"name": self.link, "mac": port},
                    {"name": "eth0", "mac": pod, "sandbox": self.ns.path()},
                ],
                "ips": ips,
            },
        });
        let path = directory.join(format!("kubenet-{}-eth0", self.ns.name()));
        std::fs::write(&path, result.to_string())?;
        *self.result.lock() = Some(path);
        Ok(())
    }

    /// All its addresses, IPv4 first, as `status.podIPs` has them.
    #[must_use]
    pub fn ips(&self) -> Vec<IpAddr> {
        std::iter::once(IpAddr::V4(self.ip4)).chain(self.ip6.map(IpAddr::V6)).collect()
    }
}

impl Drop for PodNet {
    fn drop(&mut self) {
        if let Some(result) = self.result.get_mut().take() {
            let _ = std::fs::remove_file(result);
        }
        // The namespace may live on while a process is in it: the link must not.
        if let Err(error) = self.node.ip(&format!("link delete {}\n", self.link)) {
            eprintln!("{error:#}");
        }
    }
}

/// Port 80 of IMDS over IPv4.
#[must_use]
pub fn imds_v4() -> SocketAddr {
    SocketAddr::from((IMDS_V4, 80))
}

/// Port 80 of IMDS over IPv6.
#[must_use]
pub fn imds_v6() -> SocketAddr {
    SocketAddr::from((IMDS_V6, 80))
}
