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

/// One peer of one socket, by the key of its slot in the owner's table.
///
/// Keys should be small and reused, like those of a slab: [`ActiveRing`] keeps a few bytes for each key up to the
/// largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PipeId(pub u32);
