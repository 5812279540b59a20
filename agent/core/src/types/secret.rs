//! A string that must not be seen: redacted in `Debug`, no `Display`, no `Serialize`, wiped on drop.

use std::fmt;

use zeroize::Zeroizing;

/// A secret access key, a session token, a bearer token.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

// === impl Secret ===

impl Secret {
    /// Takes the text over.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text itself; for the wire only, never for a log, a metric or an error.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing_of_it() {
        assert_eq!(format!("{:?}", Secret::new("wJalr".into())), "Secret(redacted)");
    }
}
