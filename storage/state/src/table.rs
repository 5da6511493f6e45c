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

/// Hash of one object: of its encoding, seeded with its tag.
pub(crate) fn hash_of<T: Serialize>(tag: u8, object: &T) -> u128 {
    let bytes = postcard::to_allocvec(object).expect("encoding into memory: every length is known");
    XxHash3_128::oneshot_with_seed(u64::from(tag), &bytes)
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
        self.hash = self.hash.wrapping_add(hash_of(T::TAG, &object));
        let old = self.map.insert(object.key(), Arc::new(object));
        if let Some(old) = &old {
            self.hash = self.hash.wrapping_sub(hash_of(T::TAG, &**old));
        }
        old
    }

    pub(crate) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<Arc<T>>
    where
        T::Key: Borrow<Q>,
    {
        let old = self.map.remove(key)?;
        self.hash = self.hash.wrapping_sub(hash_of(T::TAG, &*old));
        Some(old)
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
