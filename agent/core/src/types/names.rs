//! Newtypes of names: pod UIDs, external ids, session names.

use std::fmt;
use std::sync::Arc;

/// A pod's `metadata.uid`: the identity that an address is resolved to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodUid(Arc<str>);

/// An external id for `AssumeRole`: 2 to 1224 characters of `[\w+=,.@:/-]` (STS API reference, `ExternalId`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExternalId(Arc<str>);

/// A role session name: 2 to 64 characters of `[\w+=,.@-]` (STS API reference, `RoleSessionName`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionName(Arc<str>);

/// Why a text is not such a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Too short or too long.
    #[error("{what} has {found} characters; allowed are {min} to {max}")]
    Length {
        /// The kind of name.
        what: &'static str,
        /// Characters found.
        found: usize,
        /// Fewest allowed.
        min: usize,
        /// Most allowed.
        max: usize,
    },
    /// A character that STS does not take.
    #[error("{what} contains {found:?}; allowed are letters, digits and {allowed}")]
    Character {
        /// The kind of name.
        what: &'static str,
        /// The first such character.
        found: char,
        /// The punctuation that is allowed.
        allowed: &'static str,
    },
}

// === impl PodUid ===

impl PodUid {
    /// Any UID the API server gave.
    #[must_use]
    pub fn new(uid: &str) -> Self {
        Self(Arc::from(uid))
    }

    /// The UID as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl ExternalId ===

impl ExternalId {
    /// Checks length and characters.
    ///
    /// # Errors
    /// [`NameError`] says what is wrong and what is allowed.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check("external id", text, 2, 1224, "_+=,.@:/-").map(|()| Self(Arc::from(text)))
    }

    /// The external id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

// === impl SessionName ===

impl SessionName {
    /// Checks length and characters.
    ///
    /// # Errors
    /// [`NameError`] says what is wrong and what is allowed.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check("session name", text, 2, 64, "_+=,.@-").map(|()| Self(Arc::from(text)))
    }

    /// The session name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check(
    what: &'static str,
    text: &str,
    min: usize,
    max: usize,
    allowed: &'static str,
) -> Result<(), NameError> {
    let found = text.chars().count();
    if found < min || found > max {
        return Err(NameError::Length { what, found, min, max });
    }
    match text.chars().find(|c| !c.is_ascii_alphanumeric() && !allowed.contains(*c)) {
        Some(found) => Err(NameError::Character { what, found, allowed }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn external_id_takes_what_sts_takes_and_names_what_it_does_not() {
        assert!(ExternalId::parse("a:b/c=d").is_ok());
        assert_eq!(
            ExternalId::parse("a b").unwrap_err().to_string(),
            "external id contains ' '; allowed are letters, digits and _+=,.@:/-"
        );
        assert!(ExternalId::parse("x").unwrap_err().to_string().contains("2 to 1224"));
    }

    #[test]
    fn session_name_is_at_most_64_characters() {
        assert!(SessionName::parse(&"a".repeat(64)).is_ok());
        assert!(SessionName::parse(&"a".repeat(65)).is_err());
        assert!(SessionName::parse("a:b").is_err());
    }
}
