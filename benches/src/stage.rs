//! Everything that is compared, running at once: nodes with their agents, and the servers beside these.

use anyhow::{Context, Result, ensure};
use rolegate_tests::netns::NetNs;
use rolegate_tests::topology::imds_v4;

use crate::figures::Skipped;
use crate::load::Target;
use crate::scene::{Kind, Scenario, Scene, Size, Way};

/// What all others but the agent under `route` are compared with.
pub const HYPER: &str = "hyper";
/// The same in another process: what chance is.
pub const HYPER_AGAIN: &str = "hyper-again";
/// The agent under capture `iptables`.
pub const AGENT: &str = "agent";
/// The agent under capture `route`.
pub const AGENT_ROUTE: &str = "agent-route";
/// The agent under capture `iptables` without its access lines.
pub const AGENT_QUIET: &str = "agent-quiet";
/// The floor.
pub const BLOCKING: &str = "blocking";
/// IMDS, asked past the agent.
pub const IMDS: &str = "imds";
/// nginx as it is by default.
pub const NGINX: &str = "nginx";
/// kube2iam.
pub const KUBE2IAM: &str = "kube2iam";
/// hyper, reached as the agent under `route` is.
pub const HYPER_ROUTE: &str = "hyper-route";

const NOTHING: &str = "nothing";
const ITS_LINES: &str = "access and audit lines to a pipe";

/// One server among those that are compared.
#[derive(Clone, Debug)]
pub struct Variant {
    /// For machines.
    pub id: &'static str,
    /// For people.
    pub label: &'static str,
    /// What it logs.
    pub logs: &'static str,
    /// The server that it is compared with.
    pub base: Option<&'static str>,
    /// Whom to ask.
    pub target: Target,
    /// The place of its node in [`Stage::scenes`].
    scene: usize,
}

/// All of it.
pub struct Stage {
    scenes: Vec<Scene>,
    variants: Vec<Variant>,
    skipped: Vec<Skipped>,
}

/// Servers on the agent's node, beside the yardstick.
const BESIDE: [(&str, &str, &str, Kind, Way); 6] = [
    (HYPER_AGAIN, "bare hyper, another process", NOTHING, Kind::Hyper, Way::Dnat),
    ("hyper-direct", "bare hyper at the node's own address", NOTHING, Kind::Hyper, Way::Direct),
    (BLOCKING, "blocking accept loop", NOTHING, Kind::Blocking, Way::Dnat),
    (NGINX, "nginx", "an access line to a file", Kind::Nginx { logs: true }, Way::Dnat),
    ("nginx-quiet", "nginx, `access_log off`", NOTHING, Kind::Nginx { logs: false }, Way::Dnat),
    (KUBE2IAM, "kube2iam", "warnings alone", Kind::Kube2iam, Way::Dnat),
];

/// An agent on a node of its own, with a yardstick that is reached alike.
struct Node {
    id: &'static str,
    label: &'static str,
    logs: &'static str,
    flags: &'static [&'static str],
    /// The yardstick's id, and its label where it is compared as well.
    base: (&'static str, Option<&'static str>),
}

const NODES: [Node; 3] = [
    Node {
        id: AGENT,
        label: "rolegate, iptables",
        logs: ITS_LINES,
        flags: &[],
        base: (HYPER, Some("bare hyper")),
    },
    Node {
        id: AGENT_ROUTE,
        label: "rolegate, route",
        logs: ITS_LINES,
        flags: &["--redirect=route"],
        base: (HYPER_ROUTE, Some("bare hyper, policy routing")),
    },
    Node {
        id: AGENT_QUIET,
        label: "rolegate, `--log-level=warn`",
        logs: "warnings alone",
        flags: &["--log-level=warn"],
        base: (HYPER, None),
    },
];

// === impl Stage ===

impl Stage {
    /// Starts everything that this machine has; `flags` are for every agent.
    ///
    /// # Errors
    /// When a part does not start, or two servers answer differently.
    pub fn start(size: Size, flags: &[String], progress: impl Fn(&str)) -> Result<Self> {
        let mut stage = Self { scenes: Vec::new(), variants: Vec::new(), skipped: Vec::new() };
        for Node { id, label, logs, flags: own, base: (base, base_label) } in NODES {
            progress(label);
            let flags: Vec<String> = own.iter().map(ToString::to_string).chain(flags.to_vec()).collect();
            let mut scene = Scene::start(size, &flags, |_| ())?;
            if let Some(label) = base_label {
                stage.beside(&scene, base, label, NOTHING, (base != HYPER).then_some(HYPER))?;
            }
            if id == AGENT {
                stage.add_others(&mut scene, &progress)?;
            }
            let target = Target { name: id.to_owned(), addr: imds_v4(), pid: Some(scene.agent_pid()) };
            let place = stage.scenes.len();
            stage.variants.push(Variant { id, label, logs, base: Some(base), target, scene: place });
            stage.scenes.push(scene);
        }
        Ok(stage)
    }

    fn add_others(&mut self, scene: &mut Scene, progress: impl Fn(&str)) -> Result<()> {
        for (id, label, logs, kind, way) in BESIDE {
            if let Some(why) = kind.missing() {
                progress(&format!("{label}: skipped: {why}"));
                self.skipped.push(Skipped { server: label.to_owned(), why });
                continue;
            }
            progress(label);
            scene.add(kind, way).with_context(|| label)?;
            self.beside(scene, id, label, logs, Some(HYPER))?;
        }
        Ok(())
    }

    /// The last server of a scene that is about to be the next one.
    fn beside(
        &mut self,
        scene: &Scene,
        id: &'static str,
        label: &'static str,
        logs: &'static str,
        base: Option<&'static str>,
    ) -> Result<()> {
        let server = scene.servers().last().context("a server was started")?;
        let target = Target { name: id.to_owned(), addr: server.addr(), pid: Some(server.pid()) };
        self.variants.push(Variant { id, label, logs, base, target, scene: self.scenes.len() });
        Ok(())
    }

    /// All servers.
    #[must_use]
    pub fn variants(&self) -> &[Variant] {
        &self.variants
    }

    /// What is not there.
    #[must_use]
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// IMDS itself, asked from the node: what passing a request on is compared with.
    #[must_use]
    pub fn imds(&self) -> Variant {
        let target = Target { name: IMDS.to_owned(), addr: imds_v4(), pid: None };
        Variant { id: IMDS, label: "IMDS itself, from the node", logs: NOTHING, base: None, target, scene: 0 }
    }

    /// What a scenario sends to this server: tokens are of its own agent.
    ///
    /// # Errors
    /// When there is no such scenario.
    pub fn scenario(&self, name: &str, variant: &Variant) -> Result<Scenario> {
        let scene = &self.scenes[variant.scene];
        let mut all = scene.scenarios();
        all.push(scene.passthrough());
        all.into_iter().find(|scenario| scenario.name == name).with_context(|| format!("no scenario {name}"))
    }

    /// Where this server is asked from.
    #[must_use]
    pub fn network(&self, variant: &Variant) -> &NetNs {
        let scene = &self.scenes[variant.scene];
        if variant.id == IMDS { scene.node() } else { scene.pod() }
    }

    /// The processes of all servers.
    #[must_use]
    pub fn pids(&self) -> Vec<i32> {
        self.scenes.iter().flat_map(Scene::server_pids).collect()
    }

    /// Size of the agent's binary, bytes.
    ///
    /// # Errors
    /// When it is gone.
    pub fn binary_bytes(&self) -> Result<u64> {
        ensure!(!self.scenes.is_empty(), "nothing was started");
        self.scenes[0].binary_bytes()
    }
}

/// Whether a server is asked in a scenario: all for a document; where little is to be seen, only those that are compared.
#[must_use]
pub fn takes_part(scenario: &str, id: &str) -> bool {
    match scenario {
        "document" => id != IMDS,
        "passthrough" => [IMDS, AGENT, AGENT_ROUTE, KUBE2IAM].contains(&id),
        "keep-alive" => [HYPER, NGINX, AGENT].contains(&id),
        _ => [HYPER, HYPER_ROUTE, NGINX, AGENT, AGENT_ROUTE, KUBE2IAM].contains(&id),
    }
}
