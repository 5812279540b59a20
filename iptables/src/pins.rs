//! Pins: on a bridge that several pods share, each port is held to the address of the pod behind it.
//!
//! A pod that may send raw frames can answer ARP for its neighbour, and wear its address and its MAC. What a pin does:
//! the port claims no other address (ARP, neighbour discovery) and sends nothing to the metadata addresses from another
//! one; no other port claims it or sends so from it; and answers of the metadata service to it leave by that port
//! alone, wherever the bridge believes its MAC to be. Other traffic is let alone.
//!
//! Two tables of nftables, family `bridge`: `rolegate` holds the pins ([`Pins`]) and is replaced when they change;
//! `rolegate_first` remembers the first address that each port claimed ([`first`]) and stays.

pub mod first;
pub mod ports;
mod solicit;
mod table;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use crate::nfnetlink::NfnetlinkError;
use crate::nftables::TableDrift;

pub use solicit::solicit;

/// Why pins are not in force.
#[derive(Debug, thiserror::Error)]
pub enum PinsError {
    /// nftables.
    #[error("pins of bridge ports: {0}")]
    Table(#[from] NfnetlinkError),
    /// They were written and the kernel shows others.
    #[error("pins of bridge ports were written and do not stay")]
    NotHeld,
}

/// One port and the addresses of the pod behind it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pin {
    /// The port's name.
    pub port: String,
    /// All of both families; a family with none is not pinned.
    pub addresses: BTreeSet<IpAddr>,
}

/// What should be pinned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pins {
    /// No address twice. None: there is no table.
    pub pins: BTreeSet<Pin>,
}

/// What was found wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinsDrift {
    /// There was no table.
    Missing,
    /// The table held other pins, or was changed.
    Changed,
}

// === impl PinsDrift ===

impl fmt::Display for PinsDrift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "the table of pins is missing",
            Self::Changed => "the table of pins was changed",
        })
    }
}

// === impl Pins ===

impl Pins {
    /// Makes the table what it should be, if it is not, and looks again. `before_write` is told what is wrong; it is
    /// not called while all is right.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub async fn reconcile(
        &self,
        before_write: &(dyn Fn(PinsDrift) + Sync),
    ) -> Result<Option<PinsDrift>, PinsError> {
        let table = table::desired(self);
        let found = table.drift().await?;
        if self.pins.is_empty() {
            let there = found != Some(TableDrift::Missing) && table.remove().await?;
            return Ok(there.then_some(PinsDrift::Changed));
        }
        let Some(wrong) = found.map(PinsDrift::from) else { return Ok(None) };
        before_write(wrong);
        table.write().await?;
        match table.drift().await? {
            None => Ok(Some(wrong)),
            Some(_) => Err(PinsError::NotHeld),
        }
    }
}

impl From<TableDrift> for PinsDrift {
    fn from(drift: TableDrift) -> Self {
        match drift {
            TableDrift::Missing => Self::Missing,
            TableDrift::Changed => Self::Changed,
        }
    }
}

/// Takes both tables away, and nothing that is not ours. Goes on after errors. Returns what was there.
pub async fn cleanup() -> (Vec<&'static str>, Vec<PinsError>) {
    let (mut removed, mut errors) = (Vec::new(), Vec::new());
    for (what, table) in
        [("pins of bridge ports", table::desired(&Pins::default())), ("first addresses", first::table())]
    {
        match table.remove().await {
            Ok(true) => removed.push(what),
            Ok(false) => {}
            // A kernel without that family has nothing of ours in it.
            Err(error) if error.errno() == Some(libc::EOPNOTSUPP) => {}
            Err(error) => errors.push(error.into()),
        }
    }
    (removed, errors)
}
