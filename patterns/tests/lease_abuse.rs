//! Received messages kept far longer, and dropped elsewhere, than the receive ring would like.

mod common;

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use common::content::body;
use common::{Context, PATIENCE, Socket, Way, bind_tcp, in_ways, open, setting};
use zring::{Message, SocketType};

const LIMIT: Duration = Duration::from_secs(120);

/// More than any receive ring holds, some 16 MB; fewer where everything is slow.
fn messages() -> usize {
    setting("ZRING_LEASE_MESSAGES").map_or(12_000, |count| count as usize)
}

/// Inline bodies, leases and bodies that straddle buffers, in turn.
fn size(number: usize) -> usize {
    match number % 16 {
        15 => 9_000 + number % 1000,
        remainder => remainder * 97 + number % 64,
    }
}

fn is_intact(message: &Message, number: usize) {
    assert!(
        message.body() == body(number as u64, size(number)),
        "message {number} ({} bytes) changed",
        size(number)
    );
}

/// Sends the messages `0..count` from a thread of its own.
fn sender(way: Way, endpoint: String, count: usize) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let ctx = way.context();
        let push = open(&ctx, SocketType::Push);
        push.connect(&endpoint).expect("connect");
        for number in 0..count {
            push.send(body(number as u64, size(number))).expect("send");
        }
        assert_eq!(push.close().unsent_messages, 0);
    })
}

/// A PULL and a thread that sends it `count` messages; in every way.
fn receiving(count: usize, test: fn(Context, Socket)) {
    in_ways(Way::every(), LIMIT, move |way| {
        let ctx = way.context();
        let pull = open(&ctx, SocketType::Pull);
        let sender = sender(way, bind_tcp(&pull), count);
        test(ctx, pull);
        sender.join().expect("the sender");
    });
}

#[test]
fn every_message_is_kept() {
    receiving(messages(), |_ctx, pull| {
        let kept: Vec<Message> = (0..messages()).map(|_| pull.recv().expect("a message")).collect();
        for (number, message) in kept.iter().enumerate() {
            is_intact(message, number);
        }
    });
}

#[test]
fn one_message_is_kept_for_ever() {
    receiving(messages(), |_ctx, pull| {
        let mut kept = Vec::new();
        for number in 0..messages() {
            let message = pull.recv().expect("a message");
            is_intact(&message, number);
            // The first of each kind, small, middling and large.
            if number < 16 {
                kept.push(message);
            }
        }
        for (number, message) in kept.iter().enumerate() {
            is_intact(message, number);
        }
    });
}

#[test]
fn clones_keep_a_message_alive() {
    receiving(1000, |_ctx, pull| {
        let kept: Vec<Message> = (0..1000)
            .map(|_| {
                let message = pull.recv().expect("a message");
                let clone = message.clone();
                drop(message);
                clone
            })
            .collect();
        for (number, message) in kept.iter().enumerate() {
            is_intact(message, number);
        }
    });
}

#[test]
fn messages_outlive_their_socket_and_context() {
    receiving(2000, |ctx, pull| {
        let kept: Vec<Message> = (0..2000).map(|_| pull.recv().expect("a message")).collect();
        drop(pull);
        drop(ctx);
        for (number, message) in kept.iter().enumerate() {
            is_intact(message, number);
        }
        // Half of them here, half on a thread that never had a context.
        let (mut here, mut elsewhere) = (kept, Vec::new());
        elsewhere.extend(here.drain(1000..));
        drop(here);
        thread::spawn(move || {
            is_intact(&elsewhere[999], 1999);
            drop(elsewhere);
        })
        .join()
        .expect("the other thread");
    });
}

/// The receiver may be out of buffers and parked when another thread drops what pins them.
#[test]
fn drops_on_another_thread_wake_a_starved_receiver() {
    receiving(messages(), |_ctx, pull| {
        let (keep, kept) = channel::<Message>();
        let dropper = thread::spawn(move || {
            let mut pinned = Vec::new();
            let mut number = 0;
            loop {
                // Holds on for as long as messages come; lets all go when the receiver has stalled.
                match kept.recv_timeout(Duration::from_millis(20)) {
                    Ok(message) => {
                        is_intact(&message, number);
                        pinned.push(message);
                        number += 1;
                    }
                    Err(std::sync::mpsc::RecvTimeoutError::Timeout) => pinned.clear(),
                    Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return number,
                }
            }
        });
        for _ in 0..messages() {
            keep.send(pull.recv().expect("a message: the receiver was woken"))
                .expect("the dropper lives");
        }
        drop(keep);
        assert_eq!(dropper.join().expect("the dropper"), messages());
    });
}

/// Messages are dropped in an order that has nothing to do with the buffers they are in.
#[test]
fn drops_in_any_order() {
    receiving(messages(), |_ctx, pull| {
        let mut kept: Vec<(usize, Message)> = Vec::new();
        for number in 0..messages() {
            kept.push((number, pull.recv().expect("a message")));
            if kept.len() > 700 {
                let (number, message) = kept.swap_remove(number * 7919 % kept.len());
                is_intact(&message, number);
            }
        }
        for (number, message) in &kept {
            is_intact(message, *number);
        }
    });
}

#[test]
fn a_message_received_is_sent_on_after_its_context_is_gone() {
    in_ways(Way::all(), LIMIT, |way| {
        let first = way.context();
        let pull = open(&first, SocketType::Pull);
        let sender = sender(way, bind_tcp(&pull), 100);
        let kept: Vec<Message> = (0..100).map(|_| pull.recv().expect("a message")).collect();
        sender.join().expect("the sender");
        drop((pull, first));

        let second = way.context();
        let (pull, push) = common::pair(&second, SocketType::Pull, SocketType::Push);
        push.wait_for_peers(1, Some(PATIENCE)).expect("a peer");
        for message in kept {
            push.send(message).expect("send");
        }
        for number in 0..100 {
            is_intact(&pull.recv().expect("a message"), number);
        }
    });
}
