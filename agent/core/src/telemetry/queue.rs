//! A bounded queue of log lines and the thread that writes them: a stuck stderr never holds a request.
//!
//! Until that thread is started there are no requests, and whoever logs writes.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use prometheus::IntCounter;
use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

use super::ACCESS;
use crate::metrics::Registry;

/// Bytes of queued lines beyond which access lines are dropped: some 4,000 lines.
const ACCESS_BYTES: usize = 1 << 20;

/// Bytes beyond which every line is dropped: as much again, kept for audit lines, warnings and errors.
const ALL_BYTES: usize = 2 << 20;

/// Capacity that is kept after a burst.
const KEPT_BYTES: usize = 64 << 10;

/// While lines keep coming they are written this often, many at once: waking a thread for each costs a busy node more than
/// the line does. The first one after a pause is written at once.
const TICK: Duration = Duration::from_millis(5);

/// Longest that the end of the process waits for stderr to take what is queued.
const FLUSH: Duration = Duration::from_secs(2);

/// The queue and its writer; dropping it writes what is queued.
#[derive(Debug)]
pub(super) struct Queue {
    shared: Arc<Shared>,
}

/// What writers and the thread share.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    dropped_access: IntCounter,
    dropped_other: IntCounter,
}

#[derive(Debug, Default)]
struct State {
    /// Where lines go at once while there is no thread.
    early: Sink,
    /// Whole lines, one after the other: no allocation per line.
    lines: Vec<u8>,
    /// The thread waits for lines: only then is it worth a system call to wake it.
    asleep: bool,
    closed: bool,
    ended: bool,
}

/// Where lines are written, if it is here.
#[derive(Default)]
struct Sink(Option<Box<dyn Write + Send>>);

/// Makes a writer for each line.
#[derive(Debug)]
pub(super) struct Lines {
    shared: Arc<Shared>,
}

/// Writer of one line.
#[derive(Debug)]
pub(super) struct Line<'a> {
    shared: &'a Shared,
    access: bool,
}

// === impl Queue ===

impl Queue {
    /// Lines go to `sink`.
    pub(super) fn new(sink: Box<dyn Write + Send>, registry: &Registry) -> Self {
        let dropped =
            registry.counters("log_lines_dropped_total", "Log lines lost because stderr is slow.", &["kind"]);
        let shared = Arc::new(Shared {
            state: Mutex::new(State { early: Sink(Some(sink)), ..State::default() }),
            changed: Condvar::new(),
            dropped_access: dropped.with_label_values(&["access"]),
            dropped_other: dropped.with_label_values(&["other"]),
        });
        Self { shared }
    }

    /// Starts the thread that writes. Started already, it is as it was.
    pub(super) fn start(&self) -> io::Result<()> {
        let Some(sink) = self.shared.state.lock().early.0.take() else { return Ok(()) };
        let writer = Arc::clone(&self.shared);
        std::thread::Builder::new().name("log".into()).spawn(move || writer.write_to(sink)).map(drop)
    }

    /// For [`Lines`].
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.closed = true;
        if state.early.0.is_some() {
            return;
        }
        self.shared.changed.notify_all();
        self.shared.changed.wait_while_for(&mut state, |state| !state.ended, FLUSH);
    }
}

// === impl Shared ===

impl Shared {
    fn push(&self, line: &[u8], access: bool) {
        let (most, dropped) =
            if access { (ACCESS_BYTES, &self.dropped_access) } else { (ALL_BYTES, &self.dropped_other) };
        let mut state = self.state.lock();
        if let Some(sink) = &mut state.early.0 {
            if sink.write_all(line).is_err() {
                dropped.inc();
            }
            return;
        }
        if state.closed || state.lines.len() + line.len() > most {
            dropped.inc();
            return;
        }
        state.lines.extend_from_slice(line);
        if state.asleep {
            state.asleep = false;
            self.changed.notify_all();
        }
    }

    fn write_to(&self, mut sink: Box<dyn Write + Send>) {
        let mut taken = Vec::new();
        while self.take(&mut taken) {
            if sink.write_all(&taken).and_then(|()| sink.flush()).is_err() {
                let lost = taken.iter().filter(|byte| **byte == b'\n').count();
                self.dropped_other.inc_by(u64::try_from(lost).unwrap_or(u64::MAX));
            }
            taken.clear();
            taken.shrink_to(KEPT_BYTES);
        }
    }

    /// Waits for lines and swaps them into `taken`, which is empty; false at the end.
    fn take(&self, taken: &mut Vec<u8>) -> bool {
        let mut state = self.state.lock();
        // Nobody wakes this thread here, but the end.
        self.changed.wait_while_for(&mut state, |state| !state.closed, TICK);
        while state.lines.is_empty() {
            if state.closed {
                state.ended = true;
                self.changed.notify_all();
                return false;
            }
            state.asleep = true;
            self.changed.wait(&mut state);
        }
        state.asleep = false;
        std::mem::swap(&mut state.lines, taken);
        true
    }
}

// === impl Sink ===

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Sink" } else { "none" })
    }
}

// === impl Lines ===

impl Lines {
    /// Writers into that queue.
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { shared: &self.shared, access: false }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line<'a> {
        Line { shared: &self.shared, access: metadata.target() == ACCESS }
    }
}

// === impl Line ===

impl Write for Line<'_> {
    /// The subscriber hands over a line in one piece.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.shared.push(line, self.access);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
