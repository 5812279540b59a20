//! The two guards: nothing that is not the host's own goes to the metadata service, whatever becomes of the capture.
//!
//! They are independent, so that no one command removes both, and neither needs a living agent. Guard 1 is policy
//! routing (`rules`): what the host forwards to the metadata addresses is prohibited. Guard 2 is a table of nftables
//! (`table`): it drops what is forwarded to them or from them, whatever routed it, what wears an address that is not
//! routed by the interface it came in, and everything but TCP port 80. Neither touches a packet that a capture has redirected.

mod rules;
mod table;

use std::collections::BTreeSet;
use std::fmt;

use crate::links::LinkError;
use crate::nfnetlink::NfnetlinkError;
use crate::nftables::TableDrift;

/// The first preference of policy rules: after `local` (0), before what CNIs use (AWS VPC CNI: 1 for several network
/// cards, 10 and more).
pub const DEFAULT_PREFERENCE: u32 = 2;

/// Why a guard does not stand.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// Policy routing.
    #[error("guard of policy rules: {0}")]
    Rules(#[from] LinkError),
    /// nftables.
    #[error("guard of nftables: {0}")]
    Table(#[from] NfnetlinkError),
    /// They were written and the kernel shows others.
    #[error("guards were written and do not stay ({0})")]
    NotHeld(String),
}

/// What was found wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GuardDrift {
    /// Policy rules are missing or not what they should be.
    Rules,
    /// The table is missing.
    TableMissing,
    /// The table was changed.
    TableChanged,
}

/// What a reconciliation found.
#[derive(Debug, Default)]
pub struct GuardOutcome {
    /// What was wrong, and was mended unless there is an error for it.
    pub drift: BTreeSet<GuardDrift>,
    /// Those that do not stand.
    pub errors: Vec<GuardError>,
}

/// The guards of this host.
#[derive(Clone, Debug)]
pub struct Guard {
    preference: u32,
}

// === impl GuardDrift ===

impl GuardDrift {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Rules, Self::TableMissing, Self::TableChanged];

    /// A word for metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rules => "guard_rules",
            Self::TableMissing => "guard_table_missing",
            Self::TableChanged => "guard_table_changed",
        }
    }
}

impl fmt::Display for GuardDrift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Guard ===

impl Guard {
    /// Guards whose policy rules have preferences from `preference` on (see [`DEFAULT_PREFERENCE`]).
    #[must_use]
    pub const fn new(preference: u32) -> Self {
        Self { preference }
    }

    /// Compares both with what they should be, mends what differs and looks again. One that fails does not keep the
    /// other from being mended. `before_write` is told what is wrong; it is not called while all is right.
    pub async fn reconcile(&self, before_write: &(dyn Fn(GuardDrift) + Sync)) -> GuardOutcome {
        let mut outcome = GuardOutcome::default();
        let table = self.table(before_write, &mut outcome.drift).await;
        let rules = self.mend_rules(before_write, &mut outcome.drift).await;
        outcome.errors.extend([table, rules].into_iter().filter_map(Result::err));
        outcome
    }

    async fn table(
        &self,
        before_write: &(dyn Fn(GuardDrift) + Sync),
        drift: &mut BTreeSet<GuardDrift>,
    ) -> Result<(), GuardError> {
        let table = table::desired();
        let Some(wrong) = table.drift().await?.map(GuardDrift::from) else { return Ok(()) };
        before_write(wrong);
        drift.insert(wrong);
        table.write().await?;
        match table.drift().await? {
            None => Ok(()),
            Some(still) => Err(GuardError::NotHeld(GuardDrift::from(still).to_string())),
        }
    }

    async fn mend_rules(
        &self,
        before_write: &(dyn Fn(GuardDrift) + Sync),
        drift: &mut BTreeSet<GuardDrift>,
    ) -> Result<(), GuardError> {
        if rules::are_right(self.preference).await? {
            return Ok(());
        }
        before_write(GuardDrift::Rules);
        drift.insert(GuardDrift::Rules);
        rules::write(self.preference).await?;
        if rules::are_right(self.preference).await? {
            Ok(())
        } else {
            Err(GuardError::NotHeld(GuardDrift::Rules.to_string()))
        }
    }

    /// Takes both away, and nothing that is not ours. Goes on after errors. Returns what was there.
    pub async fn cleanup(&self) -> (Vec<&'static str>, Vec<GuardError>) {
        let (mut removed, mut errors) = (Vec::new(), Vec::new());
        match rules::remove(self.preference).await {
            Ok(true) => removed.push("policy rules"),
            Ok(false) => {}
            Err(error) => errors.push(error.into()),
        }
        match table::desired().remove().await {
            Ok(true) => removed.push("nftables table"),
            Ok(false) => {}
            Err(error) => errors.push(error.into()),
        }
        (removed, errors)
    }
}

impl From<TableDrift> for GuardDrift {
    fn from(drift: TableDrift) -> Self {
        match drift {
            TableDrift::Missing => Self::TableMissing,
            TableDrift::Changed => Self::TableChanged,
        }
    }
}
