//! What STS refused: remembered for a while, per asker.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::BrokerError;
use crate::types::PodUid;

/// How long a refusal is remembered at first.
const REFUSAL_FIRST: Duration = Duration::from_secs(15);
/// How long at most; it doubles each time.
const REFUSAL_MAX: Duration = Duration::from_secs(120);
/// How many askers a refusal remembers: more than a node has pods (the kubelet's default is 110).
pub(super) const ASKERS_MAX: usize = 512;
/// Who asks: a pod as it is annotated now.
pub(super) type Asker = (PodUid, u64);

/// What STS last said no to, for how long that is believed, and who knows.
#[derive(Debug, Default)]
pub(super) struct Refusal {
    said: Option<(BrokerError, Instant)>,
    /// For how long the next one is remembered.
    next: Option<Duration>,
    /// Who was told already, oldest first.
    told: VecDeque<Asker>,
}

// === impl Refusal ===

impl Refusal {
    /// What is remembered for this asker. One that was not told yet clears it: an operator has mended
    /// something, and made the pod again or edited it.
    pub(super) fn remembered(&mut self, asker: &Asker, now: Instant) -> Option<BrokerError> {
        let (error, until) = self.said.as_ref()?;
        if *until <= now {
            return None;
        }
        if self.told.contains(asker) {
            return Some(error.clone());
        }
        self.said = None;
        self.next = None;
        None
    }

    pub(super) fn remember(&mut self, error: BrokerError, askers: VecDeque<Asker>, fixed: Option<Duration>) {
        let pause = fixed.or(self.next).unwrap_or(REFUSAL_FIRST);
        self.next = Some((pause * 2).min(REFUSAL_MAX));
        self.said = Some((error, Instant::now() + pause));
        for asker in askers {
            self.told.retain(|(pod, _)| *pod != asker.0);
            self.told.push_back(asker);
        }
        while self.told.len() > ASKERS_MAX {
            self.told.pop_front();
        }
    }

    /// Forgets who is gone.
    pub(super) fn retain(&mut self, pods: &BTreeSet<PodUid>) {
        self.told.retain(|(pod, _)| pods.contains(pod));
    }

    /// How long it is believed; `None`: nothing was refused.
    pub(super) fn until(&self) -> Option<Instant> {
        self.said.as_ref().map(|(_, until)| *until)
    }
}
