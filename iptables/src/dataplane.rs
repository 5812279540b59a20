//! Who may forward pods' packets without asking policy rules, routes or netfilter: programs of tc on their interfaces.
//!
//! A program at the ingress of a pod's interface (`bpf_redirect`) sends a packet on before anything of ours sees it:
//! neither a redirect nor a guard is passed, and no look-up ([`crate::selftest`]) tells. Cilium is known by its device
//! as well: it may be there before its programs are.

mod tcx;

use std::collections::BTreeSet;
use std::fmt;
use std::io;

use futures::TryStreamExt;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo};
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionMirror, TcActionMirrorOption, TcActionOption, TcAttribute,
    TcFilterBpf, TcFilterFlower, TcFilterFlowerOption, TcFilterMatchAll, TcFilterMatchAllOption, TcFilterU32,
    TcFilterU32Option, TcMessage, TcOption,
};
use rtnetlink::Handle;

use crate::links::{LinkError, Links, ask};

/// The device of the host's end of Cilium's own pair.
const CILIUM_HOST: &str = "cilium_host";
/// The queueing disciplines that have filters at the ingress.
const WITH_INGRESS: [&str; 2] = ["clsact", "ingress"];
/// Most names that are said.
const NAMES_AT_MOST: usize = 4;

/// What there is of others' forwarding on this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dataplane {
    /// Interfaces that are neither uplinks nor `lo` and have programs that may forward.
    pub programs: BTreeSet<String>,
    /// The device `cilium_host` exists.
    pub cilium: bool,
    /// There are such interfaces, and the process may not ask for programs attached by `tcx`: a seccomp profile as of
    /// containers refuses `bpf(2)` without the capability `BPF`.
    pub hidden: bool,
}

// === impl Dataplane ===

impl Dataplane {
    /// Looks at the interfaces of `links`.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub async fn read(links: &Links) -> Result<Self, LinkError> {
        let cilium = links.names.values().any(|name| name == CILIUM_HOST);
        let mut found = Self { cilium, ..Self::default() };
        let classified = with_filters(links).await?;
        for (index, name) in &links.names {
            if !links.is_pod_side(*index) {
                continue;
            }
            let attached = tcx::is_attached(*index);
            found.hidden |= attached.is_none();
            if attached == Some(true) || classified.contains(index) && forwards(*index).await? {
                found.programs.insert(name.clone());
            }
        }
        Ok(found)
    }

    /// Whether look-ups and guards can be relied upon.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.programs.is_empty() && !self.cilium && !self.hidden
    }
}

impl fmt::Display for Dataplane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_plain() {
            return f.write_str("no programs on pods' interfaces");
        }
        let mut parts = Vec::new();
        if self.cilium {
            parts.push(format!("the device {CILIUM_HOST}"));
        }
        if !self.programs.is_empty() {
            let mut names: Vec<&str> = self.programs.iter().map(String::as_str).take(NAMES_AT_MOST).collect();
            if self.programs.len() > names.len() {
                names.push("...");
            }
            parts.push(format!("tc programs on {}", names.join(", ")));
        }
        if self.hidden {
            parts.push("perhaps programs of tcx, which bpf(2) is refused to tell (seccomp; the capability BPF opens it)".to_owned());
        }
        f.write_str(&parts.join(" and "))
    }
}

/// Pod-side interfaces that have a place for filters of what comes in.
async fn with_filters(links: &Links) -> Result<BTreeSet<u32>, LinkError> {
    let disciplines = none_where_unknown(
        ask(|handle: Handle| async move { handle.qdisc().get().execute().try_collect::<Vec<_>>().await })
            .await,
    )?;
    let indexes = disciplines.iter().filter(|it| WITH_INGRESS.contains(&kind(it))).filter_map(index_of);
    Ok(indexes.filter(|index| links.is_pod_side(*index)).collect())
}

/// Whether a filter at the ingress may send a packet on.
async fn forwards(index: u32) -> Result<bool, LinkError> {
    let Ok(device) = i32::try_from(index) else { return Ok(false) };
    let filters = none_where_unknown(
        ask(|handle: Handle| async move {
            handle.traffic_filter(device).get().ingress().execute().try_collect::<Vec<_>>().await
        })
        .await,
    )?;
    let mut targets = BTreeSet::new();
    for filter in &filters {
        match kind(filter) {
            TcFilterBpf::KIND => return Ok(true),
            TcFilterU32::KIND | TcFilterMatchAll::KIND | TcFilterFlower::KIND => {
                for action in options(filter).flat_map(actions) {
                    match action_kind(action) {
                        "bpf" => return Ok(true),
                        TcActionMirror::KIND => targets.extend(mirror_target(action)),
                        _ => {}
                    }
                }
            }
            // What we do not know may do anything.
            _ => return Ok(true),
        }
    }
    for target in targets {
        if !is_ifb(target).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// An intermediate functional block gives packets back to where they came from: bandwidth is limited so.
async fn is_ifb(index: u32) -> Result<bool, LinkError> {
    let links = ask(|handle: Handle| async move {
        handle.link().get().match_index(index).execute().try_collect::<Vec<_>>().await
    })
    .await;
    let kind = LinkInfo::Kind(InfoKind::Ifb);
    Ok(none_where_unknown(links)?
        .iter()
        .flat_map(|link| &link.attributes)
        .any(|attribute| matches!(attribute, LinkAttribute::LinkInfo(info) if info.contains(&kind))))
}

fn kind(message: &TcMessage) -> &str {
    let kind = message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Kind(kind) => Some(kind.as_str()),
        _ => None,
    });
    kind.unwrap_or_default()
}

fn index_of(message: &TcMessage) -> Option<u32> {
    u32::try_from(message.header.index).ok()
}

fn options(message: &TcMessage) -> impl Iterator<Item = &TcOption> {
    message.attributes.iter().flat_map(|attribute| match attribute {
        TcAttribute::Options(options) => options.as_slice(),
        _ => &[],
    })
}

fn actions(option: &TcOption) -> &[TcAction] {
    match option {
        TcOption::U32(TcFilterU32Option::Action(actions))
        | TcOption::MatchAll(TcFilterMatchAllOption::Action(actions))
        | TcOption::Flower(TcFilterFlowerOption::Actions(actions)) => actions,
        _ => &[],
    }
}

fn action_kind(action: &TcAction) -> &str {
    let kind = action.attributes.iter().find_map(|attribute| match attribute {
        TcActionAttribute::Kind(kind) => Some(kind.as_str()),
        _ => None,
    });
    kind.unwrap_or_default()
}

fn mirror_target(action: &TcAction) -> Option<u32> {
    action.attributes.iter().find_map(|attribute| match attribute {
        TcActionAttribute::Options(options) => options.iter().find_map(|option| match option {
            TcActionOption::Mirror(TcActionMirrorOption::Parms(to)) => Some(to.ifindex),
            _ => None,
        }),
        _ => None,
    })
}

/// A kernel without traffic control has no programs of it; an interface that is gone has none any more.
fn none_where_unknown<T>(answer: Result<Vec<T>, LinkError>) -> Result<Vec<T>, LinkError> {
    match answer {
        Err(LinkError::Request(rtnetlink::Error::NetlinkError(error)))
            if matches!(
                io::Error::from(error.clone()).raw_os_error(),
                Some(libc::EOPNOTSUPP | libc::ENODEV | libc::EINVAL | libc::ENOENT)
            ) =>
        {
            Ok(Vec::new())
        }
        answer => answer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_is_said_by_name_and_not_at_length() {
        let found = |programs: &[&str], cilium| {
            let programs = programs.iter().map(|name| (*name).to_owned()).collect();
            Dataplane { programs, cilium, hidden: false }.to_string()
        };
        assert!(Dataplane::default().is_plain());
        assert_eq!(found(&[], true), "the device cilium_host");
        assert_eq!(found(&["cali1", "cali2"], false), "tc programs on cali1, cali2");
        let many = found(&["a", "b", "c", "d", "e"], true);
        assert_eq!(many, "the device cilium_host and tc programs on a, b, c, d, ...");
        let hidden = Dataplane { hidden: true, ..Dataplane::default() };
        assert!(!hidden.is_plain() && hidden.to_string().contains("bpf(2)"), "{hidden}");
    }
}
