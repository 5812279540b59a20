//! A world with an agent that asks STS for nothing but what pods ask for, and rows.

use std::fmt::Debug;
use std::io;
use std::time::SystemTime;

use parking_lot::Mutex;
use rolegate_tests::agent::Agent;
use rolegate_tests::http::Response;
use rolegate_tests::sts::Fault;
use rolegate_tests::world::{RunningPod, TRUST, World, arn};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub(crate) const ROLES: &str = "/latest/meta-data/iam/security-credentials/";

pub(crate) struct Lab {
    // In the order in which they end.
    pub(crate) agent: Agent,
    pub(crate) world: World,
    /// Pods' networks are made one at a time.
    making: Mutex<()>,
}

/// Rows that are wrong.
#[derive(Default)]
pub(crate) struct Wrong(Mutex<Vec<String>>);

// === impl Lab ===

impl Lab {
    pub(crate) fn start(test: &str, flags: &[&str]) -> Option<Self> {
        let world = world(test)?;
        let agent = world.agent(&[flags, &["--prefetch=false"]].concat()).unwrap();
        Some(Self::of(agent, world))
    }

    pub(crate) fn of(agent: Agent, world: World) -> Self {
        Self { agent, world, making: Mutex::default() }
    }

    /// A pod of the role that is called as it is; the role's calls go wrong so. The agent knows it.
    pub(crate) fn pod(&self, role: &str, fault: Option<Fault>) -> RunningPod {
        self.world.role(role, TRUST).unwrap();
        self.world.sts.faults().of_role(role, fault);
        self.another_pod(role, role)
    }

    pub(crate) fn another_pod(&self, name: &str, role: &str) -> RunningPod {
        let making = self.making.lock();
        let pod = self.world.pod("default", name, |pod| pod.role(role)).unwrap();
        drop(making);
        let known = || Ok(pod.imds().get(ROLES).is_ok_and(|list| list.status == 200));
        self.agent.poll("the pod is known", known).unwrap();
        pod
    }

    pub(crate) fn calls_of(&self, role: &str) -> usize {
        self.world.sts.calls().iter().filter(|call| call.role == arn(role)).count()
    }

    /// Asks until it has a session, which is its own and of this moment.
    pub(crate) fn served(&self, pod: &RunningPod, role: &str) -> Value {
        let mut session = Value::Null;
        let is_served = || {
            session = told(&document(pod, role)?);
            Ok(session["Code"] == "Success")
        };
        self.agent.poll("the pod is served", is_served).unwrap();
        let issued = self.world.sts.issued(session["AccessKeyId"].as_str().unwrap()).unwrap();
        assert_eq!(issued.role, arn(role));
        session
    }
}

/// A world whose namespace lets its pods have every role.
pub(crate) fn world(test: &str) -> Option<World> {
    let world = World::for_test(test, &rolegate_tests::world::Options::default())?;
    world.namespace("default", &["*"]).unwrap();
    Some(world)
}

pub(crate) fn document(pod: &RunningPod, role: &str) -> io::Result<Response> {
    pod.imds().get(&format!("{ROLES}{role}"))
}

/// The document, or nothing where the answer is not 200.
pub(crate) fn told(answer: &Response) -> Value {
    if answer.status == 200 { answer.json().unwrap() } else { Value::Null }
}

/// What an answer is, in a word: its status, or its document's `Code`.
pub(crate) fn word(answer: &Response) -> String {
    told(answer)["Code"].as_str().map_or_else(|| answer.status.to_string(), str::to_owned)
}

pub(crate) fn wall() -> SystemTime {
    #[expect(clippy::disallowed_methods, reason = "a client's clock")]
    SystemTime::now()
}

/// A time of a document.
pub(crate) fn time_of(document: &Value, name: &str) -> SystemTime {
    OffsetDateTime::parse(document[name].as_str().unwrap(), &Rfc3339).unwrap().into()
}

// === impl Wrong ===

impl Wrong {
    pub(crate) fn unless(&self, right: bool, row: &str, what: &str, seen: impl Debug) {
        if !right {
            self.0.lock().push(format!("{row}: {what}: {seen:?}"));
        }
    }

    pub(crate) fn none(&self, log: &str) {
        let wrong = self.0.lock();
        assert!(wrong.is_empty(), "{}\n{log}", wrong.join("\n"));
    }
}
