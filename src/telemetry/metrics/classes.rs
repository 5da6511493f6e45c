//! Lock classes as label values: the part of a key before its first `:`. The first [`CLASSES_MAX`] that this
//! process sees have a name of their own; everything else is `other`, so that no client makes labels without end.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// Classes with a name of their own.
const CLASSES_MAX: usize = 32;
/// Longest class that is one.
const CLASS_BYTES_MAX: usize = 64;
/// Every other class.
const OTHER: &str = "other";

/// Something kept for each class.
pub(crate) struct Classes<T> {
    make: fn() -> T,
    known: RwLock<BTreeMap<String, Arc<T>>>,
    other: Arc<T>,
}

impl<T> Classes<T> {
    pub(crate) fn new(make: fn() -> T) -> Self {
        Self { make, known: RwLock::default(), other: Arc::new(make()) }
    }

    /// What is kept for the class of `key`.
    pub(crate) fn of(&self, key: &str) -> Arc<T> {
        let Some(class) = class(key) else { return Arc::clone(&self.other) };
        // The map is whole between any two statements.
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = known.get(class) {
            return Arc::clone(kept);
        }
        let is_full = known.len() >= CLASSES_MAX;
        drop(known);
        if is_full {
            return Arc::clone(&self.other);
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= CLASSES_MAX && !known.contains_key(class) {
            return Arc::clone(&self.other);
        }
        Arc::clone(known.entry(class.to_owned()).or_insert_with(|| Arc::new((self.make)())))
    }

    /// Every class with what is kept for it.
    pub(crate) fn each(&self) -> Vec<(String, Arc<T>)> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = known.iter().map(|(class, kept)| (class.clone(), Arc::clone(kept))).collect();
        all.push((OTHER.to_owned(), Arc::clone(&self.other)));
        all
    }
}

/// A key without a `:` is a name of its own, and names are never labels.
fn class(key: &str) -> Option<&str> {
    let (class, _) = key.split_once(':')?;
    let fits = !class.is_empty() && class.len() <= CLASS_BYTES_MAX && class != OTHER;
    (fits && !class.contains(char::is_control)).then_some(class)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn classes_are_bounded_whatever_the_keys_are() {
        let classes = Classes::new(AtomicU64::default);
        let count = |key: &str| {
            classes.of(key).fetch_add(1, Ordering::Relaxed);
        };
        ["switch:1", "switch:2:3", "plain", ":empty", "line\nbreak:1"].into_iter().for_each(count);
        count(&format!("{}:1", "x".repeat(CLASS_BYTES_MAX + 1)));
        let seen = |wanted: &str| {
            let found = classes.each().into_iter().find(|(class, _)| class == wanted);
            found.map(|(_, kept)| kept.load(Ordering::Relaxed))
        };
        assert_eq!((seen("switch"), seen(OTHER)), (Some(2), Some(4)));
        (0..1_000).for_each(|user| count(&format!("user-{user}:x")));
        count("switch:9");
        assert_eq!(classes.each().len(), CLASSES_MAX + 1);
        let first_come = CLASSES_MAX as u64 - 1;
        assert_eq!((seen("switch"), seen(OTHER)), (Some(3), Some(4 + 1_000 - first_come)));
    }
}
