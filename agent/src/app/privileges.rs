//! What the process may do: named when it is too little, and given up when it is more than is needed.
//!
//! `NET_ADMIN` is kept, because the rules are mended as long as the agent runs. `NET_BIND_SERVICE` and `SETPCAP` are
//! for the start alone. `NET_RAW` is asked for, and kept, only where the node has legacy tables: `iptables-legacy` talks to
//! the kernel through a raw socket each time, to make our rules and to find those that an earlier run left. Names are
//! without `CAP_`, as in manifests.

use std::fmt;
use std::io;

use rolegate_iptables::IMDS_PORT;
use rolegate_iptables::iptables::{legacy_in_use, search_path};
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};
use tracing::{info, warn};

use crate::config::{Config, RedirectMode};

/// The first port that may be bound without `NET_BIND_SERVICE`, as the kernel has it until told otherwise.
const UNPRIVILEGED_PORT_START: u16 = 1024;

/// Why the process may not do what it must, or cannot give up what it need not.
#[derive(Debug, thiserror::Error)]
pub(super) enum PrivilegeError {
    /// The operator has to give them.
    #[error(
        "{0}; where rolegate runs in a container, securityContext.capabilities.add has to have it \
         (deploy/daemonset.yaml)"
    )]
    Missing(Missing),
    /// The kernel, or a seccomp profile, refuses.
    #[error("capabilities cannot be read, or not given up")]
    Kernel(#[from] io::Error),
    /// A defect: threads keep what they were started with.
    #[error("capabilities are given up while there are {0} threads instead of one")]
    Threads(usize),
}

/// Capabilities, and what cannot be done without each.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Missing(Vec<(CapabilitySet, String)>);

/// Collects what is missing.
struct Needs {
    effective: CapabilitySet,
    missing: Missing,
}

/// What is kept, found out before anything is touched.
#[derive(Debug)]
pub(super) struct Privileges {
    kept: CapabilitySet,
    /// What stays in the bounding set, since it cannot be taken out.
    stays_bounding: CapabilitySet,
}

/// What the process has, and how its node is.
#[derive(Debug, Clone, Copy)]
struct Found {
    effective: CapabilitySet,
    bounding: CapabilitySet,
    unprivileged_port_start: u16,
    legacy_tables: bool,
}

/// Why `NET_RAW`.
const LEGACY: &str = "this node has legacy tables, and iptables-legacy cannot read them without it";

// === impl Privileges ===

impl Privileges {
    /// Looks whether what `config` asks for can be done.
    ///
    /// # Errors
    /// All capabilities that are missing.
    pub(super) fn check(config: &Config) -> Result<Self, PrivilegeError> {
        Ok(Self::of(config.redirect.mode, &ports(config), Found::now()?)?)
    }

    /// `ports` are those that have to be listened at.
    fn of(mode: RedirectMode, ports: &[u16], found: Found) -> Result<Self, Missing> {
        let mut kept = CapabilitySet::NET_ADMIN;
        let legacy_tables = found.legacy_tables && mode != RedirectMode::None;
        if legacy_tables {
            kept |= CapabilitySet::NET_RAW;
        }
        let mut stays_bounding = found.bounding - kept;
        if found.effective.contains(CapabilitySet::SETPCAP) {
            stays_bounding = CapabilitySet::empty();
        }

        let mut needs = Needs { effective: found.effective, missing: Missing::default() };
        if mode != RedirectMode::None {
            needs.one(CapabilitySet::NET_ADMIN, || "guards and redirect cannot be put up".to_owned());
        }
        if let Some(port) = ports.iter().find(|port| **port < found.unprivileged_port_start) {
            needs.one(CapabilitySet::NET_BIND_SERVICE, || {
                let start = found.unprivileged_port_start;
                format!("port {port} cannot be listened at (net.ipv4.ip_unprivileged_port_start is {start})")
            });
        }
        if legacy_tables {
            needs.one(CapabilitySet::NET_RAW, || LEGACY.to_owned());
        }
        // Where nothing has to be done with rights, none has to be there to give the others up.
        if mode != RedirectMode::None && !stays_bounding.is_empty() {
            let stays = || format!("the bounding set would keep {}", names(stays_bounding));
            needs.one(CapabilitySet::SETPCAP, stays);
        }
        needs.met().map(|()| Self { kept, stays_bounding })
    }

    /// Takes every capability but the kept ones out of every set, for good: what is executed has no more either. To be
    /// called by the only thread, since a thread has what the one that starts it has.
    ///
    /// # Errors
    /// When not all of it could be done, or this is not the only thread.
    pub(super) fn give_up_the_rest(&self) -> Result<(), PrivilegeError> {
        let threads = std::fs::read_dir("/proc/self/task")?.count();
        if threads != 1 {
            return Err(PrivilegeError::Threads(threads));
        }
        let bounding = bounding_set()?;
        for capability in each(bounding - self.kept - self.stays_bounding) {
            remove_capability_from_bounding_set(capability).map_err(io::Error::from)?;
        }
        let before = capabilities(None).map_err(io::Error::from)?;
        // What leaves the permitted or the inheritable set leaves the ambient one, by the kernel's own doing.
        let sets = CapabilitySets {
            effective: before.effective & self.kept,
            permitted: before.permitted & self.kept,
            inheritable: before.inheritable & self.kept,
        };
        set_capabilities(None, sets).map_err(io::Error::from)?;
        set_no_new_privs(true).map_err(io::Error::from)?;
        let (kept, dropped) = (names(sets.effective), names((before.permitted | bounding) - self.kept));
        info!(kept, dropped, "capabilities given up");
        if !self.stays_bounding.is_empty() {
            let stays = names(self.stays_bounding);
            warn!(stays, "the bounding set stays, without SETPCAP; nothing can be gained from it any more");
        }
        Ok(())
    }
}

/// Looks whether the node's rules can be changed; those of iptables only if `iptables`.
///
/// # Errors
/// All capabilities that are missing.
pub(super) fn check_for_rules(iptables: bool) -> Result<(), PrivilegeError> {
    let found = Found::now()?;
    let mut needs = Needs { effective: found.effective, missing: Missing::default() };
    needs.one(CapabilitySet::NET_ADMIN, || "the node's rules cannot be changed".to_owned());
    if iptables && found.legacy_tables {
        needs.one(CapabilitySet::NET_RAW, || LEGACY.to_owned());
    }
    Ok(needs.met()?)
}

/// The lowest first. Under `auto`, whether port 80 can be had is a part of what decides.
fn ports(config: &Config) -> Vec<u16> {
    let mut ports = vec![config.server.metrics_port];
    match config.redirect.mode {
        RedirectMode::Route => ports.push(IMDS_PORT),
        RedirectMode::Auto => {}
        RedirectMode::Iptables | RedirectMode::None => ports.push(config.server.app_port),
    }
    ports.sort_unstable();
    ports
}

// === impl Found ===

impl Found {
    fn now() -> io::Result<Self> {
        let start = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").ok();
        Ok(Self {
            effective: capabilities(None)?.effective,
            bounding: bounding_set()?,
            unprivileged_port_start: start
                .and_then(|start| start.trim().parse().ok())
                .unwrap_or(UNPRIVILEGED_PORT_START),
            legacy_tables: legacy_in_use(&search_path()),
        })
    }
}

// === impl Needs ===

impl Needs {
    fn one(&mut self, capability: CapabilitySet, why: impl FnOnce() -> String) {
        if !self.effective.contains(capability) {
            self.missing.0.push((capability, why()));
        }
    }

    fn met(self) -> Result<(), Missing> {
        if self.missing.0.is_empty() { Ok(()) } else { Err(self.missing) }
    }
}

// === impl PrivilegeError ===

impl From<Missing> for PrivilegeError {
    /// Not its cause, which would be printed once more.
    fn from(missing: Missing) -> Self {
        Self::Missing(missing)
    }
}

// === impl Missing ===

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (capability, why)) in self.0.iter().enumerate() {
            let separator = if n == 0 { "" } else { "; " };
            write!(f, "{separator}the capability {} is missing: {why}", names(*capability))?;
        }
        Ok(())
    }
}

/// Also capabilities that are younger than this program.
fn bounding_set() -> io::Result<CapabilitySet> {
    let mut bounding = CapabilitySet::empty();
    for capability in each(CapabilitySet::from_bits_retain(u64::MAX)) {
        match capability_is_in_bounding_set(capability) {
            Ok(true) => bounding |= capability,
            Ok(false) => {}
            // They are numbered without a gap: the kernel has no more.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(bounding)
}

fn each(set: CapabilitySet) -> impl Iterator<Item = CapabilitySet> {
    let bits = (0..u64::BITS).map(|bit| CapabilitySet::from_bits_retain(1 << bit));
    bits.filter(move |one| set.contains(*one))
}

/// As manifests have them, `none` when there are none.
fn names(set: CapabilitySet) -> String {
    let name = |one: CapabilitySet| {
        let known = one.iter_names().next().map(|(name, _)| name.to_owned());
        known.unwrap_or_else(|| one.bits().trailing_zeros().to_string())
    };
    let names: Vec<String> = each(set).map(name).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a container of the manifest has, on a node without legacy tables.
    fn found(has: CapabilitySet) -> Found {
        Found { effective: has, bounding: has, unprivileged_port_start: 1024, legacy_tables: false }
    }

    fn missing(mode: RedirectMode, ports: &[u16], found: Found) -> Vec<CapabilitySet> {
        let missing = Privileges::of(mode, ports, found).err().map(|missing| missing.0);
        missing.unwrap_or_default().into_iter().map(|(capability, _)| capability).collect()
    }

    const NOTHING: CapabilitySet = CapabilitySet::empty();
    const ADMIN: CapabilitySet = CapabilitySet::NET_ADMIN;
    const BIND: CapabilitySet = CapabilitySet::NET_BIND_SERVICE;
    const RAW: CapabilitySet = CapabilitySet::NET_RAW;
    const SETPCAP: CapabilitySet = CapabilitySet::SETPCAP;

    #[test]
    fn everything_that_is_missing_is_named_at_once() {
        assert_eq!(missing(RedirectMode::Route, &[80, 9543], found(NOTHING)), [ADMIN, BIND]);
        assert_eq!(missing(RedirectMode::Route, &[80, 9543], found(ADMIN | BIND)), [SETPCAP]);
        assert_eq!(missing(RedirectMode::Route, &[80, 9543], found(ADMIN | BIND | SETPCAP)), []);
        assert_eq!(missing(RedirectMode::Iptables, &[8181], found(NOTHING)), [ADMIN]);
        assert_eq!(missing(RedirectMode::Iptables, &[8181], found(ADMIN)), []);
        assert_eq!(missing(RedirectMode::None, &[8181], found(NOTHING)), []);
    }

    #[test]
    fn ports_that_need_no_right_ask_for_none() {
        let all_ports = Found { unprivileged_port_start: 80, ..found(ADMIN) };
        assert_eq!(missing(RedirectMode::Route, &[80], all_ports), []);
        assert_eq!(missing(RedirectMode::Iptables, &[8181], found(ADMIN)), []);
        assert_eq!(missing(RedirectMode::None, &[443, 8181], found(NOTHING)), [BIND]);
    }

    #[test]
    fn raw_sockets_are_for_legacy_tables_alone() {
        let legacy = |has| Found { legacy_tables: true, ..found(has) };
        assert_eq!(missing(RedirectMode::Iptables, &[8181], legacy(ADMIN)), [RAW]);
        assert_eq!(missing(RedirectMode::Auto, &[9543], legacy(ADMIN)), [RAW]);
        for (mode, has, kept) in [
            (RedirectMode::Iptables, legacy(ADMIN | RAW), ADMIN | RAW),
            (RedirectMode::Auto, legacy(ADMIN | RAW), ADMIN | RAW),
            (RedirectMode::Route, legacy(ADMIN | RAW | SETPCAP), ADMIN | RAW),
            (RedirectMode::Iptables, found(ADMIN | RAW | SETPCAP), ADMIN),
            (RedirectMode::None, legacy(ADMIN | RAW), ADMIN),
        ] {
            assert_eq!(Privileges::of(mode, &[8181], has).unwrap().kept, kept, "{mode:?} {has:?}");
        }
    }

    #[test]
    fn message_names_the_capability_and_what_it_is_for() {
        let error = Privileges::of(RedirectMode::Route, &[80], found(ADMIN)).unwrap_err();
        assert_eq!(
            PrivilegeError::from(error).to_string(),
            "the capability NET_BIND_SERVICE is missing: port 80 cannot be listened at \
             (net.ipv4.ip_unprivileged_port_start is 1024); where rolegate runs in a container, \
             securityContext.capabilities.add has to have it (deploy/daemonset.yaml)"
        );
    }

    #[test]
    fn capabilities_younger_than_this_program_are_told_by_their_number() {
        let set = CapabilitySet::NET_ADMIN | CapabilitySet::from_bits_retain(1 << 63);
        assert_eq!(names(set), "NET_ADMIN, 63");
        assert_eq!(names(NOTHING), "none");
    }
}
