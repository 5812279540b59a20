//! Capture `iptables`: DNAT on the pod-side interfaces and a drop of what is forwarded, kept as they should be.
//!
//! `nat`: our chain, called first from `PREROUTING`, redirects TCP port 80 of the metadata service to the agent.
//! `filter`: our chain, called first from `FORWARD`, drops everything to and from the metadata service, in both
//! families and on all interfaces. Nothing is written while all of it is right.

mod backend;
mod command;
mod desired;
mod drift;
mod dump;
mod leftover;
mod peers;
mod plan;
mod watch;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt;

pub use backend::{Backend, legacy_in_use};
pub use command::{CommandError, search_path};
pub use desired::{Desired, FORWARD_CHAIN, PREROUTING_CHAIN, TargetError};
pub use drift::{Cause, Drift, Peer};
pub use watch::RuleWatch;

use crate::family::Family;
use backend::{Tools, by_preference};
use desired::Table;
use plan::{TablePlan, batch};

/// How often a family is repaired and read again before it is called an error: others write at the same time.
const ATTEMPTS: usize = 3;

/// Why the rules are not, or may not be, as they should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The image or the host lacks iptables.
    #[error("no iptables for {family}: neither {wanted} in {search}")]
    NoPrograms {
        /// The family.
        family: Family,
        /// What was looked for.
        wanted: String,
        /// Where.
        search: String,
    },
    /// A program failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// Rules of an earlier run that no program here can remove.
    #[error(
        "the redirect of an earlier run by iptables is in nf_tables, and no iptables-nft is here to remove it"
    )]
    Leftover,
    /// The rules were written and the kernel shows others.
    #[error("rules were written {ATTEMPTS} times and do not stay ({causes})")]
    NotHeld {
        /// What was wrong the last time.
        causes: String,
    },
}

/// Why there are no rules for IPv6. Not an error: where there is no IPv6 nothing goes by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoIpv6 {
    /// The kernel has none.
    Kernel,
    /// There is no ip6tables.
    Programs,
}

/// The capture on this host: which programs rule it, and what to do with them.
#[derive(Debug)]
pub struct Iptables {
    v4: Host,
    v6: Result<Host, NoIpv6>,
}

/// What a reconciliation found and did.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Something was written.
    pub changed: bool,
    /// Why.
    pub causes: BTreeSet<Cause>,
    /// What went wrong, at most one of each family. Empty: the rules are as they should be.
    pub errors: Vec<Error>,
}

/// What [`cleanup`] took away.
#[derive(Debug, Default)]
pub struct Cleanup {
    /// Each table that was changed.
    pub removed: Vec<Removed>,
    /// Everything that went wrong; the rest was done nevertheless.
    pub errors: Vec<Error>,
}

/// One table that something was removed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// The family.
    pub family: Family,
    /// The back end.
    pub backend: Backend,
    /// The table.
    pub table: &'static str,
}

/// One family's back ends: the one in use, and those that may have remains.
#[derive(Debug)]
struct Host {
    active: Tools,
    others: Vec<Tools>,
}

/// What one look at a family found.
struct Found<'a> {
    repairs: Vec<Repair<'a>>,
    unreadable: Option<CommandError>,
}

/// What is wrong in one back end.
struct Repair<'a> {
    tools: &'a Tools,
    plans: Vec<TablePlan>,
}

// === impl Iptables ===

impl Iptables {
    /// Finds the programs in `search` (see [`search_path`]) and which back end the node uses.
    ///
    /// # Errors
    /// When there is no iptables for IPv4, or what the node uses cannot be found out.
    pub async fn detect(search: &OsStr) -> Result<Self, Error> {
        let v6 = if Family::V6.in_kernel() {
            match Host::detect(Family::V6, search).await {
                Err(Error::NoPrograms { .. }) => Err(NoIpv6::Programs),
                host => Ok(host?),
            }
        } else {
            Err(NoIpv6::Kernel)
        };
        Ok(Self { v4: Host::detect(Family::V4, search).await?, v6 })
    }

    /// The back end in use for a family.
    ///
    /// # Errors
    /// Why there is none for IPv6.
    pub fn backend(&self, family: Family) -> Result<Backend, NoIpv6> {
        match family {
            Family::V4 => Ok(self.v4.active.backend),
            Family::V6 => self.v6.as_ref().map(|host| host.active.backend).map_err(|absent| *absent),
        }
    }

    /// Compares the rules with `desired`, where `uplinks` are the interfaces of the default routes, and mends
    /// what differs, then looks again. `before_write` is told what is wrong before anything is written; it is
    /// not called while all is right.
    pub async fn reconcile(
        &self,
        desired: &Desired,
        uplinks: &BTreeSet<String>,
        before_write: &(dyn Fn(&BTreeSet<Cause>) + Sync),
    ) -> Outcome {
        let hosts = [Some(&self.v4), self.v6.as_ref().ok()];
        let mut outcome = Outcome::default();
        for host in hosts.into_iter().flatten() {
            let mut causes = BTreeSet::new();
            if let Err(error) = host.reconcile(desired, uplinks, before_write, &mut causes).await {
                outcome.errors.push(error);
            }
            outcome.changed |= !causes.is_empty();
            outcome.causes.append(&mut causes);
        }
        outcome
    }
}

/// Removes our chains and the calls of them from every back end and family there is, and with `peers` the rules
/// of kube2iam and kiam: nothing else. Goes on after errors.
pub async fn cleanup(search: &OsStr, peers: bool) -> Cleanup {
    let mut done = Cleanup::default();
    for family in Family::ALL {
        let found = Tools::find_all(family, search);
        if found.is_empty() && family == Family::V4 {
            done.errors.push(no_programs(family, search));
        }
        for tools in found {
            match clean(&tools, peers).await {
                Ok(tables) => done.removed.extend(tables.into_iter().map(|table| Removed {
                    family,
                    backend: tools.backend,
                    table: table.name(),
                })),
                Err(error) => done.errors.push(error.into()),
            }
        }
    }
    done
}

/// Removes what an earlier run by this capture left, for one that captures otherwise. No program is run where nothing
/// of it can be there: no chains of ours in nf_tables, no legacy tables.
///
/// # Errors
/// When rules of ours are there and cannot be removed: pods' requests still go where they lead.
pub async fn remove_leftovers(search: &OsStr) -> Result<Vec<Removed>, Error> {
    let traces = leftover::traces().await;
    if !traces.nft && !traces.legacy {
        return Ok(Vec::new());
    }
    let done = cleanup(search, false).await;
    // Legacy tables are others' more often than not, and an image without programs never made a rule.
    match done.errors.into_iter().find(|error| !matches!(error, Error::NoPrograms { .. })) {
        Some(error) => Err(error),
        None if traces.nft && leftover::traces().await.nft => Err(Error::Leftover),
        None => Ok(done.removed),
    }
}

// === impl Host ===

impl Host {
    async fn detect(family: Family, search: &OsStr) -> Result<Self, Error> {
        let mut found = by_preference(Tools::find_all(family, search)).await?.into_iter();
        let active = found.next().ok_or_else(|| no_programs(family, search))?;
        Ok(Self { active, others: found.collect() })
    }

    async fn reconcile(
        &self,
        desired: &Desired,
        uplinks: &BTreeSet<String>,
        before_write: &(dyn Fn(&BTreeSet<Cause>) + Sync),
        causes: &mut BTreeSet<Cause>,
    ) -> Result<(), Error> {
        let mut failed = None;
        let mut found = self.compare(desired, uplinks).await;
        for _ in 0..ATTEMPTS {
            if found.repairs.is_empty() {
                break;
            }
            let wrong = found.causes();
            before_write(&wrong);
            causes.extend(wrong);
            // A rule to be deleted may just have gone: the next look tells.
            failed = self.write(&found.repairs).await.err();
            found = self.compare(desired, uplinks).await;
        }
        let causes: Vec<String> = found.causes().iter().map(ToString::to_string).collect();
        match (causes.is_empty(), failed) {
            (true, _) => found.unreadable.map_or(Ok(()), |error| Err(error.into())),
            (false, Some(error)) => Err(error.into()),
            (false, None) => Err(Error::NotHeld { causes: causes.join(", ") }),
        }
    }

    /// What is wrong, the back end in use first: ours stands before what others left is taken away. A table that
    /// cannot be read keeps no other from being mended.
    async fn compare(&self, desired: &Desired, uplinks: &BTreeSet<String>) -> Found<'_> {
        let active = &self.active;
        let mut found = Found { repairs: Vec::new(), unreadable: None };
        let mut plans = Vec::new();
        for want in &desired.render(active.family, uplinks) {
            match active.look(want.table, want.rules.is_some()).await {
                Ok(have) => plans.extend(plan::compare(want, &have)),
                Err(error) => found.unreadable = Some(error),
            }
        }
        found.push(active, plans);
        for other in &self.others {
            let mut plans = Vec::new();
            for table in Table::ALL {
                // One that does not work on this kernel has no remains either.
                let have = other.look(table, false).await.unwrap_or_default();
                plans.extend(plan::remove(table, &have, true));
            }
            found.push(other, plans);
        }
        found
    }

    async fn write(&self, repairs: &[Repair<'_>]) -> Result<(), CommandError> {
        for Repair { tools, plans } in repairs {
            tools.restore(&batch(plans)).await?;
        }
        Ok(())
    }
}

// === impl Found ===

impl<'a> Found<'a> {
    fn push(&mut self, tools: &'a Tools, plans: Vec<TablePlan>) {
        if !plans.is_empty() {
            self.repairs.push(Repair { tools, plans });
        }
    }

    fn causes(&self) -> BTreeSet<Cause> {
        let causes = self.repairs.iter().flat_map(|repair| {
            let family = repair.tools.family;
            repair.plans.iter().flat_map(move |plan| {
                plan.causes.iter().map(move |drift| Cause { family, table: plan.table.name(), drift: *drift })
            })
        });
        causes.collect()
    }
}

async fn clean(tools: &Tools, peers: bool) -> Result<Vec<Table>, CommandError> {
    let mut plans = Vec::new();
    for table in Table::ALL {
        plans.extend(plan::remove(table, &tools.dump(table, false).await?, peers));
    }
    if !plans.is_empty() {
        tools.restore(&batch(&plans)).await?;
    }
    Ok(plans.into_iter().map(|plan| plan.table).collect())
}

fn no_programs(family: Family, search: &OsStr) -> Error {
    Error::NoPrograms { family, wanted: Tools::wanted(family), search: search.to_string_lossy().into_owned() }
}

// === impl NoIpv6 ===

impl fmt::Display for NoIpv6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "the kernel has no IPv6",
            Self::Programs => "there is no ip6tables",
        })
    }
}
