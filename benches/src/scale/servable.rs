//! From an event of a watch to the answer that a request, held until then, gets by it.

use std::time::Duration;

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;
use rolegate_tests::agent::Agent;
use rolegate_tests::http::Client;
use rolegate_tests::kube_api::Pod;
use rolegate_tests::topology::PodNet;
use rolegate_tests::world::{NODE, World};
use tokio::time::Instant;

use super::objects;
use super::stage::Stage;
use crate::report::micros;

/// A request that was sent so long ago is held: many times what one takes that is answered.
const HELD: Duration = Duration::from_millis(15);
/// The key whose session is asked for: a pod of the stage has it already.
const KEY: u32 = 0;
/// What comes last where a namespace does.
const LATE_NAMESPACE: &str = "late";

/// What was seen of one kind of event, nanoseconds.
#[derive(Clone, Debug)]
pub struct Servable {
    /// From the moment that the double is told to the last byte of the answer.
    pub event: Histogram<u64>,
    /// The same request of a pod that is known, in turns with the others: from its first byte to the answer's last.
    pub known: Histogram<u64>,
}

/// A pod whose object, or namespace, comes and goes.
struct Guest<'a> {
    world: &'a World,
    agent: &'a Agent,
    net: PodNet,
    namespace: String,
    object: Pod,
}

// === impl Servable ===

impl Servable {
    /// A pod that appears so many times, its request before it.
    ///
    /// # Errors
    /// When a request is not answered with credentials.
    pub fn of_pods(stage: &Stage, agent: &Agent, events: u32) -> Result<Self> {
        let namespace = objects::namespace_of(KEY, stage.size().namespaces);
        let guest = Guest::plug_in(stage, agent, "guest", &namespace)?;
        let api = stage.world().cluster.double()?;
        let leave = || api.delete_pod(&guest.namespace, "guest");
        guest.measure(events, ("pods", stage.size().pods), || guest.join(), leave)
    }

    /// A namespace that appears so many times, a pod of it and its request before it.
    ///
    /// # Errors
    /// As [`Servable::of_pods`].
    pub fn of_namespaces(stage: &Stage, agent: &Agent, events: u32) -> Result<Self> {
        let guest = Guest::plug_in(stage, agent, "tenant", LATE_NAMESPACE)?;
        let api = stage.world().cluster.double()?;
        guest.join()?;
        let come = || stage.world().namespace(LATE_NAMESPACE, &["MyPodRole-*"]);
        let leave = || api.delete_namespace(LATE_NAMESPACE);
        let found = guest.measure(events, ("namespaces", stage.size().namespaces), come, leave);
        api.delete_pod(LATE_NAMESPACE, "tenant");
        found
    }

    /// A quantile of the events, microseconds, less the median of the same request of a pod that is known.
    #[must_use]
    pub fn net_micros(&self, quantile: f64) -> f64 {
        micros(&self.event, quantile) - micros(&self.known, 0.5)
    }
}

// === impl Guest ===

impl<'a> Guest<'a> {
    fn plug_in(stage: &'a Stage, agent: &'a Agent, name: &str, namespace: &str) -> Result<Self> {
        let world = stage.world();
        let (ip4, _) = world.next_addresses();
        let net = world.topology.routed_pod(name, ip4, None)?;
        let object = Pod::new(namespace, name)
            .node(NODE)
            .ip(&ip4.to_string())
            .service_account(&format!("worker-{KEY}"))
            .role(&objects::role(KEY));
        Ok(Self { world, agent, net, namespace: namespace.to_owned(), object })
    }

    fn join(&self) -> Result<()> {
        self.world.cluster.apply_pod(&self.object).map(drop)
    }

    /// `come` so many times; in between `leave`, until the agent knows so many objects of the resource again.
    fn measure(
        &self,
        events: u32,
        (resource, others): (&str, u32),
        come: impl Fn() -> Result<()>,
        leave: impl Fn() -> bool,
    ) -> Result<Servable> {
        let sample = format!("rolegate_kubernetes_objects{{resource=\"{resource}\"}}");
        let mut found = Servable { event: Histogram::new(3)?, known: Histogram::new(3)? };
        // The first finds no session, and does not count.
        for round in 0..=events {
            let event = self.ask(true, &come)?;
            let known = self.ask(false, || Ok(()))?;
            if round > 0 {
                found.event.record(nanos(event))?;
                found.known.record(nanos(known))?;
            }
            ensure!(leave(), "it was there");
            self.agent.poll("it is gone", || Ok(self.agent.metric(&sample)? <= f64::from(others)))?;
        }
        Ok(found)
    }

    /// Sends a request and then lets `happen` what it is held for, or the other way round; the time from the later of
    /// both to the answer.
    fn ask(&self, held: bool, happen: impl Fn() -> Result<()>) -> Result<Duration> {
        let path = format!("/latest/meta-data/iam/security-credentials/{}", objects::role(KEY));
        let client = Client::imds(self.net.ns());
        let request = client.bytes("GET", &path, &[]);
        let mut connection = client.connect()?;
        if held {
            connection.send(&request)?;
        }
        std::thread::sleep(HELD);
        let since = Instant::now();
        if held {
            happen()?;
        } else {
            connection.send(&request)?;
        }
        let answer = connection.read(false)?;
        let took = since.elapsed();
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        Ok(took)
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
