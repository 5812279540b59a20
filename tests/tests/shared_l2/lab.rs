//! A world with pods on a bridge, and one among them that forges.

use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use rolegate_tests::agent::Agent;
use rolegate_tests::http::{Client, Connection};
use rolegate_tests::netns::{NetNs, on_path};
use rolegate_tests::skip;
use rolegate_tests::topology::{IMDS_V4, IMDS_V6};
use rolegate_tests::world::{Options, RunningPod, World};

/// The victim's document: nobody else's request for it is answered with credentials.
pub(crate) const DOCUMENT: &str = "/latest/meta-data/iam/security-credentials/MyPodRole";
/// What every document with credentials has.
const CREDENTIALS: &str = "AccessKeyId";

/// A world whose namespace `default` allows both roles, or nothing after the word on why.
pub(crate) fn open(test: &str) -> Option<World> {
    let missing = ["setpriv", "python3", "nft"].into_iter().find(|program| !on_path(program));
    if let Some(missing) = missing {
        skip(test, &format!("`{missing}` is not installed"));
        return None;
    }
    let world = World::for_test(test, &Options::default())?;
    world.namespace("default", &["MyPodRole", "OtherRole"]).unwrap();
    Some(world)
}

/// A pod on the bridge that forges nothing for its neighbours: what it is sent for others, it drops.
pub(crate) fn attacker(world: &World) -> RunningPod {
    let attacker = world.bridged_pod("default", "attacker", |pod| pod.role("OtherRole")).unwrap();
    for setting in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        attacker.net.ns().sysctl(setting, "0").unwrap();
    }
    attacker
}

pub(crate) fn victim(world: &World) -> RunningPod {
    world.bridged_pod("default", "victim", |pod| pod.role("MyPodRole")).unwrap()
}

/// The status of a request for the victim's document.
pub(crate) fn status(client: Client<'_>) -> u16 {
    client.get(DOCUMENT).unwrap().status
}

/// Waits until the pod is served over both families.
pub(crate) fn served(agent: &Agent, pod: &RunningPod) {
    for client in [pod.imds(), pod.imds_v6()] {
        // What an attack left in the node's neighbour table may first have to be found wrong.
        let served = || client.get(DOCUMENT).is_ok_and(|answer| answer.text().contains(CREDENTIALS));
        agent.poll("the pod is served", || Ok(served())).unwrap();
    }
}

/// Starts the script in a pod, with `CAP_NET_RAW` alone.
pub(crate) fn start(from: &NetNs, attack: &str, victim: IpAddr, seconds: u32) -> Child {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/shared_l2/spoof.py");
    let (gateway, target) = match victim {
        IpAddr::V4(_) => ("100.96.1.1", IpAddr::from(IMDS_V4)),
        IpAddr::V6(_) => ("fd00:64:1::1", IpAddr::from(IMDS_V6)),
    };
    let mut command = from.command("setpriv");
    command.args(["--bounding-set=-all,+net_raw", "--inh-caps=-all", "python3"]).arg(script);
    command.args([attack, &victim.to_string(), gateway, &target.to_string(), DOCUMENT, &seconds.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()
}

/// What the script got.
pub(crate) fn end(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "the script failed");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Every attack on the victim, `seconds` each; those that got its credentials.
pub(crate) fn successful(
    world: &World,
    attacker: &RunningPod,
    victim: &RunningPod,
    attacks: &[&str],
    seconds: u32,
) -> Vec<String> {
    let from = attacker.net.ns();
    let mut successful = Vec::new();
    for attack in attacks {
        let of = if attack.starts_with("ndp") || attack.ends_with('6') {
            victim.net.ip6().unwrap().into()
        } else {
            IpAddr::from(victim.net.ip4())
        };
        // The node has forgotten what the last attack made it believe, and knows the victim: else it asks for it when
        // it answers.
        world.topology.node().run("ip", &["neigh", "flush", "dev", "cbr0"]).unwrap();
        let _ = (victim.imds().get("/"), victim.imds_v6().get("/"));
        let attack_on = match *attack {
            "mac" => format!("mac={}", victim.net.macs()[1]),
            other => other.trim_end_matches('6').to_owned(),
        };
        let mut child = start(from, &attack_on, of, seconds);
        // Only what the victim is sent can be listened to.
        while *attack == "mac" && child.try_wait().unwrap().is_none() {
            let patience = Duration::from_millis(200);
            let Ok(stream) = victim.net.ns().connect((IMDS_V4, 80).into(), patience) else { continue };
            let _ = Connection::new(stream).exchange(&victim.imds().bytes("GET", DOCUMENT, &[]));
        }
        if end(child).contains(CREDENTIALS) {
            successful.push((*attack).to_owned());
        }
    }
    successful
}
