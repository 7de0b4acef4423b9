//! The subscriptions of a subscriber.

use super::prefix_tree::{PrefixTree, Vacant};

/// The prefixes that a SUB socket subscribed to, each with a count: two subscriptions take two cancellations (RFC 29).
/// Publishers are told only of the first subscription and the last cancellation.
#[derive(Clone, Debug, Default)]
pub struct LocalSubscriptions {
    prefixes: PrefixTree<Count>,
}

/// How often a prefix is subscribed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count(u64);

impl Vacant for Count {
    fn is_vacant(&self) -> bool {
        self.0 == 0
    }
}

impl LocalSubscriptions {
    /// No subscriptions: nothing matches.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a subscription. Returns whether it is the first of the prefix: publishers must then be told.
    pub fn subscribe(&mut self, prefix: &[u8]) -> bool {
        let node = self.prefixes.insert(prefix);
        let count = self.prefixes.value_mut(node);
        count.0 += 1;
        count.0 == 1
    }

    /// Cancels a subscription. Returns whether it was the last of the prefix: publishers must then be told. `None` when
    /// the prefix was not subscribed.
    pub fn unsubscribe(&mut self, prefix: &[u8]) -> Option<bool> {
        let node = self.prefixes.find(prefix)?;
        let count = self.prefixes.value_mut(node);
        count.0 -= 1;
        let last = count.is_vacant();
        if last {
            self.prefixes.prune(node);
        }
        Some(last)
    }

    /// Whether a message with this topic is wanted.
    #[inline]
    #[must_use]
    pub fn matches(&self, topic: &[u8]) -> bool {
        let mut found = false;
        self.prefixes.visit_along(topic, |_| {
            found = true;
            false
        });
        found
    }

    /// Each subscribed prefix once, in no particular order: the list for a new publisher.
    pub fn iter(&self) -> impl Iterator<Item = Vec<u8>> {
        self.prefixes.iter().map(|(prefix, _)| prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn only_the_first_and_the_last_are_reported() {
        let mut subscriptions = LocalSubscriptions::new();
        assert!(!subscriptions.matches(b"abc"));
        assert!(subscriptions.subscribe(b"ab"));
        assert!(!subscriptions.subscribe(b"ab"));
        assert!(subscriptions.matches(b"abc"));
        assert!(!subscriptions.matches(b"a"));
        assert_eq!(subscriptions.unsubscribe(b"ab"), Some(false));
        assert_eq!(subscriptions.unsubscribe(b"a"), None);
        assert_eq!(subscriptions.unsubscribe(b"ab"), Some(true));
        assert_eq!(subscriptions.unsubscribe(b"ab"), None);
        assert!(!subscriptions.matches(b"abc"));
    }

    #[test]
    fn the_empty_prefix_matches_everything() {
        let mut subscriptions = LocalSubscriptions::new();
        assert!(subscriptions.subscribe(b""));
        assert!(subscriptions.matches(b""));
        assert!(subscriptions.matches(b"x"));
        assert_eq!(subscriptions.iter().collect::<Vec<_>>(), [b""]);
        assert_eq!(subscriptions.unsubscribe(b""), Some(true));
        assert!(!subscriptions.matches(b""));
    }

    proptest! {
        #[test]
        fn behaves_as_counted_prefixes(
            ops in vec((any::<bool>(), vec(0u8..3, 0..5)), 0..100),
            topic in vec(0u8..3, 0..6),
        ) {
            let mut subscriptions = LocalSubscriptions::new();
            let mut model: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
            for (subscribe, prefix) in ops {
                if subscribe {
                    let count = model.entry(prefix.clone()).or_default();
                    *count += 1;
                    prop_assert_eq!(subscriptions.subscribe(&prefix), *count == 1);
                } else {
                    let expected = model.get_mut(&prefix).map(|count| {
                        *count -= 1;
                        *count == 0
                    });
                    prop_assert_eq!(subscriptions.unsubscribe(&prefix), expected);
                    model.retain(|_, count| *count > 0);
                }
                let wanted = model.keys().any(|prefix| topic.starts_with(prefix));
                prop_assert_eq!(subscriptions.matches(&topic), wanted);
            }
            let mut listed: Vec<_> = subscriptions.iter().collect();
            listed.sort();
            prop_assert!(listed.iter().eq(model.keys()));
        }
    }
}
