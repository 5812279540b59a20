//! Many pods behind one link: to the agent they are as many pods, to the machine one network namespace.

use std::fmt::Debug;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use parking_lot::Mutex;
use rolegate_tests::http::{Client, Connection, Response};
use rolegate_tests::kube_api::Pod;
use rolegate_tests::topology::{IMDS_V4, PodNet};
use rolegate_tests::world::{NODE, Options, World};

pub(crate) const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
pub(crate) const ROLE_KEY: &str = "iam.amazonaws.com/role";
pub(crate) const EXTERNAL_ID_KEY: &str = "iam.amazonaws.com/external-id";
pub(crate) const ALLOWED_ROLES: &str = "iam.amazonaws.com/allowed-roles";
pub(crate) const PERMITTED: &str = "iam.amazonaws.com/permitted";
/// The `Code` of a refusal.
pub(crate) const REFUSED: &str = "AssumeRoleUnauthorizedAccess";

/// Pods that one table may have.
const MOST: u8 = 250;
/// Of one wrong row in the message of a failure, in bytes.
const LONGEST_COMPLAINT: usize = 2_000;
/// Longest that a test waits for an answer: far beyond any deadline of the agent.
const PATIENCE_SECONDS: i64 = 20;

/// A world, and the network that all pods of the table share.
pub(crate) struct Lab {
    net: Arc<PodNet>,
    used: AtomicU8,
    pub(crate) world: World,
}

/// A pod of the table, with an address of its own.
pub(crate) struct Row {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    net: Arc<PodNet>,
    ip: Ipv4Addr,
}

/// Rows that are wrong.
#[derive(Default)]
pub(crate) struct Wrong(Mutex<Vec<String>>);

// === impl Lab ===

impl Lab {
    /// A lab, unless this machine cannot have one.
    pub(crate) fn new(test: &str) -> Option<Self> {
        let world = World::for_test(test, &Options::default())?;
        world.shares_links();
        let net = world.topology.routed_pod("rows", Ipv4Addr::new(100, 96, 2, 0), None).unwrap();
        let all =
            |line: &dyn Fn(Ipv4Addr) -> String| (1..=MOST).map(|n| line(address(n))).collect::<String>();
        net.ns().ip(&all(&|ip| format!("addr add {ip}/32 dev eth0\n"))).unwrap();
        let link = net.host_link();
        world.topology.node().ip(&all(&|ip| format!("route add {ip}/32 dev {link}\n"))).unwrap();
        Some(Self { net: Arc::new(net), used: AtomicU8::new(0), world })
    }

    /// Makes a pod at the next address.
    pub(crate) fn row(&self, namespace: &str, name: &str, shape: impl FnOnce(Pod) -> Pod) -> Row {
        self.row_at(self.next_address(), namespace, name, shape)
    }

    /// An address that nobody had.
    pub(crate) fn next_address(&self) -> Ipv4Addr {
        let n = self.used.fetch_add(1, Ordering::Relaxed) + 1;
        assert!(n <= MOST, "a table has at most {MOST} rows");
        address(n)
    }

    /// Makes a pod at an address that is, or was, another's.
    pub(crate) fn row_at(
        &self,
        ip: Ipv4Addr,
        namespace: &str,
        name: &str,
        shape: impl FnOnce(Pod) -> Pod,
    ) -> Row {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        let mut row = Row { namespace, name, uid: String::new(), net: Arc::clone(&self.net), ip };
        row.uid = self.edit(&row, shape);
        row
    }

    /// Makes the pod's object anew: running, at its address, and as `shape` has it. Its UID.
    pub(crate) fn edit(&self, row: &Row, shape: impl FnOnce(Pod) -> Pod) -> String {
        let pod = Pod::new(&row.namespace, &row.name).node(NODE).ip(&row.ip.to_string());
        self.world.cluster.apply_pod(&shape(pod)).unwrap()
    }

    pub(crate) fn delete(&self, row: &Row) {
        assert!(self.world.cluster.delete_pod(&row.namespace, &row.name).unwrap());
    }

    /// Makes a namespace, or replaces its annotations.
    pub(crate) fn namespace(&self, name: &str, annotations: &[(&str, &str)]) {
        self.world.cluster.apply_namespace(name, annotations).unwrap();
    }

    /// The roles (whole ARNs) that STS was asked for.
    pub(crate) fn asked_roles(&self) -> Vec<String> {
        let calls = self.world.sts.calls().into_iter();
        calls.filter(|call| call.action == "AssumeRole").map(|call| call.role).collect()
    }
}

fn address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(100, 96, 2, n)
}

// === impl Row ===

impl Row {
    pub(crate) fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    pub(crate) fn get(&self, path: &str) -> io::Result<Response> {
        let request = Client::imds(self.net.ns()).bytes("GET", path, &[]);
        Connection::new(self.connect()?).exchange(&request)
    }

    pub(crate) fn list(&self) -> io::Result<Response> {
        self.get(ROLES)
    }

    pub(crate) fn document(&self, role: &str) -> io::Result<Response> {
        self.get(&format!("{ROLES}{role}"))
    }

    /// The `Code` of the document of that role: `Success`, or a refusal.
    pub(crate) fn code(&self, role: &str) -> anyhow::Result<String> {
        let answer = self.document(role)?;
        anyhow::ensure!(answer.status == 200, "{answer:?}");
        Ok(answer.json()?["Code"].as_str().unwrap_or_default().to_owned())
    }

    /// A connection from this pod's address.
    fn connect(&self) -> io::Result<TcpStream> {
        let made = || -> nix::Result<OwnedFd> {
            let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
            setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE_SECONDS))?;
            setsockopt(&fd, sockopt::SendTimeout, &TimeVal::seconds(PATIENCE_SECONDS))?;
            bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(self.ip, 0)))?;
            connect(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(IMDS_V4, 80)))?;
            Ok(fd)
        };
        let socket = self.net.ns().inside(made).map_err(io::Error::other)??;
        Ok(TcpStream::from(socket))
    }
}

// === impl Wrong ===

impl Wrong {
    /// Notes the row unless it is `right`.
    pub(crate) fn unless(&self, right: bool, row: impl Debug, got: impl Debug) {
        if !right {
            let mut wrong = format!("{row:?}: {got:?}");
            wrong.truncate(wrong.floor_char_boundary(LONGEST_COMPLAINT));
            self.0.lock().push(wrong);
        }
    }

    /// Ends the test if a row was wrong.
    pub(crate) fn none(self) {
        let wrong = self.0.into_inner();
        assert!(wrong.is_empty(), "wrong rows:\n{}", wrong.join("\n"));
    }
}
