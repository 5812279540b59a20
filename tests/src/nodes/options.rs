//! What a cluster and its nodes are like.

use super::{BRIDGE, ROUTED};
use crate::imds::{ImdsConfig, NODE_MARKER};
use crate::world::{NODE_ROLE, arn};

/// How pods are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodNetwork {
    /// All on `cbr0`.
    Bridge,
    /// A link of its own for each (CNI plugin `ptp`).
    Routed,
}

/// What a node is like.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Its name in Kubernetes.
    pub name: String,
    /// How its pods are connected.
    pub network: PodNetwork,
    /// The role of its instance.
    pub role: String,
    /// Taints that it registers with: key and effect.
    pub taints: Vec<(String, String)>,
    /// Its instance; role and access key are those of `role`.
    pub imds: ImdsConfig,
}

/// What a cluster is like.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its nodes, at most nine.
    pub nodes: Vec<NodeOptions>,
    /// Whether the agent's image must be there.
    pub agent_image: bool,
    /// Whether nodes, pods and services have IPv6 addresses as well. Pods start a second or two later then.
    pub dual_stack: bool,
}

// === impl NodeOptions ===

impl NodeOptions {
    /// A node of the usual role.
    #[must_use]
    pub fn new(name: &str, network: PodNetwork) -> Self {
        Self {
            name: name.into(),
            network,
            role: NODE_ROLE.into(),
            taints: Vec::new(),
            imds: ImdsConfig::default(),
        }
    }

    /// With this role of the instance.
    #[must_use]
    pub fn role(self, role: &str) -> Self {
        Self { role: role.into(), ..self }
    }

    /// Registered with this taint.
    #[must_use]
    pub fn taint(mut self, key: &str, effect: &str) -> Self {
        self.taints.push((key.into(), effect.into()));
        self
    }

    /// The instance as its IMDS tells it.
    pub(super) fn instance(&self) -> ImdsConfig {
        let role = self.role.rsplit('/').next().unwrap_or_default();
        ImdsConfig {
            role_name: Some(role.into()),
            profile_arn: arn(role).replace(":role/", ":instance-profile/"),
            access_key_id: format!("{NODE_MARKER}-{}-ACCESS-KEY", self.name.to_uppercase()),
            ..self.imds.clone()
        }
    }
}

// === impl Options ===

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: vec![
                NodeOptions::new(BRIDGE, PodNetwork::Bridge),
                NodeOptions::new(ROUTED, PodNetwork::Routed),
            ],
            agent_image: true,
            dual_stack: false,
        }
    }
}
