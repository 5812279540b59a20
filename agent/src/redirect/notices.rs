//! What makes the redirect look before its timer does: rules, links, default routes and pods' addresses.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rolegate_iptables::iptables::RuleWatch;
use rolegate_iptables::{LinkWatch, Links};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use crate::cluster::snapshot::Snapshot;

/// Least time between two looks because of rules: kube-proxy writes some every second on a busy node.
const RULES_SPACING: Duration = Duration::from_millis(500);

/// So much later than the news of a pod comes the look for its sake: a look reads the kernel's rules by a dozen programs, and a
/// request that was held for the pod shall not share the processor with them. Pods that come together cost one look.
const PODS_DELAY: Duration = Duration::from_millis(250);

/// Listens, and remembers what the last look saw, so that news that change nothing cost no look: a node that
/// learns routes by BGP has many.
pub(super) struct Notices {
    link_watch: Option<LinkWatch>,
    rule_watch: Option<RuleWatch>,
    rules_wanted: bool,
    links: Links,
    looked_at: Instant,
    /// Addresses of pods that the node routes to.
    pub(super) addresses: Vec<IpAddr>,
    /// They are all of them: before, nothing can be said of interfaces.
    pub(super) listed: bool,
    pods_gone: bool,
    /// When to look for the sake of pods.
    pods_due: Option<Instant>,
}

// === impl Notices ===

impl Notices {
    /// Listens to nothing yet.
    pub(super) fn new() -> Self {
        Self {
            link_watch: None,
            rule_watch: None,
            rules_wanted: true,
            links: Links::default(),
            looked_at: Instant::now(),
            addresses: Vec::new(),
            listed: false,
            pods_gone: false,
            pods_due: None,
        }
    }

    /// Starts to listen to the kernel where nothing does: before a look, so that nothing is missed.
    pub(super) fn listen(&mut self) {
        (self.looked_at, self.pods_due) = (Instant::now(), None);
        if self.link_watch.is_none() {
            match LinkWatch::new() {
                Ok(watch) => self.link_watch = Some(watch),
                Err(error) => warn!(%error, "changes of links are noticed by the timer alone"),
            }
        }
        if self.rule_watch.is_none() && self.rules_wanted {
            match RuleWatch::new() {
                Ok(watch) => self.rule_watch = Some(watch),
                Err(error) => {
                    // A kernel without nf_tables: it will have none later, either.
                    self.rules_wanted = false;
                    warn!(%error, "changes of rules are noticed by the timer alone");
                }
            }
        }
    }

    /// Waits for news, from the kernel or of pods, and tells whether they are a reason to look. Dropping it half-way
    /// is followed by a look: nothing is missed.
    pub(super) async fn due(&mut self, pods: &mut watch::Receiver<Arc<Snapshot>>) -> bool {
        let links = async {
            match &mut self.link_watch {
                Some(watch) => watch.changed().await.ok(),
                None => std::future::pending().await,
            }
        };
        let rules = async {
            sleep_until(self.looked_at + RULES_SPACING).await;
            match &mut self.rule_watch {
                Some(watch) => watch.changed().await.is_ok(),
                None => std::future::pending().await,
            }
        };
        let cluster = async {
            if self.pods_gone {
                std::future::pending().await
            }
            pods.changed().await
        };
        let pods_due = self.pods_due;
        let delayed = async {
            match pods_due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = delayed => true,
            change = links => {
                if change.is_none() {
                    self.link_watch = None;
                }
                change.is_some_and(|change| change.rules) || Links::read().await.ok().as_ref() != Some(&self.links)
            }
            listening = rules => {
                if !listening {
                    self.rule_watch = None;
                }
                true
            }
            news = cluster => {
                self.pods_gone = news.is_err();
                let listed = self.listed;
                if self.addresses_differ(pods) {
                    self.pods_due.get_or_insert_with(|| Instant::now() + PODS_DELAY);
                }
                // The gate waits for these.
                self.listed != listed
            }
        }
    }

    /// Takes the snapshot's addresses; whether they are others than before, or the first that are complete.
    pub(super) fn addresses_differ(&mut self, pods: &watch::Receiver<Arc<Snapshot>>) -> bool {
        let snapshot = pods.borrow();
        let (addresses, listed) = (routed_addresses(&snapshot), snapshot.synced());
        let differ = addresses != self.addresses || listed != self.listed;
        (self.addresses, self.listed) = (addresses, listed);
        differ
    }

    /// Remembers what a look saw.
    pub(super) fn seen(&mut self, links: Links) {
        self.links = links;
    }
}

/// The addresses of pods that the node routes to, in order.
pub(super) fn routed_addresses(snapshot: &Snapshot) -> Vec<IpAddr> {
    let routed = snapshot.pods().filter(|pod| !pod.host_network && !pod.terminal);
    let mut addresses: Vec<IpAddr> = routed.flat_map(|pod| pod.ips.iter().map(|ip| ip.addr())).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}
