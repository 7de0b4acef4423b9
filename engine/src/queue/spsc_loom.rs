//! Models of the queue from one thread to another.

use loom::{sync::Arc, thread};

use super::{
    parcel::Parcel,
    spsc::{Consumer, Rotation, channel},
};

/// Pops until the queue is closed; all values from `next` on, in order.
fn pop_all(consumer: &mut Consumer<Arc<usize>>, mut next: usize) -> usize {
    while !consumer.is_closed() {
        match consumer.pop() {
            Some(value) => {
                assert_eq!(*value, next);
                next += 1;
            }
            None => thread::yield_now(),
        }
    }
    next
}

#[test]
fn values_arrive_once_and_in_order_and_the_end_is_seen() {
    loom::model(|| {
        let (mut producer, mut consumer) = channel();
        let other = thread::spawn(move || {
            (0..5).for_each(|value| producer.push(Arc::new(value)));
        });
        assert_eq!(pop_all(&mut consumer, 0), 5);
        other.join().unwrap();
    });
}

/// Segments come back while the producer asks for one: into an empty list of spares, and onto a spare.
#[test]
fn segments_are_used_again() {
    for (pushed, popped, more) in [(4, 2, 3), (6, 4, 3)] {
        loom::model(move || {
            let (mut producer, mut consumer) = channel();
            (0..pushed).for_each(|value| producer.push(Arc::new(value)));
            (0..popped).for_each(|value| assert_eq!(*consumer.pop().unwrap(), value));
            let other = thread::spawn(move || {
                (pushed..pushed + more).for_each(|value| producer.push(Arc::new(value)));
            });
            assert_eq!(pop_all(&mut consumer, popped), pushed + more);
            other.join().unwrap();
        });
    }
}

/// Segments that were full in one queue of a rotation come to the other queue. Its consumer must not take their old
/// stamps for new ones.
#[test]
fn queues_of_a_rotation_share_their_segments() {
    loom::model(|| {
        let rotation = Rotation::new();
        let (mut producer, mut consumer) = channel();
        let (mut other_producer, mut other_consumer) = channel();
        producer.rotate_in(&rotation);
        other_producer.rotate_in(&rotation);
        // Three segments: two rest once they are emptied, and the first of them goes out again.
        (0..6).for_each(|value| producer.push(Arc::new(value)));
        (0..5).for_each(|value| assert_eq!(*consumer.pop().unwrap(), value));
        (6..8).for_each(|value| producer.push(Arc::new(value)));
        let sender = thread::spawn(move || {
            (0..3).for_each(|value| other_producer.push(Arc::new(value)));
        });
        assert_eq!(pop_all(&mut other_consumer, 0), 3);
        sender.join().unwrap();
        assert!((5..8).all(|value| *consumer.pop().unwrap() == value));
        assert!(consumer.pop().is_none());
    });
}

/// The model fails if a value is leaked; the count fails if a value is dropped twice.
#[test]
fn what_is_left_is_dropped_once() {
    for popped in 0..2 {
        loom::model(move || {
            let value = Arc::new(());
            let (mut producer, mut consumer) = channel();
            let other = thread::spawn({
                let value = Arc::clone(&value);
                move || {
                    for _ in 0..3 {
                        producer.push(Arc::clone(&value));
                    }
                    producer.is_closed()
                }
            });
            let taken = (0..popped).filter_map(|_| consumer.pop()).count();
            assert!(taken <= popped);
            drop(consumer);
            other.join().unwrap();
            assert_eq!(Arc::strong_count(&value), 1);
        });
    }
}

/// Parcels written in place, short bytes and values in turn, arrive whole, and the remaining ones are dropped.
#[test]
fn parcels_arrive_as_they_were_written() {
    loom::model(|| {
        let value = Arc::new(());
        let (mut producer, mut consumer) = channel::<Parcel<Arc<()>>>();
        let other = thread::spawn({
            let value = Arc::clone(&value);
            move || {
                producer.push_with(|slot| Parcel::write_short(slot, true, b"one"));
                producer.push(Parcel::value(value));
                producer.push_with(|slot| Parcel::write_short(slot, false, b"three"));
            }
        });
        for at in 0..2 {
            let Some(parcel) = consumer.peek() else { break };
            let short = parcel.short().map(|short| (short.mark, short.len, short.words[0]));
            let one = u64::from_ne_bytes(*b"one\0\0\0\0\0");
            assert_eq!(short, (at == 0).then_some((true, 3, one)));
            consumer.skip();
        }
        drop(consumer);
        other.join().unwrap();
        assert_eq!(Arc::strong_count(&value), 1);
    });
}

/// Room that the producer saw really exists, and freed room becomes visible.
#[test]
fn room_comes_back() {
    loom::model(|| {
        let (mut producer, mut consumer) = channel();
        producer.push(Arc::new(0));
        let other = thread::spawn(move || {
            for value in 1..3 {
                while !producer.has_room(1) {
                    thread::yield_now();
                }
                producer.push(Arc::new(value));
            }
        });
        assert_eq!(pop_all(&mut consumer, 0), 3);
        other.join().unwrap();
    });
}
