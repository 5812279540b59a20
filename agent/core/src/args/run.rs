//! The flags of `run`: their names, groups and help. Every value is text here.
//!
//! The first paragraph of a flag is its meaning, with its default in brackets; the second says what it is for
//! kube2iam. docs/flags.md is made of both.

use std::convert::Infallible;

use clap::Args;

use crate::types::Secret;

/// The taint that the bare `--startup-taint` means.
pub const STARTUP_TAINT: &str = "rolegate/agent-not-ready";

/// All flags of `run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Kubernetes.
    #[command(flatten)]
    pub kubernetes: KubernetesArgs,
    /// Roles.
    #[command(flatten)]
    pub roles: RoleArgs,
    /// Namespaces.
    #[command(flatten)]
    pub namespaces: NamespaceArgs,
    /// Credentials.
    #[command(flatten)]
    pub credentials: CredentialsArgs,
    /// Metadata.
    #[command(flatten)]
    pub metadata: MetadataArgs,
    /// Listeners.
    #[command(flatten)]
    pub server: ServerArgs,
    /// Redirect.
    #[command(flatten)]
    pub redirect: RedirectArgs,
    /// Logs and profile.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Kubernetes: as written.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Kubernetes")]
pub struct KubernetesArgs {
    /// Node whose pods are served; without it, the node of the pod whose address is --host-ip
    ///
    /// kube2iam: all pods were watched without it
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Kubeconfig to use outside of a cluster
    ///
    /// kube2iam: the same
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<String>,
    /// API server to use outside of a cluster, https://host:port
    ///
    /// kube2iam: the same
    #[arg(long, value_name = "URL")]
    pub api_server: Option<String>,
    /// Bearer token for --api-server
    ///
    /// kube2iam: the same
    #[arg(long, value_name = "TOKEN", value_parser = secret)]
    pub api_token: Option<Secret>,
    /// Does not verify the API server's certificate [default: false]
    ///
    /// kube2iam: the same
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub insecure: Option<String>,
    /// Lists pods and namespaces anew this often [default: 30m]
    ///
    /// kube2iam: the same
    #[arg(long, value_name = "TIME")]
    pub cache_resync_period: Option<String>,
    /// Takes the taint of this key off the node, and keeps the node's condition rolegate/Ready true, while pods' requests are captured and answered (rights: deploy/startup-taint.yaml); the bare flag means rolegate/agent-not-ready
    #[arg(long, value_name = "KEY", num_args = 0..=1, require_equals = true, default_missing_value = STARTUP_TAINT)]
    pub startup_taint: Option<String>,
}

/// Roles: as written.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Roles")]
pub struct RoleArgs {
    /// What role names are completed with, arn:aws:iam::123456789012:role/
    ///
    /// kube2iam: the same; with its path, as there
    #[arg(long, value_name = "ARN")]
    pub base_role_arn: Option<String>,
    /// Takes the base ARN's account and partition from the instance metadata [default: false]
    ///
    /// kube2iam: the same
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub auto_discover_base_arn: Option<String>,
    /// Role of pods without the annotation; subject to their namespace's list
    ///
    /// kube2iam: the same, but no list was asked
    #[arg(long, value_name = "ROLE")]
    pub default_role: Option<String>,
    /// The default role is the node's own; needs --allow-node-role [default: false]
    ///
    /// kube2iam: the same, without asking
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub auto_discover_default_role: Option<String>,
    /// Does not refuse the node's own role [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub allow_node_role: Option<String>,
    /// Pod annotation with the role [default: iam.amazonaws.com/role]
    ///
    /// kube2iam: the same
    #[arg(long, value_name = "KEY")]
    pub iam_role_key: Option<String>,
    /// Pod annotation with the external id [default: iam.amazonaws.com/external-id]
    ///
    /// kube2iam: the same
    #[arg(long, value_name = "KEY")]
    pub iam_external_id: Option<String>,
    /// Session name, of {namespace}, {service-account}, {pod}, {node}, {role} and text; pods with the same name and role share a session [default: {namespace}.{service-account}]
    ///
    /// kube2iam: a hash of the first asker's address
    #[arg(long, value_name = "TEMPLATE")]
    pub session_name: Option<String>,
    /// A pod keeps the role it was first seen with, whatever becomes of its annotation [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub pin_roles: Option<String>,
}

/// Namespaces: as written.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Namespaces")]
pub struct NamespaceArgs {
    /// Lists of allowed roles: enforce (no list allows nothing), annotated (only where there is a list), audit (serves, logs and counts), off; the bare flag and true mean enforce, false means off [default: enforce]
    ///
    /// kube2iam: off by default; as it was with --profile=kube2iam
    #[arg(long, value_name = "MODE", num_args = 0..=1, require_equals = true, default_missing_value = "enforce")]
    pub namespace_restrictions: Option<String>,
    /// How a list's entries are read: glob (* stays within a path segment, ** crosses /) or regexp (anchored as a whole) [default: glob]
    ///
    /// kube2iam: * crossed / and :, and regexp was not anchored
    #[arg(long, value_name = "FORMAT")]
    pub namespace_restriction_format: Option<String>,
    /// Namespace annotation with the list, a JSON array of names, paths and ARNs [default: iam.amazonaws.com/allowed-roles]
    ///
    /// kube2iam: the same; an array that does not parse allows nothing
    #[arg(long, value_name = "KEY")]
    pub namespace_key: Option<String>,
    /// Namespace annotation with kiam's regular expression over the ARN, read where there is no list [default: iam.amazonaws.com/permitted]
    #[arg(long, value_name = "KEY")]
    pub namespace_permitted_key: Option<String>,
    /// Namespace annotation with the role of its pods without the annotation; goes before --default-role [default: iam.amazonaws.com/default-role]
    #[arg(long, value_name = "KEY")]
    pub namespace_default_role_key: Option<String>,
}

/// Credentials: as written.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Credentials")]
pub struct CredentialsArgs {
    /// Age at which a session is refreshed; shorter than --session-duration [default: 15m]
    ///
    /// kube2iam: the same; sessions lasted twice as long
    #[arg(long, value_name = "TIME")]
    pub iam_role_session_ttl: Option<String>,
    /// How long a session STS is asked for, 15m to 12h [default: 1h, or twice --iam-role-session-ttl where that is longer]
    ///
    /// kube2iam: twice --iam-role-session-ttl
    #[arg(long, value_name = "TIME")]
    pub session_duration: Option<String>,
    /// How long a refusal of STS is remembered; 0: 15 s growing to 2 min, and forgotten when the pod or its annotation changes [default: 0]
    ///
    /// kube2iam: 0 remembered nothing
    #[arg(long, value_name = "TIME")]
    pub iam_role_error_ttl: Option<String>,
    /// Region of STS; without it AWS_REGION, AWS_DEFAULT_REGION, the instance metadata
    ///
    /// kube2iam: AWS_REGION alone
    #[arg(long, value_name = "REGION")]
    pub region: Option<String>,
    /// Asks STS in the region; false asks the global endpoint [default: true]
    ///
    /// kube2iam: had no effect
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub use_regional_sts_endpoint: Option<String>,
    /// Gets credentials as soon as a pod is seen [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub prefetch: Option<String>,
    /// Calls to STS at once [default: 32]
    ///
    /// kube2iam: no limit
    #[arg(long, value_name = "COUNT")]
    pub sts_calls_in_flight: Option<String>,
    /// Calls to STS in one go [default: 50]
    ///
    /// kube2iam: no limit
    #[arg(long, value_name = "COUNT")]
    pub sts_burst: Option<String>,
    /// Calls to STS per second after that [default: 5]
    ///
    /// kube2iam: no limit
    #[arg(long, value_name = "COUNT")]
    pub sts_rate: Option<String>,
}

/// Metadata: as written.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Metadata")]
pub struct MetadataArgs {
    /// The real instance metadata service, address or address:port [default: 169.254.169.254]
    ///
    /// kube2iam: the same
    #[arg(long, value_name = "ADDRESS")]
    pub metadata_addr: Option<String>,
    /// Further metadata that pods may read, below meta-data/ (or dynamic/ where it begins so); may be given several times or as a list; iam, identity-credentials and user-data stay closed
    ///
    /// kube2iam: everything was passed on; as it was, but for what stays closed, with --profile=kube2iam
    #[arg(long, value_name = "PATTERNS")]
    pub metadata_allow: Vec<String>,
    /// Requests without a token: allow or deny; a namespace's annotation iam.amazonaws.com/imds-v1 goes before it [default: allow]
    ///
    /// kube2iam: allow
    #[arg(long, value_name = "MODE")]
    pub imds_v1: Option<String>,
    /// IP hop limit of token answers, 1 to 255 [default: 1]
    ///
    /// kube2iam: that of the instance
    #[arg(long, value_name = "COUNT")]
    pub token_hop_limit: Option<String>,
    /// Keeps the key of tokens across restarts; a new agent of the node takes over from the old one through it [default: /var/lib/rolegate]
    #[arg(long, value_name = "DIRECTORY")]
    pub state_dir: Option<String>,
    /// Longest that a request waits for its pod or for STS, at most 900ms [default: 900ms]
    ///
    /// kube2iam: 2s, longer than the SDKs wait
    #[arg(long, value_name = "TIME")]
    pub backoff_max_elapsed_time: Option<String>,
    /// Has no effect: a request is woken by the pod's event and does not poll
    ///
    /// kube2iam: 1s
    #[arg(long, value_name = "TIME")]
    pub backoff_max_interval: Option<String>,
}

/// Listeners: as written.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Listeners")]
pub struct ServerArgs {
    /// Port that pods' requests are redirected to [default: 8181]
    ///
    /// kube2iam: the same
    #[arg(long, value_name = "PORT")]
    pub app_port: Option<String>,
    /// Port of /metrics, /healthz, /livez and /readyz; with --app-port's number /metrics and /healthz are served there as well [default: 9543]
    ///
    /// kube2iam: 8181
    #[arg(long, value_name = "PORT")]
    pub metrics_port: Option<String>,
    /// Connections of one pod at once [default: 128]
    ///
    /// kube2iam: no limit
    #[arg(long, value_name = "COUNT")]
    pub connections_per_pod: Option<String>,
    /// Connections at once in all [default: 4096]
    ///
    /// kube2iam: no limit
    #[arg(long, value_name = "COUNT")]
    pub max_connections: Option<String>,
    /// Longest that requests are waited for at the end [default: 10s]
    ///
    /// kube2iam: none were
    #[arg(long, value_name = "TIME")]
    pub drain_timeout: Option<String>,
    /// Serves /debug/store on loopback [default: false]
    ///
    /// kube2iam: on every address
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub debug: Option<String>,
}

/// Redirect: as written.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Redirect")]
pub struct RedirectArgs {
    /// Redirects pods' requests by iptables; needs --host-ip [default: false]
    ///
    /// kube2iam: the same
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub iptables: Option<String>,
    /// How pods' requests are redirected: iptables (the same as --iptables), route (policy routing to a listener on the metadata addresses themselves; no netfilter, no port), auto (route where it works, else iptables) or none (by somebody else) [default: none]
    #[arg(long, value_name = "MODE")]
    pub redirect: Option<String>,
    /// Preference of the first policy rule; the four numbers after it are ours, too [default: 2]
    #[arg(long, value_name = "NUMBER")]
    pub rule_preference: Option<String>,
    /// Number of the routing table of --redirect=route [default: 43518]
    #[arg(long, value_name = "NUMBER")]
    pub route_table: Option<String>,
    /// Pods that share an interface, as on a bridge, and can forge each other's addresses: pin (each bridge port is held to the address of its pod; who is not pinned gets no credentials), refuse (no credentials for them) or allow (the address is believed) [default: pin]
    ///
    /// kube2iam: allow
    #[arg(long, value_name = "MODE")]
    pub shared_l2: Option<String>,
    /// Directory of what CNI plugins returned, which says whose a bridge port is; a port that is not in it is held to the first address that it claims, if it is newer than the agent [default: /var/lib/cni/results]
    #[arg(long, value_name = "DIRECTORY")]
    pub cni_results: Option<String>,
    /// Interfaces of pods, a list with + for any ending and ! for all but; auto: all but those of the default routes [default: auto]
    ///
    /// kube2iam: docker0; no lists, no !
    #[arg(long, value_name = "NAMES")]
    pub host_interface: Option<String>,
    /// The node's address, one of each family; may be given several times or as a list
    ///
    /// kube2iam: one IPv4 address
    #[arg(long, value_name = "ADDRESSES")]
    pub host_ip: Vec<String>,
    /// How often the rules are compared where nothing says that they changed, 1s to 5s [default: 5s]
    ///
    /// kube2iam: never
    #[arg(long, value_name = "TIME")]
    pub reconcile_period: Option<String>,
    /// Has no effect: of several pods with one address the live one is served, and several live ones are refused
    ///
    /// kube2iam: listed all pods at each request
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub resolve_duplicate_cache_ips: Option<String>,
}

/// Logs and profile: as written.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Logs and profile")]
pub struct LogArgs {
    /// text or json [default: text]
    ///
    /// kube2iam: the same
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// error, warn, info, debug or trace [default: info]
    ///
    /// kube2iam: the same names; panic and fatal mean error
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Means --log-level=debug [default: false]
    ///
    /// kube2iam: the same
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub verbose: Option<String>,
    /// Defaults of rolegate, or of kube2iam: restrictions off, all metadata passed on but for what stays closed; flags go before it [default: rolegate]
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
}

#[allow(clippy::unnecessary_wraps, reason = "the shape of a value parser")]
fn secret(text: &str) -> Result<Secret, Infallible> {
    Ok(Secret::new(text.to_owned()))
}
