//! All namespaces of the cluster by name, in parts: a change of one copies one part and shares the others.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::policy::NamespaceFacts;

/// Parts. Of 10,000 namespaces one has some 160; a cluster of a few has as many parts, most of them one empty one.
const PARTS: usize = 64;

/// Namespaces by name.
#[derive(Clone, Debug)]
pub(crate) struct Namespaces(Box<[Arc<Part>]>);

type Part = HashSet<ByName>;

/// A namespace whose own name is the key.
#[derive(Clone, Debug)]
struct ByName(Arc<NamespaceFacts>);

// === impl Namespaces ===

impl Namespaces {
    pub(crate) fn get(&self, name: &str) -> Option<&Arc<NamespaceFacts>> {
        self.0[part_of(name)].get(name).map(|ByName(namespace)| namespace)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(|part| part.len()).sum()
    }

    /// In place of the one of that name.
    pub(crate) fn insert(&mut self, namespace: Arc<NamespaceFacts>) {
        let part = &mut self.0[part_of(&namespace.name)];
        Arc::make_mut(part).replace(ByName(namespace));
    }

    /// False if there is none.
    pub(crate) fn remove(&mut self, name: &str) -> bool {
        let part = &mut self.0[part_of(name)];
        part.contains(name) && Arc::make_mut(part).remove(name)
    }

    /// Every record is the very same.
    pub(crate) fn shares_all_with(&self, other: &Self) -> bool {
        let theirs = |ByName(mine): &ByName| other.get(&mine.name).is_some_and(|its| Arc::ptr_eq(mine, its));
        self.len() == other.len() && self.0.iter().all(|part| part.iter().all(theirs))
    }
}

impl Default for Namespaces {
    fn default() -> Self {
        Self(vec![Arc::default(); PARTS].into())
    }
}

// === impl ByName ===

impl Borrow<str> for ByName {
    fn borrow(&self) -> &str {
        &self.0.name
    }
}

impl Hash for ByName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.name.hash(state);
    }
}

impl PartialEq for ByName {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for ByName {}

/// Which part. Whoever makes names that all fall into one gains nothing but the copy that there was without parts.
fn part_of(name: &str) -> usize {
    name.bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into())) % PARTS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::NamespaceAnnotations;

    fn mk_namespace(name: &str, allowed_roles: Option<&str>) -> NamespaceFacts {
        let allowed_roles = allowed_roles.map(Arc::from);
        NamespaceFacts::new(name, NamespaceAnnotations { allowed_roles, ..NamespaceAnnotations::default() })
    }

    fn of(names: impl IntoIterator<Item = String>) -> Namespaces {
        let mut all = Namespaces::default();
        for name in names {
            all.insert(Arc::new(mk_namespace(&name, None)));
        }
        all
    }

    #[test]
    fn a_namespace_is_found_by_its_name_until_it_is_removed() {
        let mut all = of((0..1_000).map(|n| format!("team-{n}")));
        assert_eq!(all.len(), 1_000);
        assert_eq!(&*all.get("team-7").unwrap().name, "team-7");
        all.insert(Arc::new(mk_namespace("team-7", Some("[]"))));
        assert_eq!(
            (all.len(), all.get("team-7").unwrap().annotations().allowed_roles.as_deref()),
            (1_000, Some("[]"))
        );
        assert!(all.remove("team-7") && !all.remove("team-7"));
        assert!(all.get("team-7").is_none());
        assert_eq!(all.len(), 999);
    }

    #[test]
    fn a_change_copies_one_part_and_names_are_spread_over_all() {
        let before = of((0..10_000).map(|n| format!("team-{n}")));
        let mut after = before.clone();
        assert!(after.shares_all_with(&before));
        after.insert(Arc::new(mk_namespace("team-7", None)));
        assert!(!after.shares_all_with(&before));
        let copied = before.0.iter().zip(&after.0).filter(|(one, other)| !Arc::ptr_eq(one, other));
        assert_eq!(copied.count(), 1);
        let largest = before.0.iter().map(|part| part.len()).max();
        assert!(largest < Some(3 * 10_000 / PARTS), "{largest:?}");
    }
}
