//! How the API server is reached, and which node this is.

use std::net::IpAddr;
use std::time::Duration;

use super::super::mistakes::{ConfigError, Findings, flag};
use super::super::{ApiSource, Kubernetes, NodeSelection, values};
use super::DAY;
use crate::args::{KubernetesArgs, RunArgs, STARTUP_TAINT};

/// Of `--cache-resync-period`, where it is not given; kube2iam's.
const RESYNC: Duration = Duration::from_secs(1800);

/// Shortest that everything is listed anew: 10,000 namespaces are a load for the API server.
const SHORTEST_RESYNC: Duration = Duration::from_secs(60);

/// `host_ips`: as far as they are addresses; nothing where none is given.
pub(super) fn build(found: &mut Findings, args: &RunArgs, host_ips: Option<&[IpAddr]>) -> Kubernetes {
    let pin_roles = found.boolean(flag("--pin-roles", &args.roles.pin_roles), false);
    let args = &args.kubernetes;
    let insecure = found.boolean(flag("--insecure", &args.insecure), false);
    if insecure {
        found.warn(
            "--insecure: the API server is not verified, so whoever answers in its place says which pod gets which role",
        );
    }
    Kubernetes {
        api: api(found, args),
        insecure,
        node: node(found, args, host_ips),
        resync: resync(found, args),
        pin_roles,
        startup_taint: startup_taint(found, args),
    }
}

fn api(found: &mut Findings, args: &KubernetesArgs) -> ApiSource {
    let server = flag("--api-server", &args.api_server);
    let kubeconfig = flag("--kubeconfig", &args.kubeconfig).value;
    let token = args.api_token.as_ref().filter(|token| !token.expose().is_empty());
    if server.value.is_some() && kubeconfig.is_some() {
        found.conflict("--kubeconfig", "--api-server", "each says where the API server is");
    }
    if server.value.is_none() && token.is_some() {
        found.missing("--api-token goes with --api-server, which is not given");
    }
    if token.is_some_and(|token| !token.expose().bytes().all(|b| b.is_ascii_graphic())) {
        found.missing("--api-token: a token is printable ASCII without spaces (its value is not shown)");
    }
    match (server.value, kubeconfig) {
        (Some(url), _) => {
            if url.contains('@') {
                found.missing("--api-server: a URL with a password is not taken; use --api-token");
            } else if found.take(server, "a URL such as https://10.0.0.1:6443", api_server).is_some()
                && url.starts_with("http://")
            {
                found.warn("--api-server: http is neither private nor verified; use https");
            }
            ApiSource::Server { url: url.to_owned(), token: token.cloned() }
        }
        (None, Some(path)) => ApiSource::Kubeconfig(path.into()),
        (None, None) => ApiSource::InCluster,
    }
}

fn api_server(url: &str) -> Option<http::Uri> {
    let uri: http::Uri = url.parse().ok()?;
    let scheme = matches!(uri.scheme_str(), Some("https" | "http"));
    (scheme && uri.host().is_some_and(|host| !host.is_empty())).then_some(uri)
}

fn node(found: &mut Findings, args: &KubernetesArgs, host_ips: Option<&[IpAddr]>) -> NodeSelection {
    let name = flag("--node", &args.node);
    let allowed = "a node's name: small letters, digits, - and .";
    let read = found.take(name, allowed, |text| values::is_dns_subdomain(text).then(|| text.to_owned()));
    match (read, host_ips.and_then(<[IpAddr]>::first)) {
        (Some(name), _) => NodeSelection::Name(name),
        (None, Some(address)) => NodeSelection::ByHostIp(*address),
        (None, None) => {
            if name.value.is_none() && host_ips.is_none() {
                found.mistakes.push(ConfigError::Missing(
                    "--node=NAME is needed, or --host-ip=ADDRESS, by which the node is found; pods of all nodes are never served",
                ));
            }
            NodeSelection::Name(String::new())
        }
    }
}

/// Written as a switch it is one: a key without a domain could be one's idea of it, such as `no`.
fn startup_taint(found: &mut Findings, args: &KubernetesArgs) -> Option<String> {
    let allowed = "a boolean, or the key of a taint with its domain, such as example.com/new-node";
    let key = |text: &str| match values::boolean(text) {
        Some(on) => Some(on.then(|| STARTUP_TAINT.to_owned())),
        None => (text.contains('/') && values::is_annotation_key(text)).then(|| Some(text.to_owned())),
    };
    found.take(flag("--startup-taint", &args.startup_taint), allowed, key).flatten()
}

fn resync(found: &mut Findings, args: &KubernetesArgs) -> Duration {
    let period = flag("--cache-resync-period", &args.cache_resync_period);
    let read = found.take(period, "a time, such as 30m", values::duration).unwrap_or(RESYNC);
    if read.is_zero() {
        return DAY;
    }
    if read < SHORTEST_RESYNC {
        found.warn("--cache-resync-period is shorter than 1m, which is taken instead: everything is listed again each time");
    }
    read.clamp(SHORTEST_RESYNC, DAY)
}
