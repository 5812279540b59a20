//! Values that the agent must never say: whatever a test is about, every agent's whole output is searched for them.

use std::collections::BTreeSet;

use parking_lot::Mutex;

use crate::imds::{NODE_MARKER, TOKEN_MARKER, USER_DATA_MARKER};
use crate::sts::{SECRET_MARK, TOKEN_MARK};

/// What the doubles of STS and IMDS put into every secret that they hand out.
pub const MARKS: [&str; 5] = [SECRET_MARK, TOKEN_MARK, NODE_MARKER, USER_DATA_MARKER, TOKEN_MARKER];

/// Secrets of this test program that carry no mark.
static OTHERS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Adds a secret that carries no mark.
pub fn plant(secret: impl Into<String>) {
    OTHERS.lock().insert(secret.into());
}

/// All that is planted so far.
#[must_use]
pub fn all() -> BTreeSet<String> {
    MARKS.iter().map(|mark| (*mark).to_owned()).chain(OTHERS.lock().iter().cloned()).collect()
}

/// The first line of `text` that has one, and which.
#[must_use]
pub fn find(text: &str) -> Option<(String, String)> {
    let planted = all();
    text.lines().find_map(|line| {
        let found = planted.iter().find(|secret| line.contains(secret.as_str()))?;
        Some((found.clone(), line.to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_and_what_was_planted_are_found_in_any_line() {
        plant("planted-by-this-test");
        assert_eq!(find("nothing\nhere"), None);
        let found = |text: &str| find(text).map(|(secret, _)| secret);
        assert_eq!(found("a\nb planted-by-this-test c\n").as_deref(), Some("planted-by-this-test"));
        assert_eq!(found("{\"SecretAccessKey\":\"PlantedSecretKey17\"}").as_deref(), Some(SECRET_MARK));
    }
}
