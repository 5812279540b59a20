//! Bytes that the agent gets from the API server, as the kernel counts them, and what an hour of them is.

use anyhow::{Context, Result, ensure};
use rolegate_tests::agent::Agent;
use rolegate_tests::kube_api::Resource;
use rolegate_tests::topology::WORLD_V4;
use rolegate_tests::world::World;

use super::objects;
use super::size::Size;
use crate::report::float;

/// Of the bench's own, which counts and nothing else.
const TABLE: &str = "rolegate-bench";
/// So often is each kind of event repeated.
const ROUNDS: u32 = 20;
/// A watch is ended by the API server after so many seconds, as the agent asks it to.
const WATCH_SECONDS: f64 = 290.0;
/// The API server sends a bookmark a minute.
const BOOKMARKS_PER_HOUR: f64 = 60.0;
/// Pods that come in an hour of the churn, as many as go, of 250.
pub const PODS_PER_HOUR: f64 = 25.0;
/// Events of one pod's life that its node sees: bound, three of its start, three of its end, gone.
pub const EVENTS_PER_POD: f64 = 8.0;
/// Namespaces that something changes in an hour of the churn: each of 10,000 once a day.
pub const NAMESPACES_PER_HOUR: f64 = 417.0;

/// Bytes of one thing, in IP packets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Traffic {
    /// A bookmark of one watch.
    pub bookmark: f64,
    /// One watch that has ended and is opened again.
    pub reopened: f64,
    /// An event of a pod.
    pub pod: f64,
    /// An event of a namespace.
    pub namespace: f64,
}

// === impl Traffic ===

impl Traffic {
    /// Lets the double say each thing some times, and sees what comes.
    ///
    /// # Errors
    /// When the agent does not hear it.
    pub fn measure(world: &World, agent: &Agent, size: Size) -> Result<Self> {
        let api = world.cluster.double()?;
        let heard = |kind: &str| -> Result<f64> {
            let mut sum = 0.0;
            for resource in ["pods", "namespaces"] {
                sum += agent.metric(&format!(
                    "rolegate_kubernetes_events_total{{kind=\"{kind}\",resource=\"{resource}\"}}"
                ))?;
            }
            Ok(sum)
        };
        let each = |kind: &str, more: f64, work: &dyn Fn(u32)| -> Result<f64> {
            let (before, bytes) = (heard(kind)?, received(world)?);
            for round in 0..ROUNDS {
                let expected = before + more * f64::from(round + 1);
                work(round);
                agent.poll("an event is heard", || Ok(heard(kind)? >= expected))?;
            }
            Ok(float(received(world)?.saturating_sub(bytes)) / f64::from(ROUNDS) / more)
        };
        let put = |resource, key: String, mut object: serde_json::Value, round: u32| {
            object["metadata"]["labels"]["example.com/round"] = round.to_string().into();
            api.faults().put(resource, &key, object);
        };
        let bookmark = each("bookmark", 2.0, &|_| api.faults().bookmark())?;
        let pod = each("applied", 1.0, &|round| {
            let (namespace, name) = objects::pod_name_of(0, size.namespaces);
            put(Resource::Pods, format!("{namespace}/{name}"), objects::pod(0, size.namespaces), round);
        })?;
        let namespace = each("applied", 1.0, &|round| {
            put(Resource::Namespaces, objects::namespace_name(1), objects::namespace(1), round);
        })?;
        let (bytes, watches) = (received(world)?, api.open_watches());
        ensure!(watches == 2, "{watches} watches are open");
        let requests = api.requests().len();
        api.faults().cut_watches();
        agent.poll("the watches are open again", || {
            Ok(api.requests().len() >= requests + 2 && api.open_watches() == 2)
        })?;
        let reopened = float(received(world)?.saturating_sub(bytes)) / 2.0;
        Ok(Self { bookmark, reopened, pod, namespace })
    }

    /// Bytes of an hour in which nothing happens: bookmarks, and watches that are opened again.
    #[must_use]
    pub fn idle_hour(self) -> f64 {
        2.0 * (BOOKMARKS_PER_HOUR * self.bookmark + 3_600.0 / WATCH_SECONDS * self.reopened)
    }

    /// The same with the churn.
    #[must_use]
    pub fn busy_hour(self) -> f64 {
        self.idle_hour() + PODS_PER_HOUR * EVENTS_PER_POD * self.pod + NAMESPACES_PER_HOUR * self.namespace
    }
}

/// Begins to count what comes to the node from the API server.
///
/// # Errors
/// When `nft` does not take the rule.
pub fn count(world: &World) -> Result<()> {
    let (from, port) = (WORLD_V4, world.cluster.double()?.address().port());
    let rule = format!(
        "table inet {TABLE} {{\ncounter api {{\n}}\nchain in {{\ntype filter hook input priority 0;\n\
         ip saddr {from} tcp sport {port} counter name api\n}}\n}}"
    );
    world.topology.node().run("nft", &[&rule]).map(drop)
}

/// Bytes that came from the API server so far, in IP packets.
///
/// # Errors
/// When nobody counts.
pub fn received(world: &World) -> Result<u64> {
    let said = world.topology.node().run("nft", &["list", "counter", "inet", TABLE, "api"])?;
    let mut words = said.split_whitespace().skip_while(|word| *word != "bytes").skip(1);
    words.next().and_then(|bytes| bytes.parse().ok()).with_context(|| format!("no count: {said}"))
}
