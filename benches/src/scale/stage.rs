//! A node and its cluster that grow and shrink around the agent.

use anyhow::Result;
use rolegate_tests::agent::Agent;
use rolegate_tests::kube_api::Resource;
use rolegate_tests::world::{Options, TRUST, World};

use super::size::Size;
use super::{objects, traffic};

/// The node, and what there is in its cluster now.
pub struct Stage {
    world: World,
    size: Size,
}

// === impl Stage ===

impl Stage {
    /// An empty cluster.
    ///
    /// # Errors
    /// When a part of it cannot be started.
    pub fn new() -> Result<Self> {
        let world = World::with(&Options::default())?;
        for key in 0..objects::KEYS {
            world.role(&objects::role(key), TRUST)?;
        }
        traffic::count(&world)?;
        Ok(Self { world, size: Size { pods: 0, namespaces: 0 } })
    }

    /// What is around the agent.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// How large it is now.
    #[must_use]
    pub fn size(&self) -> Size {
        self.size
    }

    /// Makes the cluster as large as this. No agent may run.
    ///
    /// # Errors
    /// When this is no double.
    pub fn resize(&mut self, size: Size) -> Result<()> {
        let api = self.world.cluster.double()?;
        for n in 0..self.size.pods {
            if n >= size.pods || self.size.namespaces != size.namespaces {
                let (namespace, name) = objects::pod_name_of(n, self.size.namespaces);
                api.delete_pod(&namespace, &name);
            }
        }
        for n in size.namespaces..self.size.namespaces {
            api.delete_namespace(&objects::namespace_name(n));
        }
        for n in self.size.namespaces..size.namespaces {
            api.faults().put(Resource::Namespaces, &objects::namespace_name(n), objects::namespace(n));
        }
        let kept = if self.size.namespaces == size.namespaces { self.size.pods } else { 0 };
        for n in kept..size.pods {
            let (namespace, name) = objects::pod_name_of(n, size.namespaces);
            api.faults().put(
                Resource::Pods,
                &format!("{namespace}/{name}"),
                objects::pod(n, size.namespaces),
            );
        }
        self.size = size;
        Ok(())
    }

    /// Starts the agent with its own defaults of the log, as it is in a cluster.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_agent(&self) -> Result<Agent> {
        let mut flags = self.world.usual_flags();
        flags.retain(|flag| !flag.starts_with("--log-level"));
        Agent::start(self.world.topology.node(), &flags, &self.world.environment())
    }
}
