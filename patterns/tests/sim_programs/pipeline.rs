//! PUSH and PULL: every message arrives once and in order; a missing message was handed to a connection that has ended.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use zring::{Message, Options, PeerStats, SocketType};
use zring_engine::sim::Task;

use super::{
    Scene,
    content::Tag,
    sock::{Caller, Sock, at_once},
    stage::{MS, S, Stage},
};

const TOTAL_BYTES: u64 = 96 << 10;
/// Once faults have stopped, bytes in the kernel arrive within this time.
const ON_ITS_WAY_NS: u64 = S;
/// Extra time per byte, for a window of 64 bytes.
const BYTE_NS: u64 = 50_000;

/// A socket that may be replaced by a new one.
type Slot = Rc<RefCell<Rc<Sock>>>;

struct State {
    stage: Stage,
    /// Every message has to arrive.
    is_exact: bool,
    bytes_max: usize,
    /// The endpoints that pullers bind or connect to: one per puller if pullers bind, else one per pusher.
    endpoints: Vec<String>,
    pullers_bind: bool,
    accepted: RefCell<BTreeSet<Tag>>,
    accepted_empty: Cell<u64>,
    received: RefCell<BTreeSet<Tag>>,
    received_empty: Cell<u64>,
    moved_ns: Cell<u64>,
    /// The last number of each sender that each puller has received.
    last: RefCell<BTreeMap<(usize, u16), u32>>,
    /// Messages handed to connections of sockets that are gone; `None` if unknown.
    handed_to_the_dead: Cell<Option<u64>>,
    sending: Cell<usize>,
    is_stopping: Cell<bool>,
}

pub(crate) struct Pipeline {
    state: Rc<State>,
    pushers: Vec<Slot>,
    pullers: Vec<Slot>,
    /// Pullers from which the body receives as well.
    for_body: Vec<Slot>,
    tasks: Vec<Task<()>>,
}

impl State {
    fn options(&self) -> Options {
        self.stage.options()
    }

    fn note(&self, puller: usize, message: Message) {
        self.moved_ns.set(self.stage.world().now_ns());
        if message.is_empty() && message.frame_count() == 1 {
            self.received_empty.set(self.received_empty.get() + 1);
            assert!(
                self.received_empty.get() <= self.accepted_empty.get(),
                "an empty one too many"
            );
            return;
        }
        let tag = self.stage.shapes().check(&message);
        assert!(self.received.borrow_mut().insert(tag), "{tag:?} arrived twice");
        let last = self.last.borrow_mut().insert((puller, tag.sender), tag.number);
        let is_in_order = last.is_none_or(|last| last < tag.number);
        assert!(is_in_order || !self.is_exact, "{tag:?} arrived behind number {last:?}");
        self.stage.keep(message);
    }

    /// Waits, then binds or connects.
    async fn set_up(&self, sock: &Sock, at: usize, binds: bool) {
        if binds {
            return sock.bind(&self.stage, Caller::Task, &self.endpoints[at]).await;
        }
        for endpoint in &self.endpoints {
            sock.connect(endpoint);
            if self.stage.below(4) == 0 {
                self.stage.pause().await;
            }
        }
    }

    /// A context that ends drops messages that it could not send in time.
    fn may_restart(&self, pusher: &Sock) -> bool {
        !(pusher.is_inline() || self.is_exact && pusher.is_alone())
    }

    fn counts(&self) -> (u64, u64) {
        let accepted = self.accepted.borrow().len() as u64 + self.accepted_empty.get();
        (accepted, self.received.borrow().len() as u64 + self.received_empty.get())
    }
}

fn slot(sock: Sock) -> Slot {
    Rc::new(RefCell::new(Rc::new(sock)))
}

fn current(slot: &Slot) -> Rc<Sock> {
    slot.borrow().clone()
}

impl Pipeline {
    pub(crate) fn start(stage: &Stage) -> Self {
        let (push_count, pull_count) = (1 + stage.below(3), 1 + stage.below(3));
        let pullers_bind = stage.below(2) == 0;
        let endpoints = if pullers_bind { pull_count } else { push_count };
        let bytes_max = match stage.below(12) {
            0 | 1 => 100 << 10,
            2..5 => 10_000,
            _ => 1 << stage.below(10),
        };
        let state = Rc::new(State {
            stage: stage.clone(),
            is_exact: stage.is_lossless(),
            bytes_max,
            endpoints: (0..endpoints).map(|_| stage.endpoint()).collect(),
            pullers_bind,
            accepted: RefCell::default(),
            accepted_empty: Cell::new(0),
            received: RefCell::default(),
            received_empty: Cell::new(0),
            moved_ns: Cell::new(0),
            last: RefCell::default(),
            handed_to_the_dead: Cell::new(Some(0)),
            sending: Cell::new(push_count as usize),
            is_stopping: Cell::new(false),
        });
        let mut scene = Self {
            state: state.clone(),
            pushers: Vec::new(),
            pullers: Vec::new(),
            for_body: Vec::new(),
            tasks: Vec::new(),
        };
        let world = stage.world();
        for at in 0..push_count as usize {
            let pusher = slot(stage.socket(SocketType::Push, state.options()));
            scene.pushers.push(pusher.clone());
            scene.tasks.push(world.spawn(push(state.clone(), pusher, at)));
        }
        for at in 0..pull_count as usize {
            let is_shared = stage.below(2) == 0;
            let socket_type = SocketType::Pull;
            let puller = slot(match is_shared {
                true => stage.shared(socket_type, state.options()),
                false => stage.socket(socket_type, state.options()),
            });
            if !is_shared {
                current(&puller).let_stream();
            }
            scene.pullers.push(puller.clone());
            let starts_ns = stage.moment_ns();
            scene.tasks.push(world.spawn(pull(state.clone(), puller.clone(), at, Some(starts_ns))));
            if is_shared {
                scene.for_body.push(puller.clone());
                scene.tasks.push(world.spawn(pull(state.clone(), puller, at, None)));
            }
        }
        scene
    }
}

async fn push(state: Rc<State>, slot: Slot, at: usize) {
    let stage = &state.stage;
    stage.pause().await;
    state.set_up(&current(&slot), at, !state.pullers_bind).await;
    let mut sender = stage.sender();
    let count = 1 + stage.below(40.min(TOTAL_BYTES / state.bytes_max as u64 + 1));
    for number in 0..count as u32 {
        let sock = current(&slot);
        if stage.below(20) == 0 {
            state.accepted_empty.set(state.accepted_empty.get() + 1);
            send(&state, &sock, Message::new()).await;
        }
        let tag = Tag { topic: b'p', sender, number };
        let message = stage.shapes().make(stage.world(), tag, state.bytes_max);
        // Before the send, because the message may arrive before this task continues.
        state.accepted.borrow_mut().insert(tag);
        send(&state, &sock, message).await;
        drop(sock);
        match stage.below(60) {
            0 if state.may_restart(&current(&slot)) => {
                restart_pusher(&state, &slot, at).await;
                sender = stage.sender();
            }
            1..15 => stage.pause().await,
            _ => {}
        }
    }
    state.sending.set(state.sending.get() - 1);
}

async fn send(state: &State, sock: &Sock, message: Message) {
    let mut left = Some(message);
    while let Some(message) = left.take() {
        left = sock.send(&state.stage, Caller::Task, message).await.expect("sent");
        let hwm = u64::from(sock.sndhwm());
        let is_within = |peer: &PeerStats| hwm == 0 || peer.messages_queued <= hwm;
        assert!(
            sock.peers().iter().all(is_within),
            "more than {hwm} messages are queued for a peer"
        );
        state.moved_ns.set(state.stage.world().now_ns());
        if left.is_some() {
            // A blocking call keeps the tasks above it in the stack from running.
            state.stage.pause().await;
        }
    }
}

/// Drops the socket, which still sends its messages, and takes another one.
async fn restart_pusher(state: &State, slot: &Slot, at: usize) {
    let stage = &state.stage;
    if !state.is_exact {
        state.handed_to_the_dead.set(None);
    }
    let fresh = stage.shared(SocketType::Push, state.options());
    drop(slot.replace(Rc::new(fresh)));
    stage.pause().await;
    state.set_up(&current(slot), at, !state.pullers_bind).await;
}

async fn pull(state: Rc<State>, slot: Slot, at: usize, sets_up: Option<u64>) {
    let stage = &state.stage;
    if let Some(starts_ns) = sets_up {
        stage.world().sleep(starts_ns).await;
        state.set_up(&current(&slot), at, state.pullers_bind).await;
    }
    let mut restarts = if sets_up.is_some() && !state.is_exact { 3 } else { 0 };
    while !state.is_stopping.get() {
        let sock = current(&slot);
        let received = sock.recv(stage, Caller::Task).await;
        match received {
            Ok(message) => message.into_iter().for_each(|message| state.note(at, message)),
            Err(error) => panic!("{error}"),
        }
        match stage.below(100) {
            0 if restarts > 0 && !sock.is_inline() => {
                restarts -= 1;
                restart_puller(&state, &slot, sock, at).await;
            }
            1..30 => stage.pause().await,
            _ => {
                // Let another task run.
                stage.world().sleep(0).await;
            }
        }
    }
}

async fn restart_puller(state: &State, slot: &Slot, old: Rc<Sock>, at: usize) {
    let stage = &state.stage;
    let fresh = stage.shared(SocketType::Pull, state.options());
    drop(slot.replace(Rc::new(fresh)));
    drop(old);
    stage.pause().await;
    state.set_up(&current(slot), at, state.pullers_bind).await;
}

impl Scene for Pipeline {
    fn name(&self) -> String {
        let peers = |slots: &[Slot]| -> Vec<Vec<PeerStats>> {
            slots.iter().map(|slot| current(slot).peers()).collect()
        };
        format!(
            "pipeline: {:?} sent and received, missing {:?}, {} senders, {:?} to {:?}",
            self.state.counts(),
            self.state
                .accepted
                .borrow()
                .difference(&self.state.received.borrow())
                .collect::<Vec<_>>(),
            self.state.sending.get(),
            peers(&self.pushers),
            peers(&self.pullers)
        )
    }

    fn is_done(&self) -> bool {
        let state = &self.state;
        if state.sending.get() > 0 {
            return false;
        }
        let (accepted, received) = state.counts();
        if state.is_exact {
            return accepted == received;
        }
        let quiet_ns = state.stage.world().now_ns() - state.moved_ns.get();
        let has_sent = |slot: &Slot| {
            let sock = current(slot);
            sock.queued() == 0 && sock.stats().peers == self.pullers.len() as u64
        };
        // Narrow windows are slow.
        let on_its_way_ns = ON_ITS_WAY_NS + state.bytes_max as u64 * BYTE_NS;
        (accepted == received || quiet_ns > on_its_way_ns) && self.pushers.iter().all(has_sent)
    }

    fn body(&self) {
        let state = &self.state;
        let stage = &state.stage;
        let Some(slot) = self.for_body.get(stage.below(4) as usize) else {
            return stage.world().run_for(stage.below(MS));
        };
        let at =
            self.pullers.iter().position(|other| Rc::ptr_eq(other, slot)).expect("one of them");
        let sock = current(slot);
        let received = at_once(sock.recv(stage, Caller::Body)).expect("received");
        received.into_iter().for_each(|message| state.note(at, message));
    }

    fn check(&self) {
        let state = &self.state;
        let (accepted, received) = state.counts();
        assert!(received <= accepted);
        if state.is_exact {
            assert_eq!(*state.received.borrow(), *state.accepted.borrow());
            assert_eq!(state.received_empty, state.accepted_empty);
        }
        let Some(of_the_gone) = state.handed_to_the_dead.get() else { return };
        let socks: Vec<Rc<Sock>> = self.pushers.iter().map(current).collect();
        let lost_at_most: u64 = socks.iter().map(|sock| sock.handed_to_the_dead()).sum();
        let lost = accepted - received;
        assert!(
            lost <= lost_at_most + of_the_gone,
            "{lost} lost, {lost_at_most} handed to the dead: {}",
            self.name()
        );
        if !state.is_exact {
            let sum = |count: fn(&zring::SocketStats) -> u64| -> u64 {
                socks.iter().map(|sock| count(&sock.stats())).sum()
            };
            let (out, dropped) =
                (sum(|stats| stats.messages_out), sum(|stats| stats.messages_dropped));
            assert_eq!(out + dropped, accepted, "sends that returned Ok = out + dropped");
        }
    }

    fn stop(&mut self) {
        self.state.is_stopping.set(true);
    }

    fn end(self: Box<Self>) {
        let stage = self.state.stage.clone();
        stage.world().run_until(|| self.tasks.iter().all(Task::is_done));
        let Self { pushers, pullers, for_body, .. } = *self;
        drop(for_body);
        let mut socks: Vec<Rc<Sock>> = pushers.iter().map(current).collect();
        drop(pushers);
        // A message whose receive was dropped may still be arriving.
        let are_kept = pullers.iter().any(|slot| current(slot).has_let_go());
        if are_kept || stage.below(2) == 0 {
            socks.extend(pullers.iter().map(current));
        }
        drop(pullers);
        for sock in socks {
            let sock = Rc::into_inner(sock).expect("nobody else has it");
            // All its messages have been sent.
            assert_eq!(sock.close().unsent_messages, 0);
        }
    }
}
