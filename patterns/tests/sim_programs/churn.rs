//! PUSH and PULL whose users disconnect endpoints and connect them again at once, in every state of a connection, so
//! that slots are reused while their last operations are under way.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use zring::{Message, SocketType};
use zring_engine::sim::Task;

use super::{
    Scene,
    content::Tag,
    sock::{Caller, Sock},
    stage::{MS, S, Stage},
};

/// Most bytes that one sender sends, roughly: narrow windows are slow.
const TOTAL_BYTES: u64 = 64 << 10;
/// Once faults have stopped, bytes in the kernel arrive within this time.
const ON_ITS_WAY_NS: u64 = S;
const CONNECTED: u64 = u64::MAX;

/// A socket that may be replaced by a new one.
type Slot = Rc<RefCell<Rc<Sock>>>;

/// A sender was connected to a place until this time.
#[derive(Debug, Clone, Copy)]
struct Route {
    place: usize,
    until_ns: u64,
}

struct State {
    stage: Stage,
    bytes_max: usize,
    /// One per place; each place is bound to its own.
    endpoints: Vec<String>,
    /// By sender.
    routes: RefCell<BTreeMap<u16, Vec<Route>>>,
    /// The messages sent, with the time of each send.
    sent: RefCell<BTreeMap<Tag, u64>>,
    received: RefCell<BTreeSet<Tag>>,
    moved_ns: Cell<u64>,
    moving: Cell<usize>,
    /// Sockets were replaced, so their counters are gone.
    has_replaced: Cell<bool>,
    is_stopping: Cell<bool>,
}

pub(crate) struct Churn {
    state: Rc<State>,
    movers: Vec<Slot>,
    places: Vec<Slot>,
    tasks: Vec<Task<()>>,
}

fn slot(sock: Sock) -> Slot {
    Rc::new(RefCell::new(Rc::new(sock)))
}

fn current(slot: &Slot) -> Rc<Sock> {
    slot.borrow().clone()
}

impl State {
    /// The places a sender is connected to.
    fn connected(&self, sender: u16) -> Vec<usize> {
        let routes = self.routes.borrow();
        let open = routes[&sender].iter().filter(|route| route.until_ns == CONNECTED);
        open.map(|route| route.place).collect()
    }

    fn connect(&self, sock: &Sock, sender: u16, place: usize) {
        let route = Route { place, until_ns: CONNECTED };
        self.routes.borrow_mut().get_mut(&sender).expect("a sender").push(route);
        sock.connect(&self.endpoints[place]);
    }

    fn disconnect(&self, sock: &Sock, sender: u16, place: usize) {
        sock.disconnect(&self.endpoints[place]);
        let now_ns = self.stage.world().now_ns();
        let mut routes = self.routes.borrow_mut();
        let mut of_sender = routes.get_mut(&sender).expect("a sender").iter_mut();
        let route = of_sender.find(|it| it.place == place && it.until_ns == CONNECTED);
        route.expect("it was connected").until_ns = now_ns;
    }

    /// A sender has one peer for each of its connections, and no other.
    fn check_peers(&self, sock: &Sock, sender: u16) {
        let mut connected = self.connected(sender);
        for peer in sock.peers() {
            let at = connected.iter().position(|&place| *peer.endpoint == *self.endpoints[place]);
            let at = at.unwrap_or_else(|| panic!("{sender} has a peer too many: {peer:?}"));
            connected.swap_remove(at);
        }
    }

    fn note(&self, place: usize, message: Message) {
        self.moved_ns.set(self.stage.world().now_ns());
        let tag = self.stage.shapes().check(&message);
        assert!(self.received.borrow_mut().insert(tag), "{tag:?} arrived twice");
        let sent_ns = *self.sent.borrow().get(&tag).expect("it was sent by this scene");
        let routes = self.routes.borrow();
        let leads_here = |route: &&Route| route.place == place && route.until_ns >= sent_ns;
        let way = routes[&tag.sender].iter().find(leads_here);
        assert!(way.is_some(), "{tag:?} arrived at {place}, where its sender was not connected");
        self.stage.keep(message);
    }

    fn counts(&self) -> (u64, u64) {
        (self.sent.borrow().len() as u64, self.received.borrow().len() as u64)
    }
}

impl Churn {
    pub(crate) fn start(stage: &Stage) -> Self {
        let (mover_count, place_count) = (1 + stage.below(3), 2 + stage.below(3));
        let state = Rc::new(State {
            stage: stage.clone(),
            bytes_max: if stage.below(6) == 0 { 10_000 } else { 8 << stage.below(9) },
            endpoints: (0..place_count).map(|_| stage.endpoint()).collect(),
            routes: RefCell::default(),
            sent: RefCell::default(),
            received: RefCell::default(),
            moved_ns: Cell::new(0),
            moving: Cell::new(mover_count as usize),
            has_replaced: Cell::new(false),
            is_stopping: Cell::new(false),
        });
        let world = stage.world();
        let (mut movers, mut places, mut tasks) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..mover_count {
            let mover = slot(stage.socket(SocketType::Push, stage.options()));
            movers.push(mover.clone());
            tasks.push(world.spawn(roam(state.clone(), mover)));
        }
        for at in 0..place_count as usize {
            let place = slot(stage.socket(SocketType::Pull, stage.options()));
            places.push(place.clone());
            tasks.push(world.spawn(stay(state.clone(), place, at)));
        }
        Self { state, movers, places, tasks }
    }
}

/// Connects, disconnects and sends in random order, and is connected everywhere in the end.
async fn roam(state: Rc<State>, slot: Slot) {
    let stage = &state.stage;
    let new_sender = || {
        let sender = stage.sender();
        state.routes.borrow_mut().insert(sender, Vec::new());
        sender
    };
    let (mut sender, mut number) = (new_sender(), 0);
    // Pauses as long as a connect takes, or much shorter.
    let hurry = 1 + stage.below(6);
    let mut sends_left = 1 + TOTAL_BYTES / state.bytes_max as u64;
    for _ in 0..10 + stage.below(50) {
        let sock = current(&slot);
        let connected = state.connected(sender);
        let place = stage.below(state.endpoints.len() as u64) as usize;
        let is_connected = connected.contains(&place);
        match stage.below(8) {
            0..3 if is_connected => {
                state.disconnect(&sock, sender, place);
                if stage.below(2) == 0 {
                    // Reconnect in its place at once.
                    let next = stage.below(state.endpoints.len() as u64) as usize;
                    if next == place || !connected.contains(&next) {
                        state.connect(&sock, sender, next);
                    }
                }
            }
            0..4 if !is_connected => state.connect(&sock, sender, place),
            4 if !connected.is_empty() && stage.below(6) == 0 && state.may_replace(&sock) => {
                // The old socket still sends to its connections.
                state.has_replaced.set(true);
                let fresh = stage.shared(SocketType::Push, stage.options());
                drop((slot.replace(Rc::new(fresh)), sock));
                (sender, number) = (new_sender(), 0);
                continue;
            }
            _ if !connected.is_empty() && sends_left > 0 => {
                sends_left -= 1;
                let tag = Tag { topic: b'c', sender, number };
                number += 1;
                send(&state, &sock, tag).await;
            }
            _ => {}
        }
        state.check_peers(&sock, sender);
        if stage.below(hurry) == 0 {
            stage.pause().await;
        }
    }
    let (sock, connected) = (current(&slot), state.connected(sender));
    let rest = (0..state.endpoints.len()).filter(|place| !connected.contains(place));
    rest.for_each(|place| state.connect(&sock, sender, place));
    state.moving.set(state.moving.get() - 1);
}

async fn send(state: &State, sock: &Sock, tag: Tag) {
    let stage = &state.stage;
    let mut left = Some(stage.shapes().make(stage.world(), tag, state.bytes_max));
    state.sent.borrow_mut().insert(tag, stage.world().now_ns());
    while let Some(message) = left.take() {
        left = sock.send(stage, Caller::Task, message).await.expect("sent");
        state.moved_ns.set(stage.world().now_ns());
        if left.is_some() {
            stage.pause().await;
        }
    }
}

impl State {
    /// A context that ends drops messages that it could not send in time.
    fn may_replace(&self, mover: &Sock) -> bool {
        !(mover.is_inline() || self.stage.is_lossless() && mover.is_alone())
    }
}

/// Receives, and stops listening now and then.
async fn stay(state: Rc<State>, slot: Slot, at: usize) {
    let stage = &state.stage;
    let endpoint = &state.endpoints[at];
    stage.pause().await;
    current(&slot).bind(stage, Caller::Task, endpoint).await;
    let (mut unbinds, mut replaces) = (3, if stage.is_lossless() { 0 } else { 3 });
    while !state.is_stopping.get() {
        let sock = current(&slot);
        let received = sock.recv(stage, Caller::Task).await.expect("received");
        received.into_iter().for_each(|message| state.note(at, message));
        match stage.below(60) {
            0 if unbinds > 0 => {
                unbinds -= 1;
                sock.unbind(endpoint);
                stage.pause().await;
                sock.bind(stage, Caller::Task, endpoint).await;
            }
            1 if replaces > 0 && !sock.is_inline() => {
                replaces -= 1;
                let fresh = stage.shared(SocketType::Pull, stage.options());
                drop((slot.replace(Rc::new(fresh)), sock));
                stage.pause().await;
                current(&slot).bind(stage, Caller::Task, endpoint).await;
            }
            2..15 => stage.pause().await,
            _ => stage.world().sleep(0).await,
        }
    }
}

impl Scene for Churn {
    fn name(&self) -> String {
        let state = &self.state;
        let peers: Vec<_> = self.movers.iter().map(|slot| current(slot).peers()).collect();
        let missing: Vec<Tag> = {
            let received = state.received.borrow();
            state.sent.borrow().keys().filter(|tag| !received.contains(tag)).copied().collect()
        };
        let (counts, moving) = (state.counts(), state.moving.get());
        format!(
            "churn: {counts:?} sent and received, missing {missing:?}, {moving} move, {peers:?}"
        )
    }

    fn is_done(&self) -> bool {
        let state = &self.state;
        if state.moving.get() > 0 {
            return false;
        }
        let (sent, received) = state.counts();
        if state.stage.is_lossless() {
            return sent == received;
        }
        let quiet_ns = state.stage.world().now_ns() - state.moved_ns.get();
        let has_sent = |slot: &Slot| {
            let sock = current(slot);
            sock.queued() == 0 && sock.stats().peers == self.places.len() as u64
        };
        (sent == received || quiet_ns > ON_ITS_WAY_NS) && self.movers.iter().all(has_sent)
    }

    fn body(&self) {
        let stage = &self.state.stage;
        stage.world().run_for(stage.below(2 * MS));
    }

    fn check(&self) {
        let state = &self.state;
        let (sent, received) = state.counts();
        assert!(received <= sent);
        if state.stage.is_lossless() || state.has_replaced.get() {
            return;
        }
        let socks: Vec<Rc<Sock>> = self.movers.iter().map(current).collect();
        let lost_at_most: u64 = socks.iter().map(|sock| sock.handed_to_the_dead()).sum();
        assert!(sent - received <= lost_at_most, "{lost_at_most} to the dead: {}", self.name());
        let stats = socks.iter().map(|sock| sock.stats());
        let accounted: u64 = stats.map(|it| it.messages_out + it.messages_dropped).sum();
        assert_eq!(accounted, sent, "sends that returned Ok = out + dropped");
    }

    fn stop(&mut self) {
        self.state.is_stopping.set(true);
    }

    fn end(self: Box<Self>) {
        let stage = self.state.stage.clone();
        stage.world().run_until(|| self.tasks.iter().all(Task::is_done));
        let Self { movers, places, .. } = *self;
        let mut socks: Vec<Rc<Sock>> = movers.iter().map(current).collect();
        drop(movers);
        if stage.below(2) == 0 {
            socks.extend(places.iter().map(current));
        }
        drop(places);
        for sock in socks {
            let sock = Rc::into_inner(sock).expect("nobody else has it");
            // All its messages have been sent.
            assert_eq!(sock.close().unsent_messages, 0);
        }
    }
}
