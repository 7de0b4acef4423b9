//! The memory cost of queues between threads: no allocation in steady state, little memory at rest. A test program of
//! its own, because it counts allocations.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    task::Waker,
    thread,
};

use zring_engine::{
    Parker,
    queue::{mailbox::mailbox, spsc},
};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: all calls are passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller upholds the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds the contract.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The number of allocations by `body` on this thread.
fn allocations(body: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    body();
    ALLOCATIONS.get() - before
}

#[test]
fn a_queue_in_use_allocates_nothing() {
    let (mut producer, mut consumer) = spsc::channel::<u64>();
    let mut swing = |values: u64| {
        (0..values).for_each(|value| producer.push(value));
        (0..values).for_each(|value| assert_eq!(consumer.pop(), Some(value)));
    };
    assert!(allocations(|| swing(1_000)) > 0, "this is counted");
    (0..3).for_each(|_| swing(1_000));
    assert_eq!(allocations(|| (1..1_000).for_each(&mut swing)), 0);
}

#[test]
fn a_rotation_in_use_allocates_nothing() {
    let rotation = spsc::Rotation::new();
    let mut queues = [spsc::channel::<u64>(), spsc::channel()];
    queues.iter_mut().for_each(|(producer, _)| producer.rotate_in(&rotation));
    let mut swing = |values: u64| {
        for (producer, consumer) in &mut queues {
            (0..values).for_each(|value| producer.push(value));
            (0..values).for_each(|value| assert_eq!(consumer.pop(), Some(value)));
        }
    };
    assert!(allocations(|| (0..100).for_each(|_| swing(1_000))) > 0, "this is counted");
    assert_eq!(allocations(|| (1..1_000).for_each(&mut swing)), 0);
}

#[test]
fn two_threads_share_a_queue_without_allocating() {
    const VALUES: u64 = 300_000;
    const ROOM: u64 = 900;
    let (mut producer, mut consumer) = spsc::channel::<u64>();
    let mut send = move |values: u64| {
        for value in 0..values {
            while !producer.has_room(ROOM) {
                thread::yield_now();
            }
            producer.push(value);
        }
    };
    let pushing = thread::spawn(move || {
        send(VALUES);
        allocations(|| send(VALUES))
    });
    let mut taken = 0;
    let popping = allocations(|| {
        while !consumer.is_closed() {
            match consumer.pop() {
                Some(_) => taken += 1,
                None => thread::yield_now(),
            }
        }
    });
    assert_eq!((taken, popping), (2 * VALUES, 0));
    // At most the segments of one swing larger than all before.
    let pushing = pushing.join().unwrap();
    assert!(pushing <= ROOM.div_ceil(64) as usize + 1, "{pushing} segments");
}

#[test]
fn an_unused_queue_is_one_allocation() {
    assert_eq!(allocations(|| drop(spsc::channel::<[u64; 100]>())), 1);
}

#[test]
fn mail_within_the_ring_and_wakes_allocate_nothing() {
    let (postbox, mut mailbox) = mailbox::<u64>(Waker::noop().clone());
    let mut mail = Vec::with_capacity(64);
    let posting = allocations(|| {
        for round in 1..1_000 {
            (0..round % 64).for_each(|mail| postbox.post(mail));
            mailbox.drain(&mut mail);
            assert_eq!(mail.len() as u64, round % 64);
            mail.clear();
        }
    });
    assert_eq!(posting, 0);

    drop(Parker::current());
    let waking = allocations(|| {
        let waker = Parker::current().waker();
        let clone = waker.clone();
        waker.wake();
        drop(clone);
        assert!(Parker::current().park(Some(1_000_000_000)));
        assert!(!Parker::current().park(Some(1_000)));
    });
    assert_eq!(waking, 0);
}
