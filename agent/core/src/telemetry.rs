//! Logging: one subscriber, to stderr only, through a queue that never makes a request wait.

mod filter;
mod queue;
#[cfg(test)]
mod tests;
mod text;

use std::io::{IsTerminal, Write};
use std::sync::Arc;

use tracing::Dispatch;
use tracing_subscriber::filter::{FilterExt, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::{Registry as Spans, fmt, reload};

use crate::config::{Log, LogFormat};
use crate::metrics::Registry;

pub use filter::{LevelError, check_level};
use queue::{Lines, Queue};
use text::Text;

/// Target of the one line per request; under pressure these lines go first.
pub const ACCESS: &str = "rolegate::access";

/// Target of the lines that say who got or was refused what.
pub const AUDIT: &str = "rolegate::audit";

/// The logging of this process. Dropping it writes what is queued.
#[derive(Debug)]
pub struct Telemetry {
    levels: Levels,
    queue: Queue,
}

/// Changes the log level of the running process.
#[derive(Clone, Debug)]
pub struct Levels {
    handle: reload::Handle<Targets, Spans>,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `--log-level` cannot be read.
    #[error(transparent)]
    Level(#[from] LevelError),
    /// The writer's thread could not be started.
    #[error("the log writer's thread could not be started: {0}")]
    Thread(#[from] std::io::Error),
    /// Somebody set a subscriber before us.
    #[error("logging is already set up in this process")]
    Twice,
    /// The subscriber is gone: the process is ending.
    #[error("logging has ended")]
    Gone,
}

// === impl Telemetry ===

impl Telemetry {
    /// Sets up the process's subscriber, without a thread as yet. Keep what it returns until the last line is logged.
    ///
    /// # Errors
    /// [`TelemetryError`]; nothing is set up then.
    pub fn init(log: &Log, registry: &Registry) -> Result<Self, TelemetryError> {
        let ansi = std::io::stderr().is_terminal();
        let (dispatch, telemetry) = Self::build(log, registry, Box::new(std::io::stderr()), ansi)?;
        tracing::dispatcher::set_global_default(dispatch).map_err(|_| TelemetryError::Twice)?;
        Ok(telemetry)
    }

    /// Starts the thread that writes: from now on no line is waited for. It has the rights that the caller has now.
    ///
    /// # Errors
    /// [`TelemetryError::Thread`]: nothing is logged any more.
    pub fn start(&self) -> Result<(), TelemetryError> {
        Ok(self.queue.start()?)
    }

    /// The handle for changing the level later.
    #[must_use]
    pub fn levels(&self) -> Levels {
        self.levels.clone()
    }

    /// As [`Self::init`], for whoever sets the dispatch itself: lines go to `sink`, coloured if it is `ansi`.
    ///
    /// # Errors
    /// [`TelemetryError::Level`].
    pub fn build(
        log: &Log,
        registry: &Registry,
        sink: Box<dyn Write + Send>,
        ansi: bool,
    ) -> Result<(Dispatch, Self), TelemetryError> {
        let (wanted, handle) = reload::Layer::new(filter::parse(&log.level)?);
        let queue = Queue::new(sink, registry);
        let lines = Lines::new(Arc::clone(queue.shared()));
        let format: Box<dyn Layer<Spans> + Send + Sync> = match log.format {
            LogFormat::Text => {
                fmt::layer().event_format(Text::default()).with_ansi(ansi).with_writer(lines).boxed()
            }
            LogFormat::Json => {
                fmt::layer().json().flatten_event(true).with_span_list(false).with_writer(lines).boxed()
            }
        };
        let layer = format.with_filter(wanted.and(filter::cap()));
        let dispatch = Dispatch::new(tracing_subscriber::registry().with(layer));
        Ok((dispatch, Self { levels: Levels { handle }, queue }))
    }
}

// === impl Levels ===

impl Levels {
    /// Takes the same words as `--log-level`.
    ///
    /// # Errors
    /// [`TelemetryError::Level`] leaves the level as it was.
    pub fn set(&self, level: &str) -> Result<(), TelemetryError> {
        self.handle.reload(filter::parse(level)?).map_err(|_| TelemetryError::Gone)
    }

    /// The directives in force.
    ///
    /// # Errors
    /// [`TelemetryError::Gone`] when the subscriber has ended.
    pub fn current(&self) -> Result<String, TelemetryError> {
        self.handle.with_current(ToString::to_string).map_err(|_| TelemetryError::Gone)
    }
}
