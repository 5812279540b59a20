//! A program that serves until it is dropped.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// A running program, ended when dropped.
#[derive(Debug)]
pub struct Service {
    child: Child,
    name: &'static str,
}

// === impl Service ===

impl Service {
    /// Starts it without input; what it prints goes to `log`, or nowhere.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &'static str, command: &mut Command, log: Option<std::fs::File>) -> Result<Self> {
        let (out, err) = match log {
            Some(file) => (file.try_clone()?.into(), file.into()),
            None => (Stdio::null(), Stdio::null()),
        };
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        Ok(Self { child, name })
    }

    /// The process's id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Asks `ready` until it is true, every 50 ms: these programs announce nothing that can be waited for.
    ///
    /// # Errors
    /// When the program ends, or `patience` is over.
    pub fn wait_until(&mut self, patience: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let deadline = tokio::time::Instant::now() + patience;
        while !ready() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended at its start: {status}", self.name);
            }
            ensure!(tokio::time::Instant::now() < deadline, "{} is not ready in {patience:?}", self.name);
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
