//! Role ARNs, parsed and never split by hand elsewhere.
//!
//! Grammar: `arn:PARTITION:iam::ACCOUNT:role/[PATH/]NAME` (AWS "IAM identifiers"): 12 digits of account;
//! the path is `/`-separated printable ASCII (at most 512 characters); the name has 1 to 64 characters of
//! `[\w+=,.@-]` and is unique in an account whatever the path and case.

use std::fmt;
use std::sync::Arc;

use super::joined::with_joined;

/// The ARN of one IAM role.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoleArn {
    text: Arc<str>,
    /// Byte offset of the 12 digits.
    account: usize,
    /// Byte offset of the last path segment.
    name: usize,
}

/// What a bare role name is completed with: `arn:PARTITION:iam::ACCOUNT:role/[PATH/]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoleArnBase {
    text: Arc<str>,
    account: usize,
}

/// Why a text is not a role ARN.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoleArnError {
    /// Nothing there.
    #[error("the role is empty; allowed are a name, a path/name or an ARN")]
    Empty,
    /// Longer than any ARN.
    #[error("the role is too long; allowed are at most 2048 bytes")]
    TooLong(usize),
    /// Not the shape of an IAM role's ARN.
    #[error("not a role ARN; allowed is arn:PARTITION:iam::ACCOUNT:role/[PATH/]NAME")]
    Shape,
    /// Unknown form of partition.
    #[error("the partition is not one; allowed are aws, aws-cn, aws-us-gov and others that begin with aws")]
    Partition,
    /// The account is not 12 digits.
    #[error("the account is not 12 digits")]
    Account,
    /// The path has an empty segment or a character that IAM does not take.
    #[error("the role's path has an empty segment or a character outside printable ASCII")]
    Path,
    /// The name has a character that IAM does not take, or a wrong length.
    #[error("the role's name is not 1 to 64 letters, digits and _+=,.@-")]
    Name,
    /// A bare name where no base ARN is known.
    #[error(
        "the role is not an ARN and no base ARN is known; set --base-role-arn or --auto-discover-base-arn"
    )]
    NoBase,
}

const LONGEST: usize = 2048;

// === impl RoleArn ===

impl RoleArn {
    /// Parses a whole ARN.
    ///
    /// # Errors
    /// [`RoleArnError`] names the first part that is wrong.
    pub fn parse(text: &str) -> Result<Self, RoleArnError> {
        let (account, resource) = prefix(text)?;
        let name = resource_name(text, resource)?;
        Ok(Self { text: Arc::from(text), account, name })
    }

    /// A name, a path/name (with or without a leading slash) or an ARN, completed with `base`.
    ///
    /// # Errors
    /// [`RoleArnError`]; [`RoleArnError::NoBase`] when a bare name has nothing to be completed with.
    pub fn resolve(text: &str, base: Option<&RoleArnBase>) -> Result<Self, RoleArnError> {
        if text.is_empty() {
            return Err(RoleArnError::Empty);
        }
        if text.len() > LONGEST {
            return Err(RoleArnError::TooLong(text.len()));
        }
        if text.starts_with("arn:") {
            return Self::parse(text);
        }
        if text.contains(':') {
            return Err(RoleArnError::Shape);
        }
        let base = base.ok_or(RoleArnError::NoBase)?;
        with_joined([&*base.text, text.strip_prefix('/').unwrap_or(text)].into_iter(), Self::parse)
    }

    /// The whole ARN.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// `aws`, `aws-cn`, …
    #[must_use]
    pub fn partition(&self) -> &str {
        self.text[4..].split(':').next().unwrap_or_default()
    }

    /// The 12 digits.
    #[must_use]
    pub fn account(&self) -> &str {
        &self.text[self.account..self.account + 12]
    }

    /// Path and name, without `role/`: `kops/corp-node`.
    #[must_use]
    pub fn path_and_name(&self) -> &str {
        &self.text[self.account + 12 + ":role/".len()..]
    }

    /// The last segment: `corp-node`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.text[self.name..]
    }
}

impl fmt::Display for RoleArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for RoleArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

// === impl RoleArnBase ===

impl RoleArnBase {
    /// Parses `arn:PARTITION:iam::ACCOUNT:role[/PATH][/]`; a missing slash at the end is added.
    ///
    /// # Errors
    /// [`RoleArnError`] names the first part that is wrong.
    pub fn parse(text: &str) -> Result<Self, RoleArnError> {
        let text = if text.ends_with('/') { text.to_owned() } else { format!("{text}/") };
        let (account, resource) = prefix(&text)?;
        let path = &text[resource..];
        if !path.is_empty() {
            check_path(&path[..path.len() - 1])?;
        }
        Ok(Self { text: Arc::from(text), account })
    }

    /// The base of `partition` and `account`, without a path.
    ///
    /// # Errors
    /// [`RoleArnError`] if either is malformed.
    pub fn of_account(partition: &str, account: &str) -> Result<Self, RoleArnError> {
        Self::parse(&format!("arn:{partition}:iam::{account}:role/"))
    }

    /// The whole base, with its slash at the end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The 12 digits.
    #[must_use]
    pub fn account(&self) -> &str {
        &self.text[self.account..self.account + 12]
    }

    /// `aws`, `aws-cn`, …
    #[must_use]
    pub fn partition(&self) -> &str {
        self.text[4..].split(':').next().unwrap_or_default()
    }
}

/// Offsets of the account and of what follows `role/`.
fn prefix(text: &str) -> Result<(usize, usize), RoleArnError> {
    if text.len() > LONGEST {
        return Err(RoleArnError::TooLong(text.len()));
    }
    let rest = text.strip_prefix("arn:").ok_or(RoleArnError::Shape)?;
    let (partition, rest) = rest.split_once(':').ok_or(RoleArnError::Shape)?;
    let well_formed = partition == "aws"
        || partition.strip_prefix("aws-").is_some_and(|tail| {
            !tail.is_empty()
                && tail.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        });
    if !well_formed {
        return Err(RoleArnError::Partition);
    }
    let rest = rest.strip_prefix("iam::").ok_or(RoleArnError::Shape)?;
    let (account, rest) = rest.split_once(':').ok_or(RoleArnError::Shape)?;
    if account.len() != 12 || !account.bytes().all(|b| b.is_ascii_digit()) {
        return Err(RoleArnError::Account);
    }
    let resource = rest.strip_prefix("role/").ok_or(RoleArnError::Shape)?;
    Ok((text.len() - rest.len() - 13, text.len() - resource.len()))
}

fn resource_name(text: &str, resource: usize) -> Result<usize, RoleArnError> {
    let path_and_name = &text[resource..];
    let name_at = path_and_name.rfind('/').map_or(0, |slash| slash + 1);
    if name_at > 0 {
        check_path(&path_and_name[..name_at - 1])?;
    }
    let name = &path_and_name[name_at..];
    let fine = (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+=,.@-".contains(&b));
    if fine { Ok(resource + name_at) } else { Err(RoleArnError::Name) }
}

fn check_path(path: &str) -> Result<(), RoleArnError> {
    let fine = path.len() <= 510
        && path
            .split('/')
            .all(|segment| !segment.is_empty() && segment.bytes().all(|b| b.is_ascii_graphic() && b != b':'));
    if fine { Ok(()) } else { Err(RoleArnError::Path) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> RoleArnBase {
        RoleArnBase::parse("arn:aws:iam::123456789012:role").unwrap()
    }

    #[test]
    fn name_path_and_arn_resolve_to_the_same_role() {
        let arn = RoleArn::parse("arn:aws:iam::123456789012:role/kops/corp-node").unwrap();
        assert_eq!(RoleArn::resolve("kops/corp-node", Some(&base())).unwrap(), arn);
        assert_eq!(RoleArn::resolve("/kops/corp-node", Some(&base())).unwrap(), arn);
        assert_eq!(RoleArn::resolve(arn.as_str(), None).unwrap(), arn);
        assert_eq!(
            (arn.partition(), arn.account(), arn.path_and_name(), arn.name()),
            ("aws", "123456789012", "kops/corp-node", "corp-node")
        );
    }

    #[test]
    fn hostile_texts_are_errors_that_name_the_part() {
        for (text, error) in [
            ("", RoleArnError::Empty),
            ("arn:", RoleArnError::Shape),
            ("arn:x", RoleArnError::Shape),
            ("arn:aws:iam:1:role/x", RoleArnError::Shape),
            ("arn:aws:iam::1234567890108:role/x", RoleArnError::Account),
            ("aws:arn:iam::123456789012:role/x", RoleArnError::Shape),
            ("arn:amazon:iam::123456789012:role/x", RoleArnError::Partition),
            ("arn:aws:iam::123456789012:role/x/", RoleArnError::Name),
            ("arn:aws:iam::123456789012:role//x", RoleArnError::Path),
            ("arn:aws:iam::123456789012:user/x", RoleArnError::Shape),
            ("rôle", RoleArnError::Name),
            ("a\nb", RoleArnError::Name),
        ] {
            assert_eq!(RoleArn::resolve(text, Some(&base())), Err(error), "{text:?}");
        }
        assert_eq!(RoleArn::resolve(&"a".repeat(65_536), Some(&base())), Err(RoleArnError::TooLong(65_536)));
        assert_eq!(RoleArn::resolve("x", None), Err(RoleArnError::NoBase));
    }

    #[test]
    fn base_needs_twelve_digits_and_the_right_order() {
        assert_eq!(RoleArnBase::parse("arn:aws:iam::1234567890108:role/"), Err(RoleArnError::Account));
        assert_eq!(RoleArnBase::parse("aws:arn:iam::123456789012:role/"), Err(RoleArnError::Shape));
        assert_eq!(
            RoleArnBase::parse("arn:aws-cn:iam::123456789012:role/team").unwrap().as_str(),
            "arn:aws-cn:iam::123456789012:role/team/"
        );
    }
}
