//! REQ: a request, then its reply (RFC 28).

use super::{
    Ahead, Arrived, Begun, Dropped, Facts, Fate, Head, Misuse, Pattern, Peers, Plan, Receiving,
    Reserve, Sending, Sends, Spread, Subscription, Takes, Verdict,
};
use crate::{frame::Frame, options::Options, route::PipeId, socket_type::SocketType};

/// Where the socket stands, and the number of the last request.
#[derive(Debug)]
pub(crate) struct Req {
    state: State,
    id: u32,
}

/// `Idle ─route▶ Waiting ─arrive▶ Replied ─take▶ Idle`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    /// A request is out. `asked` is the peer that has it; `None`: the request waits for a peer, or its peer is gone.
    Waiting {
        asked: Option<PipeId>,
    },
    /// The reply waits for the user.
    Replied,
}

impl Pattern for Req {
    const FACTS: Facts = Facts {
        socket_type: SocketType::Req,
        sends: Sends::Decides,
        takes: Takes::Decides,
        spread: Spread::One,
        rotates: true,
        has_state: true,
        peers_max: usize::MAX,
    };

    fn new() -> Self {
        Self { state: State::Idle, id: 0 }
    }
}

/// Frames in front of a request's or a reply's body.
fn hidden(options: &Options) -> usize {
    1 + usize::from(options.req_correlate)
}

impl Sending for Req {
    fn can_send(&self, options: &Options) -> Result<(), Misuse> {
        if self.state == State::Idle || options.req_relaxed {
            return Ok(());
        }
        Err(Misuse::OutOfTurn("receive the reply before the next request"))
    }

    fn begin(&self, options: &Options) -> Result<Reserve, Misuse> {
        self.can_send(options).map(|()| Reserve::Turn)
    }

    /// "SHALL prefix the outgoing message with an empty delimiter frame". With `req_correlate` the number of the
    /// request stands in front of that.
    fn route(&mut self, options: &Options) -> Plan {
        let supersedes = self.state != State::Idle;
        self.id = self.id.wrapping_add(1);
        self.state = State::Waiting { asked: None };
        let first = options.req_correlate.then(|| Frame::from(&self.id.to_be_bytes()));
        Plan::InTurn { head: Head { first, frames: Vec::new(), is_delimited: true }, supersedes }
    }

    fn given(&mut self, peer: PipeId) {
        if let State::Waiting { asked } = &mut self.state {
            *asked = Some(peer);
        }
    }

    fn matches(&mut self, _: &[u8], _: &mut Vec<PipeId>) {}

    /// No reply will come: another request may follow.
    fn spoiled(&mut self, peer: Option<PipeId>) {
        match self.state {
            State::Waiting { asked } if peer.is_none() || asked == peer => self.state = State::Idle,
            _ => {}
        }
    }

    /// The request goes to another peer, unless a newer one took its place.
    fn lost(&mut self, peer: PipeId) -> Fate {
        if self.state != (State::Waiting { asked: Some(peer) }) {
            return Fate::Drop;
        }
        self.state = State::Waiting { asked: None };
        Fate::Requeue
    }
}

impl Receiving for Req {
    fn can_receive(&self) -> Result<(), Misuse> {
        match self.state {
            State::Idle => Err(Misuse::OutOfTurn("send a request before receiving a reply")),
            State::Waiting { .. } | State::Replied => Ok(()),
        }
    }

    fn filter(&self, _: &[u8]) -> bool {
        true
    }

    fn ahead(&self, from: PipeId, begun: Begun<'_>, options: &Options) -> Ahead {
        let hidden = hidden(options);
        match begun.frames.get(hidden - 1) {
            Some(delimiter)
                if delimiter.is_empty() && self.state == (State::Waiting { asked: Some(from) }) =>
            {
                Ahead::Known(hidden)
            }
            _ => Ahead::Unknown,
        }
    }

    /// "SHALL discard" what comes from a peer that was not asked, and what has no delimiter.
    fn arrive(&mut self, from: PipeId, message: Arrived<'_>, options: &Options) -> Verdict {
        let Arrived::Frames(frames) = message else { return Verdict::Drop(Dropped::Malformed) };
        let hidden = hidden(options);
        if frames.len() <= hidden || !frames[hidden - 1].is_empty() {
            return Verdict::Drop(Dropped::Malformed);
        }
        let is_ours = !options.req_correlate || frames[0].bytes() == self.id.to_be_bytes();
        if !is_ours || self.state != (State::Waiting { asked: Some(from) }) {
            return Verdict::Drop(Dropped::Unwanted);
        }
        self.state = State::Replied;
        Verdict::Deliver { hidden, kept: 0 }
    }

    fn take(&mut self, _: Option<PipeId>, _: Vec<Frame>) {
        self.state = State::Idle;
    }
}

impl Peers for Req {
    fn attach(&mut self, _: PipeId, _: &mut dyn FnMut(Subscription<'_>)) {}

    fn detach(&mut self, _: PipeId) {}

    /// The next peer in this slot was not asked.
    fn forget(&mut self, peer: PipeId) {
        if self.state == (State::Waiting { asked: Some(peer) }) {
            self.state = State::Waiting { asked: None };
        }
    }
}

never_subscribes!(Req);
