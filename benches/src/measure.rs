//! One run: load, and the CPU time that the servers take meanwhile.

use crate::load::Plan;
use crate::process::Cpu;
use crate::report::Row;

/// Runs `plan`; one row per target, in their order. The threads of the load are in the network namespace of
/// the thread that calls.
///
/// # Errors
/// When threads cannot be started, or a target's process ends.
pub fn measure(plan: &Plan) -> anyhow::Result<Vec<Row>> {
    let cpu = || -> Vec<_> { plan.targets.iter().map(|target| target.pid.map(Cpu::of)).collect() };
    let mut before = Vec::new();
    let outcomes = plan.run(|| before = cpu())?;
    let rows = plan.targets.iter().zip(outcomes).zip(before.into_iter().zip(cpu()));
    rows.map(|((target, outcome), (before, after))| {
        let cpu = match (before, after) {
            (Some(before), Some(after)) => Some(after?.since(before?)),
            _ => None,
        };
        Ok(Row { name: target.name.clone(), outcome, cpu, requests_per_turn: plan.requests.len() })
    })
    .collect()
}
