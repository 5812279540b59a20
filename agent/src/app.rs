//! Wires everything, one function a component; the only module that knows all the others.

mod capture;
mod cleanup;
mod guard;
mod handover;
mod late_source;
mod learn;
mod privileges;
mod probe;
mod process;
mod ready_log;
mod sockets;
mod store;

use std::collections::HashSet;
use std::net::TcpListener;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::accept::AcceptErrors;
use crate::admin::{Admin, DebugPages, Health, Scope};
use crate::cluster::Snapshot;
use crate::cluster::own_node::OwnNode;
use crate::cluster::watch::{Watch, WatchGates};
use crate::config::Config;
use crate::credentials::Broker;
use crate::identity::{Identity, Neighbours, Witnesses};
use crate::imds::document;
use crate::imds::entrance::{Entrance, Uncaptured};
use crate::imds::handler::{Door, With};
use crate::imds::passthrough::Passthrough;
use crate::imds::route::MetadataPolicy;
use crate::imds::token::TokenKey;
use crate::imds::upstream::Upstream;
use crate::metrics::Registry;
use crate::policy::Policy;
use crate::prefetch::{self, Complaints};
use crate::ready::Gates;
use crate::redirect::Mode;
use crate::server::{Listeners, Queue};
use crate::supervisor::Supervisor;
use crate::telemetry::Telemetry;
use crate::types::{Clock, PodIp};
use capture::{start_pins_task, start_redirect, start_redirect_task};
pub use cleanup::cleanup;
pub use guard::guard;
use handover::{Charge, Stage};
use late_source::LateSource;
use learn::Learner;
use privileges::Privileges;
pub use probe::probe;
pub use process::forbid_dumps;
use ready_log::start_ready_log;
use sockets::Sockets;

/// What every component may need.
struct Base {
    config: Config,
    registry: Registry,
    gates: Gates,
    clock: Clock,
    telemetry: Telemetry,
    /// How many files may be open.
    descriptors: usize,
    accept_errors: AcceptErrors,
    /// Shown by `/healthz` once it is known.
    instance_id: Arc<OnceLock<String>>,
}

/// What the components tell each other through.
struct Wires {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    addresses: watch::Receiver<Arc<HashSet<PodIp>>>,
    neighbours: Neighbours,
    policy: watch::Receiver<Option<Arc<Policy>>>,
    broker: Broker,
    upstream: Arc<Upstream>,
    witnesses: Option<Arc<Witnesses>>,
}

/// What `rolegate run` has before its runtime and threads exist: rights are given up by the one thread there is.
pub struct Prepared {
    config: Config,
    registry: Registry,
    telemetry: Telemetry,
    descriptors: usize,
    sockets: Sockets,
}

/// Sets logging up, opens every socket, and gives up the rights that were for that. Starts no thread before.
///
/// # Errors
/// When a capability is missing or a port is taken: the error names it.
pub fn prepare(config: Config) -> anyhow::Result<Prepared> {
    let registry = Registry::new();
    let telemetry = Telemetry::init(&config.log, &registry)?;
    process::log_panics();
    let privileges = Privileges::check(&config)?;
    process::announce(&config);
    let descriptors = process::raise_descriptor_limit();
    process::install_crypto_provider();
    let sockets = Sockets::open(&config)?;
    privileges.give_up_the_rest()?;
    telemetry.start()?;
    Ok(Prepared { config, registry, telemetry, descriptors, sockets })
}

/// `rolegate run`: serves until a signal or a task's failure.
///
/// # Errors
/// When something cannot be started, or a task ended by itself: the error names it.
pub async fn run(prepared: Prepared) -> anyhow::Result<()> {
    let Prepared { config, registry, telemetry, descriptors, sockets } = prepared;
    // The first process of a container ignores a signal that nothing waits for.
    let mut signals = process::Signals::new()?;
    let mut supervisor = Supervisor::new();
    let gates = Gates::new();
    let serving = gates.add("serving", "starting");
    let base = Base {
        accept_errors: AcceptErrors::register(&registry),
        config,
        registry,
        gates,
        clock: Clock::system(),
        telemetry,
        descriptors,
        instance_id: Arc::default(),
    };

    let Sockets { choice, app, admin, keeper, handover } = sockets;
    let stage = Stage::new(handover.follows(), supervisor.shutdown());
    let mut succession = stage.watch();
    let mode = choice.mode;
    let (redirect, pins) = start_redirect(&base, choice).await?;
    let wires = start_wires(&base, mode, pins.neighbours(), stage.charge(), &mut supervisor)?;
    start_redirect_task(redirect, &wires, stage.charge(), &mut supervisor);
    start_pins_task(pins, &wires, stage.charge(), &mut supervisor);
    start_prefetch(&base, &wires, &mut supervisor);
    let admin = start_admin(&base, &wires, admin, stage.charge(), &mut supervisor);
    start_server(&base, wires, app, admin, stage.queue(), &mut supervisor)?;
    let state_dir = base.config.imds.state_dir.clone();
    supervisor.spawn("keeper", handover::keep(keeper, state_dir, stage.charge()));
    let (gates, registry) = (base.gates.clone(), base.registry.clone());
    supervisor.spawn("handover", handover.run(stage, gates, registry, supervisor.shutdown()));
    start_ready_log(&base, &mut supervisor);
    serving.open();

    let ended = tokio::select! {
        name = signals.next() => {
            handover::wait_for_successor(&mut succession, &mut signals, name).await;
            info!(signal = name, "ending: started requests are answered");
            Ok(())
        }
        failure = supervisor.failed() => Err(anyhow::Error::new(failure)),
    };
    if let Err(error) = &ended {
        error!(%error, "ending");
    }
    serving.close("ending");
    drain(&mut supervisor, &mut signals, base.config.server.drain).await;
    drop(base.telemetry);
    ended
}

fn start_wires(
    base: &Base,
    mode: Mode,
    neighbours: Neighbours,
    charge: Charge,
    supervisor: &mut Supervisor,
) -> anyhow::Result<Wires> {
    let (watch, snapshots) = Watch::new(
        base.config.kubernetes.clone(),
        base.config.policy.keys.clone(),
        WatchGates {
            pods: base.gates.add("pods", "not listed yet"),
            namespaces: base.gates.add("namespaces", "not listed yet"),
        },
        &base.registry,
    );
    let node = watch.node();
    let witnesses = start_witnesses(base, mode, &watch, snapshots.clone(), neighbours.clone(), supervisor)?;
    start_own_node(base, node.clone(), charge, supervisor);
    let shutdown = supervisor.shutdown();
    supervisor.spawn("kubernetes-watch", async move {
        watch.run(shutdown).await;
        Ok(())
    });

    let upstream = Arc::new(Upstream::new(base.config.imds.upstream, &base.registry));
    let source = LateSource::default();
    let broker = Broker::new(
        Arc::new(source.clone()),
        base.config.credentials.clone(),
        base.clock.clone(),
        supervisor.tracker(),
        document::render_session,
        &base.registry,
    );
    let (running, shutdown) = (broker.clone(), supervisor.shutdown());
    supervisor.spawn("broker", async move {
        running.run(shutdown).await;
        Ok(())
    });

    let (publish, policy) = watch::channel(None);
    let learner = Learner {
        config: base.config.clone(),
        upstream: Arc::clone(&upstream),
        source,
        node,
        clock: base.clock.clone(),
        gate: base.gates.add("identity", "not asked yet"),
        instance_id: Arc::clone(&base.instance_id),
        policy: publish,
    };
    supervisor.spawn("node-identity", learner.run(supervisor.shutdown()));
    let addresses = start_addresses(supervisor);
    Ok(Wires { snapshots, addresses, neighbours, policy, broker, upstream, witnesses })
}

/// Where others bring pods' requests, nothing is known of how they come in.
fn start_witnesses(
    base: &Base,
    mode: Mode,
    watch: &Watch,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    neighbours: Neighbours,
    supervisor: &mut Supervisor,
) -> anyhow::Result<Option<Arc<Witnesses>>> {
    if mode == Mode::Operators {
        return Ok(None);
    }
    let cni_results = base.config.redirect.cni_results.clone();
    let witnesses = Witnesses::new(cni_results, watch.pods_fresh(), base.clock.clone())
        .context("changes of links and neighbours cannot be listened to")?;
    let (witnesses, shutdown) = (Arc::new(witnesses), supervisor.shutdown());
    let looking = Arc::clone(&witnesses);
    supervisor.spawn("witnesses", async move {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = looking.look_ahead(snapshots, neighbours) => {}
        }
        Ok(())
    });
    Ok(Some(witnesses))
}

/// Nothing is asked of the Node unless told to.
fn start_own_node(
    base: &Base,
    node: watch::Receiver<Option<String>>,
    charge: Charge,
    supervisor: &mut Supervisor,
) {
    let kubernetes = &base.config.kubernetes;
    let Some(taint) = kubernetes.startup_taint.clone() else { return };
    let own_node = OwnNode::new(kubernetes.clone(), taint, base.clock.clone(), &base.registry);
    let gates = base.gates.clone();
    supervisor.spawn("own-node", async move {
        while let Some(turn) = charge.turn().await {
            own_node.run(node.clone(), gates.clone(), turn.token()).await;
        }
        Ok(())
    });
}

fn start_addresses(supervisor: &mut Supervisor) -> watch::Receiver<Arc<HashSet<PodIp>>> {
    let (seen, addresses) = watch::channel(Arc::default());
    let shutdown = supervisor.shutdown();
    supervisor.spawn("node-addresses", async move {
        let following = rolegate_iptables::follow_addresses(|ips| {
            seen.send_replace(Arc::new(ips.into_iter().map(PodIp::new).collect()));
        });
        tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            ended = following => Ok(ended?),
        }
    });
    addresses
}

/// What pods will ask for depends on the policy: when that is known, or known better, it is computed anew.
fn start_prefetch(base: &Base, wires: &Wires, supervisor: &mut Supervisor) {
    let (snapshots, broker) = (wires.snapshots.clone(), wires.broker.clone());
    let (mut policies, shutdown) = (wires.policy.clone(), supervisor.shutdown());
    let mut complaints = Complaints::new(&base.registry);
    supervisor.spawn("prefetch", async move {
        loop {
            let policy = policies.borrow_and_update().clone();
            let (snapshots, broker) = (snapshots.clone(), broker.clone());
            tokio::select! {
                biased;
                () = prefetch::run(snapshots, policy, broker, &mut complaints, shutdown.clone()) => return Ok(()),
                changed = policies.changed() => changed?,
            }
        }
    });
}

fn start_admin(
    base: &Base,
    wires: &Wires,
    listener: Option<TcpListener>,
    charge: Charge,
    supervisor: &mut Supervisor,
) -> Arc<Admin> {
    let health = Health {
        host_ip: base.config.redirect.host_ips.first().copied(),
        instance_id: Arc::clone(&base.instance_id),
    };
    let mut admin = Admin::new(base.registry.clone(), base.gates.clone(), health);
    if base.config.debug {
        let store = store::page(wires.snapshots.clone(), wires.broker.clone());
        admin = admin.with_debug(DebugPages { store, levels: base.telemetry.levels() });
    }
    let admin = Arc::new(admin);
    if let Some(listener) = listener {
        let (admin, errors) = (Arc::clone(&admin), base.accept_errors.clone());
        supervisor.spawn("admin", async move {
            while let Some(turn) = charge.turn().await {
                let listener = tokio::net::TcpListener::from_std(listener.try_clone()?)?;
                Arc::clone(&admin).run(listener, errors.clone(), turn.token()).await?;
            }
            Ok(())
        });
    }
    admin
}

fn start_server(
    base: &Base,
    wires: Wires,
    listeners: Listeners,
    admin: Arc<Admin>,
    queue: watch::Receiver<Queue>,
    supervisor: &mut Supervisor,
) -> anyhow::Result<()> {
    let config = &base.config;
    let (tokens, warning) = TokenKey::load_or_create(&config.imds.state_dir);
    if let Some(warning) = warning {
        warn!(%warning, "tokens");
    }
    let metadata = MetadataPolicy::new(&config.imds.metadata_allow, config.imds.metadata_everything)
        .map_err(|mistakes| anyhow::anyhow!(mistakes.join("; ")))?;
    let mut identity =
        Identity::new(wires.snapshots, wires.addresses, &base.registry).among(wires.neighbours);
    if let Some(witnesses) = wires.witnesses {
        identity = identity.with_witnesses(witnesses);
    }
    let door = Door::new(
        With {
            tokens,
            metadata,
            identity,
            policy: wires.policy,
            broker: wires.broker,
            passthrough: Passthrough::new(wires.upstream, &base.registry),
            clock: base.clock.clone(),
            config: config.imds.clone(),
        },
        &base.registry,
    );
    let scope = if config.server.metrics_port == config.server.app_port {
        Scope::HealthAndMetrics
    } else {
        Scope::Health
    };
    let uncaptured = Uncaptured::new(move |head, socket| admin.answer(head, socket, scope));
    let entrance = Entrance::new(
        &config.server,
        config.imds.hold,
        base.descriptors,
        (door, uncaptured),
        supervisor.tracker(),
        &base.registry,
    );
    supervisor
        .spawn("server", entrance.run(listeners, base.accept_errors.clone(), queue, supervisor.shutdown()));
    Ok(())
}

/// Waits for all tasks and connections, but no longer than asked, and not at all after a second signal.
async fn drain(supervisor: &mut Supervisor, signals: &mut process::Signals, limit: Duration) {
    tokio::select! {
        () = supervisor.drain() => info!("ended"),
        () = tokio::time::sleep(limit) => warn!(seconds = limit.as_secs(), "ended with requests unanswered: the drain took too long"),
        name = signals.next() => warn!(signal = name, "ended at once: second signal"),
    }
}
