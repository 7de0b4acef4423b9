//! The `inproc://` names under which sockets of one process meet.

pub(crate) mod link;

use self::link::Queues;
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, OnceLock},
};

use zring_engine::queue::{mailbox::Postbox, notice::Notice};

use crate::{lock::lock, options::Options, socket_type::SocketType};

/// A name space of `inproc://` endpoints.
///
/// Every [`Config`](crate::Config) has one of its own. Contexts share a name space if their configurations are clones
/// of each other or were given the same one: their sockets then reach each other by `inproc://` names, whichever thread
/// or shard they live on, and whether they bind or connect first.
#[derive(Clone, Default)]
pub struct Inproc {
    names: Arc<Mutex<Names>>,
}

#[derive(Default)]
struct Names {
    bound: BTreeMap<Arc<str>, Arc<Bound>>,
    /// Connecting sockets to notify when the name is bound.
    waiting: BTreeMap<Arc<str>, Vec<(Postbox<u64>, u64)>>,
}

/// The facts that the two ends of a link tell each other first.
#[derive(Clone)]
pub(crate) struct Introduction {
    pub(crate) socket_type: SocketType,
    pub(crate) routing_id: Arc<[u8]>,
    sndhwm: u32,
    rcvhwm: u32,
}

impl Introduction {
    pub(crate) fn new(socket_type: SocketType, options: &Options) -> Self {
        let &Options { sndhwm, rcvhwm, .. } = options;
        Self { socket_type, routing_id: options.routing_id().into(), sndhwm, rcvhwm }
    }

    /// How many messages may be on their way to `peer`: as many as both ends would queue, as in libzmq.
    pub(crate) fn room_towards(&self, peer: &Self) -> u64 {
        match (self.sndhwm, peer.rcvhwm) {
            (0, _) | (_, 0) => u64::MAX,
            (send, receive) => u64::from(send) + u64::from(receive),
        }
    }
}

/// A socket bound to a name.
pub(crate) struct Bound {
    pub(crate) introduction: Introduction,
    /// `None`: the name is not bound any more, and offers are refused.
    arrivals: Mutex<Option<Vec<Arrival>>>,
    postbox: Postbox<u64>,
    token: u64,
}

/// The bound socket's bell, set once that socket has accepted.
pub(crate) type Acceptance = Arc<OnceLock<Arc<Notice>>>;

/// A connecting socket's offer: one end of a link.
pub(crate) struct Arrival {
    pub(crate) introduction: Introduction,
    pub(crate) queues: Queues,
    /// The connecting end's bell.
    pub(crate) notice: Arc<Notice>,
    pub(crate) acceptance: Acceptance,
}

impl Bound {
    pub(crate) fn offer(&self, arrival: Arrival) {
        let refused = match &mut *lock(&self.arrivals) {
            Some(arrivals) => {
                arrivals.push(arrival);
                None
            }
            None => Some(arrival),
        };
        match refused {
            None => self.postbox.post(self.token),
            Some(arrival) => arrival.refuse(),
        }
    }

    pub(crate) fn take_arrivals(&self) -> Vec<Arrival> {
        lock(&self.arrivals).as_mut().map_or(Vec::new(), std::mem::take)
    }

    /// The name is not bound any more: offers that were not accepted are refused, and so are later ones. A connecting
    /// socket may have found the name before it was unbound, and offer only now.
    fn close(&self) {
        let refused = lock(&self.arrivals).take();
        refused.into_iter().flatten().for_each(Arrival::refuse);
    }
}

impl Arrival {
    /// The connecting socket learns that its offer is refused, and tries again.
    fn refuse(self) {
        drop(self.queues);
        self.notice.ring();
    }
}

impl Inproc {
    /// An empty name space.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Binds a name; `None` if another socket has it. `token` is posted for each arrival.
    pub(crate) fn bind(
        &self,
        name: &Arc<str>,
        introduction: Introduction,
        postbox: Postbox<u64>,
        token: u64,
    ) -> Option<Arc<Bound>> {
        let mut names = lock(&self.names);
        if names.bound.contains_key(name) {
            return None;
        }
        let bound = Bound { introduction, arrivals: Mutex::new(Some(Vec::new())), postbox, token };
        let bound = Arc::new(bound);
        names.bound.insert(name.clone(), bound.clone());
        let waiting = names.waiting.remove(name).unwrap_or_default();
        drop(names);
        waiting.iter().for_each(|(postbox, token)| postbox.post(*token));
        Some(bound)
    }

    pub(crate) fn unbind(&self, name: &str) {
        let removed = lock(&self.names).bound.remove(name);
        if let Some(bound) = removed {
            bound.close();
        }
    }

    /// The socket that is bound to the name. If there is none, `token` is posted when one binds it.
    pub(crate) fn find(
        &self,
        name: &Arc<str>,
        postbox: &Postbox<u64>,
        token: u64,
    ) -> Option<Arc<Bound>> {
        let mut names = lock(&self.names);
        let found = names.bound.get(name).cloned();
        if found.is_none() {
            names.waiting.entry(name.clone()).or_default().push((postbox.clone(), token));
        }
        found
    }

    /// Removes a connecting socket that no longer waits for the name.
    pub(crate) fn forget(&self, name: &str, token: u64, is_ours: impl Fn(&Postbox<u64>) -> bool) {
        let mut names = lock(&self.names);
        if let Some(waiting) = names.waiting.get_mut(name) {
            waiting.retain(|(postbox, other)| *other != token || !is_ours(postbox));
            if waiting.is_empty() {
                names.waiting.remove(name);
            }
        }
    }
}

/// Two name spaces are equal if they are the same one.
impl PartialEq for Inproc {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.names, &other.names)
    }
}

impl Eq for Inproc {}

impl fmt::Debug for Inproc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inproc").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use zring_engine::{Config, DriverChoice, Shard, queue::mailbox::mailbox};

    use super::*;

    /// A socket finds a name, the name is unbound, and only then the socket offers its link.
    #[test]
    fn an_offer_that_comes_too_late_is_refused() {
        let config = Config { driver: DriverChoice::Ready, ..Config::default() };
        let shard = Shard::open(config).expect("a shard");
        let (inproc, name) = (Inproc::new(), Arc::from("name"));
        let introduction = || Introduction::new(SocketType::Pair, &Options::default());
        let (there, _there_box) = mailbox(shard.waker());
        let bound = inproc.bind(&name, introduction(), there, 1).expect("free");
        let (here, mut here_box) = mailbox(shard.waker());
        let found = inproc.find(&name, &here, 2).expect("bound");
        inproc.unbind(&name);
        let (mine, queues) = Queues::pair();
        let notice = Arc::new(Notice::new(here, 3));
        let acceptance: Acceptance = Arc::new(OnceLock::new());
        found.offer(Arrival { introduction: introduction(), queues, notice, acceptance });
        let mut letters = Vec::new();
        here_box.drain(&mut letters);
        assert_eq!(letters, [3], "the socket is told");
        assert!(bound.take_arrivals().is_empty(), "nobody is left to accept");
        drop(mine);
    }
}
