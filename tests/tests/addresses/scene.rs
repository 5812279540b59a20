//! A node whose addresses are claimed as a test wants it, and what is answered at each.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rolegate_tests::agent::Agent;
use rolegate_tests::http::{Client, Response};
use rolegate_tests::kube_api::Pod;
use rolegate_tests::topology::{PodNet, imds_v6};
use rolegate_tests::world::{NODE, Options, RunningPod, TRUST, World, arn};

pub(crate) const LIST: &str = "/latest/meta-data/iam/security-credentials/";

/// A world whose roles are all allowed, with a default role: an answer to an address that is nobody's would show.
pub(crate) struct Scene {
    // In the order in which they end.
    pub(crate) agent: Agent,
    pub(crate) mark: RunningPod,
    pub(crate) world: World,
    next: u8,
    turn: bool,
}

/// What an object in the API says.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Is {
    Live,
    Pending,
    Terminating,
    Succeeded,
    Failed,
    /// Both at once.
    SucceededAndTerminating,
    HostNetwork,
    OnAnotherNode,
    Unscheduled,
}

// === impl Scene ===

impl Scene {
    /// Requests of nobody are not held for long: these tests wait for what the agent has seen by themselves.
    pub(crate) fn hasty(test: &str) -> Option<Self> {
        Self::set(test, &["--backoff-max-elapsed-time=100ms"])
    }

    pub(crate) fn set(test: &str, flags: &[&str]) -> Option<Self> {
        let world = World::for_test(test, &Options::default())?;
        world.namespace("default", &["*"]).unwrap();
        world.role("DefaultRole", TRUST).unwrap();
        let mark = world.pod("default", "mark", |pod| pod.role("MyPodRole")).unwrap();
        let agent = world.agent(&[flags, &["--default-role=DefaultRole"]].concat()).unwrap();
        Some(Self { agent, mark, world, next: 100, turn: false })
    }

    /// A network without a pod.
    pub(crate) fn net(&mut self) -> PodNet {
        self.next += 1;
        let n = self.next;
        let ip6 = Ipv6Addr::new(0xfd00, 0x64, 1, 0, 0, 0, 0, n.into());
        let ip4 = Ipv4Addr::new(100, 96, 1, n);
        self.world.topology.routed_pod(&format!("net{n}"), ip4, Some(ip6)).unwrap()
    }

    pub(crate) fn apply(&self, name: &str, is: Is, role: &str, ips: &[String]) {
        let pod = ips.iter().fold(Pod::new("default", name).role(role), |pod, ip| pod.ip(ip));
        let pod = match is {
            Is::OnAnotherNode => pod.node("node-2.example"),
            Is::Unscheduled => pod,
            _ => pod.node(NODE),
        };
        let pod = match is {
            Is::Pending | Is::Unscheduled => pod.phase("Pending"),
            Is::Succeeded | Is::SucceededAndTerminating => pod.phase("Succeeded"),
            Is::Failed => pod.phase("Failed"),
            Is::Live | Is::Terminating | Is::HostNetwork | Is::OnAnotherNode => pod,
        };
        let terminating = matches!(is, Is::Terminating | Is::SucceededAndTerminating);
        let pod = if terminating { pod.deleting() } else { pod };
        self.world.cluster.apply_pod(&pod.host_network(matches!(is, Is::HostNetwork))).unwrap();
    }

    pub(crate) fn delete(&self, name: &str) {
        assert!(self.world.cluster.delete_pod("default", name).unwrap(), "{name}");
    }

    /// Waits until the agent has seen everything so far: events of pods come in their order.
    pub(crate) fn settle(&mut self) {
        self.turn = !self.turn;
        let role = if self.turn { "OtherRole" } else { "MyPodRole" };
        self.world.edit(&mut self.mark, |pod| pod.role(role)).unwrap();
        let mark = &self.mark;
        self.agent.poll("the mark is seen", || Ok(listed(mark.imds()) == Ok(role.to_owned()))).unwrap();
    }

    /// The role whose session a document has.
    pub(crate) fn role_of(&self, document: &Response) -> Option<String> {
        let key = document.json().ok()?["AccessKeyId"].as_str()?.to_owned();
        self.world.sts.issued(&key).map(|issued| issued.role)
    }

    /// At this address is `wanted`: its list, and credentials of that role; else 500, and no credentials by any name.
    pub(crate) fn expect(&self, row: &str, client: Client<'_>, wanted: Option<&str>) {
        let list = listed(client);
        assert_eq!(list, wanted.map(str::to_owned).ok_or(500), "{row}: {}", self.agent.log());
        for role in ["MyPodRole", "OtherRole", "DefaultRole"] {
            let asked = || client.get(&format!("{LIST}{role}"));
            if wanted == Some(role) {
                let mut issued = None;
                let there = || {
                    issued = self.role_of(&asked()?);
                    Ok(issued.is_some())
                };
                self.agent.poll("its session is there", there).unwrap();
                assert_eq!(issued, Some(arn(role)), "{row}: {}", self.agent.log());
            } else {
                let answer = asked().unwrap();
                let status = if wanted.is_some() { 404 } else { 500 };
                assert_eq!((answer.status, answer.text().as_str()), (status, ""), "{row}, {role}");
            }
        }
        if wanted.is_none() {
            let token = client.imds_token(60).unwrap();
            for path in ["/", "/latest/meta-data/instance-id", "/latest/meta-data/iam/info"] {
                let answer = client.get_v2(path, &token).unwrap();
                assert_eq!((answer.status, answer.text().as_str()), (500, ""), "{row}, {path}");
            }
        }
    }
}

pub(crate) fn listed(client: Client<'_>) -> Result<String, u16> {
    let answer = client.get(LIST).unwrap();
    if answer.status == 200 { Ok(answer.text()) } else { Err(answer.status) }
}

pub(crate) fn v4(net: &PodNet) -> Client<'_> {
    Client::imds(net.ns())
}

pub(crate) fn v6(net: &PodNet) -> Client<'_> {
    Client::new(net.ns(), imds_v6())
}

pub(crate) fn texts(ips: &[IpAddr]) -> Vec<String> {
    ips.iter().map(ToString::to_string).collect()
}
