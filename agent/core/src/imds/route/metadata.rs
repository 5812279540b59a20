//! What of the real metadata service pods may see: an allow-list, below a list that nothing opens.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::Route;

/// What is passed through by default: where and what this instance is, no identity and no secret. None of it
/// changes while the instance runs.
const DEFAULT: [&str; 9] = [
    "dynamic/instance-identity/document",
    "meta-data/ami-id",
    "meta-data/hostname",
    "meta-data/instance-id",
    "meta-data/instance-type",
    "meta-data/local-*",
    "meta-data/mac",
    "meta-data/placement/*",
    "meta-data/services/*",
];

/// What all metadata is, for those who had it before (`--profile=kube2iam`).
const ALL: [&str; 2] = ["dynamic/**", "meta-data/**"];

/// A path with one of these segments, in any case and anywhere, is never passed through.
const NEVER: [&str; 4] = ["iam", "identity-credentials", "security-credentials", "user-data"];

/// Entries that every instance has, for the lists. A slash at the end: a directory that only the real
/// service can list.
const LISTED: [&str; 24] = [
    "dynamic/instance-identity/document",
    "dynamic/instance-identity/pkcs7",
    "dynamic/instance-identity/rsa2048",
    "dynamic/instance-identity/signature",
    "meta-data/ami-id",
    "meta-data/ami-launch-index",
    "meta-data/ami-manifest-path",
    "meta-data/block-device-mapping/",
    "meta-data/hostname",
    "meta-data/instance-action",
    "meta-data/instance-id",
    "meta-data/instance-life-cycle",
    "meta-data/instance-type",
    "meta-data/local-hostname",
    "meta-data/local-ipv4",
    "meta-data/mac",
    "meta-data/network/",
    "meta-data/placement/availability-zone",
    "meta-data/placement/availability-zone-id",
    "meta-data/placement/region",
    "meta-data/reservation-id",
    "meta-data/security-groups",
    "meta-data/services/domain",
    "meta-data/services/partition",
];

/// Longest pattern, in bytes.
const LONGEST_PATTERN: usize = 256;

/// A path that may be asked of the real service: `/latest/`, then an allowed path. Made by [`super::route`]
/// alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MetadataPath {
    path: String,
    constant: bool,
    named: bool,
}

/// Which metadata is passed through, and the lists that show it.
#[derive(Clone)]
pub struct MetadataPolicy {
    allowed: GlobSet,
    constant: GlobSet,
    /// Allowed paths that are written down somewhere, not only matched by a wildcard.
    named: BTreeSet<String>,
    /// Directory without slashes at its ends (`""` is `/latest`) -> its list.
    lists: BTreeMap<String, Bytes>,
}

// === impl MetadataPath ===

impl MetadataPath {
    /// The path, from its first slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.path
    }

    /// Whether what is there never changes while the instance runs.
    #[must_use]
    pub fn is_constant(&self) -> bool {
        self.constant
    }

    /// Whether the path is one of a few that are known by name; else a wildcard allows it, and it may be
    /// anything that a pod made up.
    #[must_use]
    pub fn is_named(&self) -> bool {
        self.named
    }
}

// === impl MetadataPolicy ===

impl MetadataPolicy {
    /// The default allow-list and `extra` patterns: below `meta-data/`, or below `dynamic/` if they begin
    /// with it; `*` stays within a segment, `**` is any number of segments. `everything` allows all that
    /// is not on the never-list.
    ///
    /// # Errors
    /// Every pattern that is malformed or names what is never passed through, each in a sentence.
    pub fn new(extra: &[String], everything: bool) -> Result<Self, Vec<String>> {
        let mut patterns: Vec<String> = DEFAULT.iter().map(ToString::to_string).collect();
        if everything {
            patterns.extend(ALL.iter().map(ToString::to_string));
        }
        let mut mistakes = Vec::new();
        for pattern in extra {
            match full_pattern(pattern) {
                Ok(full) => patterns.push(full),
                Err(mistake) => mistakes.push(format!("metadata pattern {pattern:?}: {mistake}")),
            }
        }
        // Whoever may read all of a directory may list it.
        let openings: Vec<String> = patterns
            .iter()
            .filter_map(|pattern| pattern.strip_suffix("/**").filter(|it| it.contains('/')))
            .map(ToOwned::to_owned)
            .collect();
        let listed: Vec<String> = LISTED.iter().map(ToString::to_string).chain(patterns.clone()).collect();
        patterns.extend(openings);
        let allowed = glob_set(&patterns).map_err(|error| vec![error.to_string()])?;
        let constant = glob_set(&DEFAULT).map_err(|error| vec![error.to_string()])?;
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        let named: BTreeSet<String> =
            listed.into_iter().filter(|entry| !entry.contains('*') && allows(&allowed, entry)).collect();
        let lists = lists(named.iter());
        Ok(Self { allowed, constant, named, lists })
    }

    /// Whether `pattern` is one that [`MetadataPolicy::new`] takes.
    ///
    /// # Errors
    /// Why it is none.
    pub fn check_pattern(pattern: &str) -> Result<(), &'static str> {
        full_pattern(pattern).map(drop)
    }

    /// The route of a path below a version: a list, something to pass through, or nothing.
    pub(super) fn route(&self, segments: &[&str]) -> Route {
        let path = segments.join("/");
        if allows(&self.allowed, &path) {
            let (constant, named) = (self.constant.is_match(&path), self.named.contains(&path));
            return Route::Metadata(MetadataPath { path: format!("/latest/{path}"), constant, named });
        }
        self.lists.get(&path).map_or(Route::NotFound, |list| Route::Directory(list.clone()))
    }
}

impl fmt::Debug for MetadataPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetadataPolicy").field("patterns", &self.allowed.len()).finish_non_exhaustive()
    }
}

/// The one question that passing through depends on.
fn allows(allowed: &GlobSet, path: &str) -> bool {
    let below = path.strip_prefix("meta-data/").or_else(|| path.strip_prefix("dynamic/"));
    below.is_some_and(|rest| !rest.is_empty())
        && !path.split('/').any(is_never)
        && allowed.is_match(path.trim_end_matches('/'))
}

fn is_never(segment: &str) -> bool {
    NEVER.iter().any(|never| never.eq_ignore_ascii_case(segment))
}

/// An operator's pattern with its `meta-data/` or `dynamic/`.
fn full_pattern(pattern: &str) -> Result<String, &'static str> {
    let path = pattern.strip_prefix("/latest/").unwrap_or(pattern);
    let path = path.strip_prefix('/').unwrap_or(path);
    let path = path.strip_suffix('/').unwrap_or(path);
    if path.is_empty() || pattern.len() > LONGEST_PATTERN {
        return Err("allowed are 1 to 256 characters");
    }
    if !path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._:+=,@-*".contains(&byte)) {
        return Err("allowed are letters, digits, / . _ : + = , @ - and the wildcards * and **");
    }
    for segment in path.split('/') {
        if matches!(segment, "" | "." | "..") {
            return Err("a segment is empty, . or ..");
        }
        if segment != "**" && segment.contains("**") {
            return Err("** stands for whole segments: it must be one alone");
        }
        if is_never(segment) {
            return Err(
                "iam, identity-credentials, security-credentials and user-data are never passed through",
            );
        }
    }
    let rooted = path.starts_with("meta-data/") || path.starts_with("dynamic/");
    Ok(if rooted { path.to_owned() } else { format!("meta-data/{path}") })
}

fn glob_set(patterns: &[impl AsRef<str>]) -> Result<GlobSet, globset::Error> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(GlobBuilder::new(pattern.as_ref()).literal_separator(true).build()?);
    }
    set.build()
}

/// The list of every directory above `entries`, and of those that are always there.
fn lists<'a>(entries: impl Iterator<Item = &'a String>) -> BTreeMap<String, Bytes> {
    let mut names: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    names.entry("meta-data").or_default().insert("iam/".to_owned());
    for entry in entries {
        let mut path = entry.trim_end_matches('/');
        let mut slash = if path.len() < entry.len() { "/" } else { "" };
        while let Some((directory, name)) = path.rsplit_once('/') {
            names.entry(directory).or_default().insert(format!("{name}{slash}"));
            (path, slash) = (directory, "/");
        }
    }
    let mut lists: BTreeMap<String, Bytes> = names
        .into_iter()
        .map(|(directory, names)| {
            (directory.to_owned(), Bytes::from(names.into_iter().collect::<Vec<_>>().join("\n")))
        })
        .collect();
    lists.insert(String::new(), Bytes::from_static(b"dynamic\nmeta-data"));
    lists
}
