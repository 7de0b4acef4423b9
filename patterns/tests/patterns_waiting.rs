//! Time-outs, poll, the event descriptor, and the waits of close.

mod common;

use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use common::either::poll;
use common::{Context, PATIENCE, Socket, Way, bind_tcp, in_ways, open, pair, turn_for, turn_until};
use zring::inline::{POLLIN, POLLOUT};
use zring::{Config, Error, SocketType, Wait};

const LIMIT: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(100);

/// An endpoint without a listener.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    format!("tcp://{}", listener.local_addr().expect("its address"))
}

/// The result of `action` and the time it took.
fn timed<T>(action: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    (action(), start.elapsed())
}

fn assert_about(took: Duration, wanted: Duration) {
    // A timer may not fire early; its lateness depends on the other programs here.
    let slack = Duration::from_millis(5);
    assert!(
        took + slack >= wanted && took < wanted + Duration::from_secs(5),
        "{took:?} instead of {wanted:?}"
    );
}

#[test]
fn receives_wait_as_long_as_they_are_told() {
    in_ways(Way::all(), LIMIT, |way| {
        for wait in [Wait::Park, Wait::Adaptive, Wait::SpinThenPark(SHORT / 2), Wait::Spin] {
            let ctx = way.context_with(Config { wait, ..way.config() });
            let (pull, push) = pair(&ctx, SocketType::Pull, SocketType::Push);
            pull.set_rcvtimeo(Some(SHORT));
            let (outcome, took) = timed(|| pull.recv());
            assert!(matches!(outcome, Err(Error::WouldBlock)));
            assert_about(took, SHORT);
            pull.set_rcvtimeo(Some(Duration::ZERO));
            assert!(matches!(pull.recv(), Err(Error::WouldBlock)));
            assert!(matches!(pull.try_recv(), Err(Error::WouldBlock)));
            pull.set_rcvtimeo(None);
            push.send("now").expect("send");
            assert_eq!(pull.recv_bytes().expect("a message"), b"now");
        }
    });
}

#[test]
fn a_parked_receiver_wakes_for_a_message_of_another_thread() {
    in_ways(Way::all(), LIMIT, |way| {
        for wait in [Wait::Park, Wait::Adaptive, Wait::SpinThenPark(SHORT / 2), Wait::Spin] {
            let ctx = way.context_with(Config { wait, ..way.config() });
            let pull = open(&ctx, SocketType::Pull);
            let endpoint = bind_tcp(&pull);
            let sender = thread::spawn(move || {
                let ctx = way.context();
                let push = open(&ctx, SocketType::Push);
                push.connect(&endpoint).expect("connect");
                for number in 0..5_u8 {
                    turn_for(&ctx, Duration::from_millis(30));
                    push.send(&[number][..]).expect("send");
                }
            });
            for number in 0..5_u8 {
                assert_eq!(pull.recv_bytes().expect("a message"), [number]);
            }
            sender.join().expect("the sender");
        }
    });
}

#[test]
fn poll_reports_who_is_ready() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let (first, to_first) = pair(&ctx, SocketType::Pull, SocketType::Push);
        let (second, to_second) = pair(&ctx, SocketType::Pull, SocketType::Push);
        for push in [&to_first, &to_second] {
            push.wait_for_peers(1, Some(PATIENCE)).expect("a peer");
        }
        let ready = |timeout: Duration| {
            let items = [(&first, POLLIN), (&second, POLLIN), (&to_first, POLLOUT)];
            let ready = poll(&items, Some(timeout));
            [ready[0].0, ready[1].0, ready[2].1]
        };
        let readable = |timeout: Duration| {
            let ready = poll(&[(&first, POLLIN), (&second, POLLIN)], Some(timeout));
            [ready[0].0, ready[1].0]
        };
        assert_eq!(ready(Duration::ZERO), [false, false, true]);
        let (answer, took) = timed(|| readable(SHORT));
        assert_eq!(answer, [false, false]);
        assert_about(took, SHORT);
        to_second.send("x").expect("send");
        assert_eq!(readable(PATIENCE), [false, true]);
        assert_eq!(readable(PATIENCE), [false, true], "it stays so until the message is taken");
        to_first.send("y").expect("send");
        assert_eq!(second.recv_bytes().expect("a message"), b"x");
        assert_eq!(readable(PATIENCE), [true, false]);
        assert_eq!(first.recv_bytes().expect("a message"), b"y");
        assert_eq!(readable(Duration::ZERO), [false, false]);
    });
}

#[test]
fn poll_of_nothing_returns_at_once() {
    assert_eq!(zring::inline::poll(&mut [], None).expect("poll"), 0);
    assert_eq!(zring::poll(&mut [], None).expect("poll"), 0);
}

/// Only Linux has event descriptors.
#[cfg(target_os = "linux")]
mod descriptor {
    use rustix::event::{PollFd, PollFlags, Timespec};

    use super::*;

    /// Whether the event descriptor becomes readable within `timeout`.
    fn is_signalled(ctx: &Context, timeout: Duration) -> bool {
        let fd = ctx.inline().event_fd().expect("an event descriptor");
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        let timeout = Timespec::try_from(timeout).expect("a short time");
        rustix::event::poll(&mut fds, Some(&timeout)).expect("poll") == 1
    }

    #[test]
    fn the_event_descriptor_tells_a_foreign_loop_when_to_turn() {
        in_ways(Way::inline(), LIMIT, |way| {
            let ctx = way.context();
            let pull = open(&ctx, SocketType::Pull);
            let endpoint = bind_tcp(&pull);
            // Settled: without work the descriptor is not readable.
            turn_for(&ctx, Duration::from_millis(20));
            assert!(!is_signalled(&ctx, Duration::from_millis(50)));
            let sender = thread::spawn(move || {
                let ctx = way.context();
                let push = open(&ctx, SocketType::Push);
                push.connect(&endpoint).expect("connect");
                for number in 0..200_u8 {
                    push.send(&[number][..]).expect("send");
                    turn_for(&ctx, Duration::from_millis(1));
                }
            });
            // Only the descriptor drives this loop: a missed wake would stall it.
            for number in 0..200_u8 {
                let message = loop {
                    match pull.try_recv() {
                        Ok(message) => break message,
                        Err(Error::WouldBlock) => {
                            assert!(is_signalled(&ctx, PATIENCE), "no signal for message {number}");
                        }
                        Err(error) => panic!("{error}"),
                    }
                    ctx.turn().expect("a turn");
                };
                assert_eq!(message.body(), [number]);
            }
            sender.join().expect("the sender");
        });
    }
}

fn with_five_unsent(ctx: &Context, linger: Option<Duration>) -> Socket {
    let push = open(ctx, SocketType::Push);
    push.set_linger(linger);
    push.connect(&nobody()).expect("connect");
    for number in 0..5_u8 {
        push.send(&[number][..]).expect("queued");
    }
    push
}

#[test]
fn close_waits_no_longer_than_linger_and_tells_what_is_lost() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        for linger in [Duration::ZERO, SHORT] {
            let push = with_five_unsent(&ctx, Some(linger));
            let (report, took) = timed(|| push.close());
            assert_eq!(report.unsent_messages, 5);
            assert_about(took, linger);
        }
    });
}

#[test]
fn a_bound_socket_tells_what_a_lost_peer_has_left() {
    in_ways(Way::all(), LIMIT, |way| {
        for linger in [None, Some(PATIENCE)] {
            let ctx = way.context();
            let push = open(&ctx, SocketType::Push);
            push.set_linger(linger);
            let mut options = push.options();
            (options.sndbuf, options.sndhwm) = (Some(4096), 10);
            push.set_options(options).expect("options");
            let pull = open(&ctx, SocketType::Pull);
            pull.set_rcvhwm(1);
            pull.connect(&bind_tcp(&push)).expect("connect");
            push.wait_for_peers(1, Some(PATIENCE)).expect("a peer");
            let body = vec![1; 60_000];
            while push.try_send(&body).is_ok() {}
            drop(pull);
            turn_until(&ctx, "the end of the peer", || push.stats().peers == 0);
            turn_until(&ctx, "what it has left", || push.stats().messages_pending > 0);
            let left = push.stats().messages_pending;
            // No peer can connect any more, so there is nothing to wait for.
            assert_eq!(push.close().unsent_messages, left);
        }
    });
}

#[test]
fn close_with_linger_delivers_everything() {
    const MESSAGES: u32 = 5000;
    in_ways(Way::all(), LIMIT, |way| {
        for linger in [None, Some(PATIENCE)] {
            let ctx = way.context();
            let pull = open(&ctx, SocketType::Pull);
            let endpoint = bind_tcp(&pull);
            let sender = thread::spawn(move || {
                let ctx = way.context();
                let push = open(&ctx, SocketType::Push);
                push.set_linger(linger);
                push.set_sndhwm(MESSAGES);
                push.connect(&endpoint).expect("connect");
                for number in 0..MESSAGES {
                    push.send([&number.to_le_bytes()[..], &[9; 1000]].concat()).expect("send");
                }
                push.close().unsent_messages
            });
            for number in 0..MESSAGES {
                let message = pull.recv().expect("a message");
                assert_eq!(message.body()[..4], number.to_le_bytes());
            }
            assert_eq!(sender.join().expect("the sender"), 0);
        }
    });
}

#[test]
fn a_dropped_context_drains_for_a_bounded_time() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let push = with_five_unsent(&ctx, Some(SHORT));
        let ((), took) = timed(|| {
            drop(push);
            drop(ctx);
        });
        assert!(took < Duration::from_secs(10), "{took:?}");
    });
}

#[test]
fn the_last_messages_of_a_dropped_socket_arrive() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let pull = open(&ctx, SocketType::Pull);
        let endpoint = bind_tcp(&pull);
        let sender = thread::spawn(move || {
            let ctx = way.context();
            let push = open(&ctx, SocketType::Push);
            push.connect(&endpoint).expect("connect");
            for number in 0..100_u8 {
                push.send(&[number][..]).expect("send");
            }
        });
        for number in 0..100_u8 {
            assert_eq!(pull.recv_bytes().expect("a message"), [number]);
        }
        sender.join().expect("the sender");
    });
}
