//! Every socket that is listened at, opened or taken over before anything else: no later step needs the right to.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use super::handover::{Entry, Handover, Patience};
use crate::config::{Config, RedirectMode};
use crate::redirect::{Choice, Mode};
use crate::server::{Listeners, Pool};

/// The listening sockets of `rolegate run`.
pub(super) struct Sockets {
    /// How pods' requests get there.
    pub(super) choice: Choice,
    /// Where pods' requests come.
    pub(super) app: Listeners,
    /// Probes and metrics, unless the app port serves them as well.
    pub(super) admin: Option<TcpListener>,
    /// What one agent of a node has alone.
    pub(super) keeper: Arc<UnixListener>,
    /// How the agent that was there, and the one that will be, share them.
    pub(super) handover: Handover,
}

// === impl Sockets ===

impl Sockets {
    /// Opens what `config` asks for, but for what an agent that is there hands over, and finds out what to redirect by
    /// where that is asked for. What somebody else has is waited for: it may be an agent that ends.
    ///
    /// # Errors
    /// When an address or a port stays somebody else's, or another agent keeps the node's redirect: the error names it.
    pub(super) fn open(config: &Config) -> anyhow::Result<Self> {
        let state_dir = config.imds.state_dir.clone();
        let entry = Entry::new(&state_dir, &wants(config), config.redirect.preference)?;
        let Entry { keeper, left, predecessor, mut patience } = entry;
        let server = &config.server;
        let (choice, app) = match Choice::told(config.redirect.mode) {
            Some(choice) if choice.mode == Mode::Route => {
                (choice, patient(&mut patience, || Listeners::bind_at_imds(&left))?)
            }
            Some(choice) => (choice, patient(&mut patience, || Listeners::bind(server.app_port, &left))?),
            None => find(config, &left, &mut patience)?,
        };
        // Where the app port is not listened at, it serves nothing else either.
        let app_serves_all = server.metrics_port == server.app_port && choice.mode != Mode::Route;
        let admin = if app_serves_all {
            None
        } else {
            Some(patient(&mut patience, || admin(server.metrics_port, &left))?)
        };
        let keeper = Arc::new(keeper);
        let mut listeners = app.clones()?;
        listeners.extend(admin.as_ref().map(TcpListener::try_clone).transpose()?);
        let handover =
            Handover { state_dir, keeper: Arc::clone(&keeper), listeners, app: app.addresses(), predecessor };
        Ok(Self { choice, app, admin, keeper, handover })
    }
}

/// Wherever this configuration may listen.
fn wants(config: &Config) -> Vec<SocketAddr> {
    let server = &config.server;
    let (imds, port) = (Listeners::at_imds(), Listeners::at_port(server.app_port));
    let mut wants = match config.redirect.mode {
        RedirectMode::Auto => [imds, port].concat(),
        RedirectMode::Route => imds.to_vec(),
        RedirectMode::Iptables | RedirectMode::None => port.to_vec(),
    };
    wants.extend(any_address(server.metrics_port));
    wants
}

/// What `--redirect=auto` comes to here. What another agent has handed over is not taken for somebody else's.
fn find(config: &Config, left: &Pool, patience: &mut Patience) -> anyhow::Result<(Choice, Listeners)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let found = Choice::find(&config.redirect, || Listeners::bind_at_imds(left));
    let (choice, at_imds) = runtime.block_on(found)?;
    let app = match at_imds {
        Some(listeners) => listeners,
        None => patient(patience, || Listeners::bind(config.server.app_port, left))?,
    };
    Ok((choice, app))
}

/// Of both families where there is IPv6.
fn any_address(port: u16) -> [SocketAddr; 2] {
    [(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()]
}

fn admin(port: u16, left: &Pool) -> io::Result<TcpListener> {
    let [v6, v4] = any_address(port);
    let open = |at| pool_or_bind(left, at);
    open(v6).or_else(|_| open(v4)).map_err(|error| {
        io::Error::new(error.kind(), format!("port {port} (--metrics-port) cannot be bound: {error}"))
    })
}

fn pool_or_bind(left: &Pool, at: SocketAddr) -> io::Result<TcpListener> {
    left.or_open(at, || {
        let listener = TcpListener::bind(at)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    })
}

/// Tries again while somebody else has the address.
fn patient<T>(patience: &mut Patience, open: impl Fn() -> io::Result<T>) -> anyhow::Result<T> {
    loop {
        match open() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => patience.wait(&error.to_string())?,
            opened => return Ok(opened?),
        }
    }
}
