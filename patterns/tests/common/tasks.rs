//! Tests of asynchronous use, identical under every runtime.

use std::collections::HashSet;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context as Task, Poll, Waker};
use std::thread;
use std::time::Duration;

use futures_core::{FusedStream, Stream};
use futures_sink::Sink;
use zring::{Context, Error, Message, Outgoing, Sendable, Socket, SocketType};

use crate::common::content::body;
use crate::common::{PATIENCE, Way};

/// A boxed task.
pub(crate) type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// An asynchronous runtime.
pub(crate) trait Runtime: Copy + Send + 'static {
    /// Spawns a task; the returned future waits for its end.
    fn spawn<T: Send + 'static>(self, task: impl Future<Output = T> + Send + 'static) -> Boxed<T>;
}

/// Makes a test of each named function of this module, for a runtime and for a function that runs a future to its end
/// there.
macro_rules! suite {
    ($runtime:expr, $block_on:expr; $($name:ident)*) => {$(
        #[test]
        fn $name() {
            $crate::common::in_ways($crate::common::Way::background(), LIMIT, |way| {
                $block_on($crate::tasks::$name($runtime, way));
            });
        }
    )*};
    ($runtime:expr, $block_on:expr) => {
        $crate::tasks::suite! { $runtime, $block_on;
            numbers_down_a_pipeline
            questions_and_answers
            news_for_subscribers
            a_stream_and_a_sink
            a_sink_gives_back_what_it_could_not_send
            receives_given_up_after_some_polls
            receives_given_up_after_some_time
            receives_into_buffers_given_up_anywhere
            sends_given_up_after_some_polls
            sends_given_up_after_some_time
            a_peer_that_appears_wakes_a_sender
            room_wakes_all_senders
            termination_wakes_every_task
            many_tasks_on_one_socket
        }
    };
}
pub(crate) use suite;

/// Opens a socket with a bounded linger, so that its futures end in time; the runtime has to be woken for that.
fn open(ctx: &Context, kind: SocketType) -> Socket {
    let socket = ctx.socket(kind).expect("a socket");
    socket.set_linger(Some(PATIENCE));
    socket
}

fn bind(socket: &Socket) -> String {
    socket.bind("tcp://127.0.0.1:0").expect("bind");
    socket.last_endpoint().expect("a bound endpoint")
}

/// Two connected sockets of two contexts, the first one bound.
fn pair(way: Way, bound: SocketType, connected: SocketType) -> (Arc<Socket>, Arc<Socket>) {
    let (here, there) = (way.background_context(), way.background_context());
    let (first, second) = (open(&here, bound), open(&there, connected));
    second.connect(&bind(&first)).expect("connect");
    second.wait_for_peers(1, Some(PATIENCE)).expect("a peer");
    (Arc::new(first), Arc::new(second))
}

/// Message `number`.
fn numbered(number: usize) -> Vec<u8> {
    [&number.to_le_bytes()[..], &body(number as u64, number % 200)].concat()
}

fn number_of(message: &Message) -> usize {
    let number = message.body()[..8].try_into().expect("eight bytes");
    let number = usize::from_le_bytes(number);
    assert!(message.body() == numbered(number), "message {number} changed");
    number
}

/// A timer that works under any runtime.
struct Pause {
    time: Duration,
    state: Option<Arc<Mutex<(bool, Waker)>>>,
}

fn pause(time: Duration) -> Pause {
    Pause { time, state: None }
}

impl Future for Pause {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<()> {
        match &self.state {
            Some(state) => {
                let mut state = state.lock().expect("not poisoned");
                if state.0 {
                    return Poll::Ready(());
                }
                state.1.clone_from(task.waker());
            }
            None => {
                let state = Arc::new(Mutex::new((false, task.waker().clone())));
                self.state = Some(Arc::clone(&state));
                let time = self.time;
                thread::spawn(move || {
                    thread::sleep(time);
                    let mut state = state.lock().expect("not poisoned");
                    state.0 = true;
                    state.1.wake_by_ref();
                });
            }
        }
        Poll::Pending
    }
}

/// Drops a future that is not done after `polls` polls; wakes itself for each poll.
struct Impatient<F> {
    future: Option<F>,
    polls: usize,
}

fn impatient<F: Future + Unpin>(future: F, polls: usize) -> Impatient<F> {
    Impatient { future: Some(future), polls }
}

impl<F: Future + Unpin> Future for Impatient<F> {
    type Output = Result<F::Output, F>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if this.polls == 0 {
            return Poll::Ready(Err(this.future.take().expect("polled once more")));
        }
        this.polls -= 1;
        let future = this.future.as_mut().expect("polled once more");
        if let Poll::Ready(output) = Pin::new(future).poll(task) {
            return Poll::Ready(Ok(output));
        }
        task.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Returns a future unfinished if it is not done after `time`.
async fn timely<F: Future + Unpin>(mut future: F, time: Duration) -> Result<F::Output, F> {
    let mut timer = pause(time);
    let done = poll_fn(|task| {
        if let Poll::Ready(output) = Pin::new(&mut future).poll(task) {
            return Poll::Ready(Some(output));
        }
        Pin::new(&mut timer).poll(task).map(|()| None)
    })
    .await;
    done.ok_or(future)
}

async fn next<S: Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    poll_fn(|task| Pin::new(&mut *stream).poll_next(task)).await
}

async fn feed<P: Sendable>(sink: &mut Outgoing<'_, P>, item: P) -> Result<(), Error> {
    poll_fn(|task| Pin::new(&mut *sink).poll_ready(task)).await?;
    Pin::new(sink).start_send(item)
}

async fn flush<P: Sendable>(sink: &mut Outgoing<'_, P>) -> Result<(), Error> {
    poll_fn(|task| Pin::new(&mut *sink).poll_flush(task)).await
}

pub(crate) async fn numbers_down_a_pipeline(runtime: impl Runtime, way: Way) {
    const MESSAGES: usize = 5000;
    let (pull, push) = pair(way, SocketType::Pull, SocketType::Push);
    let sending = runtime.spawn(async move {
        for number in 0..MESSAGES {
            push.send_async(numbered(number)).await.expect("send");
        }
    });
    for number in 0..MESSAGES {
        assert_eq!(number_of(&pull.recv_async().await.expect("a message")), number);
    }
    sending.await;
}

pub(crate) async fn questions_and_answers(runtime: impl Runtime, way: Way) {
    let (rep, req) = pair(way, SocketType::Rep, SocketType::Req);
    let answering = runtime.spawn(async move {
        assert!(matches!(
            rep.send_async("nobody asked").await.expect_err("the lockstep").error,
            Error::State { .. }
        ));
        for _ in 0..500 {
            let request = rep.recv_async().await.expect("a request");
            rep.send_async(request).await.expect("reply");
        }
    });
    for number in 0..500 {
        req.send_async(numbered(number)).await.expect("ask");
        assert_eq!(number_of(&req.recv_async().await.expect("a reply")), number);
    }
    assert!(matches!(req.recv_async().await, Err(Error::State { .. })));
    answering.await;
}

pub(crate) async fn news_for_subscribers(runtime: impl Runtime, way: Way) {
    let ctx = way.background_context();
    let publisher = open(&ctx, SocketType::Pub);
    publisher.set_sndhwm(10_000);
    let endpoint = bind(&publisher);
    let reading: Vec<_> = (0..3)
        .map(|_| {
            let sub = open(&ctx, SocketType::Sub);
            sub.subscribe("news").expect("subscribe");
            sub.connect(&endpoint).expect("connect");
            runtime.spawn(async move {
                for number in 0..500 {
                    let message = sub.recv_async().await.expect("a message");
                    assert_eq!(message.body(), format!("news {number}").as_bytes());
                }
            })
        })
        .collect();
    publisher.wait_for_subscribers("news", 3, Some(PATIENCE)).expect("three subscribers");
    for number in 0..500 {
        publisher.send_async(format!("other {number}")).await.expect("send");
        publisher.send_async(format!("news {number}")).await.expect("send");
    }
    for reader in reading {
        reader.await;
    }
}

pub(crate) async fn a_stream_and_a_sink(runtime: impl Runtime, way: Way) {
    const MESSAGES: usize = 3000;
    let (pull, push) = pair(way, SocketType::Pull, SocketType::Push);
    pull.set_rcvhwm(10);
    push.set_sndhwm(10);
    let ctx = pull.context().clone();
    let sending = runtime.spawn(async move {
        let mut sink = push.outgoing();
        for number in 0..MESSAGES {
            feed(&mut sink, numbered(number)).await.expect("feed");
        }
        flush(&mut sink).await.expect("flush");
        poll_fn(|task| Pin::new(&mut sink).poll_close(task)).await.expect("close");
        assert_eq!(sink.into_item(), None, "all is sent");
    });
    let mut stream = pull.messages();
    for number in 0..MESSAGES {
        if number % 500 == 0 {
            // A new stream continues where the previous one stopped.
            stream = pull.messages();
        }
        let message = next(&mut stream).await.expect("no end").expect("a message");
        assert_eq!(number_of(&message), number);
    }
    sending.await;
    assert!(!stream.is_terminated());
    ctx.terminate();
    assert!(matches!(next(&mut stream).await, Some(Err(Error::Terminated))));
    assert!(stream.is_terminated());
    assert!(next(&mut stream).await.is_none());
}

pub(crate) async fn a_sink_gives_back_what_it_could_not_send(_: impl Runtime, way: Way) {
    let ctx = way.background_context();
    let push = open(&ctx, SocketType::Push);
    bind(&push);
    let mut sink = push.outgoing();
    feed(&mut sink, numbered(1)).await.expect("room for one");
    assert!(timely(pin!(flush(&mut sink)), Duration::from_millis(30)).await.is_err());
    assert_eq!(sink.into_item(), Some(numbered(1)));
    let mut sink = push.outgoing();
    feed(&mut sink, numbered(2)).await.expect("room for one");
    ctx.terminate();
    assert!(matches!(flush(&mut sink).await, Err(Error::Terminated)));
    assert_eq!(sink.into_item(), Some(numbered(2)));
}

/// Messages arrive with pauses in between, and receiving is given up again and again.
async fn gives_up_receiving<R: Runtime>(
    runtime: R,
    way: Way,
    messages: usize,
    mut attempt: impl AsyncFnMut(&Socket, usize) -> Option<Message>,
) {
    let (pull, push) = pair(way, SocketType::Pull, SocketType::Push);
    let sending = runtime.spawn(async move {
        for number in 0..messages {
            push.send_async(numbered(number)).await.expect("send");
            if number % 8 == 0 {
                pause(Duration::from_micros(number as u64 % 500)).await;
            }
        }
        push
    });
    let (mut expected, mut attempts) = (0, 0);
    while expected < messages {
        if let Some(message) = attempt(&pull, attempts).await {
            assert_eq!(number_of(&message), expected, "in order, nothing lost, nothing twice");
            expected += 1;
        }
        attempts += 1;
    }
    assert!(attempts > messages, "none was given up");
    sending.await;
}

pub(crate) async fn receives_given_up_after_some_polls(runtime: impl Runtime, way: Way) {
    gives_up_receiving(runtime, way, 1000, async |pull, attempt| {
        let given = impatient(pull.recv_async(), attempt % 5).await;
        given.ok().map(|message| message.expect("a message"))
    })
    .await;
}

pub(crate) async fn receives_given_up_after_some_time(runtime: impl Runtime, way: Way) {
    gives_up_receiving(runtime, way, 1000, async |pull, attempt| {
        let time = Duration::from_micros(attempt as u64 * 13 % 200);
        timely(pull.recv_async(), time).await.ok().map(|message| message.expect("a message"))
    })
    .await;
}

/// Large and small messages, some of several frames, received into buffers by futures that are dropped after some polls
/// or after some time.
pub(crate) async fn receives_into_buffers_given_up_anywhere(runtime: impl Runtime, way: Way) {
    const MESSAGES: usize = 200;
    let bytes_of = |number: usize| [400_000, 20, 90_000][number % 3];
    let (pull, push) = pair(way, SocketType::Pull, SocketType::Push);
    let sending = runtime.spawn(async move {
        for number in 0..MESSAGES {
            let body = body(number as u64, bytes_of(number));
            let frames = if number % 4 == 0 { vec![body, vec![7; 3]] } else { vec![body] };
            let message = Message::from_frames(frames).expect("frames");
            push.send_async(message).await.expect("send");
            pause(Duration::from_micros(number as u64 * 7 % 300)).await;
        }
        push
    });
    let (mut buffer, mut number, mut attempts) = (vec![0; 400_000], 0, 0_usize);
    while number < MESSAGES {
        attempts += 1;
        let future = pull.recv_into_async(buffer);
        let given = match attempts % 2 {
            0 => impatient(future, attempts % 7).await,
            _ => timely(future, Duration::from_micros(attempts as u64 * 13 % 300)).await,
        };
        buffer = match given {
            Err(given_up) => given_up.into_buffer(),
            Ok((buffer, received)) => {
                let received = received.expect("a frame");
                assert_eq!((received.len, received.more), (bytes_of(number), number % 4 == 0));
                assert!(buffer[..received.len] == body(number as u64, received.len));
                if received.more {
                    assert_eq!(pull.recv_frame().expect("the last").bytes(), [7; 3]);
                }
                number += 1;
                buffer
            }
        };
    }
    assert!(attempts > MESSAGES, "none was given up");
    assert!(pull.stats().bytes_into > 0);
    sending.await;
}

/// A narrow connection with a slow reader, on which sending is given up again and again: the payload is returned and
/// sent later, or not at all.
async fn gives_up_sending<R: Runtime>(
    runtime: R,
    way: Way,
    messages: usize,
    mut attempt: impl AsyncFnMut(&Socket, Vec<u8>, usize) -> Option<Vec<u8>>,
) {
    let (here, there) = (way.background_context(), way.background_context());
    let (pull, push) = (open(&here, SocketType::Pull), open(&there, SocketType::Push));
    pull.set_rcvhwm(1);
    push.set_sndhwm(1);
    pull.set_rcvbuf(Some(4096)).expect("within bounds");
    push.set_sndbuf(Some(4096)).expect("within bounds");
    push.connect(&bind(&pull)).expect("connect");
    let large = |number: usize| [numbered(number), vec![3; 16 << 10]].concat();
    let receiving = runtime.spawn(async move {
        let mut got = Vec::new();
        loop {
            if got.len() % 16 == 0 {
                pause(Duration::from_millis(1)).await;
            }
            let message = pull.recv_async().await.expect("a message");
            if message.body().is_empty() {
                return got;
            }
            let number = message.body()[..8].try_into().expect("eight bytes");
            got.push(usize::from_le_bytes(number));
            assert!(message.body() == large(got[got.len() - 1]), "changed");
        }
    });
    let (mut wanted, mut given_up, mut attempts) = (Vec::new(), 0, 0);
    // On a busy machine the reader may have got little while the first messages were given up.
    let is_enough = |given_up: usize, sent: usize| given_up > 10 && sent > 10;
    for number in 0.. {
        if number >= messages && is_enough(given_up, wanted.len()) {
            break;
        }
        let mut payload = Some(large(number));
        while let Some(again) = payload {
            attempts += 1;
            payload = attempt(&push, again, attempts).await;
            if let Some(back) = &payload {
                assert!(*back == large(number), "another payload came back");
                given_up += 1;
                // Some messages are never tried again.
                if attempts % 3 == 0 {
                    break;
                }
            }
        }
        if payload.is_none() {
            wanted.push(number);
        }
    }
    push.send_async("").await.expect("send");
    assert!(receiving.await == wanted, "what was given up was sent, or what was sent is missing");
}

pub(crate) async fn sends_given_up_after_some_polls(runtime: impl Runtime, way: Way) {
    gives_up_sending(runtime, way, 2000, async |push, payload, attempt| {
        match impatient(push.send_async(payload), attempt % 6).await {
            Ok(sent) => sent.map(|()| None).expect("send"),
            Err(future) => Some(future.into_payload().expect("it was not sent")),
        }
    })
    .await;
}

pub(crate) async fn sends_given_up_after_some_time(runtime: impl Runtime, way: Way) {
    gives_up_sending(runtime, way, 1000, async |push, payload, attempt| {
        let time = Duration::from_micros(attempt as u64 * 17 % 300);
        match timely(push.send_async(payload), time).await {
            Ok(sent) => sent.map(|()| None).expect("send"),
            Err(future) => Some(future.into_payload().expect("it was not sent")),
        }
    })
    .await;
}

pub(crate) async fn a_peer_that_appears_wakes_a_sender(runtime: impl Runtime, way: Way) {
    let (here, there) = (way.background_context(), way.background_context());
    let push = open(&here, SocketType::Push);
    let endpoint = bind(&push);
    let sending = runtime.spawn(async move {
        push.send_async("there you are").await.expect("send");
        push
    });
    pause(Duration::from_millis(50)).await;
    let pull = open(&there, SocketType::Pull);
    pull.connect(&endpoint).expect("connect");
    assert_eq!(pull.recv_async().await.expect("a message").body(), b"there you are");
    sending.await;
}

pub(crate) async fn room_wakes_all_senders(runtime: impl Runtime, way: Way) {
    const SENDERS: usize = 20;
    let (pull, push) = pair(way, SocketType::Pull, SocketType::Push);
    pull.set_rcvhwm(1);
    let mut before = 0;
    while timely(push.send_async(vec![0; 64 << 10]), Duration::from_millis(200)).await.is_ok() {
        before += 1;
    }
    let sending: Vec<_> = (0..SENDERS)
        .map(|who| {
            let push = Arc::clone(&push);
            runtime.spawn(async move { push.send_async(vec![who as u8 + 1; 10]).await })
        })
        .collect();
    pause(Duration::from_millis(50)).await;
    for _ in 0..before {
        assert_eq!(pull.recv_async().await.expect("a message").body().len(), 64 << 10);
    }
    let mut seen = HashSet::new();
    for _ in 0..SENDERS {
        seen.insert(pull.recv_async().await.expect("a message").body()[0]);
    }
    assert_eq!(seen.len(), SENDERS);
    for sender in sending {
        sender.await.expect("sent");
    }
}

pub(crate) async fn termination_wakes_every_task(runtime: impl Runtime, way: Way) {
    let ctx = way.background_context();
    let (pull, push) =
        (Arc::new(open(&ctx, SocketType::Pull)), Arc::new(open(&ctx, SocketType::Push)));
    bind(&push);
    let tasks: Vec<_> = (0..10)
        .map(|number| {
            let (pull, push) = (Arc::clone(&pull), Arc::clone(&push));
            runtime.spawn(async move {
                if number % 2 == 0 {
                    return pull.recv_async().await.map(drop);
                }
                let refused = push.send_async(numbered(number)).await.expect_err("no peer");
                assert_eq!(refused.payload, numbered(number));
                Err(refused.error)
            })
        })
        .collect();
    pause(Duration::from_millis(50)).await;
    ctx.terminate();
    for task in tasks {
        assert!(matches!(task.await, Err(Error::Terminated)));
    }
}

pub(crate) async fn many_tasks_on_one_socket(runtime: impl Runtime, way: Way) {
    const TASKS: usize = 40;
    const EACH: usize = 50;
    let (pull, push) = pair(way, SocketType::Pull, SocketType::Push);
    push.set_sndhwm(4);
    let receiving: Vec<_> = (0..TASKS)
        .map(|_| {
            let pull = Arc::clone(&pull);
            runtime.spawn(async move {
                let mut got = Vec::new();
                for _ in 0..EACH {
                    got.push(number_of(&pull.recv_async().await.expect("a message")));
                }
                got
            })
        })
        .collect();
    let sending: Vec<_> = (0..TASKS)
        .map(|who| {
            let push = Arc::clone(&push);
            runtime.spawn(async move {
                for number in who * EACH..(who + 1) * EACH {
                    push.send_async(numbered(number)).await.expect("send");
                }
            })
        })
        .collect();
    for sender in sending {
        sender.await;
    }
    let mut all = Vec::new();
    for receiver in receiving {
        all.extend(receiver.await);
    }
    all.sort_unstable();
    assert!(all.into_iter().eq(0..TASKS * EACH), "each once");
}
