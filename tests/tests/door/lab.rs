//! Worlds that tests share, and how their tables report.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rolegate_tests::agent::Agent;
use rolegate_tests::http::Response;
use rolegate_tests::imds::{NODE_MARKER, TOKEN_MARKER, USER_DATA_MARKER};
use rolegate_tests::skip;
use rolegate_tests::topology::imds_v4;
use rolegate_tests::world::{NODE_ROLE, RunningPod, TRUST, World, arn};
use tokio::time::Instant;

use crate::roles::passed_on_by_default;

/// Longest that a test waits for bytes: far beyond any deadline of the agent.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
pub(crate) const OWN_DOCUMENT: &str = "/latest/meta-data/iam/security-credentials/MyPodRole";
/// The role of the pod `victim`, of another namespace.
pub(crate) const VICTIM_ROLE: &str = "VictimRole";
pub(crate) const TOKEN: &str = "X-aws-ec2-metadata-token";
pub(crate) const TTL: &str = "X-aws-ec2-metadata-token-ttl-seconds";

/// Tests that change nothing share the agent with the usual flags.
pub(crate) static USUAL: Shared = Shared::new(&[]);
/// As [`USUAL`], where tokens are required.
pub(crate) static TOKENS_REQUIRED: Shared = Shared::new(&["--imds-v1=deny"]);
/// As [`USUAL`], with everything passed through that kube2iam's users have.
pub(crate) static OPEN: Shared = Shared::new(&["--profile=kube2iam"]);
/// As [`USUAL`], with everything passed through that patterns can name.
pub(crate) static WIDE: Shared = Shared::new(&["--metadata-allow=**", "--metadata-allow=dynamic/**"]);

/// As [`USUAL`], with everything as open as flags can make it.
pub(crate) static WIDEST: Shared = Shared::new(&[
    "--profile=kube2iam",
    "--metadata-allow=**",
    "--metadata-allow=dynamic/**",
    "--namespace-restrictions=off",
]);

/// A world and an agent that live as long as one test at least uses them.
pub(crate) struct Shared {
    flags: &'static [&'static str],
    lab: Mutex<Weak<Lab>>,
}

/// A world, an agent and pods.
pub(crate) struct Lab {
    // In the order in which they end.
    pub(crate) agent: Agent,
    pods: Mutex<BTreeMap<&'static str, Arc<RunningPod>>>,
    pub(crate) world: World,
    pub(crate) start: Instant,
}

/// Rows that are wrong.
#[derive(Default)]
pub(crate) struct Wrong(Vec<String>);

// === impl Shared ===

impl Shared {
    const fn new(flags: &'static [&'static str]) -> Self {
        Self { flags, lab: Mutex::new(Weak::new()) }
    }

    /// Whether more is passed through than the default list.
    pub(crate) fn opens_metadata(&self) -> bool {
        self.flags.iter().any(|flag| *flag == "--profile=kube2iam" || flag.starts_with("--metadata-allow"))
    }

    /// The lab, unless this machine cannot have one.
    pub(crate) fn get(&self) -> Option<Arc<Lab>> {
        if is_missing() {
            return None;
        }
        let mut shared = self.lab.lock();
        if let Some(lab) = shared.upgrade() {
            return Some(lab);
        }
        let lab = Arc::new(Lab::start(self.flags));
        *shared = Arc::downgrade(&lab);
        Some(lab)
    }
}

// === impl Lab ===

impl Lab {
    /// A lab of one's own, unless this machine cannot have one.
    pub(crate) fn own(flags: &[&str]) -> Option<Self> {
        (!is_missing()).then(|| Self::start(flags))
    }

    fn start(flags: &[&str]) -> Self {
        let world = World::start().unwrap();
        world.role("team/app/PathRole", TRUST).unwrap();
        world.role(VICTIM_ROLE, TRUST).unwrap();
        world.namespace("default", &["MyPodRole", "team/app/*"]).unwrap();
        world.namespace("others", &[VICTIM_ROLE]).unwrap();
        for (name, v1) in [("v1-denied", "deny"), ("v1-allowed", "allow")] {
            let annotations =
                [("iam.amazonaws.com/allowed-roles", r#"["MyPodRole"]"#), ("iam.amazonaws.com/imds-v1", v1)];
            world.cluster.apply_namespace(name, &annotations).unwrap();
        }
        let start = Instant::now();
        let agent = world.agent(flags).unwrap();
        Self { agent, pods: Mutex::default(), world, start }
    }

    /// The pod of this name, made at first use, when the agent knows it and has its session if it gets one.
    pub(crate) fn pod(&self, name: &'static str) -> Arc<RunningPod> {
        let mut pods = self.pods.lock();
        let pod = pods.entry(name).or_insert_with(|| {
            let (namespace, role) = match name {
                "bare" => ("default", None),
                "forbidden" => ("default", Some("OtherRole".to_owned())),
                "pathed" => ("default", Some("team/app/PathRole".to_owned())),
                "by-arn" => ("default", Some(arn("MyPodRole"))),
                "victim" => ("others", Some(VICTIM_ROLE.to_owned())),
                "v1-denied" | "v1-allowed" => (name, Some("MyPodRole".to_owned())),
                _ => ("default", Some("MyPodRole".to_owned())),
            };
            let shape = |pod: rolegate_tests::kube_api::Pod| match &role {
                Some(role) => pod.role(role),
                None => pod,
            };
            Arc::new(self.world.pod(namespace, name, shape).unwrap())
        });
        self.settled(pod);
        Arc::clone(pod)
    }

    /// Waits until a pod's list and document are not 500 any more.
    pub(crate) fn settled(&self, pod: &RunningPod) {
        let known = || {
            let token = pod.imds().imds_token(60)?;
            let list = pod.imds().role_list(&token)?;
            let issued = || Ok::<_, io::Error>(pod.imds().document(&list.text(), &token)?.status == 200);
            Ok(list.status == 404 || list.status == 200 && issued()?)
        };
        self.agent.poll("the pod is known", known).unwrap();
    }

    /// The real IMDS has seen what the agent asks of itself and paths of `passed`, with nothing of a pod's.
    pub(crate) fn only_constants_reached_imds(&self, passed: impl Fn(&str) -> bool, wrong: &mut Wrong) {
        let of_the_agent = [
            "/latest/api/token".to_owned(),
            "/latest/meta-data/iam/info".to_owned(),
            "/latest/meta-data/iam/security-credentials/".to_owned(),
            format!("/latest/meta-data/iam/security-credentials/{NODE_ROLE}"),
        ];
        let requests = [self.world.imds().requests(), self.world.imds_v6().requests()].concat();
        for request in requests.into_iter().filter(|request| request.at >= self.start) {
            let known = of_the_agent.contains(&request.target) || passed(&request.target);
            wrong.unless(known, "path at IMDS", &request);
            let planted = request.headers.iter().any(|(name, value)| {
                format!("{name}{value}").to_ascii_lowercase().contains("canary")
                    || name.eq_ignore_ascii_case("x-forwarded-for")
            });
            wrong.unless(!planted, "a pod's header at IMDS", &request);
            let token = request.header(TOKEN);
            let real =
                request.method == "PUT" || token.first().is_some_and(|it| it.starts_with(TOKEN_MARKER));
            wrong.unless(real, "the agent's own token at IMDS", &request);
        }
        wrong.unless(self.world.leaks(self.start).is_empty(), "leaks", self.world.leaks(self.start));
    }
}

// === impl Wrong ===

impl Wrong {
    /// Notes the row unless it is `right`.
    pub(crate) fn unless(&mut self, right: bool, row: impl Debug, got: impl Debug) {
        if !right {
            self.0.push(format!("{row:?}: {got:?}"));
        }
    }

    /// The status, and what every answer has: `Server`, `Connection`, type and length; no body on an error.
    pub(crate) fn unless_answered(&mut self, status: u16, row: impl Debug, got: &io::Result<Response>) {
        let Ok(answer) = got else {
            return self.0.push(format!("{row:?}: {got:?}"));
        };
        self.unless(answer.status == status, (&row, "wants", status), answer);
        self.unless_shaped(row, answer);
    }

    /// What every answer of the agent has.
    pub(crate) fn unless_shaped(&mut self, row: impl Debug, answer: &Response) {
        let header = |name| answer.header(name);
        let shaped = header("server") == Some("EC2ws")
            && header("connection") == Some("close")
            && header("content-type") == Some("text/plain")
            && header("content-length").is_some();
        self.unless(shaped, (&row, "headers"), answer);
        self.unless(answer.status == 200 || answer.body.is_empty(), (&row, "an error has no body"), answer);
        self.unless(!has_marker(&answer.body), (&row, "something of the node's"), answer);
    }

    /// Ends the test if a row was wrong.
    pub(crate) fn none(self) {
        assert!(self.0.is_empty(), "wrong rows:\n{}", self.0.join("\n"));
    }
}

/// Whether this has a credential, a token or the user data of the node.
pub(crate) fn has_marker(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    [NODE_MARKER, USER_DATA_MARKER, TOKEN_MARKER].iter().any(|marker| text.contains(marker))
}

/// Of pods' requests the real IMDS has seen only paths that `shared` opens, as they are written on its list.
pub(crate) fn only_what_is_open_reached_imds(shared: &Shared, lab: &Lab, wrong: &mut Wrong) {
    let never = ["iam", "identity-credentials", "security-credentials", "user-data"];
    let normal = |target: &str| {
        target.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._:+=,@-".contains(&byte))
            && target.split('/').skip(1).all(|segment| !matches!(segment, "" | "." | ".."))
            && !target.split('/').any(|segment| never.contains(&&*segment.to_ascii_lowercase()))
    };
    let below =
        |target: &str| target.starts_with("/latest/meta-data/") || target.starts_with("/latest/dynamic/");
    let passed = |target: &str| {
        passed_on_by_default(target) || shared.opens_metadata() && below(target) && normal(target)
    };
    lab.only_constants_reached_imds(passed, wrong);
}

/// Everything that comes back for these bytes until the connection ends. A reset ends it too.
pub(crate) fn everything(pod: &RunningPod, to: SocketAddr, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = pod.net.ns().connect(to, PATIENCE)?;
    let mut answer = Vec::new();
    // The agent may have closed before all was written, and its answer is still there to read.
    let _ = stream.write_all(request);
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() != io::ErrorKind::ConnectionReset => Err(error),
        _ => Ok(answer),
    }
}

/// [`everything`] over IPv4.
pub(crate) fn everything_v4(pod: &RunningPod, request: &[u8]) -> io::Result<Vec<u8>> {
    everything(pod, imds_v4(), request)
}

/// The status codes of all answers in there, in their order.
pub(crate) fn statuses(answers: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(answers);
    text.match_indices("HTTP/1.")
        .filter_map(|(at, _)| text.get(at + "HTTP/1.x ".len()..)?.get(..3)?.parse().ok())
        .collect()
}

fn is_missing() -> bool {
    let why = World::missing();
    if let Some(why) = &why {
        let thread = std::thread::current();
        skip(thread.name().unwrap_or("a test of the door"), why);
    }
    why.is_some()
}
