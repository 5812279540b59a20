//! The node's own role, which no pod gets.

use crate::types::RoleArn;

/// The role that the agent itself runs as. IAM role names are unique in an account whatever their path and case,
/// so a role is the node's if its account and the last segment of its path are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRole {
    account: Option<String>,
    names: Vec<String>,
    arn: Option<String>,
}

// === impl NodeRole ===

impl NodeRole {
    /// The role of `account` that is called by any of `names`: what IMDS lists under `security-credentials/`,
    /// and what STS says of the caller. Of a path/name only the name counts; without an account it alone tells.
    #[must_use]
    pub fn new(account: Option<&str>, names: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let last = |name: &str| name.rsplit('/').next().unwrap_or(name).to_owned();
        let mut unique = Vec::new();
        for name in names {
            let name = last(name.as_ref());
            if !name.is_empty() && !unique.contains(&name) {
                unique.push(name);
            }
        }
        Self { account: account.map(str::to_owned), names: unique, arn: None }
    }

    /// With its whole ARN, for the log.
    #[must_use]
    pub fn with_arn(self, arn: &str) -> Self {
        Self { arn: Some(arn.to_owned()), ..self }
    }

    /// The 12 digits, where they are known.
    #[must_use]
    pub fn account(&self) -> Option<&str> {
        self.account.as_deref()
    }

    /// Its names, without paths.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Its ARN, where it is known.
    #[must_use]
    pub fn arn(&self) -> Option<&str> {
        self.arn.as_deref()
    }

    /// `role` is this one.
    #[must_use]
    pub fn is(&self, role: &RoleArn) -> bool {
        self.account.as_deref().is_none_or(|account| account == role.account())
            && self.names.iter().any(|name| name.eq_ignore_ascii_case(role.name()))
    }
}
