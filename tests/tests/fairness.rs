//! One pod's connections are not its neighbour's trouble, and what runs out comes back.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "fairness/attacks.rs"]
mod attacks;
#[path = "fairness/shortage.rs"]
mod shortage;

use std::collections::BTreeMap;

use anyhow::Result;
use rolegate_tests::agent::Agent;
use rolegate_tests::hostile::LARGE;
use rolegate_tests::imds::ImdsConfig;
use rolegate_tests::world::{Options, RunningPod, World};

/// The largest text that the agent takes from IMDS: 64 KiB.
const LARGEST_TEXT: usize = 64 * 1024;

/// Debug lines of every connection would be most of what is measured.
const QUIETER: &str = "--log-level=info";

/// A world with a pod that means harm and one beside it, and an agent that has served both.
struct Scene {
    world: World,
    hostile: RunningPod,
    neighbour: RunningPod,
    agent: Agent,
}

// === impl Scene ===

impl Scene {
    fn for_test(test: &str) -> Option<Self> {
        Self::with(test, |world| world.agent(&[QUIETER]))
    }

    /// With an agent that may open so many files.
    fn limited(test: &str, descriptors: usize) -> Option<Self> {
        Self::with(test, |world| {
            let mut flags = world.usual_flags();
            flags.push(QUIETER.into());
            let limit = format!("ulimit -n {descriptors}");
            let agent = Agent::start_contained(world.topology.node(), &limit, &flags, &world.environment())?;
            agent.ready()?;
            Ok(agent)
        })
    }

    fn with(test: &str, agent: impl FnOnce(&World) -> Result<Agent>) -> Option<Self> {
        let leaves = BTreeMap::from([(LARGE.to_owned(), "x".repeat(LARGEST_TEXT))]);
        let imds = ImdsConfig { leaves, ..ImdsConfig::default() };
        let world = World::for_test(test, &Options { imds, ..Options::default() })?;
        world.namespace("default", &["MyPodRole", "OtherRole"]).unwrap();
        let hostile = world.pod("default", "hostile", |pod| pod.role("OtherRole")).unwrap();
        let neighbour = world.pod("default", "neighbour", |pod| pod.role("MyPodRole")).unwrap();
        let agent = agent(&world).unwrap();
        let scene = Self { world, hostile, neighbour, agent };
        scene.is_served(&scene.hostile);
        scene.is_served(&scene.neighbour);
        Some(scene)
    }

    /// A token, the name of the role, and its document.
    fn is_served(&self, pod: &RunningPod) {
        let document =
            pod.imds().credentials().unwrap_or_else(|error| panic!("{error:#}\n{}", self.agent.log()));
        assert_eq!(document["Code"], "Success", "{}", self.agent.log());
    }

    fn turned_away(&self) -> f64 {
        ["waiting", "source"]
            .map(|limit| {
                let sample = format!("rolegate_connections_turned_away_total{{limit=\"{limit}\"}}");
                self.agent.metric(&sample).unwrap()
            })
            .iter()
            .sum()
    }
}
