//! Any sequence of operations on both kinds of subscriptions gives the results of naive models.

#![no_main]

use std::collections::{BTreeMap, BTreeSet};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use zring::route::{LocalSubscriptions, PipeId, PipeUsage, SubscriptionTrie};

#[derive(Arbitrary, Debug)]
enum Op {
    Subscribe(Vec<u8>, u8),
    Cancel(Vec<u8>, u8),
    RemovePipe(u8),
    Match(Vec<u8>),
}

#[derive(Default)]
struct Publisher {
    trie: SubscriptionTrie,
    model: BTreeSet<(Vec<u8>, u8)>,
}

impl Publisher {
    fn apply(&mut self, op: &Op) {
        match op {
            Op::Subscribe(prefix, pipe) => assert_eq!(
                self.trie.subscribe(prefix, id(*pipe)),
                self.model.insert((prefix.clone(), *pipe))
            ),
            Op::Cancel(prefix, pipe) => assert_eq!(
                self.trie.cancel(prefix, id(*pipe)),
                self.model.remove(&(prefix.clone(), *pipe))
            ),
            Op::RemovePipe(gone) => {
                self.trie.remove_pipe(id(*gone));
                self.model.retain(|(_, pipe)| pipe != gone);
                assert_eq!(self.trie.usage(id(*gone)), PipeUsage::default());
            }
            Op::Match(topic) => self.check(topic),
        }
        assert_eq!(self.trie.is_empty(), self.model.is_empty());
    }

    fn check(&mut self, topic: &[u8]) {
        let mut delivered = Vec::new();
        self.trie.matches(topic, &mut |pipe| delivered.push(pipe));
        delivered.sort();
        let expected: BTreeSet<PipeId> = self
            .model
            .iter()
            .filter(|(prefix, _)| topic.starts_with(prefix))
            .map(|&(_, pipe)| id(pipe))
            .collect();
        assert!(expected.iter().eq(&delivered), "{expected:?} {delivered:?}");
        assert_eq!(self.trie.count_for(topic), expected.len());
    }
}

#[derive(Default)]
struct Subscriber {
    subscriptions: LocalSubscriptions,
    model: BTreeMap<Vec<u8>, u32>,
}

impl Subscriber {
    fn apply(&mut self, op: &Op) {
        match op {
            Op::Subscribe(prefix, _) => {
                let count = self.model.entry(prefix.clone()).or_default();
                *count += 1;
                assert_eq!(self.subscriptions.subscribe(prefix), *count == 1);
            }
            Op::Cancel(prefix, _) => {
                let last = self.model.get_mut(prefix).map(|count| {
                    *count -= 1;
                    *count == 0
                });
                assert_eq!(self.subscriptions.unsubscribe(prefix), last);
                if last == Some(true) {
                    self.model.remove(prefix);
                }
            }
            Op::RemovePipe(_) => {
                let mut listed: Vec<_> = self.subscriptions.iter().collect();
                listed.sort();
                assert!(listed.iter().eq(self.model.keys()));
            }
            Op::Match(topic) => {
                let wanted = self.model.keys().any(|prefix| topic.starts_with(prefix));
                assert_eq!(self.subscriptions.matches(topic), wanted);
            }
        }
    }
}

fn id(pipe: u8) -> PipeId {
    PipeId(u32::from(pipe))
}

fuzz_target!(|ops: Vec<Op>| {
    let mut publisher = Publisher::default();
    let mut subscriber = Subscriber::default();
    for op in &ops {
        publisher.apply(op);
        subscriber.apply(op);
    }
});
