//! Background sockets under tokio, on one thread and on several.

mod common;
#[path = "common/tasks.rs"]
mod tasks;

use std::future::Future;
use std::time::Duration;

use common::{PATIENCE, Way, in_ways};
use tasks::{Boxed, Runtime};
use tokio::runtime::Builder;
use zring::SocketType;

const LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone, Copy)]
struct Tokio;

impl Runtime for Tokio {
    fn spawn<T: Send + 'static>(self, task: impl Future<Output = T> + Send + 'static) -> Boxed<T> {
        let task = tokio::spawn(task);
        Box::pin(async { task.await.expect("a task") })
    }
}

/// Runs a task to its end on one thread.
fn on_one_thread(task: impl Future<Output = ()>) {
    Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(task);
}

/// Runs a task and the tasks it starts on two threads.
fn on_two_threads(task: impl Future<Output = ()> + Send + 'static) {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_time().build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(async { tokio::spawn(task).await.expect("the task") });
}

mod current_thread {
    use super::{LIMIT, Tokio, on_one_thread};
    crate::tasks::suite!(Tokio, on_one_thread);
}

mod multi_thread {
    use super::{LIMIT, Tokio, on_two_threads};
    crate::tasks::suite!(Tokio, on_two_threads);
}

/// In every round `select!` drops the futures that did not finish first.
#[test]
fn select_drops_futures_and_loses_nothing() {
    const MESSAGES: u32 = 2000;
    in_ways(Way::background(), LIMIT, |way| {
        on_one_thread(async move {
            let ctx = way.background_context();
            let pulls = [SocketType::Pull; 2].map(|kind| ctx.socket(kind).expect("a socket"));
            let pushes = [SocketType::Push; 2].map(|kind| ctx.socket(kind).expect("a socket"));
            for (pull, push) in pulls.iter().zip(&pushes) {
                pull.bind("tcp://127.0.0.1:0").expect("bind");
                push.connect(&pull.last_endpoint().expect("an endpoint")).expect("connect");
                push.wait_for_peers(1, Some(PATIENCE)).expect("a peer");
            }
            let sending = tokio::spawn(async move {
                for number in 0..MESSAGES {
                    let push = &pushes[number as usize % 2];
                    push.send_async(number.to_le_bytes().to_vec()).await.expect("send");
                    if number % 50 == 0 {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
                pushes
            });
            let (mut next, mut ticks) = ([0, 1], 0);
            while next.iter().sum::<u32>() < 2 * MESSAGES + 1 {
                let (at, message) = tokio::select! {
                    message = pulls[0].recv_async() => (0, message),
                    message = pulls[1].recv_async() => (1, message),
                    () = tokio::time::sleep(Duration::from_micros(100)) => {
                        ticks += 1;
                        continue;
                    }
                };
                let message = message.expect("a message");
                assert_eq!(message.body(), next[at].to_le_bytes());
                next[at] += 2;
            }
            assert!(ticks > 0, "nothing was given up");
            sending.await.expect("the sender");
        });
    });
}
