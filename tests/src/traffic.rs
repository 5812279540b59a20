//! A pod that asks IMDS for the node's own credentials all the time, over new connections and over ones it
//! keeps, and remembers what it got and when.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, anyhow};
use parking_lot::{Condvar, Mutex};
use tokio::time::Instant;

use crate::http::{Client, Connection};
use crate::imds::NODE_MARKER;
use crate::netns::NetNs;
use crate::topology::PodNet;
use crate::world::NODE_ROLE;

/// Between two requests: enough to be running all the time, little enough for two cores.
const PAUSE: Duration = Duration::from_millis(5);
/// A connection that nothing answers is given up after this.
const PATIENCE: Duration = Duration::from_millis(300);
/// At most so many requests, whatever happens: some hours.
const MOST: usize = 2_000_000;

/// What one request got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Got {
    /// The node's own credentials.
    NodeCredentials,
    /// Something else, with this status.
    Status(u16),
    /// No connection, no answer, or half of one.
    Nothing,
}

/// Running traffic. Dropping it stops it.
#[derive(Debug)]
pub struct Traffic {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    seen: Mutex<Vec<(Instant, Got)>>,
    changed: Condvar,
}

// === impl Traffic ===

impl Traffic {
    /// Starts it in a pod, which must outlive it, towards port 80 of IMDS at `to`.
    #[must_use]
    pub fn start(pod: &Arc<PodNet>, to: SocketAddr) -> Self {
        let shared = Arc::<Shared>::default();
        let (pod, running) = (Arc::clone(pod), Arc::clone(&shared));
        let thread = std::thread::spawn(move || {
            let mut kept = None;
            for turn in 0..MOST {
                if running.stop.load(Ordering::Relaxed) {
                    return;
                }
                let got = if turn % 2 == 0 {
                    ask(pod.ns(), to, &mut None, "close")
                } else {
                    ask(pod.ns(), to, &mut kept, "keep-alive")
                };
                running.seen.lock().push((Instant::now(), got));
                running.changed.notify_all();
                std::thread::sleep(PAUSE);
            }
        });
        Self { shared, thread: Some(thread) }
    }

    /// Everything so far: when its answer was there, and what it was.
    #[must_use]
    pub fn seen(&self) -> Vec<(Instant, Got)> {
        self.shared.seen.lock().clone()
    }

    /// Waits until `n` more requests have got something that `wanted` wants.
    ///
    /// # Errors
    /// When half a minute passes without.
    pub fn wait_for(&self, n: usize, wanted: impl Fn(Got) -> bool) -> Result<()> {
        self.wait_beyond(self.count(), n, wanted)
    }

    /// How many requests there were so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shared.seen.lock().len()
    }

    /// As [`Traffic::wait_for`], of the requests after the first `before`.
    ///
    /// # Errors
    /// When half a minute passes without.
    pub fn wait_beyond(&self, before: usize, n: usize, wanted: impl Fn(Got) -> bool) -> Result<()> {
        let mut seen = self.shared.seen.lock();
        let enough =
            |seen: &Vec<(Instant, Got)>| seen[before..].iter().filter(|(_, got)| wanted(*got)).count() >= n;
        let waited =
            self.shared.changed.wait_while_for(&mut seen, |seen| !enough(seen), Duration::from_secs(30));
        if waited.timed_out() && !enough(&seen) {
            return Err(anyhow!("in vain; the last were {:?}", &seen[seen.len().saturating_sub(10)..]));
        }
        Ok(())
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn ask(ns: &NetNs, to: SocketAddr, kept: &mut Option<Connection>, connection: &str) -> Got {
    let client = Client::new(ns, to);
    let path = format!("/latest/meta-data/iam/security-credentials/{NODE_ROLE}");
    let request = client.bytes("GET", &path, &[("Connection", connection)]);
    let mut open = match kept.take() {
        Some(open) => open,
        None => match ns.connect(to, PATIENCE) {
            Ok(stream) => Connection::new(stream),
            Err(_) => return Got::Nothing,
        },
    };
    match open.exchange(&request) {
        Ok(answer) if answer.text().contains(NODE_MARKER) => {
            *kept = Some(open);
            Got::NodeCredentials
        }
        Ok(answer) => {
            *kept = Some(open);
            Got::Status(answer.status)
        }
        Err(_) => Got::Nothing,
    }
}
