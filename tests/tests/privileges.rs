//! What the agent may do: what it asks for, what it keeps, and that it does with that all it has to.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::process::{Command, Output};

use rolegate_tests::agent::{Agent, binary};
use rolegate_tests::netns;
use rolegate_tests::skip;
use rolegate_tests::topology::{Backend, NODE_V4};
use rolegate_tests::world::{Options, RunningPod, World};

/// A way of redirecting, and what it takes.
struct Capture {
    flag: &'static str,
    backend: Backend,
    /// What a container needs at its start, in the order of their numbers.
    needs: &'static [&'static str],
    /// What stays of that.
    keeps: &'static [&'static str],
    /// Takes away what the agent put into the kernel.
    damage: &'static str,
}

const ROUTE: Capture = Capture {
    flag: "--redirect=route",
    backend: Backend::Nft,
    needs: &["SETPCAP", "NET_BIND_SERVICE", "NET_ADMIN"],
    keeps: &["NET_ADMIN"],
    damage: "nft flush ruleset; for p in 2 4 6; do ip rule del pref $p; ip -6 rule del pref $p; done",
};

/// Rules of an earlier run may be in the legacy tables.
const ROUTE_BESIDE_LEGACY: Capture = Capture {
    backend: Backend::Legacy,
    needs: &["SETPCAP", "NET_BIND_SERVICE", "NET_ADMIN", "NET_RAW"],
    keeps: &["NET_ADMIN", "NET_RAW"],
    ..ROUTE
};

const NFT: Capture = Capture {
    flag: "--redirect=iptables",
    backend: Backend::Nft,
    needs: &["NET_ADMIN"],
    keeps: &["NET_ADMIN"],
    damage: "nft flush ruleset",
};

const LEGACY: Capture = Capture {
    flag: "--redirect=iptables",
    backend: Backend::Legacy,
    needs: &["NET_ADMIN", "NET_RAW"],
    keeps: &["NET_ADMIN", "NET_RAW"],
    damage: "for f in iptables-legacy ip6tables-legacy; do $f -w -t nat -F; $f -w -F; done; nft flush ruleset",
};

/// The redirect is the operator's own.
const NONE: Capture = Capture {
    flag: "--redirect=none",
    backend: Backend::Nft,
    needs: &[],
    keeps: &["NET_ADMIN"],
    damage: "for p in 4 6; do ip rule del pref $p; done",
};

/// Capabilities by their numbers (capability.h).
const NUMBERS: [(&str, u32); 4] =
    [("SETPCAP", 8), ("NET_BIND_SERVICE", 10), ("NET_ADMIN", 12), ("NET_RAW", 13)];

/// Everything read-only but `$state` and, where it is there, the lock that all writers of legacy tables share.
const READ_ONLY: &str = r#"
mount --bind "$state" "$state"
while read -r _ at _; do
  case "$at" in "$state" | /run/xtables.lock) ;; *) mount -o remount,bind,ro "$at" 2>/dev/null || : ;; esac
done < /proc/mounts"#;

const LOCK: &str = ": > /run/xtables.lock; mount --bind /run/xtables.lock /run/xtables.lock";

/// A world for agents of such a capture, with a pod.
struct Scene {
    world: World,
    capture: &'static Capture,
    pod: RunningPod,
}

// === impl Capture ===

impl Capture {
    /// Nothing for the back end: `None` after the word on why the test is skipped.
    fn scene(&'static self, test: &str) -> Option<Scene> {
        if !netns::on_path("setpriv") {
            skip(test, "`setpriv` is not installed");
            return None;
        }
        let world = World::for_test(test, &Options { backend: self.backend, ..Options::default() })?;
        world.namespace("default", &["MyPodRole"]).unwrap();
        let pod = world.pod("default", "aws-cli", |pod| pod.role("MyPodRole")).unwrap();
        if self.flag == NONE.flag {
            let rule = "-t nat -A PREROUTING -p tcp -d 169.254.169.254 --dport 80 -j DNAT --to-destination";
            let mut iptables = world.topology.node().command("iptables-nft");
            netns::run(iptables.args(rule.split(' ')).arg(format!("{NODE_V4}:8181"))).unwrap();
        }
        Some(Scene { world, capture: self, pod })
    }
}

// === impl Scene ===

impl Scene {
    fn flags(&self) -> Vec<String> {
        let mut flags = self.world.usual_flags();
        flags.retain(|flag| flag != "--iptables");
        if self.capture.flag == ROUTE.flag {
            flags.retain(|flag| !flag.starts_with("--host-ip"));
        }
        flags.push(self.capture.flag.into());
        flags
    }

    fn state_dir(&self) -> String {
        let flags = self.world.usual_flags();
        flags.iter().find_map(|flag| flag.strip_prefix("--state-dir=")).unwrap().to_owned()
    }

    /// The agent with a read-only root, started through `setpriv` with these options.
    fn start(&self, setpriv: &str) -> Agent {
        let lock = if self.capture.backend == Backend::Legacy { LOCK } else { "" };
        let state = self.state_dir();
        let script = format!("state={state}\n{lock}{READ_ONLY}\nexec setpriv {setpriv} /run/agent \"$@\"");
        let world = &self.world;
        Agent::start_contained(world.topology.node(), &script, &self.flags(), &world.environment()).unwrap()
    }

    /// As Kubernetes starts a container with `drop: [ALL]`, `add` and `allowPrivilegeEscalation: false`.
    fn start_with(&self, add: &[&str]) -> Agent {
        self.start(&only(add))
    }

    /// That it serves, mends what others break, and serves again.
    fn assert_works(&self, agent: &Agent) {
        agent.ready().unwrap();
        self.assert_serves(agent);
        let repairs = || -> anyhow::Result<f64> {
            let page = agent.admin("/metrics")?.text();
            let samples = page.lines().filter(|line| line.starts_with("rolegate_redirect_repairs_total{"));
            Ok(samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
        };
        let before = repairs().unwrap();
        self.world.topology.node().run("sh", &["-c", self.capture.damage]).unwrap();
        agent.poll("it is mended", || Ok(repairs()? > before)).unwrap();
        agent.ready().unwrap();
        self.assert_serves(agent);
    }

    fn assert_serves(&self, agent: &Agent) {
        let mut clients = vec![self.pod.imds()];
        if self.capture.flag != NONE.flag {
            clients.push(self.pod.imds_v6());
        }
        for client in clients {
            assert_eq!(client.credentials().unwrap()["Code"], "Success", "{}", agent.log());
        }
        assert_eq!(agent.metric("rolegate_redirect_errors_total").unwrap(), 0.0, "{}", agent.log());
    }

    /// That nothing but `keeps` is in any set of any thread, that nothing can be gained, and nobody can look in.
    fn assert_confined(&self, agent: &Agent, keeps: &[&str]) {
        let pid = agent.pid();
        let allowed: u64 = keeps.iter().map(|name| bit(name)).sum();
        let mut files = vec![format!("/proc/{pid}/status")];
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
            files.push(format!("{}/status", task.unwrap().path().display()));
        }
        assert!(files.len() > 3, "it has threads: {files:?}");
        for file in files {
            let status = std::fs::read_to_string(&file).unwrap();
            let field = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
                line.unwrap().trim().to_owned()
            };
            for (set, expected) in [
                ("CapEff", allowed),
                ("CapPrm", allowed),
                ("CapBnd", allowed),
                ("CapInh", u64::from_str_radix(&field("CapInh"), 16).unwrap() & allowed),
                ("CapAmb", u64::from_str_radix(&field("CapAmb"), 16).unwrap() & allowed),
            ] {
                assert_eq!(field(set), format!("{expected:016x}"), "{set} of {file}\n{status}");
            }
            assert_eq!(field("NoNewPrivs"), "1", "{file}\n{status}");
        }
        // Whoever has the same user and rights may look into processes, but not into this one.
        let look = format!("cat /proc/$$/environ > /dev/null && cat /proc/{pid}/environ");
        let looked =
            Command::new("setpriv").args(only(keeps).split(' ')).args(["sh", "-c", &look]).output().unwrap();
        let said = String::from_utf8_lossy(&looked.stderr);
        assert!(said.contains(&format!("/proc/{pid}/environ: Permission denied")), "{looked:?}");
    }

    /// That of all places it can write to one.
    fn assert_read_only(&self, agent: &Agent) {
        let mount = format!("--mount=/proc/{}/ns/mnt", agent.pid());
        let touch = |place: &str| {
            let file = format!("{place}/written");
            Command::new("nsenter").args([&mount, "--", "touch", &file]).output().unwrap()
        };
        for place in ["/", "/etc", "/run", "/tmp", "/usr", "/var/lib"] {
            let said = touch(place);
            assert!(String::from_utf8_lossy(&said.stderr).contains("Read-only file system"), "{said:?}");
        }
        let state = self.state_dir();
        assert!(touch(&state).status.success(), "{state}");
        assert!(std::fs::read_dir(&state).unwrap().count() > 1, "the token's key is there");
    }

    /// What is in the kernel of the agent's.
    fn rules(&self) -> String {
        let show = "ip rule; ip -6 rule; nft list ruleset; iptables-legacy-save; ip6tables-legacy-save";
        let shown = self.world.topology.node().run("sh", &["-c", show]).unwrap();
        // Counters and times differ.
        shown
            .lines()
            .filter(|line| line.to_lowercase().contains("rolegate") || line.contains("169.254"))
            .collect()
    }
}

/// Options of `setpriv`: these capabilities, and no way to more.
fn only(capabilities: &[&str]) -> String {
    let mut set = "-all".to_owned();
    for name in capabilities {
        set.push_str(",+");
        set.push_str(&name.to_lowercase());
    }
    format!("--bounding-set={set} --inh-caps=-all --ambient-caps=-all --no-new-privs")
}

fn bit(name: &str) -> u64 {
    1 << NUMBERS.iter().find(|(known, _)| *known == name).unwrap().1
}

fn rolegate(world: &World, capabilities: &[&str], command: &str) -> Output {
    let mut setpriv = world.topology.node().command("setpriv");
    setpriv.args(only(capabilities).split(' ')).arg(binary().unwrap()).arg(command).output().unwrap()
}

/// Started with everything, as privileged containers are.
fn keeps_what_it_needs_of_everything(capture: &'static Capture, test: &str) {
    let Some(scene) = capture.scene(test) else { return };
    let handed_down = "+net_admin,+net_raw,+setuid,+sys_admin,+sys_ptrace";
    let agent = scene.start(&format!("--inh-caps={handed_down} --ambient-caps={handed_down}"));
    scene.assert_works(&agent);
    scene.assert_confined(&agent, capture.keeps);
    scene.assert_read_only(&agent);
}

/// Started as the manifest says, and with each of that missing in turn.
fn needs_what_it_asks_for(capture: &'static Capture, test: &str) {
    let Some(scene) = capture.scene(test) else { return };
    let before = scene.rules();
    for without in capture.needs {
        let rest: Vec<&str> = capture.needs.iter().filter(|name| *name != without).copied().collect();
        let agent = scene.start_with(&rest);
        assert_eq!(agent.wait().unwrap().code(), Some(1), "without {without}: {}", agent.log());
        let said = agent.lines().last().unwrap().text.clone();
        assert!(said.contains(&format!("the capability {without} is missing: ")), "{said}");
        assert_eq!(said.matches("is missing").count(), 1, "{said}");
        assert_eq!(scene.rules(), before, "without {without}");
    }
    let agent = scene.start_with(capture.needs);
    scene.assert_works(&agent);
    scene.assert_confined(&agent, capture.keeps);
    scene.assert_read_only(&agent);
}

/// P41: of everything it keeps `NET_ADMIN` alone and works with that, on a read-only root, by policy routing.
#[test]
fn of_everything_net_admin_alone_is_kept_by_policy_routing() {
    keeps_what_it_needs_of_everything(&ROUTE, "of_everything_net_admin_alone_is_kept_by_policy_routing");
}

/// P41: the same with iptables, which it runs.
#[test]
fn of_everything_net_admin_alone_is_kept_with_iptables() {
    keeps_what_it_needs_of_everything(&NFT, "of_everything_net_admin_alone_is_kept_with_iptables");
}

/// P41: the same where there are legacy tables, for which iptables needs `NET_RAW` as well.
#[test]
fn of_everything_net_raw_is_kept_too_where_tables_are_legacy() {
    keeps_what_it_needs_of_everything(&LEGACY, "of_everything_net_raw_is_kept_too_where_tables_are_legacy");
}

/// P41: the same where the redirect is the operator's own.
#[test]
fn of_everything_net_admin_alone_is_kept_where_somebody_else_redirects() {
    let test = "of_everything_net_admin_alone_is_kept_where_somebody_else_redirects";
    keeps_what_it_needs_of_everything(&NONE, test);
}

/// P41: each capability that it cannot do without is named when missing, before anything is touched.
#[test]
fn each_capability_that_is_missing_is_named_for_policy_routing() {
    needs_what_it_asks_for(&ROUTE, "each_capability_that_is_missing_is_named_for_policy_routing");
}

/// P41: the same with iptables.
#[test]
fn each_capability_that_is_missing_is_named_for_iptables() {
    needs_what_it_asks_for(&NFT, "each_capability_that_is_missing_is_named_for_iptables");
}

/// P41: the same with legacy tables.
#[test]
fn each_capability_that_is_missing_is_named_for_legacy_tables() {
    needs_what_it_asks_for(&LEGACY, "each_capability_that_is_missing_is_named_for_legacy_tables");
}

/// P41: the same by policy routing on a node with legacy tables.
#[test]
fn each_capability_that_is_missing_is_named_for_policy_routing_beside_legacy_tables() {
    let test = "each_capability_that_is_missing_is_named_for_policy_routing_beside_legacy_tables";
    needs_what_it_asks_for(&ROUTE_BESIDE_LEGACY, test);
}

/// Nothing is needed where somebody else redirects: it says that there are no guards, and serves.
#[test]
fn no_capability_is_needed_where_somebody_else_redirects() {
    let Some(scene) = NONE.scene("no_capability_is_needed_where_somebody_else_redirects") else { return };
    let agent = scene.start_with(&[]);
    agent.ready().unwrap();
    assert_eq!(scene.pod.imds().credentials().unwrap()["Code"], "Success", "{}", agent.log());
    agent.wait_for_line("no guards", |line| line.text.contains("this node has no guards of ours")).unwrap();
    scene.assert_confined(&agent, &[]);
    drop(agent);
    // As another user, whom the runtime gives a bounding set and nothing of it.
    let agent = scene.start("--inh-caps=-all --ambient-caps=-all --bounding-set=-all,+net_raw,+chown");
    agent.ready().unwrap();
}

#[test]
fn guard_and_cleanup_name_what_they_miss() {
    let Some(scene) = LEGACY.scene("guard_and_cleanup_name_what_they_miss") else { return };
    for (command, has, misses) in [
        ("guard", &["NET_RAW"][..], "NET_ADMIN"),
        ("cleanup", &["NET_RAW"], "NET_ADMIN"),
        ("cleanup", &["NET_ADMIN"], "NET_RAW"),
    ] {
        let said = rolegate(&scene.world, has, command);
        assert_eq!(said.status.code(), Some(1), "{command}: {said:?}");
        let text = String::from_utf8_lossy(&said.stderr);
        assert!(text.contains(&format!("the capability {misses} is missing: ")), "{command}: {text}");
    }
    for (command, has) in [("guard", &["NET_ADMIN"][..]), ("cleanup", LEGACY.needs)] {
        let said = rolegate(&scene.world, has, command);
        assert!(said.status.success(), "{command}: {said:?}");
    }
}

/// The manifest serves every capture: it asks for what one of them needs, and for nothing else.
#[test]
fn manifest_asks_for_the_capabilities_that_are_needed_and_no_other() {
    let manifest = include_str!("../../deploy/daemonset.yaml");
    let needed: BTreeSet<&str> =
        [&ROUTE, &NFT, &LEGACY, &NONE].iter().flat_map(|capture| capture.needs).copied().collect();
    let lines = || manifest.lines().map(str::trim);
    let adds = lines()
        .skip_while(|line| *line != "add:")
        .skip(1)
        .filter(|line| !line.starts_with('#'))
        .map_while(|line| line.strip_prefix("- "));
    assert_eq!(adds.collect::<BTreeSet<_>>(), needed);
    let page = include_str!("../../deploy/README.md");
    let section = page.split("\n## ").find(|section| section.starts_with("Capabilities\n")).unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    assert_eq!(rows.collect::<BTreeSet<_>>(), needed);
    for setting in [
        "drop: [ALL]",
        "allowPrivilegeEscalation: false",
        "readOnlyRootFilesystem: true",
        "type: RuntimeDefault",
        "runAsUser: 0",
    ] {
        assert_eq!(lines().filter(|line| *line == setting).count(), 1, "{setting}");
    }
    assert!(!manifest.contains("privileged: true"));
}
