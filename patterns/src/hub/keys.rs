//! Typed keys: the key of a socket cannot be taken for the key of a peer.

use std::{
    fmt,
    marker::PhantomData,
    ops::{Index, IndexMut},
};

use slab::Slab;

/// A key of a [`Table`].
pub(crate) trait Key: Copy {
    fn new(index: usize) -> Self;
    fn index(self) -> usize;
}

macro_rules! keys {
    ($($(#[$doc:meta])* $visibility:vis $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $visibility struct $name(pub(crate) u32);

        impl Key for $name {
            #[inline(always)]
            fn new(index: usize) -> Self {
                Self(index as u32)
            }

            #[inline(always)]
            fn index(self) -> usize {
                self.0 as usize
            }
        }
    )*};
}

keys! {
    /// A socket of a hub.
    pub SocketKey;
    /// A peer of a hub, of any of the hub's sockets.
    pub(crate) PeerKey;
    /// A listener of a hub.
    pub(crate) ListenerKey;
    /// A connector of a hub: an endpoint that a socket connects to.
    pub(crate) ConnectorKey;
}

/// A slab whose entries are found by a key of their own type. Keys of removed entries are reused.
pub(crate) struct Table<K, T> {
    entries: Slab<T>,
    key: PhantomData<K>,
}

impl<K: Key, T> Table<K, T> {
    pub(crate) const fn new() -> Self {
        Self { entries: Slab::new(), key: PhantomData }
    }

    pub(crate) fn insert(&mut self, entry: T) -> K {
        K::new(self.entries.insert(entry))
    }

    /// The key that the next [`Table::insert`] returns.
    pub(crate) fn vacant_key(&self) -> K {
        K::new(self.entries.vacant_key())
    }

    /// # Panics
    /// If there is no such entry.
    pub(crate) fn remove(&mut self, key: K) -> T {
        self.entries.remove(key.index())
    }

    #[inline(always)]
    pub(crate) fn get(&self, key: K) -> Option<&T> {
        self.entries.get(key.index())
    }

    #[inline(always)]
    pub(crate) fn get_mut(&mut self, key: K) -> Option<&mut T> {
        self.entries.get_mut(key.index())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn keys(&self) -> Vec<K> {
        self.entries.iter().map(|(index, _)| K::new(index)).collect()
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().map(|(_, entry)| entry)
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut().map(|(_, entry)| entry)
    }
}

impl<K: Key, T> Index<K> for Table<K, T> {
    type Output = T;

    #[inline(always)]
    fn index(&self, key: K) -> &T {
        &self.entries[key.index()]
    }
}

impl<K: Key, T> IndexMut<K> for Table<K, T> {
    #[inline(always)]
    fn index_mut(&mut self, key: K) -> &mut T {
        &mut self.entries[key.index()]
    }
}

impl<K, T: fmt::Debug> fmt::Debug for Table<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entries.fmt(f)
    }
}
