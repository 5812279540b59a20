//! What the process was told to do, validated: plain data, one struct a component.

mod mistakes;
mod sections;
mod values;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::args::{self, Invocation, RunArgs};
use crate::types::Secret;

pub use crate::args::{EXIT_USAGE, Exit};
pub use mistakes::{ConfigError, ConfigErrors};

pub use crate::policy::{AnnotationKeys, PatternFormat, Restrictions, Rules as Policy};

/// What the process is to do.
#[derive(Clone, Debug)]
pub enum Command {
    /// Answer pods until stopped.
    Run(Box<Config>),
    /// Put the guards up.
    Guard {
        /// `--rule-preference`: of the first policy rule.
        preference: u32,
        /// For machines.
        json: bool,
    },
    /// Remove what is ours.
    Cleanup {
        /// The peers' rules as well.
        peers: bool,
        /// Do not end afterwards.
        stay: bool,
        /// For machines.
        json: bool,
    },
    /// Ask the metadata service as a pod does.
    Probe {
        /// `--wait`: how long it is asked again where nobody answers or the pod is not known yet.
        patience: Duration,
        /// For machines.
        json: bool,
    },
}

/// Everything `rolegate run` needs.
#[derive(Clone, Debug)]
pub struct Config {
    /// How the API server is reached, and which node this is.
    pub kubernetes: Kubernetes,
    /// Role resolution and permission.
    pub policy: Policy,
    /// What is asked of IMDS at start.
    pub discovery: Discovery,
    /// STS and the broker.
    pub credentials: Credentials,
    /// What pods see.
    pub imds: Imds,
    /// Listeners and limits.
    pub server: Server,
    /// Capture.
    pub redirect: Redirect,
    /// Logging.
    pub log: Log,
    /// `/debug/store` on loopback.
    pub debug: bool,
    /// Sentences about flags that are accepted and do nothing, or that surprise; logged at start.
    pub warnings: Vec<String>,
}

/// How the API server is reached, and which node this is.
#[derive(Clone, Debug)]
pub struct Kubernetes {
    /// Where and as whom.
    pub api: ApiSource,
    /// Skip verification of the API server's certificate.
    pub insecure: bool,
    /// The node whose pods are watched.
    pub node: NodeSelection,
    /// `--cache-resync-period`: the watches are listed anew this often (with jitter).
    pub resync: Duration,
    /// `--pin-roles`: a pod keeps the role it was first seen with.
    pub pin_roles: bool,
    /// `--startup-taint`: the key of the taint that is removed from the node when the agent is ready.
    pub startup_taint: Option<String>,
}

/// Where the API server is.
#[derive(Clone, Debug)]
pub enum ApiSource {
    /// The service account's token and CA, as mounted into a pod.
    InCluster,
    /// A kubeconfig file.
    Kubeconfig(PathBuf),
    /// `--api-server` and `--api-token`.
    Server {
        /// `https://host:port`.
        url: String,
        /// Bearer token.
        token: Option<Secret>,
    },
}

/// Which node this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeSelection {
    /// `--node`.
    Name(String),
    /// The node of the pod whose `status.podIP` is this address (`--host-ip`).
    ByHostIp(IpAddr),
}

/// What is asked of IMDS (and of STS by one GetCallerIdentity) at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// `--auto-discover-base-arn`: from `iam/info`.
    pub base_arn: bool,
    /// `--auto-discover-default-role`: what `security-credentials/` lists.
    pub default_role: bool,
}

/// STS and the broker. See [`crate::credentials`].
#[derive(Clone, Debug)]
pub struct Credentials {
    /// `--iam-role-session-ttl`: a session of this age is refreshed.
    pub refresh_age: Duration,
    /// `--iam-role-error-ttl`: how long a refusal is remembered; absent: 15 s growing to 2 min.
    pub error_ttl: Option<Duration>,
    /// Most calls in flight (32).
    pub calls_in_flight: usize,
    /// Size of the bucket of calls (50).
    pub calls_burst: u32,
    /// Refill of the bucket, calls per second (5).
    pub calls_per_second: u32,
    /// `--prefetch`: fetch before a pod asks.
    pub prefetch: bool,
    /// `--region`, `AWS_REGION`, `AWS_DEFAULT_REGION`; absent: IMDS.
    pub region: Option<String>,
    /// `--use-regional-sts-endpoint=false` asks the global endpoint.
    pub regional_endpoint: bool,
}

/// What pods see. See [`crate::imds`].
#[derive(Clone, Debug)]
pub struct Imds {
    /// `--metadata-addr`: the real IMDS, `169.254.169.254:80`.
    pub upstream: SocketAddr,
    /// `--imds-v1=allow` serves requests without a token.
    pub allow_v1: bool,
    /// `--metadata-allow`: further patterns that may be passed through (below `meta-data/` or `dynamic/`).
    pub metadata_allow: Vec<String>,
    /// `--profile=kube2iam` without `--metadata-allow`: all that is not on the never-list is passed through.
    pub metadata_everything: bool,
    /// `/var/lib/rolegate`: the token key.
    pub state_dir: PathBuf,
    /// Longest that a request is held (900 ms; `--backoff-max-elapsed-time` shortens it).
    pub hold: Duration,
    /// IP TTL of token answers (`--token-hop-limit`, 1).
    pub token_hop_limit: u8,
}

/// Listeners and limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `--app-port`, 8181.
    pub app_port: u16,
    /// `--metrics-port`, 9543. The same number as `app_port` puts `/metrics` there as well.
    pub metrics_port: u16,
    /// Connections served at once per pod (128).
    pub connections_per_pod: usize,
    /// Connections served at once in all.
    pub connections: usize,
    /// `--drain-timeout`.
    pub drain: Duration,
}

/// Capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `--redirect`, or `--iptables`.
    pub mode: RedirectMode,
    /// `--host-interface`, as written: `auto`, or a list with `+` and `!`.
    pub interfaces: String,
    /// `--host-ip` addresses, at most one of each family.
    pub host_ips: Vec<IpAddr>,
    /// How often the rules are compared when nothing says they changed.
    pub reconcile_every: Duration,
    /// `--rule-preference`: of the first policy rule.
    pub preference: u32,
    /// `--route-table`: of capture `route`.
    pub table: u32,
    /// `--shared-l2`.
    pub shared_l2: SharedL2,
    /// `--cni-results`: the directory where libcni keeps what plugins returned.
    pub cni_results: PathBuf,
}

/// What becomes of pods that share an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SharedL2 {
    /// Their addresses are believed.
    Allow,
    /// Each port of a bridge is held to its own address.
    Pin,
    /// They get no credentials.
    Refuse,
}

/// Which capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedirectMode {
    /// `Route` where it works, else `Iptables`.
    Auto,
    /// DNAT and FORWARD drops.
    Iptables,
    /// Policy routing to a listener on the IMDS addresses.
    Route,
    /// The operator's own.
    None,
}

/// Logging.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// `--log-format`.
    pub format: LogFormat,
    /// `--log-level` (or `debug` with `--verbose`): error, warn, info, debug, trace.
    pub level: String,
}

/// Text for people or JSON for machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of text.
    Text,
    /// One JSON object a line.
    Json,
}

/// Reads the command line (with the program's name) and the environment.
///
/// # Errors
/// [`Exit`]: what to print and the code to end with, for help and version (0) and for mistakes (64, all of them).
pub fn parse(argv: impl Iterator<Item = OsString>) -> Result<Command, Exit> {
    command(args::read(argv)?, args::environment)
}

fn command(invocation: Invocation, env: impl Fn(&str) -> Option<String>) -> Result<Command, Exit> {
    let mistaken = |errors: ConfigErrors| args::usage(&errors.to_string());
    match invocation {
        Invocation::Run { args, unknown } => Config::from_args(&args, unknown, env)
            .map(|config| Command::Run(Box::new(config)))
            .map_err(mistaken),
        Invocation::Guard(args) => sections::guard(&args).map_err(mistaken),
        Invocation::Cleanup(args) => sections::cleanup(&args).map_err(mistaken),
        Invocation::Probe(args) => sections::probe(&args).map_err(mistaken),
    }
}

// === impl Config ===

impl Config {
    /// Validates flags. `unknown` are those that there are not, each in a sentence; `env` reads the variables
    /// of AWS that stand in for flags.
    ///
    /// # Errors
    /// [`ConfigErrors`]: every mistake, with the flag, its value and what is allowed.
    pub fn from_args(
        args: &RunArgs,
        unknown: Vec<String>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigErrors> {
        sections::build(args, unknown, &env)
    }
}
