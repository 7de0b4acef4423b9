//! Background sockets under smol, and futures and wakers without any runtime.

mod common;
#[path = "common/tasks.rs"]
mod tasks;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context as Task, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use common::{PATIENCE, Way, in_ways};
use tasks::{Boxed, Runtime, suite};
use zring::{Context, Socket, SocketType};

const LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone, Copy)]
struct Smol;

impl Runtime for Smol {
    fn spawn<T: Send + 'static>(self, task: impl Future<Output = T> + Send + 'static) -> Boxed<T> {
        Box::pin(smol::spawn(task))
    }
}

suite!(Smol, smol::block_on);

/// Counts its wakes.
#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Count {
    fn pair() -> (Arc<Count>, Waker) {
        let count = Arc::new(Count::default());
        (Arc::clone(&count), Waker::from(count))
    }

    fn now(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Waits for a wake.
    fn is_woken(&self) -> bool {
        let start = Instant::now();
        while self.now() == 0 && start.elapsed() < PATIENCE {
            thread::sleep(Duration::from_micros(200));
        }
        self.now() > 0
    }
}

fn pair(ctx: &Context) -> (Socket, Socket) {
    let pull = ctx.socket(SocketType::Pull).expect("a socket");
    let push = ctx.socket(SocketType::Push).expect("a socket");
    pull.set_rcvtimeo(Some(PATIENCE));
    pull.bind("tcp://127.0.0.1:0").expect("bind");
    push.connect(&pull.last_endpoint().expect("an endpoint")).expect("connect");
    push.wait_for_peers(1, Some(PATIENCE)).expect("a peer");
    pull.wait_for_peers(1, Some(PATIENCE)).expect("a peer");
    (pull, push)
}

#[test]
fn the_last_waker_counts() {
    in_ways(Way::background(), LIMIT, |way| {
        let ctx = way.background_context();
        let (pull, push) = pair(&ctx);
        let ((first, first_waker), (second, second_waker)) = (Count::pair(), Count::pair());
        let mut future = pin!(pull.recv_async());
        assert!(future.as_mut().poll(&mut Task::from_waker(&first_waker)).is_pending());
        assert!(future.as_mut().poll(&mut Task::from_waker(&second_waker)).is_pending());
        let before = first.now();
        push.send("for the second").expect("send");
        assert!(second.is_woken());
        assert_eq!(first.now(), before, "the first one has been replaced");
        match future.poll(&mut Task::from_waker(&second_waker)) {
            Poll::Ready(Ok(message)) => assert_eq!(message.body(), b"for the second"),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_dropped_future_is_not_woken() {
    in_ways(Way::background(), LIMIT, |way| {
        let ctx = way.background_context();
        let (pull, push) = pair(&ctx);
        let (count, waker) = Count::pair();
        for _ in 0..1000 {
            let mut future = pin!(pull.recv_async());
            assert!(future.as_mut().poll(&mut Task::from_waker(&waker)).is_pending());
        }
        let before = count.now();
        push.send("x").expect("send");
        assert_eq!(pull.recv_bytes().expect("a message"), b"x");
        assert_eq!(count.now(), before);
        assert_eq!(Arc::strong_count(&count), 2, "no waker is kept");
    });
}

/// A blocking receiver, a future and a stream wait for one socket: each gets a message.
#[test]
fn threads_and_tasks_wait_side_by_side() {
    in_ways(Way::background(), LIMIT, |way| {
        let ctx = way.background_context();
        let (pull, push) = pair(&ctx);
        for round in 0..100_u8 {
            thread::scope(|scope| {
                let blocking = scope.spawn(|| pull.recv().expect("a message"));
                let awaiting =
                    scope.spawn(|| smol::block_on(pull.recv_async()).expect("a message"));
                if round % 2 == 0 {
                    thread::sleep(Duration::from_micros(u64::from(round) * 10));
                }
                push.send(&[round, 0][..]).expect("send");
                push.send(&[round, 1][..]).expect("send");
                let mut got = [blocking, awaiting]
                    .map(|thread| thread.join().expect("a receiver").body().to_vec());
                got.sort_unstable();
                assert_eq!(got, [[round, 0], [round, 1]]);
            });
        }
    });
}
