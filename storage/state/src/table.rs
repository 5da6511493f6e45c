//! A copy-on-write table of replicated objects that carries the hash of its content.
//!
//! The hash is the wrapping sum of one 128-bit hash per object, so it is kept up at each edit, does not depend
//! on the order of edits, and costs nothing to read. Indexes that follow from the objects are not hashed.

use alloc::sync::Arc;

use core::borrow::Borrow;

use serde::Serialize;
use twox_hash::XxHash3_128;

use crate::cow_map::CowMap;

/// What a table holds.
pub(crate) trait Object: Serialize + Clone {
    /// Tells objects of different tables apart in the hash. Never changes, like the encoding.
    const TAG: u8;
    /// Unique within the table.
    type Key: Ord + Clone;

    fn key(&self) -> Self::Key;
}

/// An object whose encoding is no longer than this is hashed without a heap allocation; most are.
const ENCODED_ON_STACK_MAX: usize = 512;

/// What an object adds to the sums that are kept over a table.
#[derive(Clone, Copy)]
pub(crate) struct Digest {
    /// Hash of its encoding, seeded with its tag.
    pub(crate) hash: u128,
    /// Bytes of its encoding.
    pub(crate) bytes: usize,
}

impl Digest {
    pub(crate) fn of<T: Serialize>(tag: u8, object: &T) -> Self {
        let of = |encoded: &[u8]| Self {
            hash: XxHash3_128::oneshot_with_seed(u64::from(tag), encoded),
            bytes: encoded.len(),
        };
        let mut buffer = [0; ENCODED_ON_STACK_MAX];
        match postcard::to_slice(object, &mut buffer) {
            Ok(encoded) => of(encoded),
            Err(_full) => {
                of(&postcard::to_allocvec(object).expect("encoding into memory: every length is known"))
            }
        }
    }
}

/// Hash of one object: of its encoding, seeded with its tag.
pub(crate) fn hash_of<T: Serialize>(tag: u8, object: &T) -> u128 {
    Digest::of(tag, object).hash
}

/// See the module.
pub(crate) struct Table<T: Object> {
    map: CowMap<T::Key, Arc<T>>,
    hash: u128,
}

impl<T: Object> Clone for Table<T> {
    fn clone(&self) -> Self {
        Self { map: self.map.clone(), hash: self.hash }
    }
}

impl<T: Object> Default for Table<T> {
    fn default() -> Self {
        Self { map: CowMap::default(), hash: 0 }
    }
}

impl<T: Object> Table<T> {
    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    pub(crate) fn hash(&self) -> u128 {
        self.hash
    }

    pub(crate) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&Arc<T>>
    where
        T::Key: Borrow<Q>,
    {
        self.map.get(key)
    }

    /// Replaces the object with the same key.
    pub(crate) fn insert(&mut self, object: T) -> Option<Arc<T>> {
        self.insert_measured(Arc::new(object)).1
    }

    /// The same for an object that others hold too; also tells the bytes of its encoding.
    pub(crate) fn insert_measured(&mut self, object: Arc<T>) -> (usize, Option<Arc<T>>) {
        let digest = Digest::of(T::TAG, &*object);
        self.hash = self.hash.wrapping_add(digest.hash);
        let old = self.map.insert(object.key(), object);
        if let Some(old) = &old {
            self.hash = self.hash.wrapping_sub(hash_of(T::TAG, &**old));
        }
        (digest.bytes, old)
    }

    pub(crate) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<Arc<T>>
    where
        T::Key: Borrow<Q>,
    {
        self.remove_measured(key).map(|(_, old)| old)
    }

    /// Also tells the bytes of its encoding.
    pub(crate) fn remove_measured<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<(usize, Arc<T>)>
    where
        T::Key: Borrow<Q>,
    {
        let old = self.map.remove(key)?;
        let digest = Digest::of(T::TAG, &*old);
        self.hash = self.hash.wrapping_sub(digest.hash);
        Some((digest.bytes, old))
    }

    /// Changes an object in place; its key must stay.
    pub(crate) fn update<R>(&mut self, key: &T::Key, change: impl FnOnce(&mut T) -> R) -> Option<R> {
        let object = Arc::make_mut(self.map.get_mut(key)?);
        let before = hash_of(T::TAG, object);
        let result = change(object);
        self.hash = self.hash.wrapping_sub(before).wrapping_add(hash_of(T::TAG, object));
        Some(result)
    }

    /// Changes only what is not encoded (`#[serde(skip)]`), so the hash stands.
    pub(crate) fn update_derived<R>(&mut self, key: &T::Key, change: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.map.get_mut(key).map(|object| change(Arc::make_mut(object)))
    }

    pub(crate) fn first(&self) -> Option<&Arc<T>> {
        self.map.first().map(|(_, object)| object)
    }

    pub(crate) fn last(&self) -> Option<&Arc<T>> {
        self.map.last().map(|(_, object)| object)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<T>> {
        self.map.iter().map(|(_, object)| object)
    }

    /// See [`CowMap::iter_from`].
    pub(crate) fn iter_from(&self, is_before: impl Fn(&T::Key) -> bool) -> impl Iterator<Item = &Arc<T>> {
        self.map.iter_from(is_before).map(|(_, object)| object)
    }

    /// The hash computed anew from every object, for the invariants.
    pub(crate) fn hash_recomputed(&self) -> u128 {
        self.iter().fold(0, |sum, object| sum.wrapping_add(hash_of(T::TAG, &**object)))
    }

    #[cfg(test)]
    pub(crate) fn map(&self) -> &CowMap<T::Key, Arc<T>> {
        &self.map
    }
}
