//! Asks the kernel what is behind a caller's address, and the memory whether that is what it was.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use rolegate_iptables::behind::{Behind, Questions, Surroundings};
use tokio::sync::watch;
use tracing::warn;

use super::Caller;
use super::cni_results::CniResults;
use super::shared::Neighbours;
use super::witness::{Doubt, Judgement, Memory, Seen};
use crate::cluster::Snapshot;
use crate::types::{Clock, PodIp};

/// What is behind the addresses of pods, and what was.
pub struct Witnesses {
    surroundings: Mutex<Surroundings>,
    questions: Arc<Mutex<Questions>>,
    memory: Mutex<Memory>,
    results: Arc<CniResults>,
    fresh: Box<dyn Fn() -> bool + Send + Sync>,
    clock: Clock,
}

// === impl Witnesses ===

impl Witnesses {
    /// Remembers nothing yet. `cni_results` is where libcni keeps what plugins returned; `fresh` tells whether the API
    /// server's word on pods is.
    ///
    /// # Errors
    /// When the kernel cannot be listened to.
    pub fn new(
        cni_results: PathBuf,
        fresh: impl Fn() -> bool + Send + Sync + 'static,
        clock: Clock,
    ) -> io::Result<Self> {
        Ok(Self {
            surroundings: Mutex::new(Surroundings::new()?),
            questions: Arc::new(Mutex::new(Questions::new()?)),
            memory: Mutex::default(),
            results: Arc::new(CniResults::new(cni_results)),
            fresh: Box::new(fresh),
            clock,
        })
    }

    /// Whether the connection that came in as `caller.arrival` is the caller's. From memory, unless the address is new
    /// or something of it changed. `port` is the bridge port that is pinned to its address; `latest` is the snapshot of now: whoever is not in it is forgotten.
    pub(super) async fn attest(
        &self,
        caller: &Caller,
        port: Option<u32>,
        latest: impl Fn() -> Arc<Snapshot>,
    ) -> Result<(), Doubt> {
        let (uid, ip) = (&caller.pod.facts.uid, caller.ip);
        let behind = self.behind(ip).await?.map(|behind| Behind { port, ..behind });
        let arrival = caller.arrival.zip(behind.as_ref());
        let incoming = arrival.map(|(arrival, behind)| self.surroundings.lock().came_in_by(arrival, behind));
        let seen = Seen { incoming, behind };
        let judgement = self.memory.lock().judge(uid, ip, &seen, (self.fresh)());
        let sandbox = match judgement {
            Judgement::Same => return Ok(()),
            Judgement::Doubted(doubt) => return Err(doubt),
            Judgement::First => None,
            Judgement::Other => {
                let (results, uid) = (Arc::clone(&self.results), uid.clone());
                tokio::task::spawn_blocking(move || results.given(&uid, ip)).await.unwrap_or(None)
            }
        };
        let (now, fresh) = (self.clock.now(), (self.fresh)());
        let mut memory = self.memory.lock();
        // Taken while nobody else remembers: who is in a later one is not forgotten for an earlier one's sake.
        let latest = latest();
        memory.settle((uid, ip), &seen, fresh, now, sandbox, |uid| latest.pod(uid).is_some())
    }

    /// Has a look at what is behind the addresses of pods that are new, while the API server is heard, so that they are
    /// known when it is not. Ends with `snapshots`.
    pub async fn look_ahead(
        &self,
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
        mut neighbours: Neighbours,
    ) {
        loop {
            let snapshot = {
                // Locked first: as in `attest`.
                let mut memory = self.memory.lock();
                let snapshot = Arc::clone(&snapshots.borrow_and_update());
                memory.forget(|uid| snapshot.pod(uid).is_some());
                snapshot
            };
            neighbours.mark_seen();
            for pod in snapshot.pods().filter(|pod| !pod.host_network && !pod.terminal && !pod.deleting) {
                for ip in &pod.ips {
                    let is_new = self.memory.lock().is_new(&pod.facts.uid, *ip);
                    if is_new
                        && let Ok(Some(behind)) = self.behind(*ip).await
                        && (self.fresh)()
                    {
                        let port = neighbours.port(*ip);
                        self.memory.lock().glimpse(&pod.facts.uid, *ip, Behind { port, ..behind });
                    }
                }
            }
            let ended = tokio::select! {
                changed = snapshots.changed() => changed.is_err(),
                () = neighbours.changed() => false,
            };
            if ended {
                return;
            }
        }
    }

    async fn behind(&self, ip: PodIp) -> Result<Option<Behind>, Doubt> {
        let asked = {
            let mut surroundings = self.surroundings.lock();
            if let Some(behind) = surroundings.known(ip.addr()) {
                return Ok(Some(behind.clone()));
            }
            surroundings.moment()
        };
        let questions = Arc::clone(&self.questions);
        // Whoever changes links may have it wait.
        let answer = tokio::task::spawn_blocking(move || questions.lock().behind(ip.addr())).await;
        let known = answer.map_err(io::Error::other).flatten().map_err(|error| {
            warn!(%error, %ip, "the kernel does not say what is behind an address");
            Doubt::Unseen
        })?;
        let Some(known) = known else { return Ok(None) };
        let behind = known.behind().clone();
        self.surroundings.lock().learn(asked, ip.addr(), known);
        Ok(Some(behind))
    }
}

impl fmt::Debug for Witnesses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Witnesses").field("memory", &self.memory).finish_non_exhaustive()
    }
}
