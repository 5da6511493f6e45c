//! The values that are kept, by name: which to give up when there are too many, and which a clear means.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use tokio::time::Instant;

use super::journal::Clear;
use super::pattern::{Pattern, Range};

/// Bytes that an entry takes beside its name, tags and value, roughly.
pub(super) const ENTRY_BYTES: usize = 160;
/// Looking for what one clear means costs at most so many steps of its globs. What lies in the range of the rest goes
/// unseen: it is loaded anew, which costs less than to stand still here.
const CLEAR_STEPS_MAX: u64 = 20_000_000;

/// How much may be kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) entries_max: usize,
    pub(super) bytes_max: usize,
}

/// One kept value.
pub(super) struct Entry<V> {
    pub(super) value: V,
    pub(super) tags: Box<[Arc<str>]>,
    /// Name, tags, value and what keeps them.
    pub(super) bytes: usize,
    /// When it goes by itself.
    pub(super) ends: Option<Instant>,
    used: u64,
}

impl<V> Entry<V> {
    pub(super) fn new(value: V, tags: Box<[Arc<str>]>, bytes: usize, ends: Option<Instant>) -> Self {
        Self { value, tags, bytes, ends, used: 0 }
    }

    fn has_ended(&self, now: Instant) -> bool {
        self.ends.is_some_and(|ends| ends <= now)
    }
}

/// Least recently used goes first.
pub(super) struct Shelf<V> {
    bounds: Bounds,
    entries: BTreeMap<Arc<str>, Entry<V>>,
    /// Names by last use.
    order: BTreeMap<u64, Arc<str>>,
    /// Names by tag.
    tags: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    uses: u64,
    bytes: usize,
}

/// Entries that were taken out, to be dropped when nobody waits for it.
pub(super) type Taken<V> = Vec<Entry<V>>;

impl<V> Shelf<V> {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            entries: BTreeMap::new(),
            order: BTreeMap::new(),
            tags: BTreeMap::new(),
            uses: 0,
            bytes: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The value of this name unless it has ended; it is the most recently used one now.
    pub(super) fn get(&mut self, name: &str, now: Instant) -> Option<&V> {
        if self.entries.get(name)?.has_ended(now) {
            self.remove(name);
            return None;
        }
        self.uses += 1;
        let entry = self.entries.get_mut(name)?;
        let name = self.order.remove(&entry.used).expect("every entry has its place in the order");
        entry.used = self.uses;
        self.order.insert(self.uses, name);
        Some(&entry.value)
    }

    /// Keeps a value instead of what was there; answers what had to go for it, without what it replaced. One that is
    /// larger than everything together may be goes itself.
    pub(super) fn insert(&mut self, name: Arc<str>, mut entry: Entry<V>) -> Taken<V> {
        self.remove(&name);
        if entry.bytes > self.bounds.bytes_max {
            return vec![entry];
        }
        self.uses += 1;
        entry.used = self.uses;
        self.bytes += entry.bytes;
        self.order.insert(entry.used, Arc::clone(&name));
        for tag in &entry.tags {
            self.tags.entry(Arc::clone(tag)).or_default().insert(Arc::clone(&name));
        }
        self.entries.insert(name, entry);
        let mut evicted = Vec::new();
        while self.entries.len() > self.bounds.entries_max || self.bytes > self.bounds.bytes_max {
            let Some(oldest) = self.order.values().next().cloned() else { break };
            evicted.extend(self.remove(&oldest));
        }
        evicted
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<Entry<V>> {
        let entry = self.entries.remove(name)?;
        self.order.remove(&entry.used);
        self.bytes -= entry.bytes;
        for tag in &entry.tags {
            if let Some(names) = self.tags.get_mut(tag) {
                names.remove(name);
                if names.is_empty() {
                    self.tags.remove(tag);
                }
            }
        }
        Some(entry)
    }

    /// Takes out what `clear` means, and perhaps more.
    pub(super) fn clear(&mut self, clear: &Clear) -> Taken<V> {
        let Clear::Matching { patterns, tags, .. } = clear else {
            let all = std::mem::replace(self, Self::new(self.bounds));
            self.uses = all.uses;
            return all.entries.into_values().collect();
        };
        let mut taken = Vec::new();
        for tag in tags {
            let names = self.tags.get(tag.as_str()).cloned().unwrap_or_default();
            taken.extend(names.iter().filter_map(|name| self.remove(name)));
        }
        let mut steps = 0;
        for pattern in patterns {
            self.clear_pattern(pattern, &mut steps, &mut taken);
        }
        taken
    }

    fn clear_pattern(&mut self, pattern: &Pattern, steps: &mut u64, taken: &mut Taken<V>) {
        let meant: Vec<Arc<str>> = match pattern.range() {
            Range::One(name) => return taken.extend(self.remove(name)),
            Range::All(prefix) => self.with_prefix(prefix).cloned().collect(),
            Range::Some(prefix) => {
                let mut means =
                    |name: &str| *steps > CLEAR_STEPS_MAX || pattern.matches_counted(name, &mut *steps);
                self.with_prefix(prefix).filter(|name| means(name)).cloned().collect()
            }
        };
        taken.extend(meant.iter().filter_map(|name| self.remove(name)));
    }

    fn with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Arc<str>> {
        let from = self.entries.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        from.map(|(name, _)| name).take_while(move |name| name.starts_with(prefix))
    }

    /// What must hold between any two calls.
    #[cfg(test)]
    pub(super) fn check(&self) {
        assert_eq!(self.bytes, self.entries.values().map(|entry| entry.bytes).sum::<usize>());
        assert!(self.bytes <= self.bounds.bytes_max && self.entries.len() <= self.bounds.entries_max);
        assert_eq!(self.order.len(), self.entries.len());
        for (used, name) in &self.order {
            assert_eq!(self.entries[name].used, *used);
        }
        let tagged: usize = self.tags.values().map(BTreeSet::len).sum();
        let distinct = |entry: &Entry<V>| entry.tags.iter().collect::<BTreeSet<_>>().len();
        assert_eq!(tagged, self.entries.values().map(distinct).sum::<usize>());
        assert!(self.tags.values().all(|names| !names.is_empty()));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn shelf(entries_max: usize, bytes_max: usize) -> Shelf<u32> {
        Shelf::new(Bounds { entries_max, bytes_max })
    }

    fn put(shelf: &mut Shelf<u32>, name: &str, tags: &[&str], bytes: usize) -> usize {
        let tags = tags.iter().map(|tag| Arc::from(*tag)).collect();
        let evicted = shelf.insert(name.into(), Entry::new(7, tags, bytes, None)).len();
        shelf.check();
        evicted
    }

    fn names(shelf: &Shelf<u32>) -> Vec<&str> {
        shelf.entries.keys().map(|name| &**name).collect()
    }

    fn clear(shelf: &mut Shelf<u32>, patterns: &[&str], tags: &[&str]) -> usize {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let taken = shelf.clear(&Clear::new(&owned(patterns), &owned(tags))).len();
        shelf.check();
        taken
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let (mut shelf, now) = (shelf(3, 1_000), Instant::now());
        for name in ["a", "b", "c"] {
            assert_eq!(put(&mut shelf, name, &[], 10), 0);
        }
        assert_eq!(shelf.get("a", now), Some(&7));
        assert_eq!(put(&mut shelf, "d", &[], 10), 1);
        assert_eq!(names(&shelf), ["a", "c", "d"]);
        // Bytes count too; what is replaced is none that had to go.
        assert_eq!(put(&mut shelf, "d", &[], 985), 1);
        assert_eq!(names(&shelf), ["a", "d"]);
        assert_eq!(put(&mut shelf, "e", &[], 1_001), 1, "it does not fit at all");
        assert_eq!((names(&shelf), shelf.bytes()), (vec!["a", "d"], 995));
    }

    #[test]
    fn what_has_ended_is_not_there() {
        let (mut shelf, now) = (shelf(3, 1_000), Instant::now());
        let ends = now + Duration::from_secs(1);
        shelf.insert("a".into(), Entry::new(1, Box::default(), 10, Some(ends)));
        assert_eq!(shelf.get("a", now), Some(&1));
        assert_eq!(shelf.get("a", ends), None);
        assert_eq!((shelf.len(), shelf.bytes()), (0, 0));
    }

    #[test]
    fn a_clear_takes_out_what_it_means() {
        let mut shelf = shelf(100, 100_000);
        for name in ["switch:1", "switch:2", "switch:2:port", "router:1", "s", "switchx"] {
            put(&mut shelf, name, &[if name.contains('1') { "one" } else { "more" }, "all", "all"], 10);
        }
        assert_eq!(clear(&mut shelf, &["nothing", "*:3", "none*"], &["none"]), 0);
        assert_eq!(clear(&mut shelf, &["switch:1"], &[]), 1);
        assert_eq!(clear(&mut shelf, &["*:2", "*:port", "switch:2"], &[]), 2);
        assert_eq!(clear(&mut shelf, &["switch:*"], &["one"]), 1);
        assert_eq!(names(&shelf), ["s", "switchx"]);
        assert_eq!(clear(&mut shelf, &[], &["all"]), 2);
        put(&mut shelf, "z", &["t"], 10);
        assert_eq!(shelf.clear(&Clear::Everything).len(), 1);
        shelf.check();
    }

    /// A clear whose globs would keep everybody waiting takes out their whole range instead.
    #[test]
    fn a_hostile_clear_is_bounded() {
        let mut shelf = shelf(100_000, usize::MAX);
        let filler = "a".repeat(1_000);
        for number in 0..50 {
            put(&mut shelf, &format!("x{filler}{number}"), &[], 10);
            put(&mut shelf, &format!("y{number}"), &[], 10);
        }
        let globs: Vec<String> = (0..256).map(|_| format!("x{}b", "*a".repeat(511))).collect();
        let taken = shelf.clear(&Clear::new(&globs, &[])).len();
        assert_eq!(taken, 50, "all in the range of the globs, and nothing else");
        let mut steps = 0;
        assert!(!Pattern::parse(&globs[0]).unwrap().matches_counted(&format!("x{filler}"), &mut steps));
        assert!(steps * 50 * 256 > CLEAR_STEPS_MAX, "it is hostile enough to show something");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn agrees_with_a_plain_list(
            operations in prop::collection::vec(
                (0_u8..4, "[ab]{1,3}", "[xy]", "[ab*?]{1,4}", 1_usize..40), 1..60),
        ) {
            let mut shelf = shelf(5, 100);
            let now = Instant::now();
            // Most recently used last.
            let mut list: Vec<(String, String, usize)> = Vec::new();
            for (kind, name, tag, pattern, bytes) in operations {
                match kind {
                    0 | 1 => {
                        put(&mut shelf, &name, &[&tag], bytes);
                        list.retain(|(other, ..)| *other != name);
                        list.push((name, tag, bytes));
                        while list.len() > 5 || list.iter().map(|(.., bytes)| bytes).sum::<usize>() > 100 {
                            list.remove(0);
                        }
                    }
                    2 => {
                        let at = list.iter().position(|(other, ..)| *other == name);
                        prop_assert_eq!(shelf.get(&name, now).is_some(), at.is_some());
                        if let Some(at) = at {
                            let entry = list.remove(at);
                            list.push(entry);
                        }
                    }
                    _ => {
                        let meant = Clear::new(std::slice::from_ref(&pattern), std::slice::from_ref(&tag));
                        let before = list.len();
                        list.retain(|(name, tag, _)| !meant.means(name, &[tag]));
                        prop_assert_eq!(clear(&mut shelf, &[&pattern], &[&tag]), before - list.len());
                    }
                }
                let mut expected: Vec<_> = list.iter().map(|(name, ..)| name.as_str()).collect();
                expected.sort_unstable();
                prop_assert_eq!(names(&shelf), expected);
            }
        }
    }
}
