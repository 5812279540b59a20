//! Every socket that is listened at, opened before anything else: no later step needs the right to.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use anyhow::Context as _;

use super::process;
use crate::config::Config;
use crate::redirect::{Choice, Mode};
use crate::server::Listeners;

/// The listening sockets of `rolegate run`.
pub(super) struct Sockets {
    /// How pods' requests get there.
    pub(super) choice: Choice,
    /// Where pods' requests come.
    pub(super) app: Listeners,
    /// Probes and metrics, unless the app port serves them as well.
    pub(super) admin: Option<TcpListener>,
    /// What one agent of a node has alone.
    pub(super) _keeper: Option<UnixListener>,
}

// === impl Sockets ===

impl Sockets {
    /// Opens what `config` asks for, and finds out what to redirect by where that is asked for.
    ///
    /// # Errors
    /// When an address or a port is somebody else's, or another agent keeps the node's redirect: the error names it.
    pub(super) fn open(config: &Config) -> anyhow::Result<Self> {
        let server = &config.server;
        let (choice, app, mut keeper) = match Choice::told(config.redirect.mode) {
            Some(choice) if choice.mode == Mode::Route => (choice, Listeners::bind_at_imds()?, None),
            Some(choice) => (choice, Listeners::bind(server.app_port)?, None),
            None => find(config)?,
        };
        // Where the app port is not listened at, it serves nothing else either.
        let shared = server.metrics_port == server.app_port && choice.mode != Mode::Route;
        let admin = if shared { None } else { Some(admin(server.metrics_port)?) };
        if keeper.is_none() && choice.mode != Mode::Operators {
            keeper = Some(process::keep_redirect_alone()?);
        }
        Ok(Self { choice, app, admin, _keeper: keeper })
    }
}

/// What `--redirect=auto` comes to here. Another agent's addresses are not taken for those of somebody else: that there
/// is none is seen to first.
fn find(config: &Config) -> anyhow::Result<(Choice, Listeners, Option<UnixListener>)> {
    let keeper = process::keep_redirect_alone()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (choice, at_imds) = runtime.block_on(Choice::find(&config.redirect, Listeners::bind_at_imds))?;
    let app = match at_imds {
        Some(listeners) => listeners,
        None => Listeners::bind(config.server.app_port)?,
    };
    Ok((choice, app, Some(keeper)))
}

fn admin(port: u16) -> anyhow::Result<TcpListener> {
    process::bind_any(port).with_context(|| format!("port {port} (--metrics-port) cannot be bound"))
}
