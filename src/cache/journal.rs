//! What was cleared while values were being loaded, so that none of them is kept that was read before.
//!
//! Clears are counted. A load takes the count at its start as its stamp; when it is done, every clear counted since is
//! asked whether it meant this value. What no load that is under way could ask for is forgotten, and so is what would
//! take too much room: a load that began before that is refused as if it had been meant.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::pattern::Pattern;

/// Clears that are remembered while loads are under way.
const JOURNAL_MAX: usize = 1_024;
/// Bytes of their patterns and tags. Bounds the work of one check, too.
const JOURNAL_BYTES_MAX: usize = 256 * 1_024;

/// How many clears a cache had seen when a load began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stamp(u64);

/// What is no longer true.
#[derive(Clone, Debug)]
pub enum Clear {
    /// Everything.
    Everything,
    /// Names that one of the patterns means, and whatever carries one of the tags.
    Matching {
        /// Names.
        patterns: Vec<Pattern>,
        /// Tags.
        tags: Vec<String>,
        /// Bytes of both.
        bytes: usize,
    },
}

impl Clear {
    /// Reads what an entry of the log says. One that cannot be understood clears everything: too much is no harm.
    #[must_use]
    pub fn new(patterns: &[String], tags: &[String]) -> Self {
        let bytes = patterns.iter().chain(tags).map(String::len).sum();
        match patterns.iter().map(|text| Pattern::parse(text)).collect() {
            Ok(patterns) => Self::Matching { patterns, tags: tags.to_vec(), bytes },
            Err(_) => Self::Everything,
        }
    }

    /// Whether a value of this name with these tags is meant.
    #[must_use]
    pub fn means<T: AsRef<str>>(&self, name: &str, with: &[T]) -> bool {
        match self {
            Self::Everything => true,
            Self::Matching { patterns, tags, .. } => {
                with.iter().any(|tag| tags.iter().any(|meant| meant == tag.as_ref()))
                    || patterns.iter().any(|pattern| pattern.matches(name))
            }
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Everything => 0,
            Self::Matching { bytes, .. } => *bytes,
        }
    }
}

/// The newest clears.
#[derive(Default)]
pub(super) struct Journal {
    /// Clears so far.
    count: u64,
    /// The last of them; empty while nothing is under way.
    kept: VecDeque<Arc<Clear>>,
    bytes: usize,
    /// Loads under way by their stamps.
    under_way: BTreeMap<Stamp, usize>,
}

impl Journal {
    /// Where the journal is now.
    pub(super) fn now(&self) -> Stamp {
        Stamp(self.count)
    }

    /// A load begins.
    pub(super) fn begin(&mut self) -> Stamp {
        *self.under_way.entry(self.now()).or_default() += 1;
        self.now()
    }

    /// A load that began at `stamp` has ended.
    pub(super) fn end(&mut self, stamp: Stamp) {
        if let Some(loads) = self.under_way.get_mut(&stamp) {
            *loads -= 1;
            if *loads == 0 {
                self.under_way.remove(&stamp);
            }
        }
        self.trim();
    }

    /// Counts a clear.
    pub(super) fn push(&mut self, clear: &Arc<Clear>) {
        self.count += 1;
        self.bytes += clear.bytes();
        self.kept.push_back(Arc::clone(clear));
        self.trim();
    }

    /// The first clear since `stamp` that means this value, as the stamp before it.
    pub(super) fn first_since<T: AsRef<str>>(&self, stamp: Stamp, name: &str, tags: &[T]) -> Option<Stamp> {
        let first = self.count - self.kept.len() as u64;
        if stamp.0 < first {
            return Some(stamp);
        }
        let since = self.kept.iter().zip(first..).filter(|(_, number)| *number >= stamp.0);
        since.into_iter().find(|(clear, _)| clear.means(name, tags)).map(|(_, number)| Stamp(number))
    }

    fn trim(&mut self) {
        let oldest = self.under_way.keys().next().map_or(self.count, |stamp| stamp.0);
        while let Some(clear) = self.kept.front() {
            let first = self.count - self.kept.len() as u64;
            if first >= oldest && self.kept.len() <= JOURNAL_MAX && self.bytes <= JOURNAL_BYTES_MAX {
                return;
            }
            self.bytes -= clear.bytes();
            self.kept.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_TAGS: [&str; 0] = [];

    fn clear(pattern: &str) -> Arc<Clear> {
        Arc::new(Clear::new(&[pattern.to_owned()], &["t".to_owned()]))
    }

    #[test]
    fn a_load_learns_of_the_first_clear_since_it_began() {
        let mut journal = Journal::default();
        journal.push(&clear("a"));
        let stamp = journal.begin();
        assert_eq!(journal.first_since(stamp, "a", &NO_TAGS), None);
        journal.push(&clear("b"));
        let between = journal.now();
        journal.push(&clear("a*"));
        journal.push(&clear("a"));
        assert_eq!(journal.first_since(stamp, "a", &NO_TAGS), Some(between));
        assert_eq!(journal.first_since(stamp, "c", &NO_TAGS), None);
        assert_eq!(journal.first_since(stamp, "c", &["t"]), Some(stamp));
        assert_eq!(journal.first_since(journal.now(), "a", &["t"]), None);
    }

    #[test]
    fn nothing_is_remembered_that_no_load_asks_for() {
        let mut journal = Journal::default();
        let (first, second) = (journal.begin(), journal.begin());
        journal.push(&clear("a"));
        let third = journal.begin();
        journal.push(&clear("b"));
        journal.end(first);
        assert_eq!(journal.kept.len(), 2);
        journal.end(second);
        assert_eq!(journal.kept.len(), 1, "the third began after the first clear");
        journal.end(third);
        assert_eq!((journal.kept.len(), journal.bytes), (0, 0));
        journal.push(&clear("c"));
        assert_eq!(journal.kept.len(), 0);
        assert!(journal.first_since(third, "x", &NO_TAGS).is_some(), "what is forgotten counts as meant");
    }

    #[test]
    fn what_takes_too_much_room_refuses_old_loads() {
        let mut journal = Journal::default();
        let stamp = journal.begin();
        for _ in 0..JOURNAL_MAX {
            journal.push(&clear("b"));
        }
        assert_eq!(journal.first_since(stamp, "a", &NO_TAGS), None);
        journal.push(&clear("b"));
        assert_eq!(journal.first_since(stamp, "a", &NO_TAGS), Some(stamp));
        let late = journal.begin();
        for _ in 0..300 {
            journal.push(&clear(&"b".repeat(1_000)));
        }
        assert!(journal.bytes <= JOURNAL_BYTES_MAX);
        assert!(journal.first_since(late, "a", &NO_TAGS).is_some());
    }

    #[test]
    fn what_is_not_understood_clears_everything() {
        assert!(Clear::new(&["a\\".to_owned()], &[]).means("b", &NO_TAGS));
        assert!(!Clear::new(&[], &["t".to_owned()]).means("t", &NO_TAGS));
    }
}
