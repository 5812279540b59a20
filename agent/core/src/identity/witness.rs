//! Whether what is behind an address is what was behind it when its pod was served there first. Pure.
//!
//! An address is the word of the API server, which may be late; an interface and a network card are what the node sees
//! itself. A pod keeps both for as long as its sandbox lives: others under the same UID are another pod that the API
//! server has not told of yet, or an impostor.

use std::collections::HashMap;
use std::time::SystemTime;

use rolegate_iptables::behind::{Behind, Shared};

use crate::types::{PodIp, PodUid};

/// What the node sees of a connection's source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// The interface that the connection came in by, if the kernel told it.
    pub(super) incoming: Option<u32>,
    /// What the node has behind the address, if it is reached over an interface.
    pub(super) behind: Option<Behind>,
}

/// Why a source is not believed to be the pod that has its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// It is not known where the connection came in, or what is behind the address.
    Unseen,
    /// The connection did not come in where the address is.
    WrongInterface,
    /// Something else is behind the address than was under this UID.
    Changed,
    /// This was not seen under this UID while the API server was heard.
    Stale,
}

/// What a look at the memory says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// As it was: serve.
    Same,
    /// Nobody was served here before, and the API server is heard, or what is here was glimpsed: serve and remember.
    First,
    /// Not as it was. [`Memory::settle`] decides.
    Other,
    /// Not believed, whatever else is known.
    Doubted(Doubt),
}

/// What was behind the addresses of pods, by UID.
#[derive(Debug, Default)]
pub(super) struct Memory(HashMap<PodUid, Vec<Witness>>);

#[derive(Debug)]
struct Witness {
    ip: PodIp,
    behind: Behind,
    /// When it was served first. Before that it is only a glimpse, which refuses nobody: it may have been too early.
    served: Option<SystemTime>,
}

// === impl Memory ===

impl Memory {
    /// What `seen` means for the pod `uid` at `ip`; `fresh`: the API server is heard.
    pub(super) fn judge(&self, uid: &PodUid, ip: PodIp, seen: &Seen, fresh: bool) -> Judgement {
        let behind = match (&seen.behind, seen.incoming) {
            (Some(behind), Some(incoming)) if behind.interface == incoming => behind,
            (Some(_), None) => return Judgement::Doubted(Doubt::Unseen),
            (Some(_), Some(_)) | (None, _) => return Judgement::Doubted(Doubt::WrongInterface),
        };
        match self.witness(uid, ip) {
            Some(witness) if witness.served.is_some() => {
                if witness.is_confirmed_by(behind) {
                    Judgement::Same
                } else {
                    Judgement::Other
                }
            }
            Some(glimpse) if fresh || glimpse.vouches_for(behind) => Judgement::First,
            None if fresh => Judgement::First,
            Some(_) | None => Judgement::Doubted(Doubt::Stale),
        }
    }

    /// Whether nothing was seen yet, or on a bridge before the port was pinned.
    pub(super) fn is_new(&self, uid: &PodUid, ip: PodIp) -> bool {
        self.witness(uid, ip).is_none_or(Witness::is_vague)
    }

    /// What was seen while the API server was heard, before the pod asked for anything.
    pub(super) fn glimpse(&mut self, uid: &PodUid, ip: PodIp, behind: Behind) {
        if self.is_new(uid, ip) {
            let witnesses = self.0.entry(uid.clone()).or_default();
            witnesses.retain(|witness| witness.ip != ip);
            witnesses.push(Witness { ip, behind, served: None });
        }
    }

    /// Forgets pods that are not `alive`.
    pub(super) fn forget(&mut self, alive: impl Fn(&PodUid) -> bool) {
        self.0.retain(|uid, _| alive(uid));
    }

    /// Judges again, and remembers what is to be. `now` is when the source was seen, `sandbox` when the runtime last
    /// gave a sandbox of this very pod this address, if it was the last to be given it. Pods that are not `alive` are
    /// forgotten.
    pub(super) fn settle(
        &mut self,
        (uid, ip): (&PodUid, PodIp),
        seen: &Seen,
        fresh: bool,
        now: SystemTime,
        sandbox: Option<SystemTime>,
        alive: impl Fn(&PodUid) -> bool,
    ) -> Result<(), Doubt> {
        match self.judge(uid, ip, seen, fresh) {
            Judgement::Same => return Ok(()),
            Judgement::Doubted(doubt) => return Err(doubt),
            Judgement::First => {}
            Judgement::Other => {
                let accepted = self.witness(uid, ip).zip(seen.behind.as_ref()).is_some_and(|(was, is)| {
                    let newer = was.served.zip(sandbox).is_some_and(|(served, made)| made > served);
                    newer || fresh && was.is_completed_by(is)
                });
                if !accepted {
                    return Err(Doubt::Changed);
                }
            }
        }
        self.forget(alive);
        let witnesses = self.0.entry(uid.clone()).or_default();
        witnesses.retain(|witness| witness.ip != ip);
        witnesses.extend(seen.behind.clone().map(|behind| Witness { ip, behind, served: Some(now) }));
        Ok(())
    }

    /// How many pods are remembered.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.len()
    }

    fn witness(&self, uid: &PodUid, ip: PodIp) -> Option<&Witness> {
        self.0.get(uid)?.iter().find(|witness| witness.ip == ip)
    }
}

// === impl Witness ===

impl Witness {
    /// A glimpse of a bridge before it was known which port is the pod's.
    fn is_vague(&self) -> bool {
        self.served.is_none() && self.behind.shared == Shared::Bridge && self.behind.port.is_none()
    }

    /// What is there now is what was, as far as can be told: behind an interface of its own, or with its card.
    fn vouches_for(&self, now: &Behind) -> bool {
        match now.shared {
            Shared::Own => self.behind.interface == now.interface,
            Shared::Bridge => self.behind == *now && now.hardware.is_some(),
            Shared::Others => false,
        }
    }

    /// Nothing has changed. A link of the pod's own is itself as long as its index is; the kernel may have forgotten the
    /// card meanwhile.
    fn is_confirmed_by(&self, now: &Behind) -> bool {
        let forgotten = now.shared == Shared::Own && now.hardware.is_none();
        self.behind == *now || forgotten && self.behind.interface == now.interface
    }

    /// The same interface, whose card was not known then.
    fn is_completed_by(&self, now: &Behind) -> bool {
        let port = self.behind.port.is_none() || self.behind.port == now.port;
        self.behind.interface == now.interface && self.behind.hardware.is_none() && port
    }
}

#[cfg(test)]
mod tests;
