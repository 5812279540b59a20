//! In what ways the rules can differ from what they should be: a closed set, so that it can be a label.

use std::fmt;

use crate::family::Family;

/// One way of differing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Drift {
    /// Neither our chain nor a jump to it: nothing was installed, or the table was replaced.
    Missing,
    /// Our chain has other rules than it should have, none, or should not be there.
    ChainChanged,
    /// Our chain is not called.
    JumpMissing,
    /// Another rule comes before the call of our chain.
    JumpNotFirst,
    /// Our chain is called more than once.
    JumpDuplicate,
    /// There is a rule of another agent's.
    Foreign(Peer),
    /// The other back end (nft or legacy) has rules of ours, which an earlier start left there.
    OtherBackend,
}

/// The agents whose rule is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// jtblin/kube2iam.
    Kube2iam,
    /// uswitch/kiam.
    Kiam,
}

/// What differed, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cause {
    /// In which family.
    pub family: Family,
    /// In which table.
    pub table: &'static str,
    /// How.
    pub drift: Drift,
}

// === impl Drift ===

impl Drift {
    /// Every one there is.
    pub const ALL: [Self; 8] = [
        Self::Missing,
        Self::ChainChanged,
        Self::JumpMissing,
        Self::JumpNotFirst,
        Self::JumpDuplicate,
        Self::Foreign(Peer::Kube2iam),
        Self::Foreign(Peer::Kiam),
        Self::OtherBackend,
    ];

    /// Its name as a metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::ChainChanged => "chain_changed",
            Self::JumpMissing => "jump_missing",
            Self::JumpNotFirst => "jump_not_first",
            Self::JumpDuplicate => "jump_duplicate",
            Self::Foreign(Peer::Kube2iam) => "foreign_kube2iam",
            Self::Foreign(Peer::Kiam) => "foreign_kiam",
            Self::OtherBackend => "other_backend",
        }
    }
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Cause ===

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.family, self.table, self.drift)
    }
}
