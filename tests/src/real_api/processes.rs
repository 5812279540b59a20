//! The processes of a real API server.

use std::fs::File;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::Result;

use super::{ADMIN, AGENT, apiserver, audit};
use crate::netns::NetNs;
use crate::service::Service;

pub(crate) fn start_etcd(ns: &NetNs, dir: &Path) -> Result<Service> {
    let mut command = ns.command("etcd");
    command.arg("--data-dir").arg(dir.join("etcd")).args([
        "--unsafe-no-fsync",
        "--log-level=warn",
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
    ]);
    Service::start("etcd", &mut command, Some(File::create(dir.join("etcd.log"))?))
}

pub(super) fn start_apiserver(ns: &NetNs, dir: &Path, address: SocketAddr) -> Result<Service> {
    let mut tokens = File::create(dir.join("tokens.csv"))?;
    writeln!(tokens, "{ADMIN},admin,1,system:masters\n{AGENT},rolegate,2")?;
    // For signing service-account tokens, which nobody here asks for.
    let (private, public) = (dir.join("sa.key"), dir.join("sa.pub"));
    let key = rcgen::KeyPair::generate()?;
    std::fs::write(&private, key.serialize_pem())?;
    std::fs::write(&public, key.public_key_pem())?;
    let ip: IpAddr = address.ip();
    let mut command = ns.command(apiserver());
    command
        .arg(format!("--advertise-address={ip}"))
        .arg(format!("--bind-address={ip}"))
        .arg(format!("--secure-port={}", address.port()))
        .arg(format!("--cert-dir={}", dir.display()))
        .arg(format!("--token-auth-file={}", dir.join("tokens.csv").display()))
        .args(audit::flags(dir)?)
        .arg(format!("--service-account-key-file={}", public.display()))
        .arg(format!("--service-account-signing-key-file={}", private.display()))
        .args([
            "--etcd-servers=http://127.0.0.1:2379",
            "--authorization-mode=RBAC",
            "--disable-admission-plugins=ServiceAccount",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.96.0.0/24",
            "--endpoint-reconciler-type=none",
            "--max-mutating-requests-inflight=1000",
        ]);
    Service::start("kube-apiserver", &mut command, Some(File::create(dir.join("apiserver.log"))?))
}

pub(super) fn end_of(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
