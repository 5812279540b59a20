//! Whether an earlier run's rules may be there, found out without running a program.

use netlink_packet_netfilter::nftables::{ChainAttribute, ChainMessage, NfTablesMessage};
use netlink_packet_netfilter::{NetfilterMessageInner, NetfilterProtoFamily};

use super::backend::legacy_table_exists;
use super::desired::{FORWARD_CHAIN, PREROUTING_CHAIN, Table};
use crate::family::Family;
use crate::nfnetlink::{Nfnetlink, NfnetlinkError};

/// What speaks for rules of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Traces {
    /// nf_tables has chains of our names.
    pub(super) nft: bool,
    /// There are legacy tables, whose chains only the legacy program shows.
    pub(super) legacy: bool,
}

pub(super) async fn traces() -> Traces {
    let legacy = |family| Table::ALL.into_iter().any(|table| legacy_table_exists(family, table));
    Traces {
        // A kernel without nf_tables has no chains there.
        nft: chains_are_there().await.unwrap_or(false),
        legacy: Family::ALL.into_iter().any(legacy),
    }
}

async fn chains_are_there() -> Result<bool, NfnetlinkError> {
    let socket = Nfnetlink::open()?;
    let is_ours = |attribute: &ChainAttribute| matches!(attribute, ChainAttribute::Name(name) if name == PREROUTING_CHAIN || name == FORWARD_CHAIN);
    let mut found = false;
    for family in [NetfilterProtoFamily::IPv4, NetfilterProtoFamily::IPv6] {
        let all = NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() });
        let see = |message| {
            if let NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(chain)) = message {
                found |= chain.attributes.iter().any(is_ours);
            }
        };
        socket.dump(family, all, see).await?;
    }
    Ok(found)
}
