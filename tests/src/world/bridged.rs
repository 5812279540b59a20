//! Pods on the bridge `cbr0`, and what their CNI leaves on disk.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;

use super::{RunningPod, World};
use crate::kube_api::Pod;
use crate::topology::PodNet;

impl World {
    /// As [`World::pod`], on the bridge `cbr0`; the CNI's result is left where the agent looks for it.
    ///
    /// # Errors
    /// When its network cannot be made; what a real API server said.
    pub fn bridged_pod(
        &self,
        namespace: &str,
        name: &str,
        shape: impl FnOnce(Pod) -> Pod,
    ) -> Result<RunningPod> {
        let net = self.bridged_net(name)?;
        net.leave_result(self.cni_results(), [namespace, name], None)?;
        self.run(Arc::new(net), namespace, name, shape)
    }

    /// As [`World::bridged_pod`], by a CNI of which nothing is kept.
    ///
    /// # Errors
    /// When its network cannot be made; what a real API server said.
    pub fn bridged_pod_without_result(
        &self,
        namespace: &str,
        name: &str,
        shape: impl FnOnce(Pod) -> Pod,
    ) -> Result<RunningPod> {
        let net = self.bridged_net(name)?;
        self.run(Arc::new(net), namespace, name, shape)
    }

    fn bridged_net(&self, name: &str) -> Result<PodNet> {
        let (ip4, ip6) = self.next_addresses();
        self.topology.bridged_pod(name, ip4, Some(ip6))
    }

    /// Where the results of the CNI are (`--cni-results`).
    #[must_use]
    pub fn cni_results(&self) -> &Path {
        self.cni_results.path()
    }
}
