//! REQ and REP: lockstep, the right replies, and each request served at most once.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    rc::Rc,
};

use zring::{Error, Frame, Message, Options, SocketType};
use zring_engine::sim::{Task, World};

use super::{
    Scene,
    content::Tag,
    sock::{Caller, Sock, at_once},
    stage::{MS, S, Stage},
};

struct State {
    stage: Stage,
    bytes_max: usize,
    endpoints: Vec<String>,
    servers_bind: bool,
    served: RefCell<BTreeSet<Tag>>,
    /// Requests that were not answered in time.
    abandoned: Cell<u64>,
    answered: Cell<u64>,
    replies: Cell<u64>,
    asking: Cell<usize>,
    /// Askers leave before they are answered, and servers are slow.
    is_restless: bool,
    is_stopping: Cell<bool>,
}

pub(crate) struct Request {
    state: Rc<State>,
    askers: Vec<Rc<RefCell<Rc<Sock>>>>,
    servers: Vec<Rc<Sock>>,
    tasks: Vec<Task<()>>,
}

#[derive(Debug, Clone, Copy)]
struct Mode {
    relaxed: bool,
    correlate: bool,
}

impl Mode {
    fn options(self, stage: &Stage) -> Options {
        let mut options = stage.options();
        options.req_relaxed = self.relaxed;
        options.req_correlate = self.correlate;
        options
    }
}

impl Request {
    pub(crate) fn start(stage: &Stage) -> Self {
        let (req_count, rep_count) = (1 + stage.below(4) as usize, 1 + stage.below(3) as usize);
        let servers_bind = stage.below(3) > 0;
        let endpoints = if servers_bind { rep_count } else { req_count };
        let state = Rc::new(State {
            stage: stage.clone(),
            bytes_max: if stage.below(8) == 0 { 40_000 } else { 8 << stage.below(9) },
            endpoints: (0..endpoints).map(|_| stage.endpoint()).collect(),
            servers_bind,
            served: RefCell::default(),
            abandoned: Cell::new(0),
            answered: Cell::new(0),
            replies: Cell::new(0),
            asking: Cell::new(req_count),
            is_restless: stage.below(2) == 0,
            is_stopping: Cell::new(false),
        });
        let world = stage.world();
        let (mut askers, mut servers, mut tasks) = (Vec::new(), Vec::new(), Vec::new());
        for at in 0..req_count {
            let mode = Mode { relaxed: stage.below(2) == 0, correlate: stage.below(2) == 0 };
            let asker = Rc::new(stage.socket(SocketType::Req, mode.options(stage)));
            let asker = Rc::new(RefCell::new(asker));
            askers.push(asker.clone());
            tasks.push(world.spawn(ask(state.clone(), asker, at, mode)));
        }
        for at in 0..rep_count {
            let server = Rc::new(stage.socket(SocketType::Rep, stage.options()));
            servers.push(server.clone());
            tasks.push(world.spawn(serve(state.clone(), server, at)));
        }
        Self { state, askers, servers, tasks }
    }
}

fn is_out_of_step<T>(outcome: &Result<T, Error>) -> bool {
    matches!(outcome, Err(Error::State { .. }))
}

impl State {
    async fn set_up(&self, sock: &Sock, at: usize, binds: bool) {
        self.stage.pause().await;
        if binds {
            return sock.bind(&self.stage, Caller::Task, &self.endpoints[at]).await;
        }
        self.endpoints.iter().for_each(|endpoint| sock.connect(endpoint));
    }

    async fn send(&self, sock: &Sock, message: Message) {
        let mut left = Some(message);
        while let Some(message) = left.take() {
            left = sock.send(&self.stage, Caller::Task, message).await.expect("sent");
            if left.is_some() {
                self.stage.pause().await;
            }
        }
    }
}

/// The reply to a request: the request with one more frame.
fn reply_to(request: &Message) -> Message {
    let frames = request.frames().cloned().chain([Frame::from("reply")]);
    Message::from_frames(frames).expect("frames")
}

fn request_of(reply: &Message) -> Message {
    let mut frames: Vec<Frame> = reply.frames().cloned().collect();
    let last = frames.pop().expect("a frame");
    assert_eq!(last.bytes(), b"reply", "a message of {} bytes is no reply", reply.len());
    Message::from_frames(frames).expect("a reply has two frames")
}

async fn ask(state: Rc<State>, slot: Rc<RefCell<Rc<Sock>>>, at: usize, mode: Mode) {
    let stage = &state.stage;
    let first = slot.borrow().clone();
    state.set_up(&first, at, !state.servers_bind).await;
    drop(first);
    let (mut sender, mut is_idle) = (stage.sender(), true);
    for number in 0..1 + stage.below(15) as u32 {
        let sock = slot.borrow().clone();
        if is_idle && stage.below(4) == 0 {
            assert!(is_out_of_step(&sock.try_recv()), "a reply before a request");
        }
        let tag = Tag { topic: b'r', sender, number };
        let request = stage.shapes().make(stage.world(), tag, state.bytes_max);
        state.send(&sock, request).await;
        if stage.below(4) == 0 && !mode.relaxed {
            let outcome = sock.try_send(Message::from("too early"));
            assert!(is_out_of_step(&outcome), "a request before the reply");
        }
        if state.is_restless && stage.below(3) == 0 {
            stage.pause().await;
            drop(sock);
            // The next asker may get the same slot at the server.
            restart(&state, &slot, at, mode).await;
            (sender, is_idle) = (stage.sender(), true);
            continue;
        }
        is_idle = await_reply(&state, &sock, tag, mode).await;
        if !is_idle {
            stage.world().trace(&format!("{tag:?} is abandoned by {:?}", sock.stats()));
            state.abandoned.set(state.abandoned.get() + 1);
            if !mode.relaxed {
                drop(sock);
                restart(&state, &slot, at, mode).await;
                (sender, is_idle) = (stage.sender(), true);
            }
        }
        if stage.below(3) == 0 {
            stage.pause().await;
        }
    }
    state.asking.set(state.asking.get() - 1);
}

/// Waits a reasonable time for the reply to a request. Returns whether it came.
async fn await_reply(state: &State, sock: &Sock, tag: Tag, mode: Mode) -> bool {
    let stage = &state.stage;
    let patience_ns = match stage.is_lossless() {
        // Only a full queue loses messages, and counts them.
        true => 30 * S,
        false => 100 * MS + stage.below(S),
    };
    let until_ns = stage.world().now_ns() + patience_ns;
    while stage.world().now_ns() < until_ns {
        let Some(reply) = sock.recv(stage, Caller::Task).await.expect("received") else {
            stage.pause().await;
            continue;
        };
        let replied = stage.shapes().check(&request_of(&reply));
        assert_eq!(replied.sender, tag.sender, "a reply to somebody else");
        let is_known = !mode.relaxed || mode.correlate;
        assert!(replied.number == tag.number || !is_known, "{replied:?} instead of {tag:?}");
        assert!(replied.number <= tag.number);
        state.answered.set(state.answered.get() + 1);
        stage.keep(reply);
        return true;
    }
    false
}

/// Replaces a REQ that gave up a request and may not send another one.
async fn restart(state: &State, slot: &RefCell<Rc<Sock>>, at: usize, mode: Mode) {
    let stage = &state.stage;
    let fresh = Rc::new(stage.shared(SocketType::Req, mode.options(stage)));
    let old = slot.replace(fresh.clone());
    // Its request must not be sent any more.
    old.set_linger(Some(std::time::Duration::ZERO));
    drop(old);
    state.set_up(&fresh, at, !state.servers_bind).await;
}

async fn serve(state: Rc<State>, sock: Rc<Sock>, at: usize) {
    let stage = &state.stage;
    state.set_up(&sock, at, state.servers_bind).await;
    while !state.is_stopping.get() {
        if stage.below(4) == 0 {
            let outcome = sock.try_send(Message::from("nobody asked"));
            assert!(is_out_of_step(&outcome), "a reply before a request");
        }
        let Some(request) = sock.recv(stage, Caller::Task).await.expect("received") else {
            stage.pause().await;
            continue;
        };
        let tag = stage.shapes().check(&request);
        assert!(state.served.borrow_mut().insert(tag), "{tag:?} was served twice");
        if stage.below(4) == 0 {
            assert!(is_out_of_step(&sock.try_recv()), "two requests at once");
        }
        if stage.below(3) == 0 {
            stage.pause().await;
        }
        if state.is_restless && stage.below(3) == 0 {
            let ns = stage.below(20 * MS);
            stage.world().sleep(ns).await;
        }
        let reply = reply_to(&request);
        stage.keep(request);
        state.send(&sock, reply).await;
        state.replies.set(state.replies.get() + 1);
    }
}

/// A waiting reply that the asker did not take must not be taken for the reply to the next request.
pub(crate) fn leave_a_reply(world: &World) {
    let stage = Stage::new(world, true);
    let mode = Mode { relaxed: true, correlate: true };
    let asker = stage.shared(SocketType::Req, mode.options(&stage));
    let server = stage.shared(SocketType::Rep, stage.options());
    let endpoint = stage.endpoint();
    at_once(server.bind(&stage, Caller::Body, &endpoint));
    asker.connect(&endpoint);
    let send = |sock: &Sock, message| {
        let mut left = Some(message);
        while let Some(message) = left.take() {
            left = at_once(sock.send(&stage, Caller::Body, message)).expect("sent");
        }
    };
    let receive = |sock: &Sock| loop {
        let received = at_once(sock.recv(&stage, Caller::Body)).expect("received");
        if let Some(message) = received {
            return message;
        }
    };
    for number in 0..2 {
        let tag = Tag { topic: b'r', sender: 1, number };
        send(&asker, stage.shapes().make(world, tag, 10_000));
        let request = receive(&server);
        assert_eq!(stage.shapes().check(&request), tag);
        send(&server, reply_to(&request));
        world.run_for(100 * MS);
    }
    let replied = stage.shapes().check(&request_of(&receive(&asker)));
    assert_eq!((replied.number, asker.stats().messages_dropped), (1, 1));
    for sock in [asker, server] {
        assert_eq!(sock.close().unsent_messages, 0);
    }
    stage.end();
}

impl Scene for Request {
    fn name(&self) -> String {
        format!(
            "request, {} askers, {} replies, {:?}",
            self.state.asking.get(),
            self.state.replies.get(),
            self.servers.iter().map(|it| it.stats()).collect::<Vec<_>>(),
        )
    }

    fn is_done(&self) -> bool {
        let state = &self.state;
        if state.asking.get() > 0 {
            return false;
        }
        let sent: u64 = self
            .servers
            .iter()
            .map(|sock| sock.stats())
            .map(|s| s.messages_out + s.messages_dropped)
            .sum();
        sent >= state.replies.get() && self.servers.iter().all(|sock| sock.queued() == 0)
    }

    fn body(&self) {
        let stage = &self.state.stage;
        stage.world().run_for(stage.below(2 * MS));
    }

    fn check(&self) {
        let state = &self.state;
        let dropped: u64 = self.servers.iter().map(|sock| sock.stats().messages_dropped).sum();
        if state.stage.is_lossless() {
            let abandoned = state.abandoned.get();
            assert!(
                abandoned <= dropped,
                "{abandoned} requests without a reply, {dropped} dropped"
            );
        }
        for sock in
            self.servers.iter().cloned().chain(self.askers.iter().map(|it| it.borrow().clone()))
        {
            assert_eq!(sock.stats().messages_malformed, 0);
        }
        assert!(state.answered.get() <= state.replies.get());
    }

    fn stop(&mut self) {
        self.state.is_stopping.set(true);
    }

    fn end(self: Box<Self>) {
        let world = self.state.stage.world().clone();
        world.run_until(|| self.tasks.iter().all(Task::is_done));
        for server in self.servers {
            let server = Rc::into_inner(server).expect("its task is gone");
            assert_eq!(server.close().unsent_messages, 0);
        }
    }
}
