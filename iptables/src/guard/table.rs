//! Guard 2 as it should be.

use crate::family::{Family, IMDS_PORT};
use crate::nftables::{
    Base, Chain, HookNumber, Table, TableFamily, accept, drop, from, spoofed, tcp_port, to,
};

/// Before connection tracking (`NF_IP_PRI_RAW`, linux/netfilter_ipv4.h): the source is what the packet says.
const RAW: i32 = -300;
/// Before the filters of others (`NF_IP_PRI_FILTER` - 10).
const BEFORE_FILTER: i32 = -10;

/// The table, both families in one.
pub(super) fn desired() -> Table {
    let imds = Family::ALL.map(Family::imds);
    let all = |parts: &[Vec<_>]| parts.concat();
    Table {
        family: TableFamily::Inet,
        name: "rolegate",
        chains: vec![
            Chain {
                name: "prerouting",
                base: Some(Base { hook: HookNumber::PreRouting, priority: RAW }),
                rules: imds.map(|address| all(&[to(address), spoofed(), drop()])).into(),
            },
            Chain {
                name: "forward",
                base: Some(Base { hook: HookNumber::Forward, priority: BEFORE_FILTER }),
                // From them, too: an answer under way to a connection that is older than the guard is forwarded as it is
                // where the node translates no sources.
                rules: imds
                    .into_iter()
                    .flat_map(|address| [all(&[to(address), drop()]), all(&[from(address), drop()])])
                    .collect(),
            },
            Chain {
                name: "input",
                base: Some(Base { hook: HookNumber::LocalIn, priority: BEFORE_FILTER }),
                rules: imds
                    .into_iter()
                    .flat_map(|address| {
                        [all(&[to(address), tcp_port(IMDS_PORT), accept()]), all(&[to(address), drop()])]
                    })
                    .collect(),
            },
        ],
    }
}
