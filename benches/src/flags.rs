//! Flags that several programs have.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use hyper::header::{HeaderName, HeaderValue};

use crate::bare::Answer;
use crate::load::{Plan, Target};
use crate::process::pin_process;

/// How much is sent.
#[derive(Args, Clone, Debug)]
pub struct LoadFlags {
    /// Turns per second and server.
    #[arg(long, default_value_t = 500)]
    pub rate: u32,
    /// Seconds of each scenario that are counted.
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// Seconds before.
    #[arg(long, default_value_t = 1.0)]
    pub warm_up: f64,
    /// Connections open at once.
    #[arg(long, default_value_t = 64)]
    pub connections: usize,
}

/// Who runs where.
#[derive(Args, Clone, Debug)]
pub struct PinFlags {
    /// Core of the servers. The client takes the other one given.
    #[arg(long, default_value_t = 0)]
    pub server_core: usize,
    /// Core of the client.
    #[arg(long, default_value_t = 1)]
    pub client_core: usize,
    /// Leave it to the kernel who runs where.
    #[arg(long)]
    pub unpinned: bool,
}

/// What the figures look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A table for people.
    Text,
    /// JSON for machines.
    Json,
}

/// What a yardstick answers.
#[derive(Args, Clone, Debug)]
pub struct AnswerFlags {
    /// File with the body.
    #[arg(long)]
    pub body: PathBuf,
    /// `PATH=FILE`: the body of answers to that path.
    #[arg(long = "other")]
    pub others: Vec<String>,
    /// Header lines of the answer.
    #[arg(long = "header", default_values = ["server: EC2ws", "content-type: text/plain"])]
    pub headers: Vec<String>,
}

// === impl AnswerFlags ===

impl AnswerFlags {
    /// The answer, from its files.
    ///
    /// # Errors
    /// When a file cannot be read, or a line is no header.
    pub fn answer(&self) -> Result<Answer> {
        let others = self.others.iter().map(|other| {
            let (path, file) =
                other.split_once('=').with_context(|| format!("{other:?} is not PATH=FILE"))?;
            Ok((path.to_owned(), read(file.as_ref())?))
        });
        Ok(Answer {
            headers: self.headers.iter().map(|line| header(line)).collect::<Result<_>>()?,
            body: read(&self.body)?,
            others: others.collect::<Result<_>>()?,
        })
    }
}

fn read(file: &Path) -> Result<Bytes> {
    Ok(std::fs::read(file).with_context(|| format!("{}", file.display()))?.into())
}

fn header(line: &str) -> Result<(HeaderName, HeaderValue)> {
    let (name, value) = line.split_once(':').with_context(|| format!("{line:?} is no header line"))?;
    Ok((name.trim().parse()?, value.trim().parse()?))
}

// === impl LoadFlags ===

impl LoadFlags {
    /// What is to be sent to these servers.
    ///
    /// # Errors
    /// When a time is none.
    pub fn plan(&self, targets: Vec<Target>, requests: Vec<Vec<u8>>) -> Result<Plan> {
        Ok(Plan {
            targets,
            rate: self.rate,
            warm_up: Duration::try_from_secs_f64(self.warm_up)?,
            duration: Duration::try_from_secs_f64(self.seconds)?,
            connections: self.connections,
            requests,
            keep: false,
        })
    }
}

// === impl PinFlags ===

impl PinFlags {
    /// The servers to one core; this process, the doubles and the reader of the agent's log included, to another.
    ///
    /// # Errors
    /// When there is no such process or core.
    pub fn pin(&self, servers: impl IntoIterator<Item = i32>) -> Result<()> {
        if self.unpinned {
            return Ok(());
        }
        for pid in servers {
            pin_process(pid, &[self.server_core])?;
        }
        pin_process(nix::unistd::getpid().as_raw(), &[self.client_core])
    }
}
