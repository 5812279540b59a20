//! What concerns the process as a whole: limits, signals, the lines that it starts with.

use std::io;

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{debug, error, info, warn};

use crate::admin::{REVISION, VERSION};
use crate::config::{Config, Restrictions};

/// Keeps what this process holds in its memory: no core file, no tracer without privilege, and `/proc/<pid>` is
/// root's. The flag alone would do on a plain kernel; the limit holds where a node lets such processes be dumped
/// (`fs.suid_dumpable`). To be called before a secret is read.
///
/// # Errors
/// When the kernel, or a seccomp profile, refuses.
pub fn forbid_dumps() -> io::Result<()> {
    prctl::set_dumpable(false)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    Ok(())
}

/// Says what was started, with what in force, and what the operator should know.
pub(super) fn announce(config: &Config) {
    info!(version = VERSION, revision = REVISION, "rolegate starts");
    let restrictions = match config.policy.restrictions {
        Restrictions::Enforce => "enforce: a namespace without the annotation allows nothing",
        Restrictions::Annotated => "annotated: enforced where a namespace has the annotation",
        Restrictions::Audit => {
            "audit: everything is served, and what enforce would deny is logged and counted"
        }
        Restrictions::Off => "off: every pod may name every role",
    };
    info!(restrictions, annotation = %config.policy.keys.allowed_roles, "namespace restrictions in force");
    for warning in &config.warnings {
        warn!("{warning}");
    }
}

/// Fewer open files than this serve fewer connections than the default limit of a node allows.
const ENOUGH_DESCRIPTORS: u64 = 8192;

/// Takes as many descriptors as the system lets us, and says how many: a pod may hold hundreds of connections.
pub(super) fn raise_descriptor_limit() -> usize {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    let raised = soft >= hard || setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
    let limit = if raised { hard.max(soft) } else { soft };
    if limit < ENOUGH_DESCRIPTORS {
        warn!(
            limit,
            wanted = ENOUGH_DESCRIPTORS,
            "few files may be open: fewer connections are taken at once"
        );
    }
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// A panic is a defect: it is one line of the log, whatever its format, and its connection's or task's end alone.
pub(super) fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.payload_as_str().unwrap_or("no message");
        let at = panic.location().map(ToString::to_string);
        error!(panic = text, at, "panic");
    }));
}

/// One TLS stack for Kubernetes and AWS.
pub(super) fn install_crypto_provider() {
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        debug!("a crypto provider was installed already");
    }
}

/// SIGTERM and SIGINT. Made once: a signal that comes between two waits is not lost.
pub(super) struct Signals {
    term: Signal,
    interrupt: Signal,
}

// === impl Signals ===

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The next one, by name.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
