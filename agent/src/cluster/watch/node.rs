//! Which node this is, found through the pods that have the host's address.

use std::collections::BTreeSet;
use std::net::IpAddr;

use kube::api::ListParams;

use super::api::Api;
use super::error::WatchError;
use super::freshness::Freshness;
use super::object::Object;
use super::reflector::REQUEST_LIMIT;
use super::resource::Resource;
use crate::cluster::backoff::Backoff;
use crate::cluster::client::Connector;

/// Asks until there is an answer. Never falls back to all pods.
pub(super) async fn find(connector: &Connector, address: IpAddr, freshness: &Freshness) -> String {
    let mut backoff = Backoff::new();
    loop {
        match ask(connector, address).await {
            Ok(node) => {
                tracing::info!(node, host.ip = %address, "node found");
                return node;
            }
            Err(error) => {
                tracing::warn!(%error, "node not found");
                freshness.trouble(&error);
                tokio::time::sleep(backoff.after_failure(error.retry_after())).await;
            }
        }
    }
}

async fn ask(connector: &Connector, address: IpAddr) -> Result<String, WatchError> {
    let api = Api::new(connector.connect().await?, Resource::Pods);
    let params = ListParams::default().fields(&format!("status.podIP={address}"));
    let list = tokio::time::timeout(REQUEST_LIMIT, api.list(&params)).await.map_err(|_| {
        WatchError::Timeout { verb: "list", resource: Resource::Pods, seconds: REQUEST_LIMIT.as_secs() }
    })??;
    choose(&list.items, address)
}

/// The one node that live pods with the address are on.
fn choose(pods: &[Object], address: IpAddr) -> Result<String, WatchError> {
    let nodes: BTreeSet<&str> = pods
        .iter()
        .filter(|pod| !matches!(pod.phase.as_deref(), Some("Succeeded" | "Failed")))
        .filter_map(|pod| pod.node.as_deref())
        .collect();
    let mut names = nodes.iter();
    match (names.next(), names.next()) {
        (Some(node), None) => Ok((*node).to_owned()),
        (None, _) => Err(WatchError::NodeNotFound(address)),
        (Some(_), Some(_)) => {
            let nodes: Vec<_> = nodes.into_iter().collect();
            Err(WatchError::NodeAmbiguous(address, nodes.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(node: Option<&str>, phase: &str) -> Object {
        Object { node: node.map(str::to_owned), phase: Some(phase.to_owned()), ..Object::default() }
    }

    #[test]
    fn live_pods_of_one_node_name_it_and_anything_else_is_an_error() {
        let address = IpAddr::from([10, 0, 0, 1]);
        let found = |pods: &[Object]| choose(pods, address).map_err(|error| error.to_string());
        assert_eq!(found(&[pod(Some("n1"), "Running"), pod(Some("n1"), "Pending")]), Ok("n1".into()));
        assert_eq!(found(&[pod(Some("n1"), "Running"), pod(Some("n2"), "Failed")]), Ok("n1".into()));
        assert!(found(&[pod(None, "Running")]).unwrap_err().contains("set --node"));
        assert!(found(&[]).unwrap_err().contains("10.0.0.1"));
        assert!(
            found(&[pod(Some("n2"), "Running"), pod(Some("n1"), "Running")]).unwrap_err().contains("n1, n2")
        );
    }
}
