//! Everybody at once: 250 pods of 25 session keys behind one link, who ask in the same moment.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::{Arc, Barrier, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use tokio::time::Instant;

use crate::kube_api::Pod;
use crate::topology::{IMDS_V4, PodNet};
use crate::world::{NODE, TRUST, World, arn};

/// How many pods there are: `pod-1` to `pod-250`.
pub const PODS: u8 = 250;
/// How many roles they have, each with a service account of its own: as many session keys.
pub const ROLES: u8 = 25;

/// Longest that one of them waits for an answer.
const PATIENCE_SECONDS: i64 = 30;

/// One network namespace with the addresses of many pods: to the agent they are as many pods.
#[derive(Debug)]
pub struct Crowd {
    net: Arc<PodNet>,
}

/// What one of them got.
#[derive(Clone, Debug)]
pub struct Answered {
    /// Its number: `pod-7` is 7.
    pub pod: u8,
    /// Head and body, as they came.
    pub answer: String,
    /// From the moment that the first of all began to the last byte.
    pub took: Duration,
}

// === impl Crowd ===

impl Crowd {
    /// Makes the roles, lets namespace `default` use them, and adds the pods to the node.
    ///
    /// # Errors
    /// When their network cannot be made; what a real API server said.
    pub fn join(world: &World) -> Result<Self> {
        world.shares_links();
        world.namespace("default", &["Role*"])?;
        for n in 0..ROLES {
            world.role(&role(n), TRUST)?;
        }
        let net = world.topology.routed_pod("crowd", Ipv4Addr::new(100, 96, 2, 0), None)?;
        let each =
            |line: &dyn Fn(Ipv4Addr) -> String| (1..=PODS).map(|n| line(address(n))).collect::<String>();
        net.ns().ip(&each(&|ip| format!("addr add {ip}/32 dev eth0\n")))?;
        let link = net.host_link();
        world.topology.node().ip(&each(&|ip| format!("route add {ip}/32 dev {link}\n")))?;
        for n in 1..=PODS {
            let pod = Pod::new("default", &format!("pod-{n}"))
                .node(NODE)
                .ip(&address(n).to_string())
                .service_account(&format!("account-{}", n % ROLES))
                .role(&role(n));
            world.cluster.apply_pod(&pod)?;
        }
        Ok(Self { net: Arc::new(net) })
    }

    /// The network that they share.
    #[must_use]
    pub fn net(&self) -> &Arc<PodNet> {
        &self.net
    }

    /// Each pod's answer to a request for its document, all sent at once.
    ///
    /// # Errors
    /// When a pod's connection fails, or ends with an error.
    pub fn ask_at_once(&self) -> Result<Vec<Answered>> {
        let sockets: Vec<(u8, OwnedFd)> = self
            .net
            .ns()
            .inside(|| (1..=PODS).map(|n| Ok((n, bound_to(address(n))?))).collect::<Result<_>>())??;
        let (start, begin) = (Barrier::new(usize::from(PODS)), OnceLock::new());
        std::thread::scope(|scope| {
            let ask = |(pod, socket)| {
                start.wait();
                // Who is late because of the others here has waited, too.
                let begin = *begin.get_or_init(Instant::now);
                let answer = ask(socket, &role(pod)).with_context(|| format!("pod-{pod}"))?;
                Ok(Answered { pod, answer, took: begin.elapsed() })
            };
            let askers: Vec<_> = sockets.into_iter().map(|socket| scope.spawn(move || ask(socket))).collect();
            askers.into_iter().map(|asker| asker.join().map_err(|_| anyhow!("a pod panicked"))?).collect()
        })
    }
}

// === impl Answered ===

impl Answered {
    /// That it has keys which STS issued for the pod's own role.
    ///
    /// # Errors
    /// Says what it has instead.
    pub fn is_served(&self, world: &World) -> Result<()> {
        let Self { pod, answer, .. } = self;
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let document: serde_json::Value =
            serde_json::from_str(body).with_context(|| format!("pod-{pod}: {answer}"))?;
        let key = document["AccessKeyId"].as_str().with_context(|| format!("pod-{pod}: {document}"))?;
        let issued = world.sts.calls().into_iter().find(|call| call.access_key_id.as_deref() == Some(key));
        let role_of_key = issued.with_context(|| format!("pod-{pod}: STS never issued {key}"))?.role;
        ensure!(role_of_key == arn(&role(*pod)), "pod-{pod} has keys of {role_of_key}");
        Ok(())
    }
}

/// The address of a pod of the crowd.
#[must_use]
pub fn address(pod: u8) -> Ipv4Addr {
    Ipv4Addr::new(100, 96, 2, pod)
}

/// The name of a pod's role.
#[must_use]
pub fn role(pod: u8) -> String {
    format!("Role{}", pod % ROLES)
}

fn bound_to(address: Ipv4Addr) -> Result<OwnedFd> {
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE_SECONDS))?;
    bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(address, 0)))?;
    Ok(fd)
}

fn ask(socket: OwnedFd, role: &str) -> Result<String> {
    connect(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(IMDS_V4, 80)))?;
    let mut stream = TcpStream::from(socket);
    let path = format!("/latest/meta-data/iam/security-credentials/{role}");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {IMDS_V4}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
