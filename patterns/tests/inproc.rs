//! `inproc://`: within a shard, between shards, between threads, inline and in the background.

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use zring::inline;
use zring::{
    Config, Context, Driver, EndpointError, Error, EventKind, Home, Message, Socket, SocketType,
};

const PATIENCE: Duration = Duration::from_secs(20);
const QUIET: Duration = Duration::from_millis(60);

fn limit<C: Home>(socket: Socket<C>) -> Socket<C> {
    socket.set_rcvtimeo(Some(PATIENCE));
    socket.set_sndtimeo(Some(PATIENCE));
    socket
}

fn drivers() -> Vec<Driver> {
    let uring = cfg!(target_os = "linux").then_some(Driver::Uring);
    uring.into_iter().chain([Driver::Ready]).collect()
}

/// Two sockets of one context, for each kind of context: bound before connected, and the other way round.
fn in_pairs(
    bound: SocketType,
    connected: SocketType,
    inline_body: impl Fn(inline::Socket, inline::Socket),
    body: impl Fn(Socket, Socket),
) {
    for driver in drivers() {
        for binds_first in [true, false] {
            let context =
                inline::Context::with_config(Config { driver, ..Config::default() }).unwrap();
            let first = limit(context.socket(bound).unwrap());
            let second = limit(context.socket(connected).unwrap());
            meet(&first, &second, binds_first);
            inline_body(first, second);
            for shards in [1, 2] {
                let config = Config { driver, shards, ..Config::default() };
                let context = Context::with_config(config).unwrap();
                let first = limit(context.socket(bound).unwrap());
                let second = limit(context.socket(connected).unwrap());
                meet(&first, &second, binds_first);
                body(first, second);
            }
        }
    }
}

fn meet<C: Home>(first: &Socket<C>, second: &Socket<C>, binds_first: bool) {
    if binds_first {
        first.bind("inproc://meeting").unwrap();
        second.connect("inproc://meeting").unwrap();
    } else {
        second.connect("inproc://meeting").unwrap();
        first.bind("inproc://meeting").unwrap();
    }
    assert_eq!(first.last_endpoint().as_deref(), Some("inproc://meeting"));
}

fn pipeline<C: Home>(push: &Socket<C>, pull: &Socket<C>) {
    for size in (0..90).chain([255, 4096, 70_000]) {
        let body: Vec<u8> = (0..size).map(|at| (at + size) as u8).collect();
        push.send(&body).unwrap();
        push.send(body.clone()).unwrap();
        assert_eq!(pull.recv().unwrap().body(), body);
        assert_eq!(pull.recv().unwrap().body(), body);
    }
    push.send_multipart(["a", "", "c"]).unwrap();
    assert_eq!(pull.recv_multipart().unwrap(), [&b"a"[..], b"", b"c"]);
    for number in 0..500u32 {
        push.send(&number.to_le_bytes()).unwrap();
    }
    for number in 0..500u32 {
        assert_eq!(pull.recv().unwrap().body(), number.to_le_bytes());
    }
}

#[test]
fn push_and_pull() {
    let (push, pull) = (SocketType::Push, SocketType::Pull);
    in_pairs(push, pull, |a, b| pipeline(&a, &b), |a, b| pipeline(&a, &b));
    in_pairs(pull, push, |a, b| pipeline(&b, &a), |a, b| pipeline(&b, &a));
}

fn lockstep<C: Home>(rep: &Socket<C>, req: &Socket<C>) {
    for correlate in [false, true] {
        req.set_req_correlate(correlate);
        for size in [0, 5, 64, 100, 9000] {
            req.send(vec![7; size]).unwrap();
            assert!(
                matches!(req.send("again"), Err(refused) if matches!(refused.error, Error::State { .. }))
            );
            let request = rep.recv().unwrap();
            assert_eq!(request.len(), size);
            rep.send(request).unwrap();
            assert_eq!(req.recv().unwrap().body(), vec![7; size]);
        }
    }
    req.send_multipart(["two", "frames"]).unwrap();
    assert_eq!(rep.recv_multipart().unwrap(), [&b"two"[..], b"frames"]);
    rep.send_multipart(["so", "has", "the reply"]).unwrap();
    assert_eq!(req.recv_multipart().unwrap().len(), 3);
}

#[test]
fn request_and_reply() {
    let (rep, req) = (SocketType::Rep, SocketType::Req);
    in_pairs(rep, req, |a, b| lockstep(&a, &b), |a, b| lockstep(&a, &b));
    in_pairs(req, rep, |a, b| lockstep(&b, &a), |a, b| lockstep(&b, &a));
}

fn topics<C: Home>(publisher: &Socket<C>, subscriber: &Socket<C>) {
    subscriber.subscribe("a").unwrap();
    publisher.wait_for_subscribers("apple", 1, Some(PATIENCE)).unwrap();
    for text in ["apple", "banana", "avocado"] {
        publisher.send(text).unwrap();
    }
    assert_eq!(subscriber.recv().unwrap().body(), b"apple");
    assert_eq!(subscriber.recv().unwrap().body(), b"avocado");
    subscriber.subscribe("").unwrap();
    publisher.wait_for_subscribers("banana", 1, Some(PATIENCE)).unwrap();
    publisher.send("banana").unwrap();
    assert_eq!(subscriber.recv().unwrap().body(), b"banana");
    subscriber.unsubscribe("").unwrap();
    subscriber.unsubscribe("a").unwrap();
    let gone = || publisher.wait_for_subscribers("apple", 1, Some(Duration::ZERO)).is_err();
    let start = std::time::Instant::now();
    while !gone() {
        assert!(start.elapsed() < PATIENCE, "the subscription is still there");
        subscriber.set_rcvtimeo(Some(Duration::from_millis(1)));
        assert!(subscriber.recv().is_err());
    }
}

#[test]
fn publish_and_subscribe() {
    let (publish, subscribe) = (SocketType::Pub, SocketType::Sub);
    in_pairs(publish, subscribe, |a, b| topics(&a, &b), |a, b| topics(&a, &b));
    in_pairs(subscribe, publish, |a, b| topics(&b, &a), |a, b| topics(&b, &a));
}

#[test]
fn a_large_body_is_handed_over_in_its_place() {
    let context = Context::new().unwrap();
    let push = limit(context.socket(SocketType::Push).unwrap());
    let pull = limit(context.socket(SocketType::Pull).unwrap());
    meet(&pull, &push, true);
    let message = Message::from(vec![9; 1 << 20]);
    let address = message.body().as_ptr();
    push.send(message).unwrap();
    assert_eq!(pull.recv().unwrap().body().as_ptr(), address);
}

#[test]
fn a_leased_body_goes_on_without_a_copy() {
    let context = inline::Context::new().unwrap();
    let outside = limit(context.socket(SocketType::Push).unwrap());
    let entry = limit(context.socket(SocketType::Pull).unwrap());
    entry.bind("tcp://127.0.0.1:*").unwrap();
    outside.connect(&entry.last_endpoint().unwrap()).unwrap();
    let push = limit(context.socket(SocketType::Push).unwrap());
    let pull = limit(context.socket(SocketType::Pull).unwrap());
    meet(&pull, &push, true);
    outside.send(vec![5; 500]).unwrap();
    let message = entry.recv().unwrap();
    assert!(message.frames().next().unwrap().is_leased());
    let address = message.body().as_ptr();
    push.send(message).unwrap();
    let message = pull.recv().unwrap();
    assert_eq!(message.body(), [5; 500]);
    assert_eq!(message.body().as_ptr(), address);
}

#[test]
fn inline_contexts_of_two_threads_meet_in_a_shared_name_space() {
    for driver in drivers() {
        let config = Config { driver, ..Config::default() };
        let theirs = config.clone();
        let server = thread::spawn(move || {
            let context = inline::Context::with_config(theirs).unwrap();
            let rep = limit(context.socket(SocketType::Rep).unwrap());
            rep.bind("inproc://service").unwrap();
            for _ in 0..1000 {
                let request = rep.recv().unwrap();
                rep.send(request).unwrap();
            }
            rep.close().unsent_messages
        });
        let context = inline::Context::with_config(config).unwrap();
        let req = limit(context.socket(SocketType::Req).unwrap());
        req.connect("inproc://service").unwrap();
        for number in 0..1000u64 {
            req.send(&number.to_le_bytes()).unwrap();
            assert_eq!(req.recv().unwrap().body(), number.to_le_bytes());
        }
        assert_eq!(server.join().unwrap(), 0);
    }
}

/// Bursts and gaps of all lengths: the receiver catches up with the sender, stays behind, sleeps and is woken, and no
/// message is left behind.
#[test]
fn a_receiver_on_the_heels_of_its_sender_misses_nothing() {
    const BURSTS: u32 = 2_000;
    let config = Config { shards: 2, ..Config::default() };
    let context = Context::with_config(config).unwrap();
    let pull = limit(context.socket(SocketType::Pull).unwrap());
    let push = limit(context.socket(SocketType::Push).unwrap());
    meet(&pull, &push, true);
    let sending = thread::spawn(move || {
        let mut sent = 0u32;
        for burst in 0..BURSTS {
            for _ in 0..=burst * 7 % 41 {
                push.send(&sent.to_le_bytes()).unwrap();
                sent += 1;
            }
            match burst % 100 {
                0 => thread::sleep(Duration::from_micros(300)),
                pauses => (0..pauses * 4).for_each(|_| std::hint::spin_loop()),
            }
        }
        push.send("").unwrap();
        sent
    });
    let mut received = 0u32;
    loop {
        let message = pull.recv().unwrap();
        if message.is_empty() {
            break;
        }
        assert_eq!(message.body(), received.to_le_bytes());
        received += 1;
    }
    assert_eq!(sending.join().unwrap(), received);
}

/// In a batch scope a sleeping receiver is woken for the first message, then once in a while, and at the end for all of
/// them.
#[test]
fn bells_ring_seldom_inside_a_batch_scope_but_they_ring() {
    const ONCE_IN: usize = 64;
    let config = Config::default();
    let (told, heard) = channel();
    let receiving = thread::spawn({
        let config = config.clone();
        move || {
            let context = Context::with_config(config).unwrap();
            let pull = limit(context.socket(SocketType::Pull).unwrap());
            pull.bind("inproc://seldom").unwrap();
            while told.send(pull.recv().unwrap().len()).is_ok() {}
        }
    });
    let context = inline::Context::with_config(config).unwrap();
    let push = limit(context.socket(SocketType::Push).unwrap());
    push.connect("inproc://seldom").unwrap();
    push.wait_for_peers(1, Some(PATIENCE)).unwrap();
    let scope = context.batch();
    push.send(b"1").unwrap();
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(1), "the first");
    thread::sleep(QUIET);
    (0..ONCE_IN).for_each(|_| push.send(b"22").unwrap());
    (0..ONCE_IN).for_each(|_| assert_eq!(heard.recv_timeout(PATIENCE), Ok(2)));
    thread::sleep(QUIET);
    push.send(b"333").unwrap();
    drop(scope);
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(3), "the last");
    drop(heard);
    push.send(b"").unwrap();
    receiving.join().unwrap();
}

#[test]
fn contexts_of_their_own_do_not_meet() {
    let (one, other) = (Context::new().unwrap(), Context::new().unwrap());
    let pull = one.socket(SocketType::Pull).unwrap();
    pull.bind("inproc://name").unwrap();
    let push = other.socket(SocketType::Push).unwrap();
    push.connect("inproc://name").unwrap();
    assert!(matches!(push.wait_for_peers(1, Some(QUIET)), Err(Error::TooFew { there: 0, .. })));
    let same = other.socket(SocketType::Pull).unwrap();
    same.bind("inproc://name").unwrap();
    push.wait_for_peers(1, Some(PATIENCE)).unwrap();
}

#[test]
fn inline_and_background_sockets_meet() {
    let config = Config::default();
    let background = Context::with_config(config.clone()).unwrap();
    let pull = limit(background.socket(SocketType::Pull).unwrap());
    pull.bind("inproc://both").unwrap();
    let context = inline::Context::with_config(config).unwrap();
    let push = limit(context.socket(SocketType::Push).unwrap());
    push.connect("inproc://both").unwrap();
    push.wait_for_peers(1, Some(PATIENCE)).unwrap();
    for number in 0..5000u32 {
        push.send(&number.to_le_bytes()).unwrap();
        assert_eq!(pull.recv().unwrap().body(), number.to_le_bytes());
    }
}

#[test]
fn both_high_water_marks_add_up() {
    for shards in [1, 2] {
        let context = Context::with_config(Config { shards, ..Config::default() }).unwrap();
        let pull = limit(context.socket(SocketType::Pull).unwrap());
        let push = limit(context.socket(SocketType::Push).unwrap());
        pull.set_rcvhwm(5);
        push.set_sndhwm(7);
        meet(&pull, &push, true);
        push.wait_for_peers(1, Some(PATIENCE)).unwrap();
        let mut sent = 0u32;
        while push.try_send(&sent.to_le_bytes()).is_ok() {
            sent += 1;
        }
        assert_eq!(sent, 12);
        assert!(push.stats().stalls_out > 0);
        let waiting = thread::spawn(move || {
            push.send(&12u32.to_le_bytes()).unwrap();
            push
        });
        for number in 0..13u32 {
            assert_eq!(pull.recv().unwrap().body(), number.to_le_bytes());
        }
        waiting.join().unwrap();
    }
}

#[test]
fn a_slow_subscriber_loses_messages_that_are_counted() {
    let context = Context::with_config(Config { shards: 2, ..Config::default() }).unwrap();
    let publisher = limit(context.socket(SocketType::Pub).unwrap());
    let subscriber = limit(context.socket(SocketType::Sub).unwrap());
    publisher.set_sndhwm(10);
    subscriber.set_rcvhwm(10);
    subscriber.subscribe("").unwrap();
    meet(&publisher, &subscriber, true);
    publisher.wait_for_subscribers("", 1, Some(PATIENCE)).unwrap();
    for number in 0..1000u32 {
        publisher.send(&number.to_le_bytes()).unwrap();
    }
    subscriber.set_rcvtimeo(Some(QUIET));
    let mut got = 0;
    while subscriber.recv().is_ok() {
        got += 1;
    }
    assert_eq!((got, publisher.stats().messages_dropped), (20, 980));
}

#[test]
fn many_threads_share_the_work_and_each_task_is_done_once() {
    for driver in drivers() {
        let context =
            Context::with_config(Config { driver, shards: 3, ..Config::default() }).unwrap();
        let pull = limit(context.socket(SocketType::Pull).unwrap());
        pull.bind("inproc://tasks").unwrap();
        let senders: Vec<_> = (0..4u32)
            .map(|sender| {
                let push = limit(context.socket(SocketType::Push).unwrap());
                thread::spawn(move || {
                    push.connect("inproc://tasks").unwrap();
                    (0..5000)
                        .for_each(|at| push.send(&(sender * 5000 + at).to_le_bytes()).unwrap());
                    assert_eq!(push.close().unsent_messages, 0);
                })
            })
            .collect();
        let mut seen = vec![0u8; 20_000];
        for _ in 0..20_000 {
            let message = pull.recv().unwrap();
            let number = u32::from_le_bytes(message.body().try_into().unwrap());
            seen[number as usize] += 1;
        }
        assert!(seen.iter().all(|&times| times == 1));
        senders.into_iter().for_each(|sender| sender.join().unwrap());
    }
}

fn await_event(socket: &Socket, wanted: impl Fn(&EventKind) -> bool) -> EventKind {
    let start = std::time::Instant::now();
    loop {
        match socket.next_event() {
            Some(event) if wanted(&event.kind) => return event.kind,
            Some(_) => {}
            None => {
                assert!(start.elapsed() < PATIENCE, "no such event");
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

#[test]
fn what_was_sent_before_the_end_still_arrives_and_the_name_can_be_bound_again() {
    for shards in [1, 2] {
        let context = Context::with_config(Config { shards, ..Config::default() }).unwrap();
        let push = limit(context.socket(SocketType::Push).unwrap());
        let pull = limit(context.socket(SocketType::Pull).unwrap());
        push.set_reconnect_ivl(Duration::from_millis(1));
        push.monitor(100);
        meet(&pull, &push, true);
        push.wait_for_peers(1, Some(PATIENCE)).unwrap();
        let taken = context.socket(SocketType::Pull).unwrap();
        assert!(matches!(taken.bind("inproc://meeting"), Err(Error::AddressInUse(_))));
        assert_eq!(pull.close().unsent_messages, 0);
        await_event(&push, |kind| matches!(kind, EventKind::Disconnected { .. }));
        push.send("waits").unwrap();
        let heir = limit(context.socket(SocketType::Pull).unwrap());
        heir.bind("inproc://meeting").unwrap();
        assert_eq!(heir.recv().unwrap().body(), b"waits");
        push.send("last words").unwrap();
        assert_eq!(push.close().unsent_messages, 0);
        assert_eq!(heir.recv().unwrap().body(), b"last words");
        heir.unbind("inproc://meeting").unwrap();
        taken.bind("inproc://meeting").unwrap();
    }
}

#[test]
fn sockets_that_do_not_fit_say_so() {
    let context = Context::new().unwrap();
    let pull = limit(context.socket(SocketType::Pull).unwrap());
    let req = limit(context.socket(SocketType::Req).unwrap());
    req.monitor(100);
    meet(&pull, &req, true);
    await_event(&req, |kind| matches!(kind, EventKind::HandshakeFailed { .. }));
    assert!(req.stats().handshakes_failed > 0);
}

#[test]
fn names_have_bounds() {
    let context = Context::new().unwrap();
    let pull = context.socket(SocketType::Pull).unwrap();
    let fault = |endpoint: &str| match pull.bind(endpoint) {
        Err(Error::Endpoint(fault)) => fault,
        other => panic!("{other:?}"),
    };
    assert_eq!(fault("inproc://"), EndpointError::EmptyName);
    let long = format!("inproc://{}", "x".repeat(256));
    assert_eq!(fault(&long), EndpointError::NameTooLong { bytes: 256 });
    pull.bind(&long[..long.len() - 1]).unwrap();
}

#[test]
fn a_context_that_goes_frees_its_names_and_wakes_the_others() {
    let config = Config::default();
    let context = Context::with_config(config.clone()).unwrap();
    let pull = limit(context.socket(SocketType::Pull).unwrap());
    pull.bind("inproc://here").unwrap();
    let other = Context::with_config(config).unwrap();
    let push = limit(other.socket(SocketType::Push).unwrap());
    push.monitor(100);
    push.connect("inproc://here").unwrap();
    push.wait_for_peers(1, Some(PATIENCE)).unwrap();
    let (done, gone) = channel();
    thread::spawn(move || {
        drop((pull, context));
        done.send(()).unwrap();
    });
    gone.recv_timeout(PATIENCE).unwrap();
    await_event(&push, |kind| matches!(kind, EventKind::Disconnected { .. }));
    let again = other.socket(SocketType::Pull).unwrap();
    again.bind("inproc://here").unwrap();
    push.send("found").unwrap();
    again.set_rcvtimeo(Some(PATIENCE));
    assert_eq!(again.recv().unwrap().body(), b"found");
}
