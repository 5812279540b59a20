//! Named readiness gates: `/readyz` lists what the agent waits for, and why.

use std::borrow::Cow;
use std::sync::Arc;

use tokio::sync::watch;

/// One gate as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateState {
    /// Its name, as `/readyz?verbose` and `/readyz/<name>` show it.
    pub name: &'static str,
    /// Open, or closed with the reason.
    pub state: Result<(), Cow<'static, str>>,
}

/// All gates; cheap to clone.
#[derive(Clone, Debug)]
pub struct Gates {
    states: Arc<watch::Sender<Vec<GateState>>>,
}

/// The handle of one gate's owner. Dropping it leaves the gate as it was: gone is not ready by itself.
#[derive(Clone, Debug)]
pub struct Gate {
    index: usize,
    states: Arc<watch::Sender<Vec<GateState>>>,
}

// === impl Gates ===

impl Gates {
    /// No gate yet: which counts as ready.
    #[must_use]
    pub fn new() -> Self {
        Self { states: Arc::new(watch::Sender::new(Vec::new())) }
    }

    /// Adds a closed gate that waits for `reason`.
    #[must_use]
    pub fn add(&self, name: &'static str, reason: &'static str) -> Gate {
        let mut index = 0;
        self.states.send_modify(|states| {
            index = states.len();
            states.push(GateState { name, state: Err(reason.into()) });
        });
        Gate { index, states: Arc::clone(&self.states) }
    }

    /// Every gate in the order of their adding.
    #[must_use]
    pub fn list(&self) -> Vec<GateState> {
        self.states.borrow().clone()
    }

    /// True when every gate is open.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.states.borrow().iter().all(|gate| gate.state.is_ok())
    }

    /// Resolves at once if ready, else when the last closed gate opens.
    pub async fn wait(&self) {
        let mut states = self.states.subscribe();
        // The sender lives as long as `self`: the error cannot happen.
        let _ = states.wait_for(|states| states.iter().all(|gate| gate.state.is_ok())).await;
    }

    /// Sees every change.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Vec<GateState>> {
        self.states.subscribe()
    }
}

impl Default for Gates {
    fn default() -> Self {
        Self::new()
    }
}

// === impl Gate ===

impl Gate {
    /// Opens the gate.
    pub fn open(&self) {
        self.set(Ok(()));
    }

    /// Closes it, saying what it waits for.
    pub fn close(&self, reason: impl Into<Cow<'static, str>>) {
        self.set(Err(reason.into()));
    }

    fn set(&self, state: Result<(), Cow<'static, str>>) {
        self.states.send_if_modified(|states| {
            let Some(gate) = states.get_mut(self.index) else { return false };
            let changed = gate.state != state;
            gate.state = state;
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ready_when_every_gate_is_open_and_not_after_one_closes() {
        let gates = Gates::new();
        let (pods, rule) = (gates.add("pods", "not listed yet"), gates.add("rule", "not installed"));
        pods.open();
        assert!(!gates.ready());
        rule.open();
        gates.wait().await;
        pods.close("stale");
        assert!(!gates.ready());
        assert_eq!(gates.list()[0], GateState { name: "pods", state: Err("stale".into()) });
    }
}
