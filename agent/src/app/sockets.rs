//! Every socket that is listened at, opened before anything else: no later step needs the right to.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use anyhow::Context as _;

use super::process;
use crate::config::{Config, RedirectMode};
use crate::server::Listeners;

/// The listening sockets of `rolegate run`.
pub(super) struct Sockets {
    /// Where pods' requests come.
    pub(super) app: Listeners,
    /// Probes and metrics, unless the app port serves them as well.
    pub(super) admin: Option<TcpListener>,
    /// What one agent of a node has alone.
    pub(super) _keeper: Option<UnixListener>,
}

// === impl Sockets ===

impl Sockets {
    /// Opens what `config` asks for.
    ///
    /// # Errors
    /// When an address or a port is somebody else's, or another agent keeps the node's redirect: the error names it.
    pub(super) fn open(config: &Config) -> anyhow::Result<Self> {
        let server = &config.server;
        let mode = config.redirect.mode;
        let app = match mode {
            RedirectMode::Auto | RedirectMode::Route => Listeners::bind_at_imds()?,
            RedirectMode::Iptables | RedirectMode::None => Listeners::bind(server.app_port)?,
        };
        // Where the app port is not listened at, it serves nothing else either.
        let shared = server.metrics_port == server.app_port
            && matches!(mode, RedirectMode::Iptables | RedirectMode::None);
        let admin = if shared { None } else { Some(admin(server.metrics_port)?) };
        let keeper = match mode {
            RedirectMode::Auto | RedirectMode::Iptables | RedirectMode::Route => {
                Some(process::keep_redirect_alone()?)
            }
            RedirectMode::None => None,
        };
        Ok(Self { app, admin, _keeper: keeper })
    }
}

fn admin(port: u16) -> anyhow::Result<TcpListener> {
    process::bind_any(port).with_context(|| format!("port {port} (--metrics-port) cannot be bound"))
}
