//! An ordered map that is cheap to clone: the clone shares every chunk until one of the two changes it.
//!
//! Two levels: a vector of chunks, each an `Arc`'d sorted vector of at most [`CHUNK_MAX`] pairs. A clone costs
//! one reference count per chunk, whatever the entries hold, so a snapshot of the whole state is taken between
//! two entries; the first change of a shared chunk then copies that chunk alone. Keys that grow (log indexes,
//! offsets) fill chunks completely, since an append to a full last chunk starts a new one.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::borrow::Borrow;
use core::mem;

/// Pairs in one chunk at most.
const CHUNK_MAX: usize = 64;
/// A chunk that shrinks below this joins a neighbour when both fit into [`CHUNK_JOINED_MAX`].
const CHUNK_SMALL: usize = 16;
/// Room is left in a joined chunk, so that the next insert does not split it again.
const CHUNK_JOINED_MAX: usize = 48;

const _: () = assert!(CHUNK_SMALL < CHUNK_JOINED_MAX && CHUNK_JOINED_MAX < CHUNK_MAX);

type Chunk<K, V> = Vec<(K, V)>;

/// See the module.
///
/// Invariant: no chunk is empty, keys ascend strictly within and across chunks, `len` counts the pairs.
pub(crate) struct CowMap<K, V> {
    chunks: Vec<Arc<Chunk<K, V>>>,
    len: usize,
}

impl<K, V> Clone for CowMap<K, V> {
    fn clone(&self) -> Self {
        Self { chunks: self.chunks.clone(), len: self.len }
    }
}

impl<K, V> Default for CowMap<K, V> {
    fn default() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }
}

impl<K: Ord + Clone, V: Clone> CowMap<K, V> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.get_key_value(key).map(|(_, value)| value)
    }

    pub(crate) fn get_key_value<Q: Ord + ?Sized>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        let (chunk, at) = self.find(key)?;
        self.chunks.get(chunk)?.get(at).map(|(key, value)| (key, value))
    }

    pub(crate) fn contains<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.find(key).is_some()
    }

    /// Copies the chunk first when a clone shares it.
    pub(crate) fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let (chunk, at) = self.find(key)?;
        let chunk = Arc::make_mut(self.chunks.get_mut(chunk)?);
        chunk.get_mut(at).map(|(_, value)| value)
    }

    /// Returns the value that was there.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        // Keys that ascend, as in a snapshot, need no search.
        if self.last().is_none_or(|(last, _)| *last < key) {
            self.push(key, value);
            return None;
        }
        let at = self.chunk_from(|other| *other < key);
        let shared = self.chunks.get_mut(at).expect("the key is not beyond the last one");
        if shared.len() >= CHUNK_MAX && shared.binary_search_by(|(other, _)| other.cmp(&key)).is_err() {
            let tail = Arc::make_mut(shared).split_off(CHUNK_MAX / 2);
            self.chunks.insert(at + 1, Arc::new(tail));
            return self.insert(key, value);
        }
        let chunk = Arc::make_mut(shared);
        match chunk.binary_search_by(|(other, _)| other.cmp(&key)) {
            Ok(at) => chunk.get_mut(at).map(|(_, old)| mem::replace(old, value)),
            Err(at) => {
                chunk.insert(at, (key, value));
                self.len += 1;
                None
            }
        }
    }

    /// Looks once for a key that is there.
    pub(crate) fn get_or_insert_with(&mut self, key: &K, value: impl FnOnce() -> V) -> &mut V {
        let found = match self.find(key) {
            Some(found) => found,
            None => {
                self.insert(key.clone(), value());
                self.find(key).expect("inserted just above")
            }
        };
        let (chunk, at) = found;
        &mut Arc::make_mut(&mut self.chunks[chunk])[at].1
    }

    pub(crate) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let (chunk_at, at) = self.find(key)?;
        let chunk = Arc::make_mut(self.chunks.get_mut(chunk_at)?);
        let (_, value) = chunk.remove(at);
        let left = chunk.len();
        self.len -= 1;
        if left == 0 {
            self.chunks.remove(chunk_at);
        } else if left < CHUNK_SMALL && !self.join(chunk_at) && chunk_at > 0 {
            self.join(chunk_at - 1);
        }
        Some(value)
    }

    pub(crate) fn first(&self) -> Option<(&K, &V)> {
        self.chunks.first()?.first().map(|(key, value)| (key, value))
    }

    pub(crate) fn last(&self) -> Option<(&K, &V)> {
        self.chunks.last()?.last().map(|(key, value)| (key, value))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).map(|(key, value)| (key, value))
    }

    /// Pairs in order from the first key for which `is_before` is false. `is_before` must be true for a
    /// leading run of the keys only.
    pub(crate) fn iter_from(&self, is_before: impl Fn(&K) -> bool) -> impl Iterator<Item = (&K, &V)> {
        let from = self.chunk_from(&is_before);
        let mut chunks = self.chunks.iter().skip(from);
        let first = chunks.next().map_or(&[][..], |chunk| {
            let at = chunk.partition_point(|(key, _)| is_before(key));
            chunk.get(at..).unwrap_or_default()
        });
        first.iter().chain(chunks.flat_map(|chunk| chunk.iter())).map(|(key, value)| (key, value))
    }

    /// The first chunk that reaches a key for which `is_before` is false.
    fn chunk_from(&self, is_before: impl Fn(&K) -> bool) -> usize {
        self.chunks.partition_point(|chunk| chunk.last().is_some_and(|(key, _)| is_before(key)))
    }

    fn find<Q: Ord + ?Sized>(&self, key: &Q) -> Option<(usize, usize)>
    where
        K: Borrow<Q>,
    {
        let chunk_at = self.chunk_from(|other| other.borrow() < key);
        let chunk = self.chunks.get(chunk_at)?;
        let at = chunk.binary_search_by(|(other, _)| other.borrow().cmp(key)).ok()?;
        Some((chunk_at, at))
    }

    /// Adds a pair behind the last one.
    fn push(&mut self, key: K, value: V) {
        match self.chunks.last_mut() {
            Some(last) if last.len() < CHUNK_MAX => Arc::make_mut(last).push((key, value)),
            _ => self.chunks.push(Arc::new(vec![(key, value)])),
        }
        self.len += 1;
    }

    /// Moves the chunk after `at` into the one at `at`, when both together are small.
    fn join(&mut self, at: usize) -> bool {
        let (Some(left), Some(right)) = (self.chunks.get(at), self.chunks.get(at + 1)) else { return false };
        if left.len() + right.len() > CHUNK_JOINED_MAX {
            return false;
        }
        let right = self.chunks.remove(at + 1);
        if let Some(left) = self.chunks.get_mut(at) {
            Arc::make_mut(left).extend(Arc::unwrap_or_clone(right));
        }
        true
    }
}

#[cfg(test)]
impl<K, V> CowMap<K, V> {
    pub(crate) fn chunks(&self) -> usize {
        self.chunks.len()
    }

    /// How many chunks of `self` are the very same memory in `other`.
    pub(crate) fn chunks_shared_with(&self, other: &Self) -> usize {
        let of_other: alloc::collections::BTreeSet<_> = other.chunks.iter().map(Arc::as_ptr).collect();
        self.chunks.iter().filter(|chunk| of_other.contains(&Arc::as_ptr(chunk))).count()
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn well_formed(map: &CowMap<u16, u16>) {
        assert!(map.chunks.iter().all(|chunk| !chunk.is_empty() && chunk.len() <= CHUNK_MAX));
        assert_eq!(map.len(), map.iter().count());
        assert!(map.iter().zip(map.iter().skip(1)).all(|(left, right)| left.0 < right.0));
    }

    proptest! {
        #[test]
        fn behaves_like_a_btree_map(edits in prop::collection::vec((any::<bool>(), 0u16..400, any::<u16>()), 0..1500)) {
            let mut map = CowMap::default();
            let mut model = BTreeMap::new();
            let mut kept = Vec::new();
            for (step, (put, key, value)) in edits.into_iter().enumerate() {
                if put {
                    prop_assert_eq!(map.insert(key, value), model.insert(key, value));
                } else {
                    prop_assert_eq!(map.remove(&key), model.remove(&key));
                }
                if let Some(held) = map.get_mut(&(key / 2)) {
                    *held = held.wrapping_add(1);
                    model.entry(key / 2).and_modify(|held| *held = held.wrapping_add(1));
                }
                prop_assert_eq!(map.get(&key), model.get(&key));
                prop_assert!(map.iter_from(|other| *other < key).eq(model.range(key..)));
                prop_assert_eq!(map.first(), model.first_key_value());
                prop_assert_eq!(map.last(), model.last_key_value());
                if step % 100 == 0 {
                    kept.push((map.clone(), model.clone()));
                }
            }
            well_formed(&map);
            prop_assert!(map.iter().eq(model.iter()));
            for (map, model) in kept {
                prop_assert!(map.iter().eq(model.iter()), "a clone changed with its original");
            }
        }
    }

    #[test]
    fn ascending_inserts_fill_their_chunks() {
        let mut map = CowMap::default();
        (0..CHUNK_MAX * 10).for_each(|key| assert!(map.insert(key, ()).is_none()));
        assert_eq!(map.chunks(), 10);
    }

    #[test]
    fn a_change_after_a_clone_copies_one_chunk() {
        let mut map = CowMap::default();
        (0..CHUNK_MAX * 10).for_each(|key| assert!(map.insert(key, 0).is_none()));
        let clone = map.clone();
        assert_eq!(map.chunks_shared_with(&clone), 10);
        *map.get_mut(&5).expect("inserted above") = 1;
        assert_eq!(map.chunks_shared_with(&clone), 9);
        assert_eq!(clone.get(&5), Some(&0));
    }
}
