//! One cell of the matrix: an agent is started, and what it took is read off once it has settled.

use std::time::Duration;

use anyhow::{Context, Result};
use rolegate_tests::agent::Agent;
use tokio::time::Instant;

use super::memory::Memory;
use super::objects::KEYS;
use super::size::Size;
use super::stage::Stage;
use super::traffic::received;
use crate::process::cpu_time;

/// Nothing has been done for so long when the agent has settled.
const QUIET: Duration = Duration::from_millis(500);
/// It is looked at as it is after so long, whatever it does.
const PATIENCE: Duration = Duration::from_secs(10);

/// What an agent took of one size.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    /// Of what.
    pub size: Size,
    /// From the start of the process until all gates are open.
    pub ready: Duration,
    /// CPU time, user and system, until then.
    pub cpu: Duration,
    /// Memory once it has settled.
    pub memory: Memory,
    /// Bytes from the API server until then: both lists, in IP packets.
    pub listed: u64,
}

// === impl Cell ===

impl Cell {
    /// Starts an agent in `stage`; it runs on.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn measure(stage: &Stage) -> Result<(Self, Agent)> {
        let (sts, size) = (&stage.world().sts, stage.size());
        let (calls, bytes) = (sts.assume_role_calls(), received(stage.world())?);
        let started = Instant::now();
        let agent = stage.start_agent()?;
        let pid = agent.pid().as_raw();
        // A line of the log, for whoever asks for it takes CPU time.
        agent.wait_for_line("ready", |line| line.text_of("message").as_deref() == Some("ready"))?;
        let (ready, cpu) = (started.elapsed(), cpu_time(pid)?);
        let keys = usize::try_from(size.pods.min(KEYS))?;
        agent.poll("every session is there", || Ok(sts.assume_role_calls() - calls >= keys))?;
        settle(pid)?;
        let (memory, listed) = (Memory::of(pid)?, received(stage.world())?.saturating_sub(bytes));
        Ok((Self { size, ready, cpu, memory, listed }, agent))
    }
}

/// Waits until the process has taken no CPU time for a while.
fn settle(pid: i32) -> Result<()> {
    let (deadline, mut last) = (Instant::now() + PATIENCE, None);
    while Instant::now() < deadline {
        let now = cpu_time(pid).context("the agent has ended")?;
        if last.replace(now) == Some(now) {
            break;
        }
        std::thread::sleep(QUIET);
    }
    Ok(())
}
