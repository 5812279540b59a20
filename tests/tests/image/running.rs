//! The images that were made, run by a real containerd as Kubernetes has it run them.

use rolegate_tests::agent::Agent;
use rolegate_tests::image::{Image, archive};
use rolegate_tests::nodes::containerd::Containerd;
use rolegate_tests::nodes::machine::Machine;
use rolegate_tests::skip;
use rolegate_tests::topology::Backend;
use rolegate_tests::world::{Options, World};

/// The capabilities that containerd gives unless told otherwise and deploy/daemonset.yaml drops.
const DROPPED: [&str; 11] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// What the AWS SDK says where it finds no CA roots.
const NO_ROOTS: &str = "no native root CA certificates";

/// containerd on the node of a world, with one of the images.
struct Scene {
    containerd: Containerd,
    machine: Machine,
    _disk: tempfile::TempDir,
    world: World,
    image: String,
    entry_point: String,
}

// === impl Scene ===

impl Scene {
    /// `None` after the word on why the test is skipped.
    fn start(test: &str, variant: &str, backend: Backend) -> Option<Self> {
        let archive = match archive(variant) {
            Ok(archive) => archive,
            Err(why) => {
                skip(test, &why);
                return None;
            }
        };
        let cannot = Containerd::missing().or_else(|| {
            (!rolegate_tests::has_other_users()).then(|| "containers need root of the machine".into())
        });
        if let Some(why) = cannot {
            skip(test, &why);
            return None;
        }
        let world = World::for_test(test, &Options { backend, ..Options::default() })?;
        world.namespace("default", &["MyPodRole"]).unwrap();
        let disk = tempfile::tempdir().unwrap();
        let machine = Machine::start(disk.path(), world.topology.node()).unwrap();
        let containerd = Containerd::start(&machine, None).unwrap();
        containerd.import(&machine, &archive).unwrap();
        let config = Image::open(&archive).unwrap().config;
        let entry_point = config["config"]["Entrypoint"][0].as_str().unwrap().to_owned();
        let suffix = if variant == "default" { "" } else { "-slim" };
        let image = format!("localhost/rolegate:{}{suffix}", env!("CARGO_PKG_VERSION"));
        Some(Self { containerd, machine, _disk: disk, world, image, entry_point })
    }

    /// The agent in a container on the node's network, as deploy/daemonset.yaml has it: nothing to write but
    /// its state directory, no privilege but its capabilities. `options` are more of `ctr`'s.
    fn agent(&self, flags: &[String], options: &[&str]) -> Agent {
        self.machine.run("touch", &["/run/xtables.lock"]).unwrap();
        let mut command = self.machine.command("ctr");
        command.args(["--namespace", "k8s.io", "run", "--rm", "--net-host", "--read-only", "--seccomp"]);
        command.args(DROPPED.map(|name| format!("--cap-drop=CAP_{name}"))).arg("--cap-add=CAP_NET_ADMIN");
        let value = |flag: &str| flags.iter().find_map(|one| one.strip_prefix(flag)).unwrap();
        let (state, results) = (value("--state-dir="), value("--cni-results="));
        for (place, access) in [(state, "rw"), (results, "ro"), ("/run/xtables.lock", "rw")] {
            command.arg(format!("--mount=type=bind,src={place},dst={place},options=rbind:{access}"));
        }
        let environment = self.world.environment();
        command.args(environment.iter().map(|(name, value)| format!("--env={name}={value}")));
        command.args(options);
        // `ctr` puts what it is given in the place of the entry point; Kubernetes puts `args` after it.
        command.args([&self.image, "agent", &self.entry_point]);
        Agent::start_by(self.world.topology.node(), command, flags, &environment).unwrap()
    }

    /// An agent with these flags that has served a pod over both families.
    fn serves(&self, flags: &[String]) -> Agent {
        let pod = self.world.pod("default", "aws-cli", |pod| pod.role("MyPodRole")).unwrap();
        let agent = self.agent(flags, &[]);
        agent.ready().unwrap();
        for client in [pod.imds(), pod.imds_v6()] {
            assert_eq!(client.credentials().unwrap()["Code"], "Success", "{}", agent.log());
        }
        assert!(!agent.log().contains(NO_ROOTS), "{}", agent.log());
        agent
    }

    /// That it does with iptables, this one of the two.
    fn serves_by_iptables(&self, backend: &str) {
        let agent = self.serves(&self.world.usual_flags());
        let line = agent.wait_for_line("redirect", |line| line.text.contains("redirect in force")).unwrap();
        for family in ["iptables", "ip6tables"] {
            assert_eq!(line.text_of(family).as_deref(), Some(backend), "{}", line.text);
        }
    }
}

/// P42: the default image redirects by iptables, as kube2iam's flags have it, on a node whose tables are nft's.
#[test]
fn default_image_redirects_by_nft_rules_and_serves() {
    let test = "default_image_redirects_by_nft_rules_and_serves";
    let Some(scene) = Scene::start(test, "default", Backend::Nft) else { return };
    scene.serves_by_iptables("nft");
}

/// P42: and where they are legacy ones.
#[test]
fn default_image_redirects_by_legacy_rules_and_serves() {
    let test = "default_image_redirects_by_legacy_rules_and_serves";
    let Some(scene) = Scene::start(test, "default", Backend::Legacy) else { return };
    scene.serves_by_iptables("legacy");
}

/// P42: the slim image, which has the binary alone, redirects by policy routing.
#[test]
fn slim_image_redirects_by_policy_routing_and_serves() {
    let test = "slim_image_redirects_by_policy_routing_and_serves";
    let Some(scene) = Scene::start(test, "slim", Backend::Nft) else { return };
    let mut flags = scene.world.usual_flags();
    flags.retain(|flag| flag != "--iptables" && !flag.starts_with("--host-ip"));
    flags.push("--redirect=route".into());
    let agent = scene.serves(&flags);
    assert_eq!(agent.metric("rolegate_redirect_mode{mode=\"route\"}").unwrap(), 1.0, "{}", agent.log());
}

#[test]
fn agent_trusts_the_roots_of_the_image_and_no_other() {
    let test = "agent_trusts_the_roots_of_the_image_and_no_other";
    let Some(scene) = Scene::start(test, "slim", Backend::Nft) else { return };
    let mut flags = scene.world.usual_flags();
    flags.retain(|flag| flag != "--iptables");
    let nothing = "--mount=type=bind,src=/dev/null,dst=/etc/ssl/certs/ca-certificates.crt,options=bind:ro";
    let agent = scene.agent(&flags, &[nothing]);
    agent.wait_for_line("that there are no roots", |line| line.text.contains(NO_ROOTS)).unwrap();
}

/// P42: there is no shell to run in either.
#[test]
fn images_run_the_agent_and_no_shell() {
    for variant in ["default", "slim"] {
        let Some(scene) = Scene::start("images_run_the_agent_and_no_shell", variant, Backend::Nft) else {
            return;
        };
        let run = |id: &str, args: &[&str]| {
            let words = [&["run", "--rm", &scene.image, id], args].concat();
            scene.containerd.ctr(&scene.machine, &words)
        };
        let version = run("version", &[&scene.entry_point, "--version"]).unwrap();
        assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
        for shell in ["sh", "/bin/sh", "bash", "busybox"] {
            let refused = format!("{:#}", run("shell", &[shell, "-c", "true"]).unwrap_err());
            assert!(refused.contains("not found") || refused.contains("no such file"), "{refused}");
        }
    }
}
