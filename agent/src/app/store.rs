//! `/debug/store`: what the agent knows, without a secret in it.

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::cluster::Snapshot;
use crate::credentials::Broker;

/// The page's maker.
pub(super) fn page(
    snapshots: watch::Receiver<Arc<Snapshot>>,
    broker: Broker,
) -> Arc<dyn Fn() -> Value + Send + Sync> {
    Arc::new(move || {
        let snapshot = Arc::clone(&snapshots.borrow());
        json!({
            "synced": snapshot.synced(),
            "namespaces": snapshot.namespace_count(),
            "pods": pods(&snapshot),
            "sessions": sessions(&broker),
        })
    })
}

fn pods(snapshot: &Snapshot) -> Vec<Value> {
    snapshot
        .pods()
        .map(|pod| {
            json!({
                "namespace": &*pod.facts.namespace,
                "name": &*pod.facts.name,
                "uid": pod.facts.uid.as_str(),
                "ips": pod.ips.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "role": pod.facts.role.as_deref(),
                "terminal": pod.terminal,
                "deleting": pod.deleting,
                "hostNetwork": pod.host_network,
            })
        })
        .collect()
}

fn sessions(broker: &Broker) -> Vec<Value> {
    broker
        .list()
        .into_iter()
        .map(|entry| {
            let (access_key_id, expiration) = entry.session.unzip();
            json!({
                "role": entry.key.role.as_str(),
                "sessionName": entry.key.session_name.as_str(),
                "accessKeyId": access_key_id,
                "expiration": expiration.map(unix_seconds),
                "desired": entry.desired,
            })
        })
        .collect()
}

fn unix_seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
