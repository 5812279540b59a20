//! A pod that means harm: connections by the thousand that say nothing, say half, do not listen, or are in haste.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::topology::{PodNet, imds_v4};

/// Between two looks at how many connections are due.
const TICK: Duration = Duration::from_millis(5);
/// Between two bytes of what is slow.
const TRICKLE: Duration = Duration::from_millis(100);
/// What does not read gives up after this, which is longer than the agent lets a connection live.
const GIVES_UP: Duration = Duration::from_secs(15);
/// Bytes of a header that never ends: the agent refuses 8 KiB.
const LONG_HEADER: usize = 8 * 1024 - 64;
/// Longest that somebody waits for an attack to be whole, or over.
const PATIENCE: Duration = Duration::from_secs(60);

const HEAD: &str = "HTTP/1.1\r\nHost: 169.254.169.254\r\n";
const DOCUMENT: &str = "/latest/meta-data/iam/security-credentials/OtherRole";
const TOKEN: &str = "/latest/api/token";
const TTL: &str = "X-aws-ec2-metadata-token-ttl-seconds: 60\r\n";

/// What each connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// Nothing.
    Idle,
    /// Begins a header and goes on with a byte every 100 ms.
    SlowHeaders,
    /// Sends as much of a header as is read at all, at once, and not its end.
    LongHeaders,
    /// Sends a header that announces a body, and of that a byte every 100 ms or nothing.
    SlowBodies,
    /// Asks for [`LARGE`] and reads none of it, with the smallest window that there is.
    SlowReaders,
    /// Asks for credentials and reads them.
    Requests,
}

/// The leaf that slow readers ask for: the largest answer is the largest text that there is.
pub const LARGE: &str = "local-hostname";

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct Force {
    /// Connections that it has at once, if it is let.
    pub connections: usize,
    /// Connections that it opens in a second, at most.
    pub per_second: u32,
    /// Connections that it opens at all; `None`: another for each that ends, until it is stopped.
    pub total: Option<usize>,
}

/// How it goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Connections that were made.
    pub opened: usize,
    /// Connections that could not be made.
    pub failed: usize,
    /// Connections that were ended by the agent.
    pub ended: usize,
    /// Whole answers with status 200.
    pub answered: usize,
}

/// An attack under way. Dropping it ends it.
#[derive(Debug)]
pub struct Hostile {
    counts: Arc<Counts>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Counts {
    opened: AtomicUsize,
    failed: AtomicUsize,
    ended: AtomicUsize,
    answered: AtomicUsize,
}

// === impl Hostile ===

impl Hostile {
    /// Starts it in a pod, against IMDS over IPv4.
    #[must_use]
    pub fn start(pod: &Arc<PodNet>, attack: Attack, force: Force) -> Self {
        Self::start_from(pod, vec![pod.ip4()], attack, force)
    }

    /// As [`Hostile::start`], from these addresses of the pod's network in turn: as many pods, to the agent.
    #[must_use]
    pub fn start_from(pod: &Arc<PodNet>, from: Vec<Ipv4Addr>, attack: Attack, force: Force) -> Self {
        let counts = Arc::<Counts>::default();
        let stop = CancellationToken::new();
        let (pod, told, until) = (Arc::clone(pod), Arc::clone(&counts), stop.clone());
        let thread = std::thread::spawn(move || {
            let run = || -> std::io::Result<()> {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(async {
                    tokio::select! {
                        () = until.cancelled() => {}
                        () = attack.run(&from, force, &told) => until.cancelled().await,
                    }
                });
                Ok(())
            };
            if let Err(error) = pod.ns().inside(run).and_then(|ran| Ok(ran?)) {
                eprintln!("the hostile pod: {error:#}");
            }
        });
        Self { counts, stop, thread: Some(thread) }
    }

    /// How it goes so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let of = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        Tally {
            opened: of(&self.counts.opened),
            failed: of(&self.counts.failed),
            ended: of(&self.counts.ended),
            answered: of(&self.counts.answered),
        }
    }

    /// Waits until the tally is as wanted; 5 ms apart.
    ///
    /// # Errors
    /// When a minute passes without.
    pub fn wait(&self, what: &str, wanted: impl Fn(Tally) -> bool) -> Result<Tally> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let tally = self.tally();
            if wanted(tally) {
                return Ok(tally);
            }
            if Instant::now() > deadline {
                bail!("waited in vain until {what}: {tally:?}");
            }
            std::thread::sleep(TICK);
        }
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

// === impl Tally ===

impl std::ops::Add for Tally {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            opened: self.opened + other.opened,
            failed: self.failed + other.failed,
            ended: self.ended + other.ended,
            answered: self.answered + other.answered,
        }
    }
}

// === impl Attack ===

impl Attack {
    /// Opens connections until there have been enough, and sees them end.
    async fn run(self, from: &[Ipv4Addr], force: Force, counts: &Arc<Counts>) {
        let mut open = JoinSet::new();
        let mut ticks = interval(TICK);
        // What was not used in a tenth of a second is lost: no surge after a pause.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let (mut begun, mut due, mut last) = (0, 0.0_f64, Instant::now());
        let total = force.total.unwrap_or(usize::MAX);
        while begun < total {
            ticks.tick().await;
            while open.try_join_next().is_some() {}
            let rate = f64::from(force.per_second);
            due = (due + rate * last.elapsed().as_secs_f64()).min((rate / 10.0).max(1.0));
            last = Instant::now();
            while due >= 1.0 && begun < total && open.len() < force.connections {
                due -= 1.0;
                let (from, counts) = (from[begun % from.len()], Arc::clone(counts));
                open.spawn(async move { self.one(from, begun, &counts).await });
                begun += 1;
            }
        }
        while open.join_next().await.is_some() {}
    }

    async fn one(self, from: Ipv4Addr, number: usize, counts: &Counts) {
        let Ok(mut stream) = self.connect(from).await else {
            counts.failed.fetch_add(1, Ordering::Relaxed);
            return;
        };
        counts.opened.fetch_add(1, Ordering::Relaxed);
        // It may be closed already: too many of this pod wait.
        let _ = stream.write_all(&self.first(number)).await;
        if self == Self::SlowReaders {
            return sleep(GIVES_UP).await;
        }
        if self.answer(&mut stream, number).await.starts_with(b"HTTP/1.1 200 ") {
            counts.answered.fetch_add(1, Ordering::Relaxed);
        }
        counts.ended.fetch_add(1, Ordering::Relaxed);
    }

    async fn connect(self, from: Ipv4Addr) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        if self == Self::SlowReaders {
            // The kernel makes it the least that it allows.
            socket.set_recv_buffer_size(1)?;
        }
        socket.connect(imds_v4()).await
    }

    /// What is sent at once.
    fn first(self, number: usize) -> Vec<u8> {
        match self {
            Self::Idle => String::new(),
            Self::SlowHeaders => format!("GET {DOCUMENT} {HEAD}X-"),
            Self::LongHeaders => {
                let start = format!("GET {DOCUMENT} {HEAD}X-Long: ");
                let rest = "x".repeat(LONG_HEADER - start.len());
                start + &rest
            }
            // Every kind of body, on both methods that are answered.
            Self::SlowBodies => match number % 4 {
                0 => format!("PUT {TOKEN} {HEAD}{TTL}Content-Length: 4000000000\r\n\r\n"),
                1 => format!("GET {DOCUMENT} {HEAD}Content-Length: 4000000000\r\n\r\n"),
                2 => format!("PUT {TOKEN} {HEAD}{TTL}Transfer-Encoding: chunked\r\n\r\n"),
                _ => format!("PUT {TOKEN} {HEAD}{TTL}Expect: 100-continue\r\nContent-Length: 100\r\n\r\n"),
            },
            Self::SlowReaders => format!("GET /latest/meta-data/{LARGE} {HEAD}\r\n"),
            Self::Requests => format!("GET {DOCUMENT} {HEAD}Connection: close\r\n\r\n"),
        }
        .into()
    }

    /// What is sent every 100 ms.
    fn trickle(self, number: usize) -> Option<&'static [u8]> {
        match (self, number % 4) {
            (Self::SlowHeaders, _) => Some(b"x"),
            (Self::SlowBodies, 1) => Some(b"x"),
            (Self::SlowBodies, 2) => Some(b"1\r\nx\r\n"),
            _ => None,
        }
    }

    /// Everything that comes until the other side ends it; meanwhile what is slow goes on.
    async fn answer(self, stream: &mut TcpStream, number: usize) -> Vec<u8> {
        let (mut reader, mut writer) = stream.split();
        let mut answer = Vec::new();
        let slow = async {
            let Some(bytes) = self.trickle(number) else { return std::future::pending().await };
            while writer.write_all(bytes).await.is_ok() {
                sleep(TRICKLE).await;
            }
            // The end is seen by the reader.
            std::future::pending().await
        };
        tokio::select! {
            // An error is an end as well.
            _ = reader.read_to_end(&mut answer) => answer,
            () = slow => answer,
        }
    }
}
