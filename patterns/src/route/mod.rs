//! Routing of messages: pure data structures that know pipes by their ids only.
//!
//! This module does no I/O, reads no clock, and knows neither frames nor connections. Choosing a pipe and matching a
//! topic allocate nothing; attaching pipes and changing subscriptions may.

pub mod active_ring;
pub mod prefix_tree;
pub mod subscriptions;
pub mod trie;

pub use active_ring::ActiveRing;
pub use subscriptions::LocalSubscriptions;
pub use trie::{PipeUsage, SubscriptionTrie};

/// Chooses the pipe to receive from: a pipe is active while it has something to read.
pub type FairQueue = ActiveRing;

/// Chooses the pipe to send to: a pipe is active while it has credit.
pub type LoadBalance = ActiveRing;

/// One peer, by the number that its owner knows it by. Numbers may be large, and are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PipeId(pub u32);

/// A place among the peers of one socket.
///
/// Slots are expected to be small and reused, as the keys of a slab: [`ActiveRing`] keeps a few bytes for each up to the
/// largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);
