//! `kill -9` at every point of an agent's life, with a pod that asks all the time.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rolegate_tests::agent::{Agent, run_to_end};
use rolegate_tests::http::Connection;
use rolegate_tests::imds::ImdsConfig;
use rolegate_tests::kube_api::Resource;
use rolegate_tests::sts::Fault;
use rolegate_tests::topology::{Backend, imds_v4, imds_v6};
use rolegate_tests::traffic::{Got, Traffic};
use rolegate_tests::world::{Options, RunningPod, World};
use tokio::time::Instant;

/// Where an agent is killed.
struct Point {
    name: &'static str,
    /// What is held up, so that the agent stays there.
    hold: fn(&Scene),
    /// Starts one and waits until it is there.
    reach: fn(&Scene) -> Reached,
    /// Nothing is held up any more.
    free: fn(&Scene),
}

/// An agent at its point.
struct Reached {
    agent: Agent,
    /// Since when its rules stand, if they do.
    stood: Option<Instant>,
    /// What has to stay open until its end.
    _open: Option<Connection>,
}

/// A program that stops where the real one would begin.
struct Stopper {
    dir: tempfile::TempDir,
}

struct Scene {
    world: World,
    pod: RunningPod,
    traffic: Vec<Traffic>,
    /// What the agent writes, by family and table.
    whole: Rules,
}

type Rules = BTreeMap<(String, String), Vec<String>>;

const POINTS: [Point; 9] = [
    Point { name: "it has said its first line", hold: |_| {}, reach: started, free: |_| {} },
    Point { name: "the rules of IPv4 are written", hold: |_| {}, reach: writing_v4, free: |_| {} },
    Point { name: "the rules of IPv6 are written", hold: |_| {}, reach: writing_v6, free: |_| {} },
    Point { name: "the rules stand", hold: |_| {}, reach: redirected, free: |_| {} },
    Point {
        name: "the API server is asked",
        hold: |scene| scene.lists(Duration::from_secs(60)),
        reach: asked_for_pods,
        free: |scene| scene.lists(Duration::ZERO),
    },
    Point {
        name: "IMDS is asked",
        hold: |scene| scene.world.imds().faults().hold(true),
        reach: asked_imds,
        free: |scene| scene.world.imds().faults().hold(false),
    },
    Point {
        name: "STS is asked",
        hold: |scene| scene.world.sts.faults().of_role("MyPodRole", Some(Fault::Stall)),
        reach: asked_sts,
        free: |scene| scene.world.sts.faults().clear(),
    },
    Point { name: "it is ready", hold: |_| {}, reach: ready, free: |_| {} },
    Point { name: "it drains", hold: |_| {}, reach: draining, free: |_| {} },
];

fn started(scene: &Scene) -> Reached {
    let agent = scene.world.start_agent(&[]).unwrap();
    agent.wait_for_line("its first line", |line| line.text.contains("rolegate starts")).unwrap();
    Reached { agent, stood: None, _open: None }
}

fn writing_v4(scene: &Scene) -> Reached {
    Reached { agent: scene.stopped_at("iptables-nft-restore"), stood: None, _open: None }
}

fn writing_v6(scene: &Scene) -> Reached {
    Reached { agent: scene.stopped_at("ip6tables-nft-restore"), stood: None, _open: None }
}

fn redirected(scene: &Scene) -> Reached {
    let agent = scene.world.start_agent(&[]).unwrap();
    let stood = Some(wait_for_rules(&agent));
    Reached { agent, stood, _open: None }
}

fn asked_for_pods(scene: &Scene) -> Reached {
    let reached = redirected(scene);
    let gate = |name: &str| reached.agent.admin(&format!("/readyz/{name}")).map(|answer| answer.status);
    let waits = || gate("namespaces").is_ok_and(|status| status == 200);
    reached.agent.poll("namespaces are listed", || Ok(waits())).unwrap();
    assert_eq!(gate("pods").unwrap(), 503, "they are held");
    reached
}

fn asked_imds(scene: &Scene) -> Reached {
    let reached = redirected(scene);
    let since = Instant::now();
    let asked = || scene.world.imds().requests().iter().any(|request| request.at > since);
    reached.agent.poll("IMDS is asked", || Ok(asked())).unwrap();
    reached
}

fn asked_sts(scene: &Scene) -> Reached {
    let before = scene.world.sts.assume_role_calls();
    let reached = redirected(scene);
    reached.agent.poll("STS is asked", || Ok(scene.world.sts.assume_role_calls() > before)).unwrap();
    reached
}

fn ready(scene: &Scene) -> Reached {
    let reached = redirected(scene);
    reached.agent.ready().unwrap();
    reached
}

fn draining(scene: &Scene) -> Reached {
    let reached = ready(scene);
    let mut half = scene.pod.imds().connect().unwrap();
    half.send(b"GET /latest/meta-data/ HTTP/1.1\r\nHost:").unwrap();
    let agent = &reached.agent;
    agent.poll("the connection is open", || Ok(agent.metric("rolegate_connections_open")? >= 1.0)).unwrap();
    agent.sigterm().unwrap();
    agent.wait_for_line("it drains", |line| line.text.contains("ending: started requests")).unwrap();
    Reached { _open: Some(half), ..reached }
}

/// Since when they stand.
fn wait_for_rules(agent: &Agent) -> Instant {
    agent.wait_for_line("redirect in force", |line| line.text.contains("redirect in force")).unwrap();
    Instant::now()
}

// === impl Scene ===

impl Scene {
    fn set(test: &str) -> Option<Self> {
        if rolegate_tests::cluster::Cluster::wants_real() {
            rolegate_tests::skip(test, "a real API server does not fail on command");
            return None;
        }
        // As on an instance that nobody has hardened: whatever gets out gets the node's credentials.
        let imds = ImdsConfig { hop_limit: 64, ..ImdsConfig::default() };
        let world = World::for_test(test, &Options { imds, ..Options::default() })?;
        world.namespace("default", &["MyPodRole"]).unwrap();
        let pod = world.pod("default", "pod", |pod| pod.role("MyPodRole")).unwrap();
        let traffic: Vec<Traffic> = [imds_v4(), imds_v6()].map(|to| Traffic::start(&pod.net, to)).into();
        let agent = world.start_agent(&[]).unwrap();
        agent.ready().unwrap();
        drop(agent);
        let mut scene = Self { world, pod, traffic, whole: Rules::new() };
        scene.whole = scene.rules();
        assert_eq!(scene.whole.len(), 4, "two tables of two families: {:?}", scene.whole);
        Some(scene)
    }

    fn lists(&self, delay: Duration) {
        self.world.cluster.double().unwrap().faults().delay_lists(Resource::Pods, delay);
    }

    /// What is the agent's in the node's rules.
    fn rules(&self) -> Rules {
        let mut rules = Rules::new();
        let mut table = String::new();
        for line in self.world.topology.rules(Backend::Nft).unwrap() {
            let (family, rule) = line.split_once(' ').unwrap();
            if let Some(name) = rule.strip_prefix('*') {
                name.clone_into(&mut table);
            } else if rule.contains("ROLEGATE") {
                rules.entry((family.to_owned(), table.clone())).or_default().push(rule.to_owned());
            }
        }
        rules
    }

    /// An agent whose `program` has been called and does nothing yet. Killing the agent leaves the program, as
    /// it does the real one: it goes to its end.
    fn stopped_at(&self, program: &str) -> Agent {
        let stopper = Stopper::of(program);
        let mut env = self.world.environment();
        let path = std::env::var_os("PATH").unwrap();
        let path = format!("{}:{}", stopper.dir.path().display(), path.to_str().unwrap());
        env.insert("PATH".into(), path);
        let agent = Agent::start(self.world.topology.node(), &self.world.usual_flags(), &env).unwrap();
        agent.poll(program, || Ok(stopper.file("called").exists())).unwrap();
        agent.kill9().unwrap();
        stopper.go_on();
        agent
    }

    /// As a node that has just booted.
    fn clean(&self) {
        let cleaned = run_to_end(Some(self.world.topology.node()), &["cleanup"]).unwrap();
        assert!(cleaned.status.success(), "{cleaned:?}");
        assert_eq!(self.rules(), Rules::new());
    }

    /// Nothing but what an agent keeps.
    fn state(&self, agent: &Agent) {
        let flags = self.world.usual_flags();
        let dir = flags.iter().find_map(|flag| flag.strip_prefix("--state-dir=")).unwrap();
        let kept = ["handover.sock", "imds-token.key", "kubeconfig"].map(str::to_owned).into();
        let is_kept = || {
            let names =
                std::fs::read_dir(dir)?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
            Ok(names.collect::<BTreeSet<String>>() == kept)
        };
        agent.poll("nothing else is there", is_kept).unwrap();
    }

    /// Kills one at `point` on a node without rules, and starts the next. From when the rules stand to the end
    /// nothing of the pod reaches IMDS.
    fn play(&self, point: &Point) {
        let name = point.name;
        self.clean();
        (point.hold)(self);
        let reached = (point.reach)(self);
        reached.agent.kill9().unwrap();
        (point.free)(self);
        let left = self.rules();
        for (table, rules) in &left {
            assert_eq!(rules, &self.whole[table], "{name}: half of {table:?} was left");
        }
        if reached.stood.is_some() {
            assert_eq!(left, self.whole, "{name}");
            self.everybody_gets(2, name, |got| got == Got::Nothing);
        }

        let again = self.world.start_agent(&[]).unwrap();
        let in_force = wait_for_rules(&again);
        let stood = reached.stood.unwrap_or(in_force);
        again.ready().unwrap();
        assert_eq!(self.rules(), self.whole, "{name}: what was left is made whole");
        self.state(&again);
        self.everybody_gets(2, name, |got| matches!(got, Got::Status(_)));
        let document = self.pod.imds().credentials().unwrap();
        assert_eq!(document["Code"], "Success", "{name}: {}", again.log());
        again.kill9().unwrap();
        self.everybody_gets(2, name, |got| got == Got::Nothing);
        let leaks = self.world.leaks(stood);
        assert!(leaks.is_empty(), "{name}: {leaks:#?}\n{}\n{}", reached.agent.log(), again.log());
    }

    fn everybody_gets(&self, n: usize, name: &str, wanted: impl Fn(Got) -> bool) {
        for traffic in &self.traffic {
            traffic.wait_for(n, &wanted).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
}

// === impl Stopper ===

impl Stopper {
    fn of(program: &str) -> Self {
        let path = std::env::var_os("PATH").unwrap();
        let real: PathBuf =
            std::env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.is_file()).unwrap();
        let it = Self { dir: tempfile::tempdir().unwrap() };
        nix::unistd::mkfifo(&it.file("gate"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let dir = it.dir.path().display();
        let script = format!(
            "#!/bin/sh\n: > {dir}/called\nread _ < {dir}/gate\n{} \"$@\"\n: > {dir}/ended\n",
            real.display()
        );
        std::fs::write(it.file(program), script).unwrap();
        std::fs::set_permissions(it.file(program), std::fs::Permissions::from_mode(0o700)).unwrap();
        it
    }

    fn file(&self, name: &str) -> PathBuf {
        Path::new(self.dir.path()).join(name)
    }

    /// Lets it do its work, and waits for its end.
    fn go_on(&self) {
        std::fs::write(self.file("gate"), "\n").unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.file("ended").exists() {
            assert!(Instant::now() < deadline, "the program does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// K7, K24: no death leaves a window, half a rule or a lock behind: once the rules stood nothing of the pod reaches
/// the real service, and the next start is like the first.
#[test]
fn kill_9_at_every_point_of_start_and_end_leaves_no_window_and_no_remains() {
    let test = "kill_9_at_every_point_of_start_and_end_leaves_no_window_and_no_remains";
    let Some(scene) = Scene::set(test) else { return };
    for point in &POINTS {
        scene.play(point);
    }
}
