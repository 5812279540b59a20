//! What the rules should be: a pure function of the configuration and the uplinks.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};

use crate::family::{Family, IMDS_PORT};
use crate::interfaces::InterfaceSpec;

/// Our chain in `nat`, called first from `PREROUTING`.
pub const PREROUTING_CHAIN: &str = "ROLEGATE-PREROUTING";
/// Our chain in `filter`, called first from `FORWARD`.
pub const FORWARD_CHAIN: &str = "ROLEGATE-FORWARD";
/// On every rule of ours, so that whoever lists the rules sees whose they are.
const MARK: &str = "-m comment --comment rolegate";

/// What is wanted of the capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    interfaces: InterfaceSpec,
    target_v4: Option<SocketAddrV4>,
    target_v6: Option<SocketAddrV6>,
}

/// Why an address cannot be redirected to: the operator has to give another one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Loopback, unspecified, multicast, link-local (IPv6) or the metadata service itself.
    #[error(
        "traffic of pods cannot be redirected to {0}: it has to be an address of the node that pods reach"
    )]
    Address(IpAddr),
    /// Port 0.
    #[error("traffic of pods cannot be redirected to port 0")]
    Port,
    /// Two addresses of one family.
    #[error("two {0} addresses to redirect to: one at most")]
    Twice(Family),
}

/// The tables that we have rules in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Table {
    Filter,
    Nat,
}

/// One table's part: our chain, whole, and where it is called from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableRules {
    pub(crate) table: Table,
    /// In order; what follows `-A CHAIN `, written as `iptables-save` prints it. `None`: no chain of ours.
    pub(crate) rules: Option<Vec<String>>,
}

// === impl Desired ===

impl Desired {
    /// Redirects what comes in by `interfaces` to `port` on the `targets` of the node, at most one of each
    /// family. A family without a target is only kept from reaching the metadata service.
    ///
    /// # Errors
    /// When a target cannot be one. Loopback addresses cannot: the kernel drops what is redirected there
    /// unless `route_localnet` is on, which opens every loopback service to pods.
    pub fn new(interfaces: InterfaceSpec, targets: &[IpAddr], port: u16) -> Result<Self, TargetError> {
        if port == 0 {
            return Err(TargetError::Port);
        }
        let mut desired = Self { interfaces, target_v4: None, target_v6: None };
        for target in targets.iter().map(IpAddr::to_canonical) {
            let family = Family::of(target);
            if !is_usable(target) {
                return Err(TargetError::Address(target));
            }
            let before = match SocketAddr::new(target, port) {
                SocketAddr::V4(target) => desired.target_v4.replace(target).is_some(),
                SocketAddr::V6(target) => desired.target_v6.replace(target).is_some(),
            };
            if before {
                return Err(TargetError::Twice(family));
            }
        }
        Ok(desired)
    }

    /// Which interfaces.
    #[must_use]
    pub fn interfaces(&self) -> &InterfaceSpec {
        &self.interfaces
    }

    /// Where a family's traffic goes, if it is redirected.
    #[must_use]
    pub fn target(&self, family: Family) -> Option<SocketAddr> {
        match family {
            Family::V4 => self.target_v4.map(SocketAddr::V4),
            Family::V6 => self.target_v6.map(SocketAddr::V6),
        }
    }

    /// Both families' targets.
    #[must_use]
    pub fn targets(&self) -> Vec<SocketAddr> {
        Family::ALL.into_iter().filter_map(|family| self.target(family)).collect()
    }

    /// The ruleset of a family, the drop before the redirect.
    pub(crate) fn render(&self, family: Family, uplinks: &BTreeSet<String>) -> [TableRules; 2] {
        let redirect = self.target(family).map(|target| self.redirect(family, target, uplinks));
        [
            TableRules { table: Table::Filter, rules: Some(drops(family)) },
            TableRules { table: Table::Nat, rules: redirect },
        ]
    }

    fn redirect(&self, family: Family, target: SocketAddr, uplinks: &BTreeSet<String>) -> Vec<String> {
        let pass = |name: &str| format!("-i {name} {MARK} -j RETURN");
        let to_imds = imds_net(family);
        let dnat = |input: &str| {
            format!(
                "-d {to_imds} {input}-p tcp {MARK} -m tcp --dport {IMDS_PORT} -j DNAT --to-destination {target}"
            )
        };
        match &self.interfaces {
            InterfaceSpec::Only(patterns) => {
                patterns.iter().map(|pattern| dnat(&format!("-i {pattern} "))).collect()
            }
            InterfaceSpec::Except(patterns) => {
                patterns.iter().map(|pattern| pass(pattern.as_str())).chain([dnat("")]).collect()
            }
            InterfaceSpec::Auto => {
                let uplinks = uplinks.iter().map(String::as_str).filter(|name| *name != "lo");
                ["lo"].into_iter().chain(uplinks).map(pass).chain([dnat("")]).collect()
            }
        }
    }
}

// === impl Table ===

impl Table {
    pub(crate) const ALL: [Self; 2] = [Self::Filter, Self::Nat];

    /// As `-t` takes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }

    /// The kernel's chain that ours is called from.
    pub(crate) fn hook(self) -> &'static str {
        match self {
            Self::Filter => "FORWARD",
            Self::Nat => "PREROUTING",
        }
    }

    /// Our chain.
    pub(crate) fn chain(self) -> &'static str {
        match self {
            Self::Filter => FORWARD_CHAIN,
            Self::Nat => PREROUTING_CHAIN,
        }
    }

    /// The rule that calls our chain.
    pub(crate) fn jump(self) -> String {
        format!("{MARK} -j {}", self.chain())
    }
}

/// Nothing to or from the metadata service is forwarded. What is redirected is not forwarded but delivered
/// here; a connection that is older than the redirect is, and would otherwise stay with the real service:
/// its answer in flight re-creates the conntrack entry that was deleted.
fn drops(family: Family) -> Vec<String> {
    let imds = imds_net(family);
    vec![format!("-d {imds} {MARK} -j DROP"), format!("-s {imds} {MARK} -j DROP")]
}

fn is_usable(target: IpAddr) -> bool {
    let special = target.is_loopback() || target.is_unspecified() || target.is_multicast();
    let link_local = matches!(target, IpAddr::V6(target) if target.is_unicast_link_local());
    !special && !link_local && target != Family::of(target).imds()
}

fn imds_net(family: Family) -> String {
    let bits = match family {
        Family::V4 => 32,
        Family::V6 => 128,
    };
    format!("{}/{bits}", family.imds())
}

#[cfg(test)]
mod tests;
