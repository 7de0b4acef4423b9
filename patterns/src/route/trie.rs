//! The peers that want a published message.

use std::collections::BTreeMap;

use slab::Slab;

use super::PipeId;
use super::prefix_tree::{NodeId, PrefixTree, Vacant};

/// The subscriptions of a publisher's peers: at each prefix, the pipes that subscribed to it.
///
/// A pipe is listed once per prefix, however often it subscribes, and one cancellation removes it. (RFC 29 asks for
/// counts; libzmq's publisher keeps a set, and subscribers send only the first subscription and the last cancellation
/// of a prefix.)
///
/// Memory grows only with the bytes and the number of subscriptions. [`usage`](Self::usage) returns a pipe's share, so
/// that the owner can refuse a flood. Matching takes time in proportion to the topic and to the pipes found, and
/// allocates nothing. A change takes time in proportion to its prefix and to one other label that may have to be split
/// or joined, so the owner bounds the length of prefixes too.
#[derive(Clone, Debug, Default)]
pub struct SubscriptionTrie {
    prefixes: PrefixTree<Members>,
    subscribers: Slab<Subscriber>,
    keys: BTreeMap<PipeId, Key>,
    /// The number of the last match; a subscriber with this number has already got the message.
    epoch: u64,
}

/// A subscriber's key in the slab.
type Key = u32;

/// The subscriptions of one pipe; pipes without subscriptions have no entry.
#[derive(Clone, Debug)]
struct Subscriber {
    pipe: PipeId,
    epoch: u64,
    bytes: usize,
    /// The nodes that list the pipe, with its index among the members there.
    nodes: BTreeMap<NodeId, u32>,
}

/// The subscribers at one prefix, in no particular order. Usually there is one.
#[derive(Clone, Debug, Default)]
enum Members {
    #[default]
    None,
    One(Key),
    Many(Vec<Key>),
}

/// A pipe's share of the trie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PipeUsage {
    /// The number of prefixes that the pipe subscribed to.
    pub count: usize,
    /// The bytes of these prefixes.
    pub bytes: usize,
}

impl SubscriptionTrie {
    /// No subscriptions: nothing matches.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a subscription. Returns whether it is new for the pipe.
    pub fn subscribe(&mut self, prefix: &[u8], pipe: PipeId) -> bool {
        let key = self.key_of(pipe);
        let node = self.prefixes.insert(prefix);
        let subscriber = &mut self.subscribers[key as usize];
        let members = self.prefixes.value_mut(node);
        if subscriber.nodes.contains_key(&node) {
            return false;
        }
        subscriber.nodes.insert(node, members.push(key));
        subscriber.bytes += prefix.len();
        true
    }

    /// Removes a subscription. Returns whether the pipe had it.
    pub fn cancel(&mut self, prefix: &[u8], pipe: PipeId) -> bool {
        let Some((&key, node)) = self.keys.get(&pipe).zip(self.prefixes.find(prefix)) else {
            return false;
        };
        let subscriber = &mut self.subscribers[key as usize];
        let Some(index) = subscriber.nodes.remove(&node) else {
            return false;
        };
        subscriber.bytes -= prefix.len();
        if subscriber.nodes.is_empty() {
            self.keys.remove(&pipe);
            self.subscribers.remove(key as usize);
        }
        self.remove_member(node, index);
        true
    }

    /// Removes all subscriptions of a pipe, in time that depends on their number, not on the size of the trie.
    pub fn remove_pipe(&mut self, pipe: PipeId) {
        let Some(key) = self.keys.remove(&pipe) else {
            return;
        };
        let subscriber = self.subscribers.remove(key as usize);
        for (node, index) in subscriber.nodes {
            self.remove_member(node, index);
        }
    }

    /// Calls `deliver` once for each pipe with a subscription that `topic` begins with, in no particular order.
    #[inline]
    pub fn matches(&mut self, topic: &[u8], deliver: &mut impl FnMut(PipeId)) {
        let Self { prefixes, subscribers, epoch, .. } = self;
        *epoch += 1;
        prefixes.visit_along(topic, |members| {
            for &key in members.as_slice() {
                let subscriber = &mut subscribers[key as usize];
                if subscriber.epoch != *epoch {
                    subscriber.epoch = *epoch;
                    deliver(subscriber.pipe);
                }
            }
            true
        });
    }

    /// How many pipes have a subscription that `topic` begins with.
    #[must_use]
    pub fn count_for(&mut self, topic: &[u8]) -> usize {
        let mut count = 0;
        self.matches(topic, &mut |_| count += 1);
        count
    }

    /// This pipe's share of the trie.
    #[must_use]
    pub fn usage(&self, pipe: PipeId) -> PipeUsage {
        self.keys.get(&pipe).map_or_else(PipeUsage::default, |&key| {
            let subscriber = &self.subscribers[key as usize];
            PipeUsage { count: subscriber.nodes.len(), bytes: subscriber.bytes }
        })
    }

    /// Whether there is no subscription at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.subscribers.is_empty()
    }

    fn key_of(&mut self, pipe: PipeId) -> Key {
        *self.keys.entry(pipe).or_insert_with(|| {
            let key = self.subscribers.insert(Subscriber {
                pipe,
                epoch: 0,
                bytes: 0,
                nodes: BTreeMap::new(),
            });
            // There are no more subscribers than pipe ids.
            key as Key
        })
    }

    fn remove_member(&mut self, node: NodeId, index: u32) {
        let members = self.prefixes.value_mut(node);
        if let Some(moved) = members.swap_remove(index) {
            self.subscribers[moved as usize].nodes.insert(node, index);
        } else if members.is_vacant() {
            self.prefixes.prune(node);
        }
    }
}

impl Vacant for Members {
    #[inline]
    fn is_vacant(&self) -> bool {
        matches!(self, Self::None)
    }
}

impl Members {
    #[inline]
    fn as_slice(&self) -> &[Key] {
        match self {
            Self::None => &[],
            Self::One(key) => std::slice::from_ref(key),
            Self::Many(keys) => keys,
        }
    }

    /// Adds a member and returns its index.
    fn push(&mut self, key: Key) -> u32 {
        match self {
            Self::None => {
                *self = Self::One(key);
                0
            }
            Self::One(first) => {
                *self = Self::Many(vec![*first, key]);
                1
            }
            Self::Many(keys) => {
                keys.push(key);
                keys.len() as u32 - 1
            }
        }
    }

    /// Removes the member at `index`. Returns the member that moved there, if any.
    fn swap_remove(&mut self, index: u32) -> Option<Key> {
        let Self::Many(keys) = self else {
            *self = Self::None;
            return None;
        };
        keys.swap_remove(index as usize);
        let moved = keys.get(index as usize).copied();
        if let [last] = keys[..] {
            *self = Self::One(last);
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn matching(trie: &mut SubscriptionTrie, topic: &[u8]) -> Vec<u32> {
        let mut pipes = Vec::new();
        trie.matches(topic, &mut |pipe| pipes.push(pipe.0));
        pipes.sort_unstable();
        pipes
    }

    #[test]
    fn each_pipe_is_delivered_to_once() {
        let mut trie = SubscriptionTrie::new();
        assert!(trie.is_empty());
        assert!(trie.subscribe(b"", PipeId(1)));
        assert!(trie.subscribe(b"ab", PipeId(1)));
        assert!(trie.subscribe(b"abc", PipeId(u32::MAX)));
        assert!(!trie.subscribe(b"ab", PipeId(1)));
        assert_eq!(matching(&mut trie, b"abcd"), [1, u32::MAX]);
        assert_eq!(matching(&mut trie, b"x"), [1]);
        assert_eq!(trie.count_for(b"abc"), 2);
        assert!(trie.cancel(b"ab", PipeId(1)));
        assert!(!trie.cancel(b"ab", PipeId(1)));
        assert!(!trie.cancel(b"ab", PipeId(7)));
        assert_eq!(trie.usage(PipeId(1)), PipeUsage { count: 1, bytes: 0 });
        trie.remove_pipe(PipeId(1));
        trie.remove_pipe(PipeId(1));
        assert_eq!(matching(&mut trie, b"abcd"), [u32::MAX]);
        trie.remove_pipe(PipeId(u32::MAX));
        assert!(trie.is_empty());
        assert_eq!(trie.prefixes.node_count(), 1);
    }

    #[test]
    fn usage_is_per_pipe() {
        let mut trie = SubscriptionTrie::new();
        for prefix in [&b"a"[..], b"abc", b"a"] {
            trie.subscribe(prefix, PipeId(5));
        }
        trie.subscribe(b"abcdef", PipeId(6));
        assert_eq!(trie.usage(PipeId(5)), PipeUsage { count: 2, bytes: 4 });
        assert_eq!(trie.usage(PipeId(7)), PipeUsage::default());
    }

    #[test]
    fn a_flood_of_long_prefixes_is_taken_and_released() {
        let mut trie = SubscriptionTrie::new();
        let mut prefix = vec![b'x'; 4096];
        for i in 0..20_000u32 {
            prefix[2048..2052].copy_from_slice(&i.to_le_bytes());
            assert!(trie.subscribe(&prefix[..2060], PipeId(i % 3)));
        }
        assert!(trie.prefixes.node_count() <= 40_001);
        assert_eq!(matching(&mut trie, &prefix), [19_999 % 3]);
        for pipe in 0..3 {
            trie.remove_pipe(PipeId(pipe));
        }
        assert_eq!(trie.prefixes.node_count(), 1);
    }

    #[derive(Clone, Debug)]
    enum Op {
        Subscribe(Vec<u8>, u32),
        Cancel(Vec<u8>, u32),
        RemovePipe(u32),
    }

    fn op() -> impl Strategy<Value = Op> {
        let prefix = || vec(0u8..3, 0..5);
        let pipe = || 0u32..5;
        prop_oneof![
            6 => (prefix(), pipe()).prop_map(|(prefix, pipe)| Op::Subscribe(prefix, pipe)),
            4 => (prefix(), pipe()).prop_map(|(prefix, pipe)| Op::Cancel(prefix, pipe)),
            1 => pipe().prop_map(Op::RemovePipe),
        ]
    }

    proptest! {
        #[test]
        fn behaves_as_a_set(ops in vec(op(), 0..150), topics in vec(vec(0u8..3, 0..6), 1..8)) {
            let mut trie = SubscriptionTrie::new();
            let mut model: BTreeSet<(Vec<u8>, u32)> = BTreeSet::new();
            for op in ops {
                match op {
                    Op::Subscribe(prefix, pipe) => {
                        let new = trie.subscribe(&prefix, PipeId(pipe));
                        prop_assert_eq!(new, model.insert((prefix, pipe)));
                    }
                    Op::Cancel(prefix, pipe) => {
                        let had = trie.cancel(&prefix, PipeId(pipe));
                        prop_assert_eq!(had, model.remove(&(prefix, pipe)));
                    }
                    Op::RemovePipe(gone) => {
                        trie.remove_pipe(PipeId(gone));
                        model.retain(|&(_, pipe)| pipe != gone);
                    }
                }
                for topic in &topics {
                    let expected: BTreeSet<u32> = model
                        .iter()
                        .filter(|(prefix, _)| topic.starts_with(prefix))
                        .map(|&(_, pipe)| pipe)
                        .collect();
                    let expected: Vec<u32> = expected.into_iter().collect();
                    prop_assert_eq!(trie.count_for(topic), expected.len());
                    prop_assert_eq!(matching(&mut trie, topic), expected);
                }
                for pipe in 0..5 {
                    let own = model.iter().filter(|&&(_, of)| of == pipe);
                    let usage = PipeUsage {
                        count: own.clone().count(),
                        bytes: own.map(|(prefix, _)| prefix.len()).sum(),
                    };
                    prop_assert_eq!(trie.usage(PipeId(pipe)), usage);
                }
                prop_assert_eq!(trie.is_empty(), model.is_empty());
            }
            for pipe in 0..5 {
                trie.remove_pipe(PipeId(pipe));
            }
            prop_assert_eq!(trie.prefixes.node_count(), 1);
        }
    }
}
