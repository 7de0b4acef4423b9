//! PUB and SUB: a subscriber gets all matching messages, except those that the counters report as dropped.

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
    sock::{Caller, Sock, at_once},
    stage::{MS, Stage},
};

/// A topic is the first byte of a message; these are the topics in use.
const TOPICS: &[u8] = b"abcd";
/// Every subscriber is subscribed to this topic all the time.
const LAST: u8 = b'z';

struct Subscriber {
    sock: Sock,
    /// The current subscriptions.
    topics: RefCell<BTreeSet<u8>>,
    /// When each topic was last unsubscribed.
    since_ns: RefCell<BTreeMap<u8, u64>>,
    received: RefCell<BTreeMap<u16, BTreeSet<u32>>>,
    /// The publishers whose last message has arrived.
    lasts: RefCell<BTreeSet<u16>>,
    count: Cell<u64>,
}

struct Publisher {
    sock: Sock,
    sender: u16,
    /// For each message the time of its publication and the number of matching subscribers.
    published: RefCell<Vec<(u64, u64)>>,
}

struct State {
    stage: Stage,
    /// Subscriptions do not change, and all are known before the first message is published.
    is_static: bool,
    bytes_max: usize,
    endpoints: Vec<String>,
    publishers_bind: bool,
    publishers: Vec<Publisher>,
    subscribers: Vec<Subscriber>,
    publishing: Cell<usize>,
    is_stopping: Cell<bool>,
}

pub(crate) struct Publish {
    state: Rc<State>,
    tasks: Vec<Task<()>>,
}

impl Publish {
    pub(crate) fn start(stage: &Stage) -> Self {
        let (pub_count, sub_count) = (1 + stage.below(2) as usize, 1 + stage.below(3) as usize);
        let publishers_bind = stage.below(3) > 0;
        let endpoints = if publishers_bind { pub_count } else { sub_count };
        let publisher = |_| Publisher {
            sock: stage.socket(SocketType::Pub, stage.options()),
            sender: stage.sender(),
            published: RefCell::default(),
        };
        let subscriber = |_| Subscriber {
            sock: stage.socket(SocketType::Sub, stage.options()),
            topics: RefCell::default(),
            since_ns: RefCell::default(),
            received: RefCell::default(),
            lasts: RefCell::default(),
            count: Cell::new(0),
        };
        let state = Rc::new(State {
            stage: stage.clone(),
            is_static: stage.is_lossless() && stage.below(2) == 0,
            bytes_max: if stage.below(8) == 0 { 30_000 } else { 8 << stage.below(9) },
            endpoints: (0..endpoints).map(|_| stage.endpoint()).collect(),
            publishers_bind,
            publishers: (0..pub_count).map(publisher).collect(),
            subscribers: (0..sub_count).map(subscriber).collect(),
            publishing: Cell::new(pub_count),
            is_stopping: Cell::new(false),
        });
        let world = stage.world();
        let mut tasks = Vec::new();
        for at in 0..pub_count {
            tasks.push(world.spawn(publish(state.clone(), at)));
        }
        for at in 0..sub_count {
            tasks.push(world.spawn(subscribe(state.clone(), at)));
        }
        Self { state, tasks }
    }
}

impl State {
    async fn set_up(&self, sock: &Sock, at: usize, binds: bool) {
        self.stage.pause().await;
        if binds {
            return sock.bind(&self.stage, Caller::Task, &self.endpoints[at]).await;
        }
        self.endpoints.iter().for_each(|endpoint| sock.connect(endpoint));
    }

    /// How many subscribers have subscribed to a topic, by their own account.
    fn matching(&self, topic: u8) -> u64 {
        let has = |it: &&Subscriber| it.topics.borrow().contains(&topic);
        self.subscribers.iter().filter(has).count() as u64
    }

    fn publish(&self, publisher: &Publisher, topic: u8) {
        let mut published = publisher.published.borrow_mut();
        let tag = Tag { topic, sender: publisher.sender, number: published.len() as u32 };
        let message = self.stage.shapes().make(self.stage.world(), tag, self.bytes_max);
        published.push((self.stage.world().now_ns(), self.matching(topic)));
        drop(published);
        let back = publisher.sock.try_send(message).expect("published");
        assert!(back.is_none(), "PUB never waits");
    }

    fn note(&self, subscriber: &Subscriber, message: Message) {
        let tag = self.stage.shapes().check(&message);
        subscriber.count.set(subscriber.count.get() + 1);
        let mut received = subscriber.received.borrow_mut();
        let numbers = received.entry(tag.sender).or_default();
        let last = numbers.last().copied();
        assert!(numbers.insert(tag.number), "{tag:?} arrived twice");
        let is_in_order = last.is_none_or(|last| last < tag.number);
        assert!(is_in_order || !self.stage.is_lossless(), "{tag:?} arrived behind {last:?}");
        if tag.topic == LAST {
            subscriber.lasts.borrow_mut().insert(tag.sender);
        } else if !subscriber.topics.borrow().contains(&tag.topic) {
            // The message may have been under way or queued, but must not be newer.
            let of = |it: &&Publisher| it.sender == tag.sender;
            let publisher = self.publishers.iter().find(of).expect("somebody has sent it");
            let published_ns = publisher.published.borrow()[tag.number as usize].0;
            let since_ns = subscriber.since_ns.borrow().get(&tag.topic).copied();
            let since_ns = since_ns.unwrap_or_else(|| panic!("{tag:?} was never asked for"));
            assert!(published_ns <= since_ns, "{tag:?} was published after it was unsubscribed");
        }
        self.stage.keep(message);
    }

    fn lasts_are_there(&self) -> bool {
        let has = |it: &Subscriber| it.lasts.borrow().len() == self.publishers.len();
        self.subscribers.iter().all(has)
    }
}

async fn publish(state: Rc<State>, at: usize) {
    let stage = &state.stage;
    let publisher = &state.publishers[at];
    state.set_up(&publisher.sock, at, state.publishers_bind).await;
    if state.is_static {
        for &topic in TOPICS.iter().chain(&[LAST]) {
            // Once a subscriber has this topic, its setup is complete.
            while state.matching(LAST) < state.subscribers.len() as u64
                || (publisher.sock.subscribers(stage, &[topic]) as u64) < state.matching(topic)
            {
                stage.world().sleep(MS).await;
            }
        }
    }
    for _ in 0..stage.below(60) {
        let topic = TOPICS[stage.below(TOPICS.len() as u64) as usize];
        state.publish(publisher, topic);
        if stage.below(3) == 0 {
            stage.pause().await;
        }
    }
    // Every subscriber gets the last message sooner or later.
    while !state.lasts_are_there() {
        let count = publisher.sock.subscribers(stage, &[LAST]);
        if count == state.subscribers.len() {
            state.publish(publisher, LAST);
        }
        let ns = 50 * MS + stage.below(50 * MS);
        stage.world().sleep(ns).await;
    }
    state.publishing.set(state.publishing.get() - 1);
}

async fn subscribe(state: Rc<State>, at: usize) {
    let stage = &state.stage;
    let subscriber = &state.subscribers[at];
    for &topic in TOPICS {
        if stage.below(2) == 0 {
            subscriber.sock.subscribe(&[topic]);
            subscriber.topics.borrow_mut().insert(topic);
        }
    }
    subscriber.sock.subscribe(&[LAST]);
    state.set_up(&subscriber.sock, at, !state.publishers_bind).await;
    subscriber.topics.borrow_mut().insert(LAST);
    while !state.is_stopping.get() {
        let received = subscriber.sock.recv(stage, Caller::Task).await.expect("received");
        received.into_iter().for_each(|message| state.note(subscriber, message));
        match stage.below(30) {
            0 if !state.is_static => subscriber.change(stage),
            1..10 => stage.pause().await,
            _ => stage.world().sleep(0).await,
        }
    }
}

impl Subscriber {
    /// Adds or removes one topic.
    fn change(&self, stage: &Stage) {
        let topic = TOPICS[stage.below(TOPICS.len() as u64) as usize];
        if self.topics.borrow_mut().remove(&topic) {
            self.sock.unsubscribe(&[topic]);
            self.since_ns.borrow_mut().insert(topic, stage.world().now_ns());
        } else {
            self.sock.subscribe(&[topic]);
            self.topics.borrow_mut().insert(topic);
        }
    }
}

impl Scene for Publish {
    fn name(&self) -> String {
        format!(
            "publish, {} publishers, {:?} to {:?}",
            self.state.publishing.get(),
            self.state.publishers.iter().map(|it| it.sock.stats()).collect::<Vec<_>>(),
            self.state
                .subscribers
                .iter()
                .map(|it| (it.count.get(), it.sock.stats()))
                .collect::<Vec<_>>(),
        )
    }

    fn is_done(&self) -> bool {
        let state = &self.state;
        if state.publishing.get() > 0 {
            return false;
        }
        let has_sent = |it: &Publisher| it.sock.queued() == 0;
        let out: u64 = state.publishers.iter().map(|it| it.sock.stats().messages_out).sum();
        let received: u64 = state.subscribers.iter().map(|it| it.sock.stats().messages_in).sum();
        let taken = |it: &Subscriber| {
            let stats = it.sock.stats();
            it.count.get() + stats.messages_dropped == stats.messages_in
        };
        state.publishers.iter().all(has_sent)
            && (!state.stage.is_lossless() || out == received)
            && state.subscribers.iter().all(taken)
    }

    fn body(&self) {
        let state = &self.state;
        let subscriber = &state.subscribers[0];
        if subscriber.sock.is_inline() || subscriber.topics.borrow().is_empty() {
            return state.stage.world().run_for(state.stage.below(MS));
        }
        let received = at_once(subscriber.sock.recv(&state.stage, Caller::Body)).expect("received");
        received.into_iter().for_each(|message| state.note(subscriber, message));
    }

    fn check(&self) {
        let state = &self.state;
        for publisher in &state.publishers {
            let stats = publisher.sock.stats();
            let matched: u64 = publisher.published.borrow().iter().map(|(_, count)| count).sum();
            let accounted = stats.messages_out + stats.messages_dropped;
            assert!(!state.is_static || accounted == matched, "{accounted} of {matched} accounted");
            assert_eq!(stats.messages_malformed, 0);
        }
        for subscriber in &state.subscribers {
            assert_eq!(subscriber.sock.stats().messages_malformed, 0);
            assert!(!state.is_static || subscriber.sock.stats().messages_dropped == 0);
        }
    }

    fn stop(&mut self) {
        self.state.is_stopping.set(true);
    }

    fn end(self: Box<Self>) {
        let world = self.state.stage.world().clone();
        world.run_until(|| self.tasks.iter().all(Task::is_done));
        drop(self.tasks);
        let state = Rc::into_inner(self.state).expect("the tasks are gone");
        for publisher in state.publishers {
            assert_eq!(publisher.sock.close().unsent_messages, 0);
        }
    }
}
