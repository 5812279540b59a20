//! Which iptables the node uses, nft or legacy, found out as kube-proxy's image does it.
//!
//! See kubernetes-sigs/iptables-wrappers: the back end in which the kubelet has made one of its hint chains;
//! else the one with more rules; else nft. Here each family is looked at by itself.

use std::ffi::OsStr;
use std::fmt;

use super::command::{CommandError, Program};
use super::desired::Table;
use super::dump::Dump;
use crate::family::Family;

/// Chains that every kubelet since 1.17 makes in `mangle`, for this purpose.
const KUBELET_CHAINS: [&str; 2] = [":KUBE-IPTABLES-HINT ", ":KUBE-KUBELET-CANARY "];

/// An implementation of iptables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Backend {
    /// `iptables-nft`: rules in nf_tables.
    Nft,
    /// `iptables-legacy`: rules in x_tables. Tells nobody of changes.
    Legacy,
    /// `iptables`, where only that exists: whichever of the two it is.
    Plain,
}

/// The programs of one back end and family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tools {
    pub(crate) backend: Backend,
    pub(crate) family: Family,
    list: Program,
    save: Program,
    restore: Program,
}

/// What detection goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Traces {
    kubelet: bool,
    rules: usize,
}

// === impl Backend ===

impl Backend {
    fn program(self, family: Family, verb: &str) -> String {
        let family = match family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        };
        let backend = match self {
            Self::Nft => "-nft",
            Self::Legacy => "-legacy",
            Self::Plain => "",
        };
        format!("{family}tables{backend}{verb}")
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
            Self::Plain => "iptables",
        })
    }
}

// === impl Tools ===

impl Tools {
    /// Every back end of a family whose programs exist; plain `iptables` only where neither of the two does.
    pub(crate) fn find_all(family: Family, search: &OsStr) -> Vec<Self> {
        let find = |backend| Self::find(backend, family, search);
        let mut found: Vec<Self> = [Backend::Nft, Backend::Legacy].into_iter().filter_map(find).collect();
        if found.is_empty() {
            found.extend(find(Backend::Plain));
        }
        found
    }

    /// The names that [`Self::find_all`] looks for.
    pub(crate) fn wanted(family: Family) -> String {
        let names = [Backend::Nft, Backend::Legacy, Backend::Plain]
            .map(|backend| format!("{0} with {0}-save and {0}-restore", backend.program(family, "")));
        names.join(", nor ")
    }

    fn find(backend: Backend, family: Family, search: &OsStr) -> Option<Self> {
        let program = |verb| Program::find(&backend.program(family, verb), search);
        Some(Self {
            backend,
            family,
            list: program("")?,
            save: program("-save")?,
            restore: program("-restore")?,
        })
    }

    /// Reads the two chains of a table that matter here, by name: of 20,000 rules of kube-proxy's `iptables-nft-save`
    /// makes 0.6 s of CPU, this 4 ms. `wanted` as in [`Self::dump`].
    pub(crate) async fn look(&self, table: Table, wanted: bool) -> Result<Dump, CommandError> {
        if !wanted && !self.may_have(table) {
            return Ok(Dump::default());
        }
        let list = async |chain| self.list.run(&["-w", "5", "-t", table.name(), "-S", chain], None).await;
        let mut text = match list(table.hook()).await {
            // The kernel has no such table: nothing is in it.
            Err(CommandError::Failed { .. }) if !wanted => return Ok(Dump::default()),
            hooked => hooked?,
        };
        match list(table.chain()).await {
            Ok(own) => text.push_str(&own),
            // It does not exist, or has rules that iptables cannot show: both versions say neither clearly.
            Err(CommandError::Failed { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(Dump::parse(&text))
    }

    /// Reads a whole table. One that the legacy back end does not have yet is empty; it comes into being when it is
    /// read, which is done only where it is `wanted`.
    pub(crate) async fn dump(&self, table: Table, wanted: bool) -> Result<Dump, CommandError> {
        if !wanted && !self.may_have(table) {
            return Ok(Dump::default());
        }
        Ok(Dump::parse(&self.save.run(&["-t", table.name()], None).await?))
    }

    fn may_have(&self, table: Table) -> bool {
        self.backend != Backend::Legacy || legacy_table_exists(self.family, table)
    }

    /// Commits a batch. Chains that it does not name stay as they are.
    pub(crate) async fn restore(&self, batch: &str) -> Result<(), CommandError> {
        // The legacy back end holds one lock for all of the host (kube-proxy waits 5 s as well).
        self.restore.run(&["--noflush", "--wait=5"], Some(batch)).await.map(drop)
    }

    async fn traces(&self) -> Result<Traces, CommandError> {
        match self.backend {
            // All its tables by name would create those that do not exist; without a name it lists those that do.
            Backend::Legacy => Ok(traces(&self.save.run(&[], None).await?)),
            Backend::Nft | Backend::Plain => match traces(&self.save.run(&["-t", "mangle"], None).await?) {
                kubelet @ Traces { kubelet: true, .. } => Ok(kubelet),
                _ => Ok(traces(&self.save.run(&[], None).await?)),
            },
        }
    }
}

/// Whether this network namespace has legacy tables and `search` the programs that show them. Those need
/// `CAP_NET_RAW` beside `CAP_NET_ADMIN`: they talk to the kernel through a raw socket.
#[must_use]
pub fn legacy_in_use(search: &OsStr) -> bool {
    let programs = |family| Tools::find(Backend::Legacy, family, search).is_some();
    Family::ALL.into_iter().any(|family| has_legacy_tables(family) && programs(family))
}

/// Orders the back ends of a family: the node's first. One that does not work (a kernel without it) comes last.
///
/// # Errors
/// When there are legacy tables that cannot be read, and nothing shows that the node's back end is the other one.
pub(crate) async fn by_preference(found: Vec<Tools>) -> Result<Vec<Tools>, CommandError> {
    if found.len() < 2 {
        return Ok(found);
    }
    let (mut rated, mut hidden) = (Vec::new(), None);
    for tools in found {
        let traces = match tools.traces().await {
            Ok(traces) => Some(traces),
            Err(error) => {
                if tools.backend == Backend::Legacy && has_legacy_tables(tools.family) {
                    hidden = Some(error);
                }
                None
            }
        };
        rated.push((traces, tools));
    }
    if let Some(error) = hidden
        && !rated.iter().any(|(traces, _)| traces.is_some_and(|traces| traces.kubelet))
    {
        return Err(error);
    }
    let rating = |traces: Traces| (traces.kubelet, if traces.kubelet { 0 } else { traces.rules });
    // Stable, and nft was found first: it wins a tie.
    rated.sort_by_key(|(traces, _)| std::cmp::Reverse(traces.map(rating)));
    Ok(rated.into_iter().map(|(_, tools)| tools).collect())
}

fn traces(saved: &str) -> Traces {
    Traces {
        kubelet: saved.lines().any(|line| KUBELET_CHAINS.iter().any(|chain| line.starts_with(chain))),
        rules: saved.lines().filter(|line| line.starts_with("-A ") && !line.contains("rolegate")).count(),
    }
}

fn has_legacy_tables(family: Family) -> bool {
    legacy_tables(family).is_none_or(|names| !names.is_empty())
}

pub(super) fn legacy_table_exists(family: Family, table: Table) -> bool {
    legacy_tables(family).is_none_or(|names| names.lines().any(|name| name == table.name()))
}

/// One a line, if that can be found out; of this thread's network namespace: `/proc/net` would be that of the process's
/// first thread.
fn legacy_tables(family: Family) -> Option<String> {
    let names = match family {
        Family::V4 => "/proc/thread-self/net/ip_tables_names",
        Family::V6 => "/proc/thread-self/net/ip6_tables_names",
    };
    match std::fs::read_to_string(names) {
        Ok(names) => Some(names),
        // The module is not loaded: nobody has any.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Some(String::new()),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hint_chains_and_rules_are_counted_ours_are_not() {
        let saved = "*mangle\n:PREROUTING ACCEPT [0:0]\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n*nat\n\
                     -A PREROUTING -j KUBE-SERVICES\n-A PREROUTING -m comment --comment rolegate -j X\nCOMMIT\n";
        assert_eq!(traces(saved), Traces { kubelet: true, rules: 1 });
        assert_eq!(traces("*mangle\n:KUBE-KUBELET-CANARY-2 - [0:0]\n"), Traces { kubelet: false, rules: 0 });
    }
}
