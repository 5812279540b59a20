//! Says when the agent becomes ready, and what it waits for.

use tracing::info;

use super::Base;
use crate::ready::GateState;
use crate::supervisor::Supervisor;

/// Says once, and after every interruption, that the agent is ready; and what it waits for when it is not.
pub(super) fn start_ready_log(base: &Base, supervisor: &mut Supervisor) {
    let gates = base.gates.clone();
    let shutdown = supervisor.shutdown();
    supervisor.spawn("ready-log", async move {
        let mut states = gates.subscribe();
        let mut was_ready = false;
        loop {
            let closed = closed_gates(&states.borrow_and_update());
            match (closed.is_empty(), was_ready) {
                (true, false) => info!("ready"),
                (false, _) => info!(waiting_for = %closed.join("; "), "not ready"),
                (true, true) => {}
            }
            was_ready = closed.is_empty();
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                changed = states.changed() => changed?,
            }
        }
    });
}

/// `name: reason` of every closed gate.
fn closed_gates(states: &[GateState]) -> Vec<String> {
    states
        .iter()
        .filter_map(|gate| gate.state.as_ref().err().map(|reason| format!("{}: {reason}", gate.name)))
        .collect()
}
