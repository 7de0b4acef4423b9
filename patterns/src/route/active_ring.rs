//! Round robin over the active pipes.

use super::Slot;

/// No pipe. No pipe has this key: the table would be too large.
const NONE: u32 = u32::MAX;

/// The attached pipes, the active ones among them in a ring.
///
/// ```text
///            ┌──────────────────────────────┐
///            ▼                              │
///         current ──► next ──► … ──► last ──┘        inactive pipes are attached but not linked
/// ```
///
/// Each pipe has a tag, a number of the owner's choice: [`current_tag`](Self::current_tag) is there without a look at
/// any table. A pipe that becomes active joins behind all others, so each of `n` active pipes is current once in `n` calls of
/// [`advance`](Self::advance), whatever the others do meanwhile. Every operation takes constant time; only attaching
/// may allocate. The memory follows the largest attached pipe, down as well as up.
#[derive(Clone, Debug)]
pub struct ActiveRing {
    current: u32,
    /// Of the current pipe; `NONE` without one.
    current_tag: u32,
    active_pipes: usize,
    attached_pipes: usize,
    links: Vec<Link>,
}

/// Invariant: both neighbours of an active pipe are active, and `NONE` for any other pipe.
#[derive(Clone, Copy, Debug)]
struct Link {
    attached: bool,
    tag: u32,
    previous: u32,
    next: u32,
}

const DETACHED: Link = Link { attached: false, tag: NONE, previous: NONE, next: NONE };

/// Room for so many pipes is never given back.
const ROOM_MIN: usize = 8;

impl ActiveRing {
    /// A ring without pipes.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            current: NONE,
            current_tag: NONE,
            active_pipes: 0,
            attached_pipes: 0,
            links: Vec::new(),
        }
    }

    /// The pipe whose turn it is, or `None` when no pipe is active.
    #[inline]
    #[must_use]
    pub fn current(&self) -> Option<Slot> {
        (self.current != NONE).then_some(Slot(self.current))
    }

    /// The tag of the pipe whose turn it is, or `None` when no pipe is active.
    #[inline(always)]
    #[must_use]
    pub fn current_tag(&self) -> Option<u32> {
        (self.current_tag != NONE).then_some(self.current_tag)
    }

    /// Passes the turn to the next active pipe; does nothing with fewer than two.
    #[inline]
    pub fn advance(&mut self) {
        // A sole active pipe keeps the turn, so nothing waits here for a link that was just written.
        if self.active_pipes > 1
            && let Some(link) = self.links.get(self.current as usize)
        {
            self.set_current(link.next);
        }
    }

    #[inline]
    fn set_current(&mut self, pipe: u32) {
        self.current = pipe;
        self.current_tag = self.links.get(pipe as usize).map_or(NONE, |link| link.tag);
    }

    /// Adds an inactive pipe with a tag. Returns `false`, and changes nothing, when it is there already.
    pub fn attach(&mut self, pipe: Slot, tag: u32) -> bool {
        debug_assert!(pipe.0 != NONE && tag != NONE);
        let index = pipe.0 as usize;
        if index >= self.links.len() {
            self.links.resize(index + 1, DETACHED);
        }
        let attached = !self.links[index].attached;
        if attached {
            self.links[index] = Link { attached: true, tag, ..DETACHED };
        }
        self.attached_pipes += usize::from(attached);
        attached
    }

    /// Removes a pipe. Returns `false` when it is not there.
    pub fn detach(&mut self, pipe: Slot) -> bool {
        if !self.is_attached(pipe) {
            return false;
        }
        self.deactivate(pipe);
        self.links[pipe.0 as usize] = DETACHED;
        self.attached_pipes -= 1;
        self.shrink();
        true
    }

    /// Gives up the room behind the largest attached pipe, if there is much of it.
    fn shrink(&mut self) {
        while self.links.last().is_some_and(|link| !link.attached) {
            self.links.pop();
        }
        if self.links.capacity() > ROOM_MIN.max(4 * self.links.len()) {
            self.links.shrink_to(ROOM_MIN.max(2 * self.links.len()));
        }
    }

    /// Lets an attached pipe take part, last in turn. Returns whether it was inactive.
    #[inline]
    pub fn activate(&mut self, pipe: Slot) -> bool {
        if !self.is_attached(pipe) || self.is_active(pipe) {
            return false;
        }
        let (previous, next) = match self.links.get(self.current as usize) {
            Some(current) => (current.previous, self.current),
            None => {
                self.set_current(pipe.0);
                (pipe.0, pipe.0)
            }
        };
        let link = &mut self.links[pipe.0 as usize];
        (link.previous, link.next) = (previous, next);
        self.links[previous as usize].next = pipe.0;
        self.links[next as usize].previous = pipe.0;
        self.active_pipes += 1;
        true
    }

    /// Makes a pipe inactive; if it was current, the next one is. Returns whether it was active.
    #[inline]
    pub fn deactivate(&mut self, pipe: Slot) -> bool {
        if !self.is_active(pipe) {
            return false;
        }
        let Link { previous, next, tag, .. } = self.links[pipe.0 as usize];
        self.links[previous as usize].next = next;
        self.links[next as usize].previous = previous;
        if self.current == pipe.0 {
            self.set_current(if next == pipe.0 { NONE } else { next });
        }
        self.links[pipe.0 as usize] = Link { attached: true, tag, ..DETACHED };
        self.active_pipes -= 1;
        true
    }

    /// Whether the pipe is attached.
    #[inline]
    #[must_use]
    pub fn is_attached(&self, pipe: Slot) -> bool {
        self.links.get(pipe.0 as usize).is_some_and(|link| link.attached)
    }

    /// Whether the pipe is attached and active.
    #[inline]
    #[must_use]
    pub fn is_active(&self, pipe: Slot) -> bool {
        self.links.get(pipe.0 as usize).is_some_and(|link| link.next != NONE)
    }

    /// How many pipes are attached.
    #[must_use]
    pub fn attached_len(&self) -> usize {
        self.attached_pipes
    }

    /// How many pipes are active.
    #[must_use]
    pub fn active_len(&self) -> usize {
        self.active_pipes
    }
}

impl Default for ActiveRing {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::{BTreeSet, VecDeque};

    fn ring(active: impl IntoIterator<Item = u32>) -> ActiveRing {
        let mut ring = ActiveRing::new();
        for pipe in active {
            assert!(ring.attach(Slot(pipe), 100 + pipe));
            assert!(ring.activate(Slot(pipe)));
        }
        ring
    }

    fn turns(ring: &mut ActiveRing, count: usize) -> Vec<u32> {
        let turn = |_| {
            let pipe = ring.current().unwrap();
            ring.advance();
            pipe.0
        };
        (0..count).map(turn).collect()
    }

    #[test]
    fn empty_and_inactive_rings_have_no_current_pipe() {
        let mut ring = ActiveRing::new();
        assert_eq!(ring.current(), None);
        ring.advance();
        assert!(ring.attach(Slot(3), 100 + 3));
        assert!(!ring.attach(Slot(3), 100 + 3));
        assert_eq!(ring.current(), None);
        assert!(!ring.activate(Slot(2)));
        assert!(!ring.activate(Slot(9)));
        assert!(!ring.deactivate(Slot(9)));
        assert!(!ring.detach(Slot(9)));
        assert_eq!((ring.attached_len(), ring.active_len()), (1, 0));
    }

    #[test]
    fn turns_go_round() {
        let mut ring = ring([4, 0, 2]);
        assert_eq!(turns(&mut ring, 7), [4, 0, 2, 4, 0, 2, 4]);
        assert!(ring.detach(Slot(2)));
        assert_eq!(turns(&mut ring, 3), [0, 4, 0]);
        assert!(ring.detach(Slot(4)));
        assert_eq!(turns(&mut ring, 2), [0, 0]);
        assert!(ring.detach(Slot(0)));
        assert_eq!(ring.current(), None);
    }

    #[test]
    fn one_pipe_may_come_and_go() {
        let mut ring = ring([7]);
        for _ in 0..3 {
            assert_eq!(ring.current(), Some(Slot(7)));
            assert!(ring.deactivate(Slot(7)));
            assert_eq!(ring.current(), None);
            assert!(ring.activate(Slot(7)));
        }
    }

    #[test]
    fn pipes_that_empty_at_each_turn_do_not_starve_the_others() {
        let mut ring = ring(0..4);
        let mut seen = Vec::new();
        for _ in 0..8 {
            let pipe = ring.current().unwrap();
            seen.push(pipe.0);
            ring.deactivate(pipe);
            ring.activate(pipe);
        }
        assert_eq!(seen, [0, 1, 2, 3, 0, 1, 2, 3]);
    }

    #[test]
    fn memory_follows_the_largest_attached_pipe() {
        let mut ring = ring(0..1000);
        for pipe in (1..1000).rev() {
            assert!(ring.detach(Slot(pipe)));
        }
        assert!(ring.links.capacity() <= 2 * ROOM_MIN, "{}", ring.links.capacity());
        assert_eq!(turns(&mut ring, 2), [0, 0]);
        assert!(ring.attach(Slot(999), 5) && ring.activate(Slot(999)));
        assert_eq!(turns(&mut ring, 2), [0, 999]);
    }

    #[derive(Clone, Copy, Debug)]
    enum Op {
        Attach(u32),
        Detach(u32),
        Activate(u32),
        Deactivate(u32),
        Advance,
    }

    fn op() -> impl Strategy<Value = Op> {
        let pipe = 0u32..6;
        prop_oneof![
            2 => pipe.clone().prop_map(Op::Attach),
            1 => pipe.clone().prop_map(Op::Detach),
            4 => pipe.clone().prop_map(Op::Activate),
            3 => pipe.prop_map(Op::Deactivate),
            3 => Just(Op::Advance),
        ]
    }

    /// The reference model: a queue whose front is current.
    #[derive(Default)]
    struct Model {
        attached: BTreeSet<u32>,
        active: VecDeque<u32>,
    }

    impl Model {
        fn apply(&mut self, op: Op) -> bool {
            match op {
                Op::Attach(pipe) => self.attached.insert(pipe),
                Op::Detach(pipe) => {
                    self.active.retain(|&active| active != pipe);
                    self.attached.remove(&pipe)
                }
                Op::Activate(pipe) => {
                    let joins = self.attached.contains(&pipe) && !self.active.contains(&pipe);
                    self.active.extend(joins.then_some(pipe));
                    joins
                }
                Op::Deactivate(pipe) => {
                    let before = self.active.len();
                    self.active.retain(|&active| active != pipe);
                    self.active.len() < before
                }
                Op::Advance => {
                    let front = self.active.pop_front();
                    self.active.extend(front);
                    true
                }
            }
        }
    }

    fn apply(ring: &mut ActiveRing, op: Op) -> bool {
        match op {
            Op::Attach(pipe) => ring.attach(Slot(pipe), 100 + pipe),
            Op::Detach(pipe) => ring.detach(Slot(pipe)),
            Op::Activate(pipe) => ring.activate(Slot(pipe)),
            Op::Deactivate(pipe) => ring.deactivate(Slot(pipe)),
            Op::Advance => {
                ring.advance();
                true
            }
        }
    }

    proptest! {
        #[test]
        fn behaves_as_a_queue(ops in vec(op(), 0..200)) {
            let mut ring = ActiveRing::new();
            let mut model = Model::default();
            for op in ops {
                prop_assert_eq!(apply(&mut ring, op), model.apply(op), "{:?}", op);
                let front = model.active.front().copied().map(Slot);
                prop_assert_eq!(ring.current(), front);
                prop_assert_eq!(ring.current_tag(), front.map(|pipe| 100 + pipe.0));
                prop_assert_eq!(ring.active_len(), model.active.len());
                prop_assert_eq!(ring.attached_len(), model.attached.len());
                for pipe in 0..6 {
                    prop_assert_eq!(ring.is_attached(Slot(pipe)), model.attached.contains(&pipe));
                    prop_assert_eq!(ring.is_active(Slot(pipe)), model.active.contains(&pipe));
                }
            }
        }
    }
}
