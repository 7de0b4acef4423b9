//! The queue alone, and queues of a rotation.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::{
    rotation::{RESTING_MAX, RESTING_MIN},
    *,
};

/// Counts its drops.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn values_arrive_once_and_in_order() {
    const VALUES: u64 = if cfg!(debug_assertions) { 500_000 } else { 10_000_000 };
    const ROOM: u64 = 1_000;
    let (mut producer, mut consumer) = channel();
    let pushing = thread::spawn(move || {
        for value in 0..VALUES {
            while !producer.has_room(ROOM) {
                thread::yield_now();
            }
            producer.push(value);
        }
    });
    let mut next = 0;
    while !consumer.is_closed() {
        if consumer.is_empty() {
            thread::yield_now();
            continue;
        }
        assert_eq!(consumer.peek(), Some(&next));
        assert_eq!(consumer.pop(), Some(next));
        next += 1;
    }
    assert_eq!(next, VALUES);
    pushing.join().unwrap();
}

#[test]
fn values_of_any_size_keep_their_place() {
    let (mut producer, mut consumer) = channel::<[u32; 37]>();
    for round in 0..10 {
        (0..150).for_each(|at| producer.push([round * 150 + at; 37]));
        for at in 0..150 {
            assert_eq!(consumer.peek(), Some(&[round * 150 + at; 37]));
            assert_eq!(consumer.pop(), Some([round * 150 + at; 37]));
        }
        assert!(consumer.is_empty() && consumer.peek().is_none() && consumer.pop().is_none());
    }
    let (mut producer, mut consumer) = channel();
    (0..200).for_each(|_| producer.push(()));
    assert_eq!(std::iter::from_fn(|| consumer.pop()).count(), 200);
}

#[test]
#[should_panic(expected = "another value")]
fn a_value_elsewhere_is_not_taken_for_the_one_in_the_slot() {
    let (mut producer, _consumer) = channel();
    producer.push(());
    producer.push_with(|slot| {
        slot.write(());
        Box::leak(Box::new(()))
    });
}

#[test]
fn a_skipped_value_is_dropped_and_the_next_is_next() {
    let count = Arc::new(AtomicUsize::new(0));
    let (mut producer, mut consumer) = channel();
    consumer.skip();
    (0..130).for_each(|_| producer.push(Counted(Arc::clone(&count))));
    (0..129).for_each(|_| consumer.skip());
    assert_eq!(count.load(Ordering::Relaxed), 129);
    assert!(consumer.pop().is_some() && consumer.is_empty());
    assert_eq!(count.load(Ordering::Relaxed), 130);
}

#[test]
fn what_is_left_is_dropped_once() {
    let count = Arc::new(AtomicUsize::new(0));
    let dropped = || count.load(Ordering::Relaxed);
    for (pushed, popped) in [(0, 0), (1, 0), (64, 64), (65, 64), (130, 65), (1_000, 300)] {
        count.store(0, Ordering::Relaxed);
        let (mut producer, mut consumer) = channel();
        (0..pushed).for_each(|_| producer.push(Counted(Arc::clone(&count))));
        (0..popped).for_each(|_| drop(consumer.pop().unwrap()));
        assert_eq!(dropped(), popped);
        thread::spawn(move || drop(consumer)).join().unwrap();
        assert_eq!(dropped(), pushed, "the consumer drops what is there");
        assert!(producer.is_closed());
        (0..70).for_each(|_| producer.push(Counted(Arc::clone(&count))));
        assert_eq!(dropped(), pushed);
        drop(producer);
        assert_eq!(dropped(), pushed + 70, "{pushed} pushed, {popped} popped");

        count.store(0, Ordering::Relaxed);
        let (mut producer, consumer) = channel();
        (0..pushed).for_each(|_| producer.push(Counted(Arc::clone(&count))));
        drop(producer);
        assert_eq!(dropped(), 0);
        assert_eq!(consumer.is_closed(), pushed == 0, "not while something is left");
        drop(consumer);
        assert_eq!(dropped(), pushed);
    }
}

#[test]
fn room_is_exact() {
    let (mut producer, mut consumer) = channel();
    assert!(!producer.has_room(0));
    for value in 0..500 {
        assert!(producer.has_room(100));
        producer.push(value);
        if value >= 99 {
            assert!(!producer.has_room(100));
            assert!(producer.has_room(101));
            assert_eq!(consumer.pop(), Some(value - 99));
        }
    }
}

/// Pushes and pops `values` values, and checks that the queue is empty afterwards.
fn swing((producer, consumer): &mut (Producer<usize>, Consumer<usize>), values: usize) {
    (0..values).for_each(|value| producer.push(value));
    (0..values).for_each(|value| assert_eq!(consumer.pop(), Some(value)));
    assert!(consumer.is_empty() && consumer.pop().is_none());
}

#[test]
fn segments_rest_and_are_used_by_the_queues_of_a_rotation() {
    let rotation = Rotation::new();
    let mut queues: Vec<_> = (0..3).map(|_| channel()).collect();
    queues.iter_mut().for_each(|(producer, _)| producer.rotate_in(&rotation));
    let resting = || rotation.segments().len();
    for queue in &mut queues {
        (0..3 * RESTING_MIN * SLOTS).for_each(|_| swing(queue, 1));
    }
    assert!(resting() >= RESTING_MIN - 1, "they are used again and again");
    for round in 0..3_000 {
        swing(&mut queues[round % 3], round * 7 % (3 * SLOTS) + 1);
        assert!(resting() <= RESTING_MAX);
    }
    // More segments than may rest come back at once.
    swing(&mut queues[0], 2 * RESTING_MAX * SLOTS);
    swing(&mut queues[0], 2 * RESTING_MAX * SLOTS);
    assert!(resting() <= RESTING_MAX);
    drop(rotation);
    swing(&mut queues[1], 3 * SLOTS);
}

/// A segment that was full at one place of a queue comes to the same place of another queue.
#[test]
fn stamps_of_one_queue_mean_nothing_in_another() {
    for more in 0..4 {
        let rotation = Rotation::new();
        let [mut one, mut other] = [channel(), channel()];
        one.0.rotate_in(&rotation);
        other.0.rotate_in(&rotation);
        (0..=(RESTING_MIN + more) * SLOTS).for_each(|_| swing(&mut one, 1));
        (0..3 * SLOTS).for_each(|_| swing(&mut other, 1));
    }
}

#[test]
#[should_panic(expected = "in use")]
fn a_queue_in_use_joins_no_rotation() {
    let (mut producer, _consumer) = channel();
    producer.push(1);
    producer.rotate_in(&Rotation::new());
}

#[test]
fn a_queue_is_closed_when_both_empty_and_left() {
    let (mut producer, mut consumer) = channel();
    assert!(!producer.is_closed() && !consumer.is_closed());
    producer.push(1);
    drop(producer);
    assert!(!consumer.is_closed());
    assert_eq!(consumer.pop(), Some(1));
    assert!(consumer.is_closed());
}
