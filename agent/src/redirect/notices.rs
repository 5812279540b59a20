//! What makes the redirect look before its timer does: links, default routes and pods' addresses.

use std::net::IpAddr;
use std::sync::Arc;

use rolegate_iptables::{LinkWatch, Links};
use tokio::sync::watch;
use tracing::warn;

use crate::cluster::snapshot::Snapshot;

/// Listens, and remembers what the last look saw, so that news that change nothing cost no look: a node that
/// learns routes by BGP has many.
#[derive(Default)]
pub(super) struct Notices {
    watch: Option<LinkWatch>,
    links: Links,
    /// Addresses of pods that the node routes to.
    pub(super) addresses: Vec<IpAddr>,
    pods_gone: bool,
}

// === impl Notices ===

impl Notices {
    /// Starts to listen to the kernel if nothing does: before a look, so that nothing is missed.
    pub(super) fn listen(&mut self) {
        if self.watch.is_none() {
            match LinkWatch::new() {
                Ok(watch) => self.watch = Some(watch),
                Err(error) => warn!(%error, "changes of links are noticed by the timer alone"),
            }
        }
    }

    /// Waits for news, of links or routes from the kernel or of pods, and tells whether they are a reason to look.
    /// Dropping it half-way is followed by a look: nothing is missed.
    pub(super) async fn due(&mut self, pods: &mut watch::Receiver<Arc<Snapshot>>) -> bool {
        let kernel = async {
            match &mut self.watch {
                Some(watch) => watch.changed().await,
                None => std::future::pending().await,
            }
        };
        let cluster = async {
            if self.pods_gone {
                std::future::pending().await
            }
            pods.changed().await
        };
        tokio::select! {
            news = kernel => {
                if news.is_err() {
                    self.watch = None;
                }
                Links::read().await.ok().as_ref() != Some(&self.links)
            }
            news = cluster => {
                self.pods_gone = news.is_err();
                self.addresses_differ(pods)
            }
        }
    }

    /// Takes the snapshot's addresses; whether they are others than before.
    pub(super) fn addresses_differ(&mut self, pods: &watch::Receiver<Arc<Snapshot>>) -> bool {
        let addresses = routed_addresses(&pods.borrow());
        let differ = addresses != self.addresses;
        self.addresses = addresses;
        differ
    }

    /// Remembers what a look saw.
    pub(super) fn seen(&mut self, links: Links) {
        self.links = links;
    }
}

fn routed_addresses(snapshot: &Snapshot) -> Vec<IpAddr> {
    let routed = snapshot.pods().filter(|pod| !pod.host_network && !pod.terminal);
    let mut addresses: Vec<IpAddr> = routed.flat_map(|pod| pod.ips.iter().map(|ip| ip.addr())).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}
