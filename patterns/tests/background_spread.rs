//! Sockets whose connections are spread over several shards.

mod common;

use std::collections::BTreeSet;
use std::future::Future;
use std::net::TcpListener;
use std::pin::pin;
use std::task::{Context as Task, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use common::{PATIENCE, QUIET, Way, has_unix_sockets, in_ways, scratch};
use zring::inline::{POLLIN, POLLOUT};
use zring::{
    Config, Context, DriverKind, Error, EventKind, Options, PollItem, Socket, SocketType, poll,
};

const LIMIT: Duration = Duration::from_secs(60);

/// Two shards on readiness, three on io_uring.
fn context(way: Way) -> Context {
    let shards = if way.driver() == DriverKind::Uring { 3 } else { 2 };
    way.background_with(Config { shards, ..way.config() })
}

fn ways() -> Vec<Way> {
    Way::background().into_iter().filter(|way| *way != Way::BackgroundReady).collect()
}

fn open(ctx: &Context, kind: SocketType) -> Socket {
    let socket = ctx.socket(kind).expect("a socket");
    socket.set_rcvtimeo(Some(PATIENCE));
    socket.set_sndtimeo(Some(PATIENCE));
    socket
}

fn bind(socket: &Socket) -> String {
    socket.bind("tcp://127.0.0.1:0").expect("bind");
    socket.last_endpoint().expect("a bound endpoint")
}

/// Sockets with one peer each, all connected to `endpoint`, in a context of their own.
fn peers(way: Way, kind: SocketType, count: usize, endpoint: &str) -> Vec<Socket> {
    let ctx = way.background_with(Config { shards: 1, ..way.config() });
    let connect = |_| {
        let socket = open(&ctx, kind);
        socket.connect(endpoint).expect("connect");
        socket
    };
    (0..count).map(connect).collect()
}

/// An endpoint without a listener.
fn nowhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    format!("tcp://{}", listener.local_addr().expect("its address"))
}

fn wait_for(socket: &Socket, count: usize) {
    socket.wait_for_peers(count, Some(PATIENCE)).expect("peers");
}

fn bytes_in(ctx: &Context) -> Vec<u64> {
    ctx.engine_stats().iter().map(|stats| stats.bytes_in).collect()
}

#[test]
fn accepted_connections_are_shared_out() {
    for endpoint in ["tcp://127.0.0.1:0", "ipc://*"] {
        if endpoint == "ipc://*" && !has_unix_sockets() {
            continue;
        }
        in_ways(ways(), LIMIT, move |way| {
            let ctx = context(way);
            let pull = open(&ctx, SocketType::Pull);
            pull.bind(endpoint).expect("bind");
            let endpoint = pull.last_endpoint().expect("bound");
            let shards = bytes_in(&ctx).len();
            let pushers = peers(way, SocketType::Push, 2 * shards, &endpoint);
            wait_for(&pull, 2 * shards);
            for pusher in &pushers {
                (0..10).for_each(|_| pusher.send(&[7; 1000][..]).expect("send"));
            }
            (0..20 * shards).for_each(|_| assert_eq!(pull.recv().expect("recv").len(), 1000));
            for bytes in bytes_in(&ctx) {
                assert!((20_000..25_000).contains(&bytes), "{:?}", bytes_in(&ctx));
            }
            assert_eq!(pull.stats().messages_in, 20 * shards as u64);
            // All peers belong to the same socket, and no two have the same number.
            let numbers: BTreeSet<u64> = pull.peers().iter().map(|peer| peer.connection).collect();
            assert_eq!(numbers.len(), 2 * shards);
        });
    }
}

#[test]
fn connections_that_are_made_are_shared_out() {
    in_ways(ways(), LIMIT, |way| {
        let ctx = context(way);
        let shards = bytes_in(&ctx).len();
        let sub = open(&ctx, SocketType::Sub);
        sub.subscribe("").expect("subscribe");
        let there = way.background_with(Config { shards: 1, ..way.config() });
        let publishers: Vec<_> = (0..shards).map(|_| open(&there, SocketType::Pub)).collect();
        for publisher in &publishers {
            sub.connect(&bind(publisher)).expect("connect");
            assert_eq!(sub.last_endpoint(), publisher.last_endpoint());
        }
        for publisher in &publishers {
            publisher.wait_for_subscribers("x", 1, Some(PATIENCE)).expect("a subscriber");
            publisher.send(&[b'x'; 10_000][..]).expect("send");
        }
        (0..shards).for_each(|_| assert_eq!(sub.recv().expect("recv").len(), 10_000));
        assert!(bytes_in(&ctx).iter().all(|&bytes| bytes > 10_000), "{:?}", bytes_in(&ctx));
        // `disconnect` ends the connection on any shard.
        for publisher in &publishers {
            sub.disconnect(&publisher.last_endpoint().expect("bound")).expect("disconnect");
        }
        let unknown = sub.disconnect(&publishers[0].last_endpoint().expect("bound"));
        assert!(matches!(unknown, Err(Error::UnknownEndpoint(_))), "{unknown:?}");
    });
}

#[test]
fn a_peer_that_goes_makes_room_on_its_shard() {
    in_ways(ways(), LIMIT, |way| {
        let ctx = context(way);
        let pull = open(&ctx, SocketType::Pull);
        let endpoint = bind(&pull);
        for round in 0..4 {
            let shards = bytes_in(&ctx).len();
            let before = bytes_in(&ctx);
            let pushers = peers(way, SocketType::Push, shards, &endpoint);
            wait_for(&pull, shards);
            for pusher in &pushers {
                pusher.send(&[7; 1000][..]).expect("send");
                pull.recv().expect("recv");
            }
            for (before, now) in before.iter().zip(bytes_in(&ctx)) {
                assert!(now - before >= 1000, "round {round}: {before} then {now}");
            }
            drop(pushers);
            let start = Instant::now();
            while pull.stats().peers > 0 {
                assert!(start.elapsed() < PATIENCE, "{:?}", pull.stats());
                thread::sleep(Duration::from_millis(1));
            }
        }
    });
}

#[test]
fn workers_on_every_shard_get_the_same_number_of_tasks() {
    in_ways(ways(), LIMIT, |way| {
        let ctx = context(way);
        let push = open(&ctx, SocketType::Push);
        let workers = peers(way, SocketType::Pull, 5, &bind(&push));
        wait_for(&push, 5);
        for task in 0..100_u32 {
            push.send(&task.to_be_bytes()[..]).expect("send");
        }
        let mut tasks = Vec::new();
        for worker in &workers {
            for _ in 0..20 {
                let task = worker.recv().expect("a task");
                tasks.push(u32::from_be_bytes(task.body().try_into().expect("four bytes")));
            }
            worker.set_rcvtimeo(Some(Duration::ZERO));
            assert!(matches!(worker.recv(), Err(Error::WouldBlock)));
        }
        tasks.sort_unstable();
        assert_eq!(tasks, (0..100).collect::<Vec<_>>());
    });
}

#[test]
fn what_a_lost_peer_has_not_taken_goes_to_one_on_another_shard() {
    in_ways(ways(), LIMIT, |way| {
        let ctx = context(way);
        let push = open(&ctx, SocketType::Push);
        push.set_sndbuf(Some(4096)).expect("within bounds");
        push.set_sndhwm(10);
        let endpoint = bind(&push);
        push.monitor(100);
        let lost = peers(way, SocketType::Pull, 1, &endpoint).remove(0);
        lost.set_rcvhwm(1);
        wait_for(&push, 1);
        let mut sent = 0_u32;
        let body = |number: u32| [&number.to_be_bytes()[..], &[0; 60_000]].concat();
        while push.try_send(body(sent)).is_ok() {
            sent += 1;
            assert!(sent < 10_000);
        }
        let survivor = peers(way, SocketType::Pull, 1, &endpoint).remove(0);
        wait_for(&push, 2);
        drop(lost);
        let (mut handed, mut requeued) = (None, 0);
        let start = Instant::now();
        while handed.is_none() {
            assert!(start.elapsed() < PATIENCE, "no event tells of the end");
            match push.next_event().map(|event| event.kind) {
                Some(EventKind::Disconnected { messages_out, messages_requeued, .. }) => {
                    handed = Some(messages_out);
                    requeued = messages_requeued;
                }
                Some(_) => {}
                None => thread::sleep(Duration::from_millis(1)),
            }
        }
        assert!(requeued > 0, "{:?}", push.stats());
        // The messages for the survivor begin where the lost peer's share ends, and are in order.
        let first = u32::try_from(handed.unwrap_or_default()).expect("few");
        for number in first..sent {
            let message = survivor.recv().expect("recv");
            assert_eq!(message.body()[..4], number.to_be_bytes());
        }
        assert_eq!(u64::from(sent - first), requeued);
        assert_eq!(push.stats().messages_dropped, 0);
    });
}

#[test]
fn what_waits_for_a_peer_goes_to_whoever_comes() {
    in_ways(ways(), LIMIT, |way| {
        let ctx = context(way);
        let push = open(&ctx, SocketType::Push);
        // One endpoint per shard; only one of them will ever exist.
        let endpoints: Vec<_> = bytes_in(&ctx).iter().map(|_| nowhere()).collect();
        for endpoint in &endpoints {
            push.connect(endpoint).expect("connect");
        }
        for number in 0..50_u8 {
            push.send(&[number][..]).expect("queued");
        }
        assert_eq!(push.stats().messages_pending, 50);
        let there = way.background_with(Config { shards: 1, ..way.config() });
        let pull = open(&there, SocketType::Pull);
        pull.bind(endpoints.last().expect("some")).expect("bind");
        for number in 0..50_u8 {
            assert_eq!(pull.recv().expect("recv").body(), [number]);
        }
        assert_eq!(push.stats().messages_pending, 0);
        assert_eq!(push.close().unsent_messages, 0);
    });
}

#[test]
fn what_nobody_takes_is_counted_once() {
    in_ways(ways(), LIMIT, |way| {
        for linger in [Duration::ZERO, Duration::from_millis(20)] {
            let ctx = context(way);
            let push = open(&ctx, SocketType::Push);
            push.set_linger(Some(linger));
            for _ in 0..4 {
                push.connect(&nowhere()).expect("connect");
            }
            for number in 0..5_u8 {
                push.send(&[number][..]).expect("queued");
            }
            assert_eq!(push.close().unsent_messages, 5);
        }
    });
}

#[test]
fn requests_from_every_shard_are_answered_in_lockstep() {
    in_ways(ways(), LIMIT, |way| {
        let ctx = context(way);
        let rep = open(&ctx, SocketType::Rep);
        let endpoint = bind(&rep);
        assert!(matches!(
            rep.send("early").map_err(|refused| refused.error),
            Err(Error::State { .. })
        ));
        let clients: Vec<_> = peers(way, SocketType::Req, 5, &endpoint)
            .into_iter()
            .enumerate()
            .map(|(client, req)| {
                thread::spawn(move || {
                    for round in 0..50 {
                        let request = format!("{client} {round}");
                        req.send(&request).expect("send");
                        let reply = req.recv_multipart().expect("recv");
                        assert_eq!(reply, [b"re".to_vec(), request.into_bytes()]);
                    }
                })
            })
            .collect();
        for _ in 0..250 {
            let request = rep.recv().expect("a request");
            assert!(matches!(rep.recv(), Err(Error::State { .. })));
            let mut items = [PollItem::new(&rep, POLLIN | POLLOUT)];
            poll(&mut items, Some(Duration::ZERO)).expect("poll");
            assert!(!items[0].is_readable() && items[0].is_writable());
            rep.send_more("re").expect("the first frame");
            rep.send(request).expect("the reply");
        }
        clients.into_iter().for_each(|client| client.join().expect("a client"));
        assert_eq!((rep.stats().messages_in, rep.stats().messages_out), (250, 250));
    });
}

#[test]
fn subscribers_on_every_shard_hear_what_they_asked_for() {
    in_ways(ways(), LIMIT, |way| {
        let ctx = context(way);
        let publisher = open(&ctx, SocketType::Pub);
        let subscribers = peers(way, SocketType::Sub, 6, &bind(&publisher));
        for (number, subscriber) in subscribers.iter().enumerate() {
            subscriber.subscribe("all").expect("subscribe");
            subscriber.subscribe(format!("{}", number % 2)).expect("subscribe");
        }
        publisher.wait_for_subscribers("all", 6, Some(PATIENCE)).expect("all");
        publisher.wait_for_subscribers("1", 3, Some(PATIENCE)).expect("half of them");
        let there = publisher.wait_for_subscribers("1", 4, Some(Duration::from_millis(1)));
        assert!(matches!(there, Err(Error::TooFew { there: 3, wanted: 4 })), "{there:?}");
        publisher.send("0 even").expect("send");
        publisher.send_more("1").expect("the topic");
        publisher.send("odd").expect("send");
        publisher.send("nobody").expect("send");
        publisher.send("all").expect("send");
        for (number, subscriber) in subscribers.iter().enumerate() {
            let first = subscriber.recv_multipart().expect("recv");
            let expected: &[&[u8]] = if number % 2 == 0 { &[b"0 even"] } else { &[b"1", b"odd"] };
            assert_eq!(first, expected);
            assert_eq!(subscriber.recv_bytes().expect("recv"), b"all");
        }
    });
}

#[test]
fn every_wait_ends_by_what_happens_on_any_shard() {
    in_ways(ways(), LIMIT, |way| {
        let ctx = context(way);
        let pull = open(&ctx, SocketType::Pull);
        let endpoint = bind(&pull);
        let pushers = peers(way, SocketType::Push, 4, &endpoint);
        wait_for(&pull, 4);
        thread::scope(|scope| {
            for pusher in &pushers {
                // A blocking call.
                scope.spawn(move || {
                    thread::sleep(Duration::from_millis(5));
                    pusher.send("blocking").expect("send");
                });
                assert_eq!(pull.recv_bytes().expect("recv"), b"blocking");
            }
            for pusher in &pushers {
                // A poll, beside a socket of another context.
                scope.spawn(move || {
                    thread::sleep(Duration::from_millis(5));
                    pusher.send("poll").expect("send");
                });
                let mut items = [PollItem::new(&pull, POLLIN), PollItem::new(pusher, POLLIN)];
                assert_eq!(poll(&mut items, Some(PATIENCE)).expect("poll"), 1);
                assert!(items[0].is_readable());
                assert_eq!(pull.try_recv().expect("recv").body(), b"poll");
            }
            let event_fd = pull.event_fd();
            assert_eq!(event_fd.is_ok(), cfg!(target_os = "linux"), "only Linux has descriptors");
            for (pusher, event_fd) in pushers.iter().zip(event_fd.iter().cycle()) {
                // A foreign event loop.
                assert!(matches!(pull.try_recv(), Err(Error::WouldBlock)));
                scope.spawn(move || {
                    thread::sleep(Duration::from_millis(5));
                    pusher.send("loop").expect("send");
                });
                let start = Instant::now();
                let message = loop {
                    let mut items = [PollItem::from_fd(event_fd, POLLIN)];
                    assert_eq!(poll(&mut items, Some(PATIENCE)).expect("poll"), 1, "silence");
                    match pull.try_recv() {
                        Err(Error::WouldBlock) => assert!(start.elapsed() < PATIENCE),
                        received => break received.expect("recv"),
                    }
                };
                assert_eq!(message.body(), b"loop");
            }
        });
        // The timeout expires.
        pull.set_rcvtimeo(Some(QUIET));
        let start = Instant::now();
        assert!(matches!(pull.recv(), Err(Error::WouldBlock)));
        assert!(start.elapsed() >= QUIET);
        let few = pull.wait_for_peers(5, Some(Duration::from_millis(1)));
        assert!(matches!(few, Err(Error::TooFew { there: 4, wanted: 5 })), "{few:?}");
    });
}

#[test]
fn a_full_socket_waits_for_room_on_any_shard() {
    in_ways(ways(), LIMIT, |way| {
        let ctx = context(way);
        let push = open(&ctx, SocketType::Push);
        push.set_sndbuf(Some(4096)).expect("within bounds");
        push.set_sndhwm(2);
        let endpoint = bind(&push);
        let pullers = peers(way, SocketType::Pull, 3, &endpoint);
        pullers.iter().for_each(|puller| puller.set_rcvhwm(1));
        wait_for(&push, 3);
        let body = vec![1; 200_000];
        let mut sent = 0;
        let mut items = [PollItem::new(&push, POLLOUT)];
        // Bytes on their way make room for a while.
        while poll(&mut items, Some(QUIET)).expect("poll") > 0 {
            while push.try_send(&body).is_ok() {
                sent += 1;
                assert!(sent < 10_000);
            }
        }
        assert_eq!(poll(&mut items, Some(Duration::ZERO)).expect("poll"), 0);
        let refused = push.try_send(body.clone()).expect_err("full");
        assert_eq!(refused.payload, body);
        // Dropping the future loses nothing and sends nothing.
        {
            let mut future = pin!(push.send_async(&body));
            let mut task = Task::from_waker(Waker::noop());
            assert!(future.as_mut().poll(&mut task).is_pending());
        }
        thread::scope(|scope| {
            let sending = scope.spawn(|| push.send(&body).expect("room in the end"));
            let mut received = 0;
            while received < sent + 1 {
                for puller in &pullers {
                    received += usize::from(puller.try_recv().is_ok());
                }
            }
            sending.join().expect("sent");
        });
        for puller in &pullers {
            assert!(matches!(puller.try_recv(), Err(Error::WouldBlock)), "too much");
        }
    });
}

#[test]
fn a_future_is_woken_by_any_shard_and_dropped_without_loss() {
    in_ways(ways(), LIMIT, |way| {
        let ctx = context(way);
        let pull = open(&ctx, SocketType::Pull);
        let endpoint = bind(&pull);
        let pushers = peers(way, SocketType::Push, 4, &endpoint);
        wait_for(&pull, 4);
        for (number, pusher) in pushers.iter().enumerate() {
            {
                let mut given_up = pin!(pull.recv_async());
                let mut task = Task::from_waker(Waker::noop());
                assert!(given_up.as_mut().poll(&mut task).is_pending());
                pusher.send(&[number as u8][..]).expect("send");
                thread::sleep(Duration::from_millis(2));
            }
            let message = smol::block_on(pull.recv_async()).expect("recv");
            assert_eq!(message.body(), [number as u8]);
            thread::scope(|scope| {
                scope.spawn(|| {
                    thread::sleep(Duration::from_millis(5));
                    pusher.send("late").expect("send");
                });
                assert_eq!(smol::block_on(pull.recv_async()).expect("recv").body(), b"late");
            });
        }
        let mut nothing = pin!(pull.recv_async());
        let mut task = Task::from_waker(Waker::noop());
        assert!(matches!(nothing.as_mut().poll(&mut task), Poll::Pending));
    });
}

#[test]
fn termination_ends_waits_on_several_shards() {
    in_ways(ways(), LIMIT, |way| {
        let ctx = context(way);
        let pull = open(&ctx, SocketType::Pull);
        pull.set_rcvtimeo(None);
        bind(&pull);
        thread::scope(|scope| {
            let waits = scope.spawn(|| pull.recv());
            thread::sleep(Duration::from_millis(10));
            ctx.terminate();
            assert!(matches!(waits.join().expect("it ends"), Err(Error::Terminated)));
        });
        assert!(matches!(pull.try_recv(), Err(Error::Terminated)));
        assert!(matches!(pull.subscribe("x"), Err(Error::Terminated)));
        assert!(matches!(ctx.socket(SocketType::Pull), Err(Error::Terminated)));
    });
}

#[test]
fn a_socket_that_is_closed_takes_what_was_on_its_way_with_it() {
    in_ways(ways(), LIMIT, |way| {
        for _ in 0..20 {
            let ctx = context(way);
            let pull = open(&ctx, SocketType::Pull);
            let endpoint = bind(&pull);
            let address = endpoint.strip_prefix("tcp://").expect("tcp");
            let streams: Vec<_> =
                (0..8).map(|_| std::net::TcpStream::connect(address).expect("connect")).collect();
            pull.close();
            for mut stream in streams {
                stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                // Either a greeting and then the end, or just the end: no connection hangs.
                let mut greeting = Vec::new();
                match std::io::Read::read_to_end(&mut stream, &mut greeting) {
                    Ok(_) => {}
                    Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
                }
            }
        }
    });
}

#[test]
fn files_of_ipc_endpoints_go_with_the_socket() {
    if !has_unix_sockets() {
        return;
    }
    in_ways(ways(), LIMIT, |way| {
        let directory = scratch();
        let path = directory.path().join("spread");
        let ctx = context(way);
        let pull = open(&ctx, SocketType::Pull);
        let endpoint = format!("ipc://{}", path.display());
        pull.bind(&endpoint).expect("bind");
        assert!(path.exists());
        pull.unbind(&endpoint).expect("unbind");
        assert!(!path.exists());
        pull.bind(&endpoint).expect("bind again");
        pull.close();
        assert!(!path.exists());
    });
}

#[test]
fn a_socket_may_be_kept_on_one_shard() {
    in_ways(ways(), LIMIT, |way| {
        let ctx = context(way);
        let shards = bytes_in(&ctx).len();
        let pull = ctx.socket_on(1, SocketType::Pull, Options::default()).expect("a socket");
        let endpoint = bind(&pull);
        let pushers = peers(way, SocketType::Push, 4, &endpoint);
        for pusher in &pushers {
            pusher.send(&[0; 1000][..]).expect("send");
            pull.recv().expect("recv");
        }
        let bytes = bytes_in(&ctx);
        assert!(bytes[1] > 4000, "{bytes:?}");
        assert!(bytes.iter().sum::<u64>() == bytes[1], "{bytes:?}");
        let refused = ctx.socket_on(shards, SocketType::Pull, Options::default());
        let Err(Error::Engine(zring_engine::Error::Config("shard"))) = refused else {
            panic!("there is no such shard: {refused:?}");
        };
    });
}

#[test]
fn inproc_peers_are_peers_like_others() {
    in_ways(ways(), LIMIT, |way| {
        let ctx = context(way);
        let pull = open(&ctx, SocketType::Pull);
        let endpoint = bind(&pull);
        pull.bind("inproc://spread").expect("bind");
        let push = open(&ctx, SocketType::Push);
        push.connect("inproc://spread").expect("connect");
        push.connect(&endpoint).expect("connect");
        push.connect(&endpoint).expect("connect");
        wait_for(&push, 3);
        wait_for(&pull, 3);
        for number in 0..99_u8 {
            push.send(&[number][..]).expect("send");
        }
        let mut numbers: Vec<u8> = (0..99).map(|_| pull.recv().expect("recv").body()[0]).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..99).collect::<Vec<_>>());
        let each: Vec<_> = pull.peers().iter().map(|peer| peer.messages_in).collect();
        assert_eq!(each, [33; 3]);
    });
}
