//! Which host interfaces pods are behind: `auto`, `cali+,eni+`, `!eth0`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// Longest interface name: `IFNAMSIZ` (16) without its NUL; iptables holds patterns to the same length.
const MAX_NAME_BYTES: usize = 15;

/// Which interfaces a capture applies to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InterfaceSpec {
    /// Everything but `lo` and the interfaces of the default routes.
    Auto,
    /// Those that match one of these.
    Only(Vec<Pattern>),
    /// Those that match none of these.
    Except(Vec<Pattern>),
}

/// An interface name, or (with `+`, as iptables writes it) the beginning of one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pattern {
    text: String,
}

/// Why a specification cannot be used: the operator has to write it differently.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InterfaceSpecError {
    /// Nothing between two commas, or nothing at all.
    #[error("an interface name is missing in {0:?}")]
    Empty(String),
    /// The kernel has no such names.
    #[error("{0:?} is longer than {MAX_NAME_BYTES} bytes, the most an interface name can have")]
    TooLong(String),
    /// Neither the kernel nor a rule file takes it.
    #[error("{name:?} has {found:?}: interface names are made of letters, digits and . _ - @ ~ =")]
    Character {
        /// The name.
        name: String,
        /// The first character that cannot be.
        found: char,
    },
    /// `.`, `..` or a name that looks like an option.
    #[error("{0:?} is not an interface name")]
    Reserved(String),
    /// `a+b`, `++`.
    #[error("in {0:?} the `+` is not at the end: `cali+` means every name that begins with `cali`")]
    PlusInside(String),
    /// `+` alone, which matches the uplink too.
    #[error(
        "`+` alone matches every interface, the node's uplink too: use `auto`, or `!` with the uplink's name"
    )]
    PlusAlone,
    /// `cali+,!eth0`.
    #[error("{0:?} mixes names with `!` and names without: write either kind")]
    Mixed(String),
    /// `auto,cali+` or `!auto`.
    #[error("in {0:?} `auto` is not alone")]
    AutoNotAlone(String),
}

// === impl InterfaceSpec ===

impl InterfaceSpec {
    /// Reads `auto`, or a list of names separated by commas, all with `!` or all without.
    ///
    /// # Errors
    /// What about it cannot be.
    pub fn parse(text: &str) -> Result<Self, InterfaceSpecError> {
        if text.trim() == "auto" {
            return Ok(Self::Auto);
        }
        let (mut only, mut except) = (Vec::new(), Vec::new());
        for item in text.split(',').map(str::trim) {
            let (list, name) = match item.strip_prefix('!') {
                Some(name) => (&mut except, name.trim_start()),
                None => (&mut only, item),
            };
            if name.is_empty() {
                return Err(InterfaceSpecError::Empty(text.to_owned()));
            }
            if name == "auto" {
                return Err(InterfaceSpecError::AutoNotAlone(text.to_owned()));
            }
            let pattern = Pattern::parse(name)?;
            if !list.contains(&pattern) {
                list.push(pattern);
            }
        }
        match (only.is_empty(), except.is_empty()) {
            (false, true) => Ok(Self::Only(only)),
            (true, false) => Ok(Self::Except(except)),
            _ => Err(InterfaceSpecError::Mixed(text.to_owned())),
        }
    }

    /// Whether traffic that comes in by `ifname` is captured, where `uplinks` are the interfaces of the
    /// default routes. The rules say the same; this is for diagnostics.
    #[must_use]
    pub fn matches(&self, ifname: &str, uplinks: &BTreeSet<String>) -> bool {
        match self {
            Self::Auto => ifname != "lo" && !uplinks.contains(ifname),
            Self::Only(patterns) => patterns.iter().any(|pattern| pattern.matches(ifname)),
            Self::Except(patterns) => !patterns.iter().any(|pattern| pattern.matches(ifname)),
        }
    }
}

impl FromStr for InterfaceSpec {
    type Err = InterfaceSpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for InterfaceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, patterns) = match self {
            Self::Auto => return f.write_str("auto"),
            Self::Only(patterns) => ("", patterns),
            Self::Except(patterns) => ("!", patterns),
        };
        for (index, pattern) in patterns.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{sign}{pattern}")?;
        }
        Ok(())
    }
}

// === impl Pattern ===

impl Pattern {
    /// As iptables takes it after `-i`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the name is meant.
    #[must_use]
    pub fn matches(&self, ifname: &str) -> bool {
        match self.text.strip_suffix('+') {
            Some(beginning) => ifname.starts_with(beginning),
            None => ifname == self.text,
        }
    }

    fn parse(text: &str) -> Result<Self, InterfaceSpecError> {
        let owned = || text.to_owned();
        if text == "+" {
            return Err(InterfaceSpecError::PlusAlone);
        }
        if text.len() > MAX_NAME_BYTES {
            return Err(InterfaceSpecError::TooLong(owned()));
        }
        let name = text.strip_suffix('+').unwrap_or(text);
        if name.contains('+') {
            return Err(InterfaceSpecError::PlusInside(owned()));
        }
        if let Some(found) = name.chars().find(|char| !usable(*char)) {
            return Err(InterfaceSpecError::Character { name: owned(), found });
        }
        if matches!(text, "." | "..") || name.starts_with('-') {
            return Err(InterfaceSpecError::Reserved(owned()));
        }
        Ok(Self { text: owned() })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The kernel takes more than that; nobody names interfaces so, and a rule file is text.
fn usable(char: char) -> bool {
    char.is_ascii_alphanumeric() || matches!(char, '.' | '_' | '-' | '@' | '~' | '=')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> InterfaceSpec {
        InterfaceSpec::parse(text).expect(text)
    }

    fn uplinks(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn auto_is_everything_but_lo_and_the_uplinks() {
        let uplinks = uplinks(&["eth0", "eth1"]);
        for (name, captured) in
            [("lo", false), ("eth0", false), ("eth1", false), ("cali1", true), ("eth2", true)]
        {
            assert_eq!(spec("auto").matches(name, &uplinks), captured, "{name}");
        }
    }

    #[test]
    fn plus_matches_the_beginning_and_a_plain_name_itself_alone() {
        let none = uplinks(&[]);
        let spec = spec("cali+, cbr0");
        for (name, captured) in
            [("cali1", true), ("cali", true), ("cbr0", true), ("cbr01", false), ("eni1", false)]
        {
            assert_eq!(spec.matches(name, &none), captured, "{name}");
        }
        assert!(InterfaceSpec::parse("cal+").expect("cal+").matches("cali1", &none));
    }

    #[test]
    fn exclamation_mark_means_all_others() {
        let spec = spec("!eth0,!ens+");
        for (name, captured) in [("eth0", false), ("ens5", false), ("eth1", true), ("vlan7", true)] {
            assert_eq!(spec.matches(name, &uplinks(&["eth1"])), captured, "{name}");
        }
    }

    #[test]
    fn what_is_shown_is_what_is_parsed() {
        for text in ["auto", "cbr0", "cali+,eni+", "!eth0", "!eth0,!eth1", "fifteen-bytes-x"] {
            assert_eq!(spec(text).to_string(), text);
        }
        assert_eq!(spec(" cali+ ,cali+,! eth0".split(",!").next().expect("first")).to_string(), "cali+");
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_taken_is_one_word_of_a_rule_and_reads_back(text in "[ !+,a-z0-9./\"'\\\\\n-]{0,20}|auto|\\PC{0,8}") {
            if let Ok(spec) = InterfaceSpec::parse(&text) {
                proptest::prop_assert_eq!(InterfaceSpec::parse(&spec.to_string()), Ok(spec.clone()));
                if let InterfaceSpec::Only(patterns) | InterfaceSpec::Except(patterns) = spec {
                    for word in patterns.iter().map(Pattern::as_str) {
                        proptest::prop_assert!(!word.contains(|char: char| char.is_whitespace() || char.is_control()));
                        proptest::prop_assert!(!word.starts_with('-') && !word.contains(['"', '\'', '\\', '!', '/']));
                    }
                }
            }
        }
    }

    #[test]
    fn mistakes_are_named() {
        use InterfaceSpecError as E;
        let text = str::to_owned;
        for (wrong, error) in [
            ("", E::Empty(text(""))),
            ("!", E::Empty(text("!"))),
            ("cali+,,eni+", E::Empty(text("cali+,,eni+"))),
            ("sixteen-bytes-xx", E::TooLong(text("sixteen-bytes-xx"))),
            ("eth0 -j ACCEPT", E::Character { name: text("eth0 -j ACCEPT"), found: ' ' }),
            ("eth/0", E::Character { name: text("eth/0"), found: '/' }),
            ("eth0\nX", E::Character { name: text("eth0\nX"), found: '\n' }),
            ("!!eth0", E::Character { name: text("!eth0"), found: '!' }),
            ("..", E::Reserved(text(".."))),
            ("-j", E::Reserved(text("-j"))),
            ("ca+li", E::PlusInside(text("ca+li"))),
            ("cali++", E::PlusInside(text("cali++"))),
            ("+", E::PlusAlone),
            ("!+", E::PlusAlone),
            ("cali+,!eth0", E::Mixed(text("cali+,!eth0"))),
            ("auto,cali+", E::AutoNotAlone(text("auto,cali+"))),
            ("!auto", E::AutoNotAlone(text("!auto"))),
        ] {
            assert_eq!(InterfaceSpec::parse(wrong), Err(error), "{wrong:?}");
        }
    }
}
