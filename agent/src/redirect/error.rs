//! What can be wrong with a redirect.

use rolegate_iptables::InterfaceSpecError;
use rolegate_iptables::guard::GuardError;
use rolegate_iptables::iptables::{self, TargetError};
use rolegate_iptables::links::LinkError;

/// Why the redirect cannot be what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    /// `--host-interface`: the operator has to write it differently.
    #[error("--host-interface: {0}")]
    Interfaces(#[from] InterfaceSpecError),
    /// `--host-ip`: the operator has to give another one.
    #[error("--host-ip: {0}")]
    Target(#[from] TargetError),
    /// `--host-ip` is needed.
    #[error("--host-ip: an address of this node that pods' traffic is redirected to has to be given")]
    NoTarget,
    /// Neither capture of `--redirect=auto` can be had.
    #[error(
        "--redirect=auto: route cannot be had: {0}; iptables needs --host-ip, the address of this node that pods' traffic is redirected to"
    )]
    Neither(String),
    /// Links and routes could not be read.
    #[error(transparent)]
    Links(#[from] LinkError),
    /// Capture `route` does not stand.
    #[error("policy routing: {0}")]
    Routing(#[source] LinkError),
    /// Rules could not be read or written.
    #[error(transparent)]
    Iptables(#[from] iptables::Error),
    /// A guard does not stand.
    #[error(transparent)]
    Guard(#[from] GuardError),
}
