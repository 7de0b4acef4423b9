//! Timers of a shard: a binary heap from which any entry can be removed.
//!
//! ```text
//! heap   [ (deadline, order, slot) … ]   least deadline first; equal deadlines in the order they were armed
//!               |            ^
//!               v            | link (armed)
//! slots  [ (token, generation, link) … ] link (vacant): the next vacant slot
//! ```
//!
//! A slot's generation is odd while it is armed and even while it is vacant, so a stale [`TimerId`] never matches.
//! Cancelling removes the heap entry at once. Memory grows to the largest number of timers that were ever armed at the
//! same time, and is then reused.

/// No slot.
const NIL: u32 = u32::MAX;

/// Names one arming of a timer. Stale once that timer expired or was cancelled; a stale id does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerId {
    slot: u32,
    generation: u32,
}

/// A set of timers that carry tokens of type `T`.
///
/// Times are nanoseconds of a clock that the caller chooses. [`arm`](Timers::arm), [`cancel`](Timers::cancel) and
/// [`expire`](Timers::expire) cost O(log n), the next deadline O(1).
#[derive(Debug)]
pub(crate) struct Timers<T> {
    heap: Vec<Entry>,
    slots: Vec<Slot<T>>,
    vacant: u32,
    armed_ever: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    deadline_ns: u64,
    order: u64,
    slot: u32,
}

impl Entry {
    fn is_before(&self, other: &Entry) -> bool {
        (self.deadline_ns, self.order) < (other.deadline_ns, other.order)
    }
}

#[derive(Debug)]
struct Slot<T> {
    token: T,
    generation: u32,
    link: u32,
}

impl<T: Copy> Timers<T> {
    /// No timers, and no memory allocated.
    pub(crate) fn new() -> Timers<T> {
        Timers { heap: Vec::new(), slots: Vec::new(), vacant: NIL, armed_ever: 0 }
    }

    /// The earliest deadline of all armed timers.
    #[inline]
    pub(crate) fn next_deadline_ns(&self) -> Option<u64> {
        self.heap.first().map(|entry| entry.deadline_ns)
    }

    /// Arms a timer: [`expire`](Timers::expire) gives `token` back once, at `deadline_ns` or later.
    ///
    /// # Panics
    /// With 2³² − 1 timers armed already.
    pub(crate) fn arm(&mut self, deadline_ns: u64, token: T) -> TimerId {
        let slot = self.occupy(token);
        self.armed_ever += 1;
        let order = self.armed_ever;
        let at = self.heap.len();
        self.heap.push(Entry { deadline_ns, order, slot });
        self.sift_up(at);
        TimerId { slot, generation: self.slots[slot as usize].generation }
    }

    /// Disarms a timer and returns its token. `None`: the id is stale.
    pub(crate) fn cancel(&mut self, id: TimerId) -> Option<T> {
        self.position(id).map(|at| self.remove(at))
    }

    /// Disarms and returns the earliest timer due at `now_ns`. Call it until it returns `None`.
    ///
    /// A caller that arms new timers in that loop should arm them later than `now_ns`, or the loop does not end.
    #[inline]
    pub(crate) fn expire(&mut self, now_ns: u64) -> Option<T> {
        match self.heap.first() {
            Some(entry) if entry.deadline_ns <= now_ns => Some(self.remove(0)),
            _ => None,
        }
    }

    fn position(&self, id: TimerId) -> Option<usize> {
        let slot = self.slots.get(id.slot as usize)?;
        // The generation of an id is always odd, so a vacant slot never matches.
        (slot.generation == id.generation).then_some(slot.link as usize)
    }

    fn occupy(&mut self, token: T) -> u32 {
        if self.vacant == NIL {
            assert!(self.slots.len() < NIL as usize, "too many timers");
            self.slots.push(Slot { token, generation: 1, link: NIL });
            return (self.slots.len() - 1) as u32;
        }
        let index = self.vacant;
        let slot = &mut self.slots[index as usize];
        self.vacant = slot.link;
        slot.token = token;
        slot.generation = slot.generation.wrapping_add(1);
        index
    }

    fn remove(&mut self, at: usize) -> T {
        let entry = self.heap.swap_remove(at);
        if at < self.heap.len() {
            self.sift(at);
        }
        let slot = &mut self.slots[entry.slot as usize];
        slot.generation = slot.generation.wrapping_add(1);
        slot.link = self.vacant;
        self.vacant = entry.slot;
        slot.token
    }

    /// Moves the entry at `at` to its place, in one direction at most.
    fn sift(&mut self, at: usize) {
        let at = self.sift_up(at);
        self.sift_down(at);
    }

    fn sift_up(&mut self, mut at: usize) -> usize {
        let entry = self.heap[at];
        while at > 0 {
            let parent = (at - 1) / 2;
            if !entry.is_before(&self.heap[parent]) {
                break;
            }
            self.place(at, self.heap[parent]);
            at = parent;
        }
        self.place(at, entry);
        at
    }

    fn sift_down(&mut self, mut at: usize) {
        let entry = self.heap[at];
        loop {
            let mut child = 2 * at + 1;
            if child >= self.heap.len() {
                break;
            }
            if child + 1 < self.heap.len() && self.heap[child + 1].is_before(&self.heap[child]) {
                child += 1;
            }
            if !self.heap[child].is_before(&entry) {
                break;
            }
            self.place(at, self.heap[child]);
            at = child;
        }
        self.place(at, entry);
    }

    fn place(&mut self, at: usize, entry: Entry) {
        self.heap[at] = entry;
        // The cast fits: the heap is never longer than the slots, and their number is below 2³².
        self.slots[entry.slot as usize].link = at as u32;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drain(timers: &mut Timers<u32>, now_ns: u64) -> Vec<u32> {
        std::iter::from_fn(|| timers.expire(now_ns)).collect()
    }

    #[test]
    fn they_expire_in_order_of_deadline_then_of_arming() {
        let mut timers = Timers::new();
        for (deadline_ns, token) in [(30, 1), (10, 2), (20, 3), (10, 4), (40, 5)] {
            timers.arm(deadline_ns, token);
        }
        assert_eq!(timers.next_deadline_ns(), Some(10));
        assert_eq!(drain(&mut timers, 9), []);
        assert_eq!(drain(&mut timers, 30), [2, 4, 3, 1]);
        assert_eq!(timers.heap.len(), 1);
        assert_eq!(timers.next_deadline_ns(), Some(40));
    }

    #[test]
    fn stale_ids_do_nothing() {
        let mut timers = Timers::new();
        let first = timers.arm(10, 1);
        assert_eq!(timers.cancel(first), Some(1));
        assert_eq!(timers.cancel(first), None);
        let second = timers.arm(10, 2);
        assert_eq!(first.slot, second.slot);
        assert_eq!(timers.cancel(first), None);
        assert_eq!(timers.expire(10), Some(2));
        assert_eq!(timers.cancel(second), None);
        assert!(timers.heap.is_empty());
        assert_eq!(timers.next_deadline_ns(), None);
    }

    #[test]
    fn cancelled_timers_leave_nothing_behind() {
        let mut timers = Timers::new();
        let round_trip = |timers: &mut Timers<u32>, round: u32| {
            let ids = [0, 1, 2].map(|n| timers.arm(u64::from(round) + n, round));
            assert_eq!(timers.cancel(ids[1]), Some(round));
            assert_eq!(timers.cancel(ids[0]), Some(round));
            assert_eq!(timers.expire(u64::from(round) + 2), Some(round));
        };
        round_trip(&mut timers, 0);
        let capacity = (timers.heap.capacity(), timers.slots.capacity());
        for round in 1..10_000 {
            round_trip(&mut timers, round);
        }
        assert!(timers.heap.is_empty());
        assert_eq!(timers.slots.len(), 3);
        assert_eq!(capacity, (timers.heap.capacity(), timers.slots.capacity()));
    }

    /// The reference model: a list, searched from end to end.
    #[derive(Default)]
    struct Model {
        armed: Vec<(u64, u64, u32)>,
        order: u64,
    }

    impl Model {
        fn arm(&mut self, deadline_ns: u64, token: u32) {
            self.order += 1;
            self.armed.push((deadline_ns, self.order, token));
        }

        fn cancel(&mut self, token: u32) -> Option<u32> {
            let at = self.armed.iter().position(|timer| timer.2 == token)?;
            Some(self.armed.remove(at).2)
        }

        fn expire(&mut self, now_ns: u64) -> Option<u32> {
            let first = self.armed.iter().copied().min()?;
            if first.0 > now_ns {
                return None;
            }
            self.cancel(first.2)
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Arm(u64),
        Cancel(prop::sample::Index),
        Expire(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        let time = 0..50u64;
        prop_oneof![
            4 => time.clone().prop_map(Op::Arm),
            2 => any::<prop::sample::Index>().prop_map(Op::Cancel),
            1 => time.prop_map(Op::Expire),
        ]
    }

    proptest! {
        #[test]
        fn they_behave_like_the_naive_model(ops in prop::collection::vec(op(), 1..200)) {
            let mut timers = Timers::new();
            let mut model = Model::default();
            // Every id ever given out, so that stale ids are tried, too. The token is the index.
            let mut ids: Vec<TimerId> = Vec::new();
            for op in ops {
                match op {
                    Op::Arm(deadline_ns) => {
                        let token = ids.len() as u32;
                        ids.push(timers.arm(deadline_ns, token));
                        model.arm(deadline_ns, token);
                    }
                    Op::Cancel(at) if !ids.is_empty() => {
                        let at = at.index(ids.len());
                        prop_assert_eq!(timers.cancel(ids[at]), model.cancel(at as u32));
                    }
                    Op::Expire(now_ns) => loop {
                        let expired = timers.expire(now_ns);
                        prop_assert_eq!(expired, model.expire(now_ns));
                        if expired.is_none() {
                            break;
                        }
                    },
                    Op::Cancel(_) => {}
                }
                prop_assert_eq!(timers.heap.len(), model.armed.len());
                let next = model.armed.iter().map(|timer| timer.0).min();
                prop_assert_eq!(timers.next_deadline_ns(), next);
            }
        }
    }
}
