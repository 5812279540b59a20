//! The cluster that the agent watches: the double, or a real API server where `ROLEGATE_TEST_API=real` asks
//! for it, so that the suites run unchanged against both.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::kube_api::{KubeApi, Pod};
use crate::netns::NetNs;
use crate::planted;
use crate::real_api::RealApi;

/// Where pods, node and agent find the API server.
const PORT: u16 = 6443;

/// A Kubernetes API.
#[derive(Debug)]
pub enum Cluster {
    /// In this process, with faults on command.
    Double(KubeApi),
    /// etcd and kube-apiserver.
    Real(Box<RealApi>),
}

// === impl Cluster ===

impl Cluster {
    /// Whether the suites were asked to run against a real API server.
    #[must_use]
    pub fn wants_real() -> bool {
        std::env::var_os("ROLEGATE_TEST_API").is_some_and(|which| which == "real")
    }

    /// Starts the double, or a real one, on an address of `world`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(world: &Arc<NetNs>, ip: Ipv4Addr, real: bool) -> Result<Self> {
        let address = SocketAddr::from((ip, PORT));
        let cluster = if real {
            Self::Real(Box::new(RealApi::start(world, address)?))
        } else {
            Self::Double(KubeApi::start_on(world.listen(address)?)?)
        };
        planted::plant(cluster.token());
        Ok(cluster)
    }

    /// The double; a test of faults cannot have a real one.
    ///
    /// # Errors
    /// When this is a real API server.
    pub fn double(&self) -> Result<&KubeApi> {
        match self {
            Self::Double(api) => Ok(api),
            Self::Real(_) => None.context("only the double fails on command"),
        }
    }

    /// `https://address:port`.
    #[must_use]
    pub fn url(&self) -> String {
        match self {
            Self::Double(api) => api.url(),
            Self::Real(api) => api.url(),
        }
    }

    /// The agent's bearer token.
    #[must_use]
    pub fn token(&self) -> String {
        match self {
            Self::Double(api) => api.token(),
            Self::Real(api) => api.token(),
        }
    }

    /// The agent's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> String {
        match self {
            Self::Double(api) => api.kubeconfig(),
            Self::Real(api) => api.kubeconfig(),
        }
    }

    /// Creates or replaces a pod; its UID.
    ///
    /// # Errors
    /// What a real API server said.
    pub fn apply_pod(&self, pod: &Pod) -> Result<String> {
        match self {
            Self::Double(api) => Ok(api.apply_pod(pod)),
            Self::Real(api) => api.apply_pod(pod),
        }
    }

    /// Deletes a pod by force; false if there is none.
    ///
    /// # Errors
    /// What a real API server said.
    pub fn delete_pod(&self, namespace: &str, name: &str) -> Result<bool> {
        match self {
            Self::Double(api) => Ok(api.delete_pod(namespace, name)),
            Self::Real(api) => api.delete_pod(namespace, name),
        }
    }

    /// Creates or replaces a node with these taints; a real API server adds its own to a new one.
    ///
    /// # Errors
    /// What a real API server said.
    pub fn apply_node(&self, name: &str, taints: &Value) -> Result<()> {
        match self {
            Self::Double(api) => {
                api.apply_node(name, taints);
                Ok(())
            }
            Self::Real(api) => api.apply_node(name, taints),
        }
    }

    /// A node as it is now.
    ///
    /// # Errors
    /// When there is none.
    pub fn node(&self, name: &str) -> Result<Value> {
        match self {
            Self::Double(api) => api.node(name).context("no such node"),
            Self::Real(api) => api.node(name),
        }
    }

    /// Creates a namespace, or replaces its annotations.
    ///
    /// # Errors
    /// What a real API server said.
    pub fn apply_namespace(&self, name: &str, annotations: &[(&str, &str)]) -> Result<()> {
        match self {
            Self::Double(api) => {
                api.apply_namespace(name, annotations);
                Ok(())
            }
            Self::Real(api) => api.apply_namespace(name, annotations),
        }
    }
}
