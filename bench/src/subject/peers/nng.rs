//! NNG 2.0, through the `anng` crate: its own threads do the I/O, a side waits for them asleep in its own thread.
//! It speaks SP, not ZMTP, over the same kinds of sockets.

use std::ffi::CString;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anng::protocols::{pipeline0, pubsub0, reqrep0};
use anng::{AioError, ContextfulSocket, Message, Socket};
use self_cell::self_cell;

use crate::cli::Wait;
use crate::error::{Failure, Result};
use crate::sequence::{END, SequenceCheck, Verdict};
use crate::sides::Announce;
use crate::subject::peers::{BURST_MESSAGES, Bodies, Local, Parked, Spun, burst};
use crate::subject::{
    Case, Common, Pattern, Publisher, Receiver, Replier, Requester, Sender, Subject, Subscribers,
    queue_messages,
};

/// Pause of a thread between two looks at the sockets of subscribers that had nothing.
const NAP: Duration = Duration::from_micros(50);
/// Messages received between two looks at the end of the run: a burst of the others would take it a second.
const PULLED_MESSAGES: usize = 64;
/// What its send queue holds at most.
const SEND_QUEUE_MAX: u32 = 8192;

/// NNG. See the module.
#[derive(Debug)]
pub struct Nng;

/// Sockets of sides that are done. NNG drops what it has not sent when a socket closes, and tells nobody when all is
/// sent, so they stay open until the round is over.
#[derive(Default)]
struct Done {
    pushers: Mutex<Vec<Socket<pipeline0::Push0>>>,
    answerers: Mutex<Vec<Socket<reqrep0::Rep0>>>,
}

impl Subject for Nng {
    fn name(&self) -> &'static str {
        "nng"
    }

    fn settings(&self, case: &Case) -> String {
        let waits = match case.wait {
            Wait::Park => "sides sleep",
            Wait::Spin => "sides poll, NNG's threads sleep",
        };
        let queue = match case.pattern {
            Pattern::RoundTrip => String::new(),
            Pattern::FanOut => ", 16 and 128 messages a subscriber at PUB and SUB".to_owned(),
            _ => format!(", send queue {}", send_queue(case)),
        };
        format!("2.0, SP protocol, its default threads without cores of their own{queue}, {waits}")
    }

    fn plays(&self, pattern: Pattern) -> bool {
        matches!(pattern, Pattern::Stream | Pattern::RoundTrip | Pattern::FanOut)
    }

    fn lacks(&self, case: &Case) -> Option<&'static str> {
        (case.connections > 0).then_some("it cannot tell when idle connections are up")
    }

    fn common(&self, _case: &Case) -> Result<Option<Common>> {
        Ok(Some(Arc::new(Done::default())))
    }

    fn sender(&self, case: &Case, endpoint: &str) -> Result<Box<dyn Sender>> {
        let parked = Parked::new(case);
        let mut socket = pipeline0::Push0::socket()?;
        socket.set_send_buffer(send_queue(case))?;
        connect(case, &socket, endpoint)?;
        let bodies = Bodies::new(case.size_bytes);
        let burst = burst(case.size_bytes);
        Ok(Box::new(Pusher { socket, parked, bodies, burst, done: done(case)? }))
    }

    fn receiver(&self, case: &Case, announce: Announce) -> Result<Box<dyn Receiver>> {
        let parked = Parked::new(case);
        let socket = pipeline0::Pull0::socket()?;
        bind(case, &socket, announce)?;
        Ok(Box::new(Puller { socket, parked }))
    }

    fn requester(&self, case: &Case, endpoint: &str) -> Result<Box<dyn Requester>> {
        let parked = Parked::new(case);
        let socket = reqrep0::Req0::socket()?;
        connect(case, &socket, endpoint)?;
        let bodies = Bodies::new(case.size_bytes);
        let request = Request::new(socket, Socket::context);
        Ok(Box::new(Asker { request, parked, bodies }))
    }

    fn replier(&self, case: &Case, announce: Announce) -> Result<Box<dyn Replier>> {
        let parked = Parked::new(case);
        let socket = reqrep0::Rep0::socket()?;
        bind(case, &socket, announce)?;
        let reply = Some(Reply::new(socket, Socket::context));
        Ok(Box::new(Answerer { reply, parked, done: done(case)? }))
    }

    fn publisher(&self, case: &Case, announce: Announce) -> Result<Box<dyn Publisher>> {
        let socket = pubsub0::Pub0::socket()?;
        bind(case, &socket, announce)?;
        let (parked, bodies) = (Parked::new(case), Bodies::new(case.size_bytes));
        Ok(Box::new(Publishing { socket, parked, bodies, burst: burst(case.size_bytes) }))
    }

    fn subscribers(&self, case: &Case, endpoint: &str) -> Result<Box<dyn Subscribers>> {
        let open = |_| {
            let socket = pubsub0::Sub0::socket()?;
            connect(case, &socket, endpoint)?;
            let mut subscription = Subscription::new(socket, Socket::context);
            subscription.with_dependent_mut(|_, context| {
                context.disable_filtering();
                context.prefer_new(false);
            });
            Ok(subscription)
        };
        let subscriptions = (0..case.peers).map(open).collect::<Result<_>>()?;
        Ok(Box::new(Listening { subscriptions, parked: Parked::new(case) }))
    }
}

fn send_queue(case: &Case) -> u16 {
    queue_messages(case.size_bytes).min(SEND_QUEUE_MAX) as u16
}

fn done(case: &Case) -> Result<Arc<Done>> {
    case.common().ok_or_else(|| Failure::Setup("nothing in common".to_owned()))
}

fn url(endpoint: &str) -> Result<CString> {
    CString::new(endpoint).map_err(Failure::library)
}

/// Connecting takes a runtime of tokio, nothing that follows does.
fn connect<P>(case: &Case, socket: &Socket<P>, endpoint: &str) -> Result<()> {
    let url = url(endpoint)?;
    Local::new(case)?.run(async { Ok(socket.dial(&url).await.map(drop)?) })
}

fn bind<P>(case: &Case, socket: &Socket<P>, announce: Announce) -> Result<()> {
    let url = url(&case.bind)?;
    let bound = Local::new(case)?.run(async { Ok(socket.listen(&url).await?.local_addr()?) })?;
    announce.endpoint(bound.as_str().to_owned());
    Ok(())
}

fn failure(error: AioError) -> Failure {
    Failure::library(error)
}

struct Pusher {
    socket: Socket<pipeline0::Push0>,
    parked: Parked,
    bodies: Bodies,
    burst: u64,
    done: Arc<Done>,
}

impl Pusher {
    fn send(&mut self, sequence: u64) -> Result<()> {
        let message = Message::from(self.bodies.borrowed(sequence));
        let Self { socket, parked, .. } = self;
        parked.run(async { socket.push(message).await.map_err(|(error, _)| failure(error)) })
    }
}

impl Sender for Pusher {
    fn send_burst(&mut self, first: u64) -> Result<u64> {
        (first..first + self.burst).try_for_each(|sequence| self.send(sequence))?;
        Ok(self.burst)
    }

    fn send_due(&mut self, first: u64, count: u64) -> Result<()> {
        (first..first + count).try_for_each(|sequence| self.send(sequence))
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.send(END)?;
        let Self { socket, done, .. } = *self;
        done.pushers.lock().map_err(Failure::library)?.push(socket);
        Ok(())
    }
}

struct Publishing {
    socket: Socket<pubsub0::Pub0>,
    parked: Parked,
    bodies: Bodies,
    burst: u64,
}

impl Publisher for Publishing {
    fn publish(&mut self, sequence: u64) -> Result<()> {
        let message = Message::from(self.bodies.borrowed(sequence));
        let Self { socket, parked, .. } = self;
        parked.run(async { socket.publish(message).await.map_err(|(error, _)| failure(error)) })
    }

    fn publish_burst(&mut self, first: u64, count: u64) -> Result<u64> {
        let count = count.min(self.burst);
        (first..first + count).try_for_each(|sequence| self.publish(sequence))?;
        Ok(count)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

struct Listening {
    subscriptions: Vec<Subscription>,
    parked: Parked,
}

impl Listening {
    /// Takes what is there; says whether there was something.
    fn drain(&mut self, checks: &mut [SequenceCheck]) -> Result<bool> {
        let mut has_some = false;
        for (subscription, check) in self.subscriptions.iter_mut().zip(checks) {
            subscription.with_dependent_mut(|_, context| {
                for _ in 0..BURST_MESSAGES {
                    let Some(message) = context.try_next().map_err(failure)? else { break };
                    has_some = true;
                    check.accept(message.as_slice())?;
                }
                Ok::<_, Failure>(())
            })?;
        }
        Ok(has_some)
    }
}

impl Subscribers for Listening {
    fn receive_burst(&mut self, checks: &mut [SequenceCheck]) -> Result<()> {
        let mut spun = Spun::default();
        while !self.drain(checks)? {
            // It cannot wait for several sockets without taking from them.
            match self.parked.wait {
                Wait::Park => std::thread::sleep(NAP),
                Wait::Spin => {}
            }
            spun.again()?;
        }
        Ok(())
    }
}

struct Puller {
    socket: Socket<pipeline0::Pull0>,
    parked: Parked,
}

impl Receiver for Puller {
    fn receive_burst(&mut self, check: &mut SequenceCheck) -> Result<Verdict> {
        let Self { socket, parked } = self;
        parked.run(async {
            for _ in 0..PULLED_MESSAGES {
                let message = socket.pull().await.map_err(failure)?;
                if check.accept(message.as_slice())? == Verdict::End {
                    return Ok(Verdict::End);
                }
            }
            Ok(Verdict::InOrder)
        })
    }
}

type RequestContext<'a> = ContextfulSocket<'a, reqrep0::Req0>;
type ReplyContext<'a> = ContextfulSocket<'a, reqrep0::Rep0>;

self_cell! {
    /// A socket and its context.
    struct Request {
        owner: Socket<reqrep0::Req0>,
        #[not_covariant]
        dependent: RequestContext,
    }
}

self_cell! {
    /// A socket and its context.
    struct Reply {
        owner: Socket<reqrep0::Rep0>,
        #[not_covariant]
        dependent: ReplyContext,
    }
}

type SubscriptionContext<'a> = ContextfulSocket<'a, pubsub0::Sub0>;

self_cell! {
    /// A socket and its context.
    struct Subscription {
        owner: Socket<pubsub0::Sub0>,
        #[not_covariant]
        dependent: SubscriptionContext,
    }
}

struct Asker {
    request: Request,
    parked: Parked,
    bodies: Bodies,
}

impl Requester for Asker {
    fn round_trip(&mut self, sequence: u64, check: &mut SequenceCheck) -> Result<Verdict> {
        let message = Message::from(self.bodies.borrowed(sequence));
        let parked = &self.parked;
        self.request.with_dependent_mut(|_, context| {
            parked.run(async {
                let reply = context.request(message).await.map_err(|(error, _)| failure(error))?;
                check.accept(reply.await.map_err(failure)?.as_slice())
            })
        })
    }
}

struct Answerer {
    /// `None` once it is dropped.
    reply: Option<Reply>,
    parked: Parked,
    done: Arc<Done>,
}

impl Replier for Answerer {
    fn reply(&mut self, check: &mut SequenceCheck) -> Result<Verdict> {
        let parked = &self.parked;
        let Some(reply) = &mut self.reply else {
            return Err(Failure::Setup("the replier is closed".to_owned()));
        };
        reply.with_dependent_mut(|_, context| {
            parked.run(async {
                let (request, responder) = context.receive().await.map_err(failure)?;
                let verdict = check.accept(request.as_slice())?;
                // The request itself goes back, without a copy.
                responder.reply(request).await.map_err(|(_, error, _)| failure(error))?;
                Ok(verdict)
            })
        })
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        if let (Some(reply), Ok(mut answerers)) = (self.reply.take(), self.done.answerers.lock()) {
            answerers.push(reply.into_owner());
        }
    }
}
