//! A call on a socket may make another call possible, on the same socket and any thread: whoever waits is woken.

mod common;

use std::{
    thread,
    time::{Duration, Instant},
};

use common::{PATIENCE, Way, in_ways};
use zring::{
    Context, PollItem, Socket, SocketType,
    inline::{POLLIN, POLLOUT},
    poll,
};

const LIMIT: Duration = Duration::from_secs(120);
/// Long enough for a waiter to be in its wait.
const SETTLED: Duration = Duration::from_millis(30);

/// How somebody waits for a socket to become ready.
#[derive(Clone, Copy, Debug)]
enum Watcher {
    /// `zring::poll`, in another thread.
    Poll,
    /// The event descriptor of the socket, in another thread.
    #[cfg(target_os = "linux")]
    Descriptor,
}

impl Watcher {
    const ALL: &[Self] = &[
        Self::Poll,
        #[cfg(target_os = "linux")]
        Self::Descriptor,
    ];

    /// Waits until the socket is ready for `events`.
    fn wait(self, socket: &Socket, events: u8) {
        match self {
            Self::Poll => {
                let ready =
                    poll(&mut [PollItem::new(socket, events)], Some(PATIENCE)).expect("poll");
                assert_eq!(ready, 1, "the wait ended with its limit");
            }
            #[cfg(target_os = "linux")]
            Self::Descriptor => descriptor(socket, events),
        }
    }
}

/// An event loop: it asks whether the socket is ready, and waits for the descriptor if not.
#[cfg(target_os = "linux")]
fn descriptor(socket: &Socket, events: u8) {
    use rustix::event::{PollFd, PollFlags, Timespec};

    let fd = socket.event_fd().expect("a descriptor");
    let start = Instant::now();
    loop {
        if poll(&mut [PollItem::new(socket, events)], Some(Duration::ZERO)).expect("poll") > 0 {
            return;
        }
        let left = PATIENCE.checked_sub(start.elapsed()).expect("the wait ended with its limit");
        // A call that would block arms the descriptor again.
        match events {
            POLLIN => assert!(socket.try_recv().is_err(), "not ready a moment ago"),
            // The call of the other thread may have come in between.
            _ if socket.try_send_more("").is_ok() => {
                assert_eq!(socket.drop_partial(), 1);
                return;
            }
            _ => {}
        }
        let timeout = Timespec::try_from(left).expect("a short time");
        rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)).expect("poll");
    }
}

/// `watcher` waits for `events`, which are not there, and `call` in another thread makes them come.
fn wakes(watcher: Watcher, socket: &Socket, events: u8, call: impl FnOnce()) {
    thread::scope(|scope| {
        let waiting = scope.spawn(|| watcher.wait(socket, events));
        thread::sleep(SETTLED);
        assert!(!waiting.is_finished(), "it did not have to wait");
        call();
        waiting.join().expect("woken");
    });
}

fn open(ctx: &Context, kind: SocketType) -> Socket {
    let socket = ctx.socket(kind).expect("a socket");
    socket.set_rcvtimeo(Some(PATIENCE));
    socket
}

#[test]
fn each_step_of_a_request_wakes_who_waits_for_it() {
    in_ways(Way::background(), LIMIT, |way| {
        for endpoint in ["tcp://127.0.0.1:*", "inproc://steps"] {
            for &watcher in Watcher::ALL {
                let ctx = way.background_context();
                let (rep, first, second) = (
                    open(&ctx, SocketType::Rep),
                    open(&ctx, SocketType::Req),
                    open(&ctx, SocketType::Req),
                );
                rep.bind(endpoint).expect("bind");
                let endpoint = rep.last_endpoint().expect("bound");
                for req in [&first, &second] {
                    req.connect(&endpoint).expect("connect");
                    req.wait_for_peers(1, Some(PATIENCE)).expect("a peer");
                }
                // A message that arrives is a matter of other tests; the descriptor is watched for local calls alone,
                // since the call that arms it could take the message.
                wakes(Watcher::Poll, &rep, POLLIN, || first.send("1").expect("a request"));
                wakes(watcher, &rep, POLLOUT, || drop(rep.recv().expect("the request")));
                second.send("2").expect("a request");
                thread::sleep(SETTLED);
                // Nothing arrives: the reply makes the request that waits the next one.
                wakes(watcher, &rep, POLLIN, || rep.send("reply").expect("a reply"));
                wakes(watcher, &first, POLLOUT, || drop(first.recv().expect("the reply")));
                wakes(Watcher::Poll, &first, POLLIN, || {
                    first.send("3").expect("a request");
                    for _ in 0..2 {
                        let request = rep.recv().expect("a request");
                        rep.send(request).expect("a reply");
                    }
                });
            }
        }
    });
}

#[test]
fn room_given_back_wakes_who_waits_for_it() {
    in_ways(Way::background(), LIMIT, |way| {
        let ctx = way.background_context();
        let (pull, push) = (open(&ctx, SocketType::Pull), open(&ctx, SocketType::Push));
        push.set_sndhwm(1);
        pull.bind("tcp://127.0.0.1:*").expect("bind");
        push.connect(&pull.last_endpoint().expect("bound")).expect("connect");
        push.wait_for_peers(1, Some(PATIENCE)).expect("a peer");
        push.send_more("1").expect("a frame");
        push.drop_partial();
        push.set_sndhwm(2);
        push.send_more("2").expect("a frame");
        push.send("3").expect("the last frame");
        assert_eq!(pull.recv_multipart().expect("a message"), [b"2", b"3"]);
        let start = Instant::now();
        push.send("4").expect("send");
        assert!(start.elapsed() < PATIENCE);
    });
}
