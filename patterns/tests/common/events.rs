//! The only place that knows the types of monitor events and counters.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use zring::{Event, EventKind};

use super::{Context, PATIENCE, Socket};

/// Monitor events, without their details.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Listening,
    Accepted,
    Connected,
    HandshakeDone,
    HandshakeFailed,
    Disconnected,
    Retried,
    Other,
}

/// The connections of a socket, as its events tell of them: each is opened, may become ready, and ends once.
#[derive(Debug, Default)]
pub(crate) struct Lives {
    up: BTreeMap<u64, bool>,
    over: BTreeSet<u64>,
    pub(crate) opened: usize,
    pub(crate) ended: usize,
}

impl Lives {
    /// Takes the events that wait.
    pub(crate) fn follow(&mut self, socket: &Socket) {
        while let Some(event) = socket.next_event() {
            self.note(&event);
        }
    }

    /// # Panics
    /// If the event does not follow from those before it.
    pub(crate) fn note(&mut self, event: &Event) {
        let Some(connection) = event.connection else { return };
        assert!(!self.over.contains(&connection), "after the end: {event}");
        let end = |up: Option<bool>, was_ready: bool| {
            assert_eq!(up, Some(was_ready), "an end that does not fit: {event}");
        };
        match event.kind {
            EventKind::Accepted { .. } | EventKind::Connected => {
                assert_eq!(self.up.insert(connection, false), None, "opened twice: {event}");
                self.opened += 1;
                return;
            }
            EventKind::HandshakeDone { .. } => {
                assert_eq!(self.up.insert(connection, true), Some(false), "not opened: {event}");
                return;
            }
            EventKind::HandshakeFailed { .. } => end(self.up.remove(&connection), false),
            EventKind::Disconnected { .. } => end(self.up.remove(&connection), true),
            _ => return,
        }
        self.over.insert(connection);
        self.ended += 1;
    }
}

/// Which event this is.
pub(crate) fn seen(event: &Event) -> Seen {
    match event.kind {
        EventKind::Listening => Seen::Listening,
        EventKind::Accepted { .. } => Seen::Accepted,
        EventKind::Connected => Seen::Connected,
        EventKind::HandshakeDone { .. } => Seen::HandshakeDone,
        EventKind::HandshakeFailed { .. } => Seen::HandshakeFailed,
        EventKind::Disconnected { .. } => Seen::Disconnected,
        EventKind::Retried { .. } => Seen::Retried,
        _ => Seen::Other,
    }
}

/// Number of messages wholly handed to the kernel on the connection whose end is this `Disconnected`.
pub(crate) fn handed_over(event: &Event) -> u64 {
    match event.kind {
        EventKind::Disconnected { messages_out, .. } => messages_out,
        _ => panic!("not the end of a connection: {event:?}"),
    }
}

/// How many peers of a socket misbehaved so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Faults {
    pub(crate) in_handshake: u64,
    pub(crate) after_it: u64,
}

/// No peer misbehaved.
pub(crate) const NO_FAULTS: Faults = Faults { in_handshake: 0, after_it: 0 };

/// The faults that `socket` counted.
pub(crate) fn faults(socket: &Socket) -> Faults {
    let stats = socket.stats();
    let in_handshake = stats.handshakes_failed;
    Faults { in_handshake, after_it: stats.violations }
}

/// Turns until one peer's fault is reported, and checks that the counters have gone up from `before`.
pub(crate) fn await_fault(ctx: &Context, socket: &Socket, before: Faults) {
    let event = await_end(ctx, socket);
    let now = faults(socket);
    if seen(&event) == Seen::HandshakeFailed {
        assert_eq!(now.in_handshake, before.in_handshake + 1, "{event:?}");
    } else {
        assert_eq!(now.after_it, before.after_it + 1, "{event:?}");
    }
}

/// How many messages this socket dropped, summed over all its peers.
pub(crate) fn dropped(socket: &Socket) -> u64 {
    socket.stats().messages_dropped
}

/// Messages in and out of this socket.
pub(crate) fn messages(socket: &Socket) -> (u64, u64) {
    let stats = socket.stats();
    (stats.messages_in, stats.messages_out)
}

/// `(messages in, messages out, dropped)` of each peer.
pub(crate) fn peers(socket: &Socket) -> Vec<(u64, u64, u64)> {
    socket
        .peers()
        .iter()
        .map(|peer| (peer.messages_in, peer.messages_out, peer.messages_dropped))
        .collect()
}

/// Turns until `socket` reports `wanted`; returns that event. Earlier events are skipped.
pub(crate) fn await_event(ctx: &Context, socket: &Socket, wanted: Seen) -> Event {
    await_any(ctx, socket, &[wanted])
}

/// Turns until `socket` reports one of `wanted`.
pub(crate) fn await_any(ctx: &Context, socket: &Socket, wanted: &[Seen]) -> Event {
    let start = Instant::now();
    let mut passed = Vec::new();
    while start.elapsed() < PATIENCE {
        match socket.next_event() {
            Some(event) if wanted.contains(&seen(&event)) => return event,
            Some(event) => passed.push(seen(&event)),
            None if ctx.turn().expect("a turn") == 0 => thread::sleep(Duration::from_micros(200)),
            None => {}
        }
    }
    panic!("no event {wanted:?}, only {passed:?}");
}

/// Turns until the peer's fault is reported, in the handshake or after it.
pub(crate) fn await_end(ctx: &Context, socket: &Socket) -> Event {
    await_any(ctx, socket, &[Seen::HandshakeFailed, Seen::Disconnected])
}

/// The events that are already queued, without turning.
pub(crate) fn waiting(socket: &Socket) -> Vec<Seen> {
    std::iter::from_fn(|| socket.next_event()).map(|event| seen(&event)).collect()
}
