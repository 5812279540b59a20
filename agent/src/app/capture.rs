//! Starts what keeps the node's redirect and pins: one agent of a node at a time.

use tracing::error;

use super::handover::Charge;
use super::{Base, Wires};
use crate::redirect::{Choice, Pinning, Redirect};
use crate::supervisor::Supervisor;

/// The rule goes in before anything is waited for: until the agent is ready it refuses, and never lets through.
pub(super) async fn start_redirect(base: &Base, choice: Choice) -> anyhow::Result<(Redirect, Pinning)> {
    let gate = base.gates.add("redirect", "not installed yet");
    let config = &base.config;
    let mut redirect = Redirect::new(&config.redirect, choice, config.server.app_port, gate, &base.registry)?;
    let gate = base.gates.add("pins", "pods are not listed yet");
    let mut pins = redirect.pinning(&config.redirect, gate, &base.registry);
    pins.remember().await;
    if let Err(error) = redirect.install_once().await {
        error!(%error, "the redirect could not be installed; it is tried again");
    }
    Ok((redirect, pins))
}

pub(super) fn start_redirect_task(
    mut redirect: Redirect,
    wires: &Wires,
    charge: Charge,
    supervisor: &mut Supervisor,
) {
    let snapshots = wires.snapshots.clone();
    supervisor.spawn("redirect", async move {
        while let Some(turn) = charge.turn().await {
            redirect.run(turn.token(), snapshots.clone()).await?;
            redirect.left_to_another();
        }
        Ok(())
    });
}

/// As the redirect: one agent of a node writes pins.
pub(super) fn start_pins_task(mut pins: Pinning, wires: &Wires, charge: Charge, supervisor: &mut Supervisor) {
    let snapshots = wires.snapshots.clone();
    supervisor.spawn("pins", async move {
        while let Some(turn) = charge.turn().await {
            pins.run(turn.token(), snapshots.clone()).await?;
            pins.left_to_another();
        }
        Ok(())
    });
}
