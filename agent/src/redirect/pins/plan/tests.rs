use proptest::prelude::*;
use rolegate_iptables::pins::first::PortKey;

use super::*;
use crate::cni::HostLink;

const CBR0: u32 = 2;
const ETH0: u32 = 1;
const CALI: u32 = 9;

fn ip(text: &str) -> IpAddr {
    text.parse().expect(text)
}

fn key(index: u32) -> PortKey {
    PortKey { index, name: format!("veth{index}") }
}

fn mac(index: u32) -> Vec<u8> {
    vec![2, 0, 0, 0, 0, u8::try_from(index).expect("small")]
}

/// A node with a bridge, `cbr0`, whose ports are 10 and on.
#[derive(Debug, Default)]
struct Scene {
    links: Ports,
    attachments: Vec<Attachment>,
    first: FirstSeen,
    routed: HashMap<IpAddr, u32>,
}

impl Scene {
    fn new(ports: std::ops::Range<u32>) -> Self {
        let mut scene = Self::default();
        for (index, name) in [(ETH0, "eth0"), (CBR0, "cbr0"), (CALI, "cali1")] {
            scene.links.links.insert(PortKey { index, name: name.into() });
        }
        scene.links.bridges.insert(CBR0, "cbr0".into());
        for index in ports {
            scene.links.links.insert(key(index));
            scene.links.ports.push(Port { key: key(index), bridge: CBR0, mac: mac(index) });
        }
        scene
    }

    fn pod(mut self, address: &str, link: u32) -> Self {
        self.routed.insert(ip(address), link);
        self
    }

    fn result(mut self, port: u32, addresses: &[&str]) -> Self {
        let host = vec![HostLink { name: key(port).name, mac: Some(mac(port)) }];
        let addresses = addresses.iter().map(|text| ip(text)).collect();
        self.attachments.push(Attachment { host, addresses, ..Attachment::default() });
        self
    }

    fn claim(mut self, port: u32, address: &str) -> Self {
        self.first.claims.entry(key(port)).or_default().insert(ip(address));
        self
    }

    fn older(mut self, port: u32) -> Self {
        self.first.older.insert(key(port));
        self
    }

    fn plan(&self) -> Plan {
        let of = |(port, addresses): (&PortKey, &BTreeSet<IpAddr>)| {
            addresses.iter().map(|address| (port.clone(), *address)).collect::<Vec<_>>()
        };
        self.plan_hearing(&self.first.claims.iter().flat_map(of).collect())
    }

    fn plan_hearing(&self, heard: &BTreeSet<Claim>) -> Plan {
        let Self { links, attachments, first, routed } = self;
        Plan::of(&Seen { links, attachments, first, heard, routed })
    }
}

fn pins(plan: &Plan) -> Vec<(String, Vec<String>)> {
    let of = |pin: &Pin| (pin.port.clone(), pin.addresses.iter().map(ToString::to_string).collect());
    plan.pins.pins.iter().map(of).collect()
}

fn pin(port: u32, addresses: &[&str]) -> (String, Vec<String>) {
    (key(port).name, addresses.iter().map(|text| (*text).to_owned()).collect())
}

fn standing(plan: &Plan, address: &str) -> Option<Standing> {
    plan.standings.get(&PodIp::new(ip(address))).copied()
}

#[test]
fn port_is_pinned_to_its_result_else_to_what_it_claimed_first() {
    let scene = Scene::new(10..14)
        .pod("10.2.0.10", CBR0)
        .pod("fd02::10", CBR0)
        .pod("10.2.0.11", CBR0)
        .pod("10.2.0.12", CBR0)
        .pod("10.2.0.13", CBR0)
        .result(10, &["10.2.0.10", "fd02::10"])
        .claim(10, "10.2.0.99")
        .claim(11, "10.2.0.11")
        .claim(12, "10.2.0.12")
        .older(12);
    let plan = scene.plan();
    assert_eq!(pins(&plan), [pin(10, &["10.2.0.10", "fd02::10"]), pin(11, &["10.2.0.11"])]);
    for (address, is) in [
        ("10.2.0.10", Standing::Pinned(10)),
        ("fd02::10", Standing::Pinned(10)),
        ("10.2.0.11", Standing::Pinned(11)),
        ("10.2.0.12", Standing::Unpinned),
        ("10.2.0.13", Standing::Unpinned),
    ] {
        assert_eq!(standing(&plan, address), Some(is), "{address}");
    }
    let unpinned = [(key(12).name, Unpinned::Older), (key(13).name, Unpinned::Silent)];
    assert_eq!(plan.unpinned, unpinned.into());
    assert_eq!(plan.shared, ["cbr0".to_owned()].into());
}

#[test]
fn address_that_two_ports_have_is_neithers_but_a_result_goes_before_a_claim() {
    let scene = || Scene::new(10..13).pod("10.2.0.10", CBR0).pod("10.2.0.11", CBR0);
    let claims = scene().claim(10, "10.2.0.10").claim(11, "10.2.0.10").claim(12, "10.2.0.11").plan();
    assert_eq!(pins(&claims), [pin(12, &["10.2.0.11"])]);
    assert_eq!(claims.disputed, [ip("10.2.0.10")].into());
    assert_eq!(standing(&claims, "10.2.0.10"), Some(Standing::Unpinned));

    let older = scene().claim(10, "10.2.0.10").older(10).claim(11, "10.2.0.10").plan();
    assert_eq!(pins(&older), [], "what an older port claims is a claim against others");

    let result = scene().result(10, &["10.2.0.10"]).claim(11, "10.2.0.10").claim(12, "10.2.0.10").plan();
    assert_eq!(pins(&result), [pin(10, &["10.2.0.10"])]);

    let results = scene().result(10, &["10.2.0.10"]).result(11, &["10.2.0.10"]).plan();
    assert_eq!(pins(&results), []);

    let differ = scene().result(10, &["10.2.0.10"]).result(10, &["10.2.0.11"]).claim(11, "10.2.0.11").plan();
    assert_eq!(pins(&differ), [], "results that contradict each other");
}

#[test]
fn claim_waits_until_everybody_was_asked_about_it_and_a_result_does_not() {
    let scene = Scene::new(10..12).pod("10.2.0.10", CBR0).pod("10.2.0.11", CBR0);
    let scene = scene.claim(10, "10.2.0.10").result(11, &["10.2.0.11"]);
    let plan = scene.plan_hearing(&BTreeSet::new());
    assert_eq!(pins(&plan), [pin(11, &["10.2.0.11"])]);
    assert_eq!(plan.claims, [((key(10), ip("10.2.0.10")), CBR0)].into());
    assert_eq!(plan.unpinned, [(key(10).name, Unpinned::Silent)].into());
    let plan = scene.plan_hearing(&[(key(10), ip("10.2.0.10"))].into());
    assert_eq!(pins(&plan), [pin(10, &["10.2.0.10"]), pin(11, &["10.2.0.11"])]);
}

#[test]
fn result_of_another_link_of_that_name_says_nothing() {
    let mut scene = Scene::new(10..11).pod("10.2.0.10", CBR0).result(10, &["10.2.0.10"]);
    scene.links.ports[0].mac = mac(77);
    assert_eq!(pins(&scene.plan()), []);
}

#[test]
fn claim_of_what_is_no_pods_address_holds_nobody_to_it() {
    let plan = Scene::new(10..12).pod("10.2.0.10", CBR0).claim(11, "10.2.0.1").plan();
    assert_eq!(pins(&plan), []);
}

#[test]
fn interface_of_one_pod_is_believed_and_one_of_several_that_is_no_bridge_is_not() {
    let one = Scene::new(10..11).pod("10.1.0.1", CALI).pod("fd01::1", CALI).plan();
    assert_eq!(standing(&one, "10.1.0.1"), Some(Standing::Believed));
    assert_eq!(standing(&one, "fd01::1"), Some(Standing::Believed));
    assert_eq!((one.shared, pins(&Scene::new(10..11).plan())), (BTreeSet::new(), vec![]));
    let two = Scene::new(10..11).pod("10.1.0.1", CALI).pod("10.1.0.2", CALI).plan();
    assert_eq!(standing(&two, "10.1.0.1"), Some(Standing::Shared));
    assert_eq!(two.shared, ["cali1".to_owned()].into());
    // A bridge is shared from its first pod on.
    let first = Scene::new(10..11).pod("10.2.0.10", CBR0).plan();
    assert_eq!(standing(&first, "10.2.0.10"), Some(Standing::Unpinned));
}

#[test]
fn bridge_without_pods_is_let_alone() {
    let plan =
        Scene::new(10..11).pod("10.1.0.1", CALI).result(10, &["10.2.0.10"]).claim(10, "10.2.0.10").plan();
    assert_eq!(pins(&plan), []);
}

prop_compose! {
    /// Some ports with results, claims and age at random, for a handful of addresses.
    fn scenes()(
        results in prop::collection::vec((10_u32..16, 1_u8..8), 0..8),
        claims in prop::collection::vec((10_u32..16, 1_u8..8), 0..8),
        older in prop::collection::vec(10_u32..16, 0..4),
        pods in prop::collection::vec(1_u8..8, 0..8),
    ) -> Scene {
        let address = |n: u8| format!("10.2.0.{n}");
        let mut scene = Scene::new(10..16);
        for n in pods {
            scene = scene.pod(&address(n), CBR0);
        }
        for (port, n) in results {
            scene = scene.result(port, &[&address(n)]);
        }
        for (port, n) in claims {
            // One of each family.
            if !scene.first.claims.contains_key(&key(port)) {
                scene = scene.claim(port, &address(n));
            }
        }
        older.into_iter().fold(scene, Scene::older)
    }
}

proptest! {
    /// Whatever is seen, no address is at two ports, none is believed that is not pinned, and nothing is pinned but by a
    /// result, or by the claim of a port that is not older.
    #[test]
    fn pins_are_one_to_one_and_have_a_reason(scene in scenes()) {
        let plan = scene.plan();
        let mut all = Vec::new();
        for pin in &plan.pins.pins {
            let port = scene.links.ports.iter().find(|port| port.key.name == pin.port).expect("a port");
            for address in &pin.addresses {
                all.push(*address);
                let named = |attachment: &&Attachment| attachment.names(&pin.port, &port.mac);
                let by_result = scene.attachments.iter().filter(named).any(|it| it.addresses.contains(address));
                let claimed = scene.first.claims.get(&port.key).is_some_and(|it| it.contains(address));
                let has_result = scene.attachments.iter().any(|attachment| named(&attachment));
                prop_assert!(by_result || claimed && !has_result && !scene.first.older.contains(&port.key));
            }
        }
        let distinct: BTreeSet<IpAddr> = all.iter().copied().collect();
        prop_assert_eq!(distinct.len(), all.len());
        for (address, is) in &plan.standings {
            prop_assert_eq!(is.is_believed(), distinct.contains(&address.addr()));
        }
    }
}
