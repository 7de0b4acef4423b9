//! Large bodies in the caller's memory: sent from there, in whatever parts the kernel takes, and free for the caller
//! again as soon as `send` returns.

mod common;

use std::time::Duration;

use common::content::{body, fill};
use common::events::{Seen, await_event, handed_over};
use common::raw::Raw;
use common::{
    Context, PATIENCE, Socket, Way, in_ways, is_quiet, narrow_worker, open, pair, turning,
};
use zring::SocketType;

const LIMIT: Duration = Duration::from_secs(60);

/// Sizes around three bounds: of copied bodies, of a single call, and of the kernel's buffers.
const SIZES: [usize; 8] = [4095, 4096, 32 << 10, 60_000, 200_000, 300_001, 1 << 20, 6 << 20];

/// A PUSH with one peer that reads a few kilobytes at a time.
fn narrow(ctx: &Context) -> (Socket, String, Raw) {
    let push = open(ctx, SocketType::Push);
    push.set_reconnect_ivl(Duration::from_millis(10));
    push.monitor(1000);
    let (endpoint, raw) = narrow_worker(ctx, &push);
    (push, endpoint, raw)
}

/// Sends message `number` out of `buffer` and then overwrites the buffer.
fn send_from(buffer: &mut [u8], socket: &Socket, number: usize) {
    let size = SIZES[number % SIZES.len()];
    fill(number as u64, &mut buffer[..size]);
    socket.send(&buffer[..size]).expect("send");
    buffer[..size].fill(0xee);
}

fn expected(number: usize) -> Vec<u8> {
    body(number as u64, SIZES[number % SIZES.len()])
}

#[test]
fn a_buffer_may_change_as_soon_as_send_returns() {
    in_ways(Way::every(), LIMIT, |way| {
        let ctx = way.context();
        let (push, _, mut raw) = narrow(&ctx);
        let mut buffer = vec![0; 6 << 20];
        let messages = 2 * SIZES.len();
        for number in 0..messages {
            send_from(&mut buffer, &push, number);
        }
        turning(&ctx, || {
            for number in 0..messages {
                assert!(raw.data().1 == expected(number), "message {number}");
            }
        });
    });
}

/// An immediate send stays behind messages that wait in a batch scope or for the kernel, and in front of later ones.
#[test]
fn large_and_small_keep_their_order() {
    in_ways(Way::every(), LIMIT, |way| {
        let ctx = way.context();
        let (pull, push) = pair(&ctx, SocketType::Pull, SocketType::Push);
        push.wait_for_peers(1, Some(PATIENCE)).expect("a peer");
        let size = |at: usize| [1, 5000, 300, 70_000, 2, 4096][at * at % 6];
        let mut sent = 0;
        for round in 0..40 {
            {
                let _batch = (round % 2 == 0).then(|| ctx.batch());
                for at in sent..sent + 25 {
                    push.send(&body(at as u64, size(at))).expect("send");
                }
            }
            for at in sent..sent + 25 {
                let received = pull.recv().expect("a message");
                assert!(received.body() == body(at as u64, size(at)), "message {at}");
            }
            sent += 25;
        }
        assert!(is_quiet(&pull));
        let out: u64 = push.peers().iter().map(|peer| peer.messages_out).sum();
        assert_eq!(out, sent as u64);
    });
}

#[test]
fn requests_and_replies_are_framed_as_ever() {
    in_ways(Way::every(), LIMIT, |way| {
        for is_correlated in [false, true] {
            let ctx = way.context();
            let (rep, req) = pair(&ctx, SocketType::Rep, SocketType::Req);
            let mut options = req.options();
            options.req_correlate = is_correlated;
            req.set_options(options).expect("options");
            let (mut asked, mut answered) = (vec![0; 6 << 20], vec![0; 6 << 20]);
            for number in 0..SIZES.len() {
                send_from(&mut asked, &req, number);
                assert!(rep.recv().expect("a request").body() == expected(number), "{number}");
                send_from(&mut answered, &rep, number + 3);
                assert!(req.recv().expect("a reply").body() == expected(number + 3), "{number}");
            }
            let (inward, outward) = (&rep.peers()[0], &req.peers()[0]);
            assert_eq!(inward.messages_out, SIZES.len() as u64);
            assert_eq!(inward.bytes_out, outward.bytes_in);
            assert_eq!(outward.bytes_out, inward.bytes_in);
        }
    });
}

/// The message of which the lost peer had a part goes to the next peer as a whole, although the caller's memory has
/// long been reused.
#[test]
fn a_peer_lost_in_the_middle_costs_no_byte() {
    in_ways(Way::every(), LIMIT, |way| {
        let ctx = way.context();
        let (push, endpoint, mut raw) = narrow(&ctx);
        let mut buffer = vec![0; 6 << 20];
        let messages = SIZES.len();
        for number in 0..messages {
            send_from(&mut buffer, &push, number);
        }
        // At most the last message has begun to arrive.
        turning(&ctx, || {
            for number in 0..messages - 1 {
                assert!(raw.data().1 == expected(number), "message {number}");
            }
        });
        raw.reset();
        let first = handed_over(&await_event(&ctx, &push, Seen::Disconnected));
        assert_eq!(first, messages as u64 - 1, "the kernel has no room for the last one");
        let pull = open(&ctx, SocketType::Pull);
        pull.connect(&endpoint).expect("connect");
        assert!(pull.recv().expect("a message").body() == expected(messages - 1));
        assert!(is_quiet(&pull));
    });
}
