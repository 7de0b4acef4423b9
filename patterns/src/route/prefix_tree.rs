//! Values at byte prefixes, found along a topic: the tree behind both kinds of subscriptions.

use slab::Slab;

/// A value that may be absent; its node can then be removed.
pub trait Vacant {
    /// Whether the value is absent.
    fn is_vacant(&self) -> bool;
}

/// A node of the tree. Stays valid for as long as its value is not vacant.
pub type NodeId = u32;

const ROOT: NodeId = 0;

/// A radix tree: a chain of nodes with one child each is one node with a longer label.
///
/// ```text
///   ""  ─┬─ "weather." ─┬─ "uk"          prefixes "weather.uk", "weather.fr", "x"
///        │              └─ "fr"
///        └─ "x"
/// ```
///
/// Invariants: every node but the root has a value that is not vacant or at least two children; no label but the root's
/// is empty; siblings differ in the first byte of their labels. Exempt is one node between [`insert`](Self::insert) and
/// the setting of its value, or between a value becoming vacant and [`prune`](Self::prune). So there are fewer than two
/// nodes per prefix, and labels take no more bytes than the prefixes. Nothing recurses, because subscribers control the
/// depth.
#[derive(Clone, Debug)]
pub struct PrefixTree<V> {
    nodes: Slab<Node<V>>,
}

#[derive(Clone, Debug)]
struct Node<V> {
    label: Box<[u8]>,
    parent: NodeId,
    /// The length of the whole prefix.
    prefix_bytes: u32,
    value: V,
    /// Sorted by the first byte of the child's label.
    children: Vec<(u8, NodeId)>,
}

impl<V: Vacant + Default> PrefixTree<V> {
    /// A tree without prefixes.
    #[must_use]
    pub fn new() -> Self {
        let mut nodes = Slab::new();
        let root = nodes.insert(Node {
            label: Box::default(),
            parent: ROOT,
            prefix_bytes: 0,
            value: V::default(),
            children: Vec::new(),
        });
        debug_assert_eq!(root, ROOT as usize);
        Self { nodes }
    }

    /// The value of a node.
    #[inline]
    #[must_use]
    pub fn value(&self, id: NodeId) -> &V {
        &self.nodes[id as usize].value
    }

    /// The value of a node, for changing. Call [`prune`](Self::prune) when the value becomes vacant.
    pub fn value_mut(&mut self, id: NodeId) -> &mut V {
        &mut self.nodes[id as usize].value
    }

    /// The length of a node's prefix.
    #[must_use]
    pub fn prefix_bytes(&self, id: NodeId) -> usize {
        self.nodes[id as usize].prefix_bytes as usize
    }

    /// The node of exactly this prefix, if it has a value.
    #[must_use]
    pub fn find(&self, prefix: &[u8]) -> Option<NodeId> {
        let mut id = ROOT;
        let mut rest = prefix;
        while !rest.is_empty() {
            (id, rest) = self.descend(id, rest)?;
        }
        (!self.value(id).is_vacant()).then_some(id)
    }

    /// Calls `visit` for the value at each prefix of `topic`, shortest first, until `visit` returns `false`.
    #[inline]
    pub fn visit_along<'a>(&'a self, topic: &[u8], mut visit: impl FnMut(&'a V) -> bool) {
        let mut id = ROOT;
        let mut rest = topic;
        loop {
            let value = self.value(id);
            if !value.is_vacant() && !visit(value) {
                return;
            }
            if rest.is_empty() {
                return;
            }
            match self.descend(id, rest) {
                Some(below) => (id, rest) = below,
                None => return,
            }
        }
    }

    /// The node of exactly this prefix, created if necessary; the caller then sets a value that is not vacant. Takes
    /// time in proportion to the prefix and to the label that may have to be split.
    ///
    /// # Panics
    /// When the prefix has 4 GiB or more, or the tree as many nodes.
    pub fn insert(&mut self, prefix: &[u8]) -> NodeId {
        let mut id = ROOT;
        let mut rest = prefix;
        while let Some(&first) = rest.first() {
            let Some(child) = self.child(id, first) else {
                return self.add_leaf(id, rest);
            };
            let label = &self.nodes[child as usize].label;
            let common = common_prefix_bytes(label, rest);
            id = if common == label.len() { child } else { self.split(child, common) };
            rest = &rest[common..];
        }
        id
    }

    /// Restores the invariants after the node's value became vacant; may remove the node.
    pub fn prune(&mut self, id: NodeId) {
        let mut id = id;
        while id != ROOT && self.value(id).is_vacant() {
            let node = &self.nodes[id as usize];
            match node.children[..] {
                [] => {
                    let parent = node.parent;
                    let first = node.label[0];
                    self.nodes.remove(id as usize);
                    let siblings = &mut self.nodes[parent as usize].children;
                    siblings.retain(|&(key, _)| key != first);
                    id = parent;
                }
                [(_, child)] => return self.merge_into(child),
                _ => return,
            }
        }
    }

    /// Every value that is not vacant with its prefix, in no particular order. Copies each prefix.
    pub fn iter(&self) -> impl Iterator<Item = (Vec<u8>, &V)> {
        self.nodes
            .iter()
            .filter(|(_, node)| !node.value.is_vacant())
            .map(|(id, node)| (self.prefix(id as NodeId), &node.value))
    }

    /// The number of nodes, the root included.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// The child whose label is a prefix of `rest`, which is not empty, and the remainder of `rest`.
    #[inline]
    fn descend<'a>(&self, id: NodeId, rest: &'a [u8]) -> Option<(NodeId, &'a [u8])> {
        let child = self.child(id, *rest.first()?)?;
        let rest = rest.strip_prefix(&*self.nodes[child as usize].label)?;
        Some((child, rest))
    }

    #[inline]
    fn child(&self, id: NodeId, first: u8) -> Option<NodeId> {
        match self.nodes[id as usize].children[..] {
            [] => None,
            [(key, child)] => (key == first).then_some(child),
            ref children => {
                let at = children.binary_search_by_key(&first, |&(key, _)| key).ok()?;
                Some(children[at].1)
            }
        }
    }

    fn add_leaf(&mut self, parent: NodeId, label: &[u8]) -> NodeId {
        let prefix_bytes = self.prefix_bytes(parent) + label.len();
        let leaf = self.nodes.insert(Node {
            label: label.into(),
            parent,
            prefix_bytes: u32::try_from(prefix_bytes).expect("prefix below 4 GiB"),
            value: V::default(),
            children: Vec::new(),
        });
        let leaf = NodeId::try_from(leaf).expect("fewer than 2^32 nodes");
        let siblings = &mut self.nodes[parent as usize].children;
        let at = siblings.partition_point(|&(key, _)| key < label[0]);
        siblings.insert(at, (label[0], leaf));
        leaf
    }

    /// Puts a node with the first `at` bytes of the label between `lower` and its parent. `lower` keeps its id.
    fn split(&mut self, lower: NodeId, at: usize) -> NodeId {
        let node = &self.nodes[lower as usize];
        let (upper_label, lower_label) = node.label.split_at(at);
        let (upper_label, lower_label): (Box<[u8]>, Box<[u8]>) =
            (upper_label.into(), lower_label.into());
        let parent = node.parent;
        let first = upper_label[0];
        let upper = self.nodes.insert(Node {
            parent,
            prefix_bytes: node.prefix_bytes - lower_label.len() as u32,
            value: V::default(),
            children: vec![(lower_label[0], lower)],
            label: upper_label,
        });
        let upper = NodeId::try_from(upper).expect("fewer than 2^32 nodes");
        let node = &mut self.nodes[lower as usize];
        node.label = lower_label;
        node.parent = upper;
        self.replace_child(parent, first, upper);
        upper
    }

    /// Merges the parent into its only child, which keeps its id.
    fn merge_into(&mut self, child: NodeId) {
        let upper = self.nodes[child as usize].parent;
        let upper = self.nodes.remove(upper as usize);
        let node = &mut self.nodes[child as usize];
        node.label = [&*upper.label, &*node.label].concat().into();
        node.parent = upper.parent;
        self.replace_child(upper.parent, upper.label[0], child);
    }

    fn replace_child(&mut self, parent: NodeId, first: u8, child: NodeId) {
        for entry in &mut self.nodes[parent as usize].children {
            if entry.0 == first {
                entry.1 = child;
            }
        }
    }

    fn prefix(&self, id: NodeId) -> Vec<u8> {
        let mut prefix = vec![0; self.prefix_bytes(id)];
        let mut end = prefix.len();
        let mut id = id;
        while end > 0 {
            let node = &self.nodes[id as usize];
            let start = end - node.label.len();
            prefix[start..end].copy_from_slice(&node.label);
            end = start;
            id = node.parent;
        }
        prefix
    }
}

impl<V: Vacant + Default> Default for PrefixTree<V> {
    fn default() -> Self {
        Self::new()
    }
}

fn common_prefix_bytes(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    impl Vacant for u32 {
        fn is_vacant(&self) -> bool {
            *self == 0
        }
    }

    impl<V: Vacant + Default> PrefixTree<V> {
        fn check(&self) {
            for (id, node) in &self.nodes {
                let id = id as NodeId;
                if id != ROOT {
                    assert!(!node.label.is_empty());
                    assert!(!node.value.is_vacant() || node.children.len() >= 2);
                    let parent = &self.nodes[node.parent as usize];
                    assert!(parent.children.contains(&(node.label[0], id)));
                    let prefix_bytes = parent.prefix_bytes as usize + node.label.len();
                    assert_eq!(node.prefix_bytes as usize, prefix_bytes);
                }
                assert!(node.children.is_sorted_by(|a, b| a.0 < b.0));
                for &(_, child) in &node.children {
                    assert_eq!(self.nodes[child as usize].parent, id);
                }
            }
        }
    }

    fn set(tree: &mut PrefixTree<u32>, prefix: &[u8], value: u32) {
        let id = tree.insert(prefix);
        *tree.value_mut(id) = value;
        tree.prune(id);
        tree.check();
    }

    fn along(tree: &PrefixTree<u32>, topic: &[u8]) -> Vec<u32> {
        let mut values = Vec::new();
        tree.visit_along(topic, |&value| {
            values.push(value);
            true
        });
        values
    }

    #[test]
    fn splits_and_merges() {
        let mut tree = PrefixTree::new();
        set(&mut tree, b"weather.uk", 1);
        assert_eq!(tree.node_count(), 2);
        set(&mut tree, b"weather.fr", 2);
        assert_eq!(tree.node_count(), 4);
        set(&mut tree, b"weather.", 3);
        set(&mut tree, b"", 4);
        assert_eq!(tree.node_count(), 4);
        assert_eq!(along(&tree, b"weather.uk.london"), [4, 3, 1]);
        assert_eq!(along(&tree, b"weather.u"), [4, 3]);
        assert_eq!(along(&tree, b"weathe"), [4]);
        assert_eq!(tree.find(b"weather"), None);
        set(&mut tree, b"weather.", 0);
        set(&mut tree, b"weather.fr", 0);
        assert_eq!(tree.node_count(), 2);
        assert_eq!(along(&tree, b"weather.uk"), [4, 1]);
        set(&mut tree, b"weather.uk", 0);
        assert_eq!(tree.node_count(), 1);
    }

    #[test]
    fn depth_costs_no_stack() {
        let deepest = vec![b'a'; 4_000];
        let mut tree = PrefixTree::new();
        for bytes in 1..=deepest.len() {
            let id = tree.insert(&deepest[..bytes]);
            *tree.value_mut(id) = 1;
        }
        assert_eq!(along(&tree, &deepest).len(), deepest.len());
        for bytes in 1..=deepest.len() {
            let id = tree.find(&deepest[..bytes]).unwrap();
            *tree.value_mut(id) = 0;
            tree.prune(id);
        }
        assert_eq!(tree.node_count(), 1);
    }

    proptest! {
        #[test]
        fn behaves_as_a_map(
            ops in vec((vec(0u8..3, 0..6), 0u32..3), 0..100),
            topics in vec(vec(0u8..3, 0..8), 1..10),
        ) {
            let mut tree = PrefixTree::new();
            let mut model = BTreeMap::new();
            for (prefix, value) in ops {
                set(&mut tree, &prefix, value);
                if value == 0 {
                    model.remove(&prefix);
                } else {
                    model.insert(prefix, value);
                }
                prop_assert!(tree.node_count() <= 1 + 2 * model.len());
            }
            for topic in topics {
                // Prefixes of one topic sort by length.
                let expected: Vec<u32> = model
                    .iter()
                    .filter(|(prefix, _)| topic.starts_with(prefix))
                    .map(|(_, &value)| value)
                    .collect();
                prop_assert_eq!(along(&tree, &topic), expected);
            }
            let listed: BTreeMap<_, _> = tree.iter().map(|(prefix, &value)| (prefix, value)).collect();
            prop_assert_eq!(listed, model);
        }
    }
}
