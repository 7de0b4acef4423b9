//! Background sockets used by several threads: at once, one after the other, until the end.

mod common;

use std::collections::HashSet;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::content::body;
use common::{PATIENCE, QUIET, Way, in_ways};
use zring::inline::{self, POLLIN, POLLOUT};
use zring::{Config, Context, Error, Message, PollItem, Socket, SocketType, poll};

const LIMIT: Duration = Duration::from_secs(60);

/// A socket whose calls fail instead of waiting for ever.
fn open(ctx: &Context, kind: SocketType) -> Socket {
    let socket = ctx.socket(kind).expect("a socket");
    socket.set_rcvtimeo(Some(PATIENCE));
    socket.set_sndtimeo(Some(PATIENCE));
    socket.set_linger(Some(PATIENCE));
    socket
}

/// Binds to a free loopback port.
fn bind(socket: &Socket) -> String {
    socket.bind("tcp://127.0.0.1:0").expect("bind");
    socket.last_endpoint().expect("a bound endpoint")
}

/// Two connected sockets of one context; the first one is bound.
fn pair(ctx: &Context, bound: SocketType, connected: SocketType) -> (Socket, Socket) {
    let (first, second) = (open(ctx, bound), open(ctx, connected));
    second.connect(&bind(&first)).expect("connect");
    (first, second)
}

/// An endpoint without a listener.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    format!("tcp://{}", listener.local_addr().expect("its address"))
}

fn is_terminated<T>(outcome: Result<T, impl Into<Error>>) -> bool {
    matches!(outcome.map_err(Into::into), Err(Error::Terminated))
}

const SENDERS: usize = 4;
const RECEIVERS: usize = 3;

/// Message `number` of thread `who`; some are leased and some are inline.
fn task(who: usize, number: usize) -> Vec<u8> {
    let head = [who.to_le_bytes(), number.to_le_bytes()].concat();
    [head, body(number as u64, number % 300)].concat()
}

fn task_of(message: &Message) -> (usize, usize) {
    let word = |at: usize| {
        usize::from_le_bytes(message.body()[at..at + 8].try_into().expect("eight bytes"))
    };
    let (who, number) = (word(0), word(8));
    assert!(message.body() == task(who, number), "task {number} of {who} changed");
    (who, number)
}

/// Four threads send on `push` while three receive from `pull`. Each message arrives once, and no thread sees the
/// messages of a sender out of order.
fn shared_by_threads(push: &Socket, pull: &Socket, each: usize) {
    let asked = AtomicUsize::new(0);
    let received: Vec<Vec<(usize, usize)>> = thread::scope(|scope| {
        for who in 0..SENDERS {
            scope.spawn(move || {
                for number in 0..each {
                    push.send(task(who, number)).expect("send");
                }
            });
        }
        let receiving = (0..RECEIVERS).map(|_| {
            scope.spawn(|| {
                let mut got = Vec::new();
                while asked.fetch_add(1, Ordering::Relaxed) < SENDERS * each {
                    got.push(task_of(&pull.recv().expect("a task")));
                }
                got
            })
        });
        let receiving: Vec<_> = receiving.collect();
        receiving.into_iter().map(|thread| thread.join().expect("a receiver")).collect()
    });
    let mut all = HashSet::new();
    for got in &received {
        for who in 0..SENDERS {
            let of_one = got.iter().filter(|(sender, _)| *sender == who);
            assert!(of_one.map(|(_, number)| number).is_sorted(), "the order of sender {who}");
        }
        for task in got {
            assert!(all.insert(*task), "{task:?} twice");
        }
    }
    assert_eq!(all.len(), SENDERS * each);
    pull.set_rcvtimeo(Some(QUIET));
    assert!(matches!(pull.recv(), Err(Error::WouldBlock)), "nothing is left");
}

#[test]
fn threads_share_a_push_and_threads_share_a_pull() {
    in_ways(Way::background(), LIMIT, |way| {
        let ctx = way.background_context();
        let (pull, push) = pair(&ctx, SocketType::Pull, SocketType::Push);
        shared_by_threads(&push, &pull, 5000);
    });
}

#[test]
fn threads_share_sockets_with_little_room() {
    in_ways(Way::background(), LIMIT, |way| {
        let (first, second) = (way.background_context(), way.background_context());
        let (pull, push) = (open(&first, SocketType::Pull), open(&second, SocketType::Push));
        pull.set_rcvhwm(3);
        push.set_sndhwm(2);
        push.set_sndbuf(Some(8 << 10)).expect("within bounds");
        pull.set_rcvbuf(Some(8 << 10)).expect("within bounds");
        push.connect(&bind(&pull)).expect("connect");
        shared_by_threads(&push, &pull, 1000);
    });
}

#[test]
fn several_shards_carry_many_sockets() {
    const SOCKETS: usize = 10;
    in_ways(Way::background(), LIMIT, |way| {
        let ctx = way.background_with(Config { shards: 3, ..way.config() });
        assert_eq!(ctx.engine_stats().len(), 3);
        let pairs: Vec<_> =
            (0..SOCKETS).map(|_| pair(&ctx, SocketType::Rep, SocketType::Req)).collect();
        thread::scope(|scope| {
            for (who, (rep, req)) in pairs.iter().enumerate() {
                scope.spawn(move || {
                    for number in 0..200 {
                        req.send(task(who, number)).expect("ask");
                        assert_eq!(task_of(&req.recv().expect("a reply")), (who, number));
                    }
                });
                scope.spawn(move || {
                    for _ in 0..200 {
                        let request = rep.recv().expect("a request");
                        rep.send(request).expect("reply");
                    }
                });
            }
        });
        assert!(ctx.engine_stats().iter().all(|shard| shard.bytes_in > 0), "every shard has some");
    });
}

#[test]
fn a_background_context_beside_an_inline_one() {
    in_ways(Way::background(), LIMIT, |way| {
        let ctx = way.background_context();
        let (from, to) = (open(&ctx, SocketType::Pull), open(&ctx, SocketType::Push));
        let (in_endpoint, out_endpoint) = (bind(&from), bind(&to));
        let passing = thread::spawn(move || {
            let ctx = inline::Context::new().expect("a context");
            let pull = ctx.socket(SocketType::Pull).expect("a socket");
            let push = ctx.socket(SocketType::Push).expect("a socket");
            pull.set_rcvtimeo(Some(PATIENCE));
            pull.connect(&out_endpoint).expect("connect");
            push.connect(&in_endpoint).expect("connect");
            for _ in 0..1000 {
                push.send(pull.recv().expect("a message")).expect("pass it on");
            }
            assert_eq!(push.close().unsent_messages, 0);
        });
        for number in 0..1000 {
            to.send(task(0, number)).expect("send");
        }
        for number in 0..1000 {
            assert_eq!(task_of(&from.recv().expect("a message")), (0, number));
        }
        passing.join().expect("the inline thread");
    });
}

#[test]
fn a_socket_is_dropped_and_closed_on_other_threads() {
    in_ways(Way::background(), LIMIT, |way| {
        let ctx = way.background_context();
        let pull = open(&ctx, SocketType::Pull);
        let endpoint = bind(&pull);
        for round in 0..50 {
            let push = open(&ctx, SocketType::Push);
            push.connect(&endpoint).expect("connect");
            for number in 0..20 {
                push.send(task(round, number)).expect("send");
            }
            let closing = thread::spawn(move || match round % 2 {
                0 => drop(push),
                _ => assert_eq!(push.close().unsent_messages, 0),
            });
            for number in 0..20 {
                assert_eq!(task_of(&pull.recv().expect("a message")), (round, number));
            }
            closing.join().expect("the other thread");
        }
    });
}

/// A PUSH whose only peer does not read, filled up.
fn full(ctx: &Context) -> (Socket, Socket) {
    let (pull, push) = (open(ctx, SocketType::Pull), open(ctx, SocketType::Push));
    pull.set_rcvhwm(1);
    push.set_sndhwm(1);
    push.set_linger(None);
    push.connect(&bind(&pull)).expect("connect");
    push.wait_for_peers(1, Some(PATIENCE)).expect("a peer");
    push.set_sndtimeo(Some(Duration::from_millis(200)));
    while push.send(vec![7; 64 << 10]).is_ok() {}
    push.set_sndtimeo(None);
    (pull, push)
}

/// Runs `call` on a thread, ends the context meanwhile, and checks the call's result.
fn is_unblocked(way: Way, what: &str, call: impl FnOnce(&Context) -> bool + Send + 'static) {
    let ctx = way.background_context();
    let (within, started) = (ctx.clone(), Instant::now());
    let waiting = thread::spawn(move || call(&within));
    thread::sleep(Duration::from_millis(500));
    assert!(!waiting.is_finished(), "{what} did not wait");
    ctx.terminate();
    let end = started + Duration::from_secs(8);
    while !waiting.is_finished() {
        assert!(Instant::now() < end, "{what} still waits");
        thread::sleep(Duration::from_millis(1));
    }
    assert!(waiting.join().expect("the waiting thread"), "{what} answered something else");
}

#[test]
fn termination_ends_receives() {
    in_ways(Way::background(), LIMIT, |way| {
        is_unblocked(way, "recv", |ctx| {
            let pull = ctx.socket(SocketType::Pull).expect("a socket");
            bind(&pull);
            is_terminated(pull.recv()) && is_terminated(pull.recv())
        });
    });
}

#[test]
fn termination_ends_sends() {
    in_ways(Way::background(), LIMIT, |way| {
        is_unblocked(way, "send without peers", |ctx| {
            let push = ctx.socket(SocketType::Push).expect("a socket");
            bind(&push);
            let refused = push.send("nobody").expect_err("it was ended");
            refused.payload == "nobody" && matches!(refused.error, Error::Terminated)
        });
        is_unblocked(way, "send without room", |ctx| {
            let (_pull, push) = full(ctx);
            let ended = is_terminated(push.send(vec![7; 64 << 10]));
            push.set_linger(Some(Duration::ZERO));
            ended
        });
    });
}

#[test]
fn termination_ends_polls() {
    in_ways(Way::background(), LIMIT, |way| {
        is_unblocked(way, "poll of a shard", |ctx| {
            let (pull, push) = (open(ctx, SocketType::Pull), open(ctx, SocketType::Push));
            let mut items = [PollItem::new(&pull, POLLIN), PollItem::new(&push, POLLOUT)];
            is_terminated(poll(&mut items, None))
        });
        is_unblocked(way, "poll of two contexts", move |ctx| {
            let other = way.background_context();
            let (pull, foreign) = (open(ctx, SocketType::Pull), open(&other, SocketType::Pull));
            let mut items = [PollItem::new(&foreign, POLLIN), PollItem::new(&pull, POLLIN)];
            is_terminated(poll(&mut items, None))
        });
        is_unblocked(way, "poll with a descriptor", |ctx| {
            let (here, _there) = common::foreign_pair();
            let pull = open(ctx, SocketType::Pull);
            let mut items = [PollItem::from_fd(&here, POLLIN), PollItem::new(&pull, POLLIN)];
            is_terminated(poll(&mut items, None))
        });
    });
}

#[test]
fn termination_ends_waits_for_peers() {
    in_ways(Way::background(), LIMIT, |way| {
        is_unblocked(way, "wait_for_peers", |ctx| {
            is_terminated(open(ctx, SocketType::Push).wait_for_peers(1, None))
        });
        is_unblocked(way, "wait_for_subscribers", |ctx| {
            is_terminated(open(ctx, SocketType::Pub).wait_for_subscribers("x", 1, None))
        });
    });
}

#[test]
fn termination_ends_a_close_that_lingers() {
    in_ways(Way::background(), LIMIT, |way| {
        is_unblocked(way, "close", |ctx| {
            let push = ctx.socket(SocketType::Push).expect("a socket");
            push.set_linger(None);
            push.connect(&nobody()).expect("connect");
            push.send("for nobody").expect("queued");
            push.close();
            true
        });
    });
}

#[test]
fn termination_ends_all_threads_of_one_socket() {
    in_ways(Way::background(), LIMIT, |way| {
        is_unblocked(way, "five threads", |ctx| {
            let pull = ctx.socket(SocketType::Pull).expect("a socket");
            thread::scope(|scope| {
                let waiting: Vec<_> = (0..5).map(|_| scope.spawn(|| pull.recv())).collect();
                let mut outcomes = waiting.into_iter().map(|thread| thread.join().expect("recv"));
                outcomes.all(is_terminated)
            })
        });
    });
}

#[test]
fn after_termination_every_call_says_so() {
    in_ways(Way::background(), LIMIT, |way| {
        let ctx = way.background_context();
        let (pull, push) = pair(&ctx, SocketType::Pull, SocketType::Push);
        let sub = open(&ctx, SocketType::Sub);
        push.send("waiting").expect("send");
        push.wait_for_peers(1, Some(PATIENCE)).expect("a peer");
        ctx.terminate();
        ctx.terminate();
        assert!(is_terminated(pull.recv()));
        assert!(is_terminated(pull.try_recv()));
        assert!(is_terminated(push.send("x")));
        assert!(is_terminated(push.try_send("x")));
        assert!(is_terminated(push.send_multipart(["a", "b"])));
        assert!(is_terminated(sub.subscribe("x")));
        assert!(is_terminated(pull.bind("tcp://127.0.0.1:0")));
        assert!(is_terminated(push.connect("tcp://127.0.0.1:1")));
        assert!(is_terminated(push.wait_for_peers(1, None)));
        assert!(is_terminated(poll(&mut [PollItem::new(&pull, POLLIN)], None)));
        assert!(is_terminated(ctx.socket(SocketType::Pull)));
        assert_eq!(push.close().unsent_messages, 0);
    });
}

#[test]
fn a_terminated_context_still_sends_what_is_queued() {
    in_ways(Way::background(), LIMIT, |way| {
        let (ctx, other) = (way.background_context(), way.background_context());
        let (pull, push) = (open(&other, SocketType::Pull), open(&ctx, SocketType::Push));
        push.connect(&bind(&pull)).expect("connect");
        for number in 0..500 {
            push.send(task(0, number)).expect("send");
        }
        ctx.terminate();
        drop((push, ctx));
        for number in 0..500 {
            assert_eq!(task_of(&pull.recv().expect("a message")), (0, number));
        }
    });
}

/// The pool recovers from leases that other threads kept and then dropped.
#[test]
fn a_pool_exhausted_by_kept_messages_recovers() {
    const MESSAGES: usize = 2000;
    in_ways(Way::background(), LIMIT, |way| {
        let (ctx, other) = (way.background_context(), way.background_context());
        let (pull, push) = (open(&ctx, SocketType::Pull), open(&other, SocketType::Push));
        let endpoint = bind(&pull);
        push.connect(&endpoint).expect("connect");
        let copies = || ctx.engine_stats()[0].pool.copies_forced;
        let (push, sending) = (Arc::new(push), 6000);
        let sender = {
            let push = Arc::clone(&push);
            thread::spawn(move || {
                for number in 0..MESSAGES {
                    push.send(body(number as u64, sending)).expect("send");
                }
            })
        };
        let kept: Vec<Message> = (0..MESSAGES).map(|_| pull.recv().expect("a message")).collect();
        sender.join().expect("the sender");
        assert!(copies() > 0, "12 MB were kept and none of them copied");
        let mut kept = kept.into_iter().enumerate();
        thread::scope(|scope| {
            while let Some(first) = kept.next() {
                let some: Vec<_> = [first].into_iter().chain(kept.by_ref().take(500)).collect();
                scope.spawn(move || {
                    for (number, message) in some {
                        assert!(message.body() == body(number as u64, sending), "{number} changed");
                    }
                });
            }
        });
        // Messages in the pool's last buffers may still be copied.
        let settle = |count: usize| {
            for number in 0..count {
                push.send(body(number as u64, sending)).expect("send");
                let message = pull.recv().expect("a message");
                assert!(message.body() == body(number as u64, sending), "{number} changed");
            }
        };
        settle(100);
        let before = copies();
        settle(1000);
        assert_eq!(copies(), before, "the pool is as good as new");
    });
}

#[test]
fn a_kept_message_outlives_context_and_threads() {
    in_ways(Way::background(), LIMIT, |way| {
        let ctx = way.background_context();
        let (pull, push) = pair(&ctx, SocketType::Pull, SocketType::Push);
        push.send(body(1, 20_000)).expect("send");
        push.send(body(2, 200)).expect("send");
        let kept = [pull.recv().expect("a message"), pull.recv().expect("a message")];
        drop((pull, push, ctx));
        let clones = kept.clone();
        thread::spawn(move || drop(clones)).join().expect("the other thread");
        thread::spawn(move || {
            assert!(kept[0].body() == body(1, 20_000) && kept[1].body() == body(2, 200));
        })
        .join()
        .expect("the other thread");
    });
}
