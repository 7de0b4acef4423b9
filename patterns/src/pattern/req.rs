//! REQ: a request, then its reply (RFC 28).

use super::{
    Ahead, Arrived, Begun, Dropped, Facts, Fate, Head, Misuse, Pattern, Peers, Plan, Receiving,
    Reserve, Sending, Sends, Spread, Subscription, Takes, Verdict,
};
use crate::{
    frame::Frame,
    options::Options,
    route::{LocalSubscriptions, PipeId},
    socket_type::SocketType,
};

/// The state of the lockstep, and the number of the last request.
#[derive(Debug)]
pub(crate) struct Req {
    state: State,
    id: u32,
    /// The last request was sent with its number in front, and its reply has the same number in front.
    is_numbered: bool,
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
        Self { state: State::Idle, id: 0, is_numbered: false }
    }
}

impl Req {
    /// How many frames are in front of the body of the last request and of its reply.
    fn hidden(&self) -> usize {
        1 + usize::from(self.is_numbered)
    }
}

impl Sending for Req {
    fn can_send(&self, options: &Options) -> Result<(), &'static Misuse> {
        if self.state == State::Idle || options.req_relaxed {
            return Ok(());
        }
        Err(&Misuse::OutOfTurn("receive the reply before the next request"))
    }

    fn begin(&self, options: &Options) -> Result<Reserve, &'static Misuse> {
        self.can_send(options).map(|()| Reserve::Turn)
    }

    /// Puts the empty delimiter frame in front of the user's frames and, with `req_correlate`, the number of the
    /// request in front of the delimiter.
    fn route(&mut self, options: &Options) -> Plan {
        let supersedes = self.state != State::Idle;
        self.id = self.id.wrapping_add(1);
        self.state = State::Waiting { asked: None };
        self.is_numbered = options.req_correlate;
        let number = self.is_numbered.then_some(self.id);
        Plan::InTurn { head: Head { number, frames: Vec::new(), is_delimited: true }, supersedes }
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

    /// The request goes to another peer, unless a newer request has replaced it.
    fn lost(&mut self, peer: PipeId) -> Fate {
        if self.state != (State::Waiting { asked: Some(peer) }) {
            return Fate::Drop;
        }
        self.state = State::Waiting { asked: None };
        Fate::Requeue
    }
}

impl Receiving for Req {
    fn can_receive(&self) -> Result<(), &'static Misuse> {
        match self.state {
            State::Idle => Err(&Misuse::OutOfTurn("send a request before receiving a reply")),
            State::Waiting { .. } | State::Replied => Ok(()),
        }
    }

    fn wanted(&self) -> Option<&LocalSubscriptions> {
        None
    }

    fn ahead(&self, from: PipeId, begun: Begun<'_>, _: &Options) -> Ahead {
        let hidden = self.hidden();
        match begun.frames.get(hidden - 1) {
            Some(delimiter)
                if delimiter.is_empty() && self.state == (State::Waiting { asked: Some(from) }) =>
            {
                Ahead::Known(hidden)
            }
            _ => Ahead::Unknown,
        }
    }

    /// Accepts a reply only from the peer that was asked last, and hides the delimiter from the user.
    fn arrive(&mut self, from: PipeId, message: Arrived<'_>, _: &Options) -> Verdict {
        let Arrived::Frames(frames) = message else { return Verdict::Drop(Dropped::Malformed) };
        let hidden = self.hidden();
        if frames.len() <= hidden || !frames[hidden - 1].is_empty() {
            return Verdict::Drop(Dropped::Malformed);
        }
        let is_ours = !self.is_numbered || frames[0].bytes() == self.id.to_be_bytes();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::testing::{A, B, arrived, begun, frames, options};

    const SEND_FIRST: Result<(), &'static Misuse> =
        Err(&Misuse::OutOfTurn("send a request before receiving a reply"));
    const RECEIVE_FIRST: Result<(), &'static Misuse> =
        Err(&Misuse::OutOfTurn("receive the reply before the next request"));

    fn head(req: &mut Req, options: &Options) -> (Head, bool) {
        match req.route(options) {
            Plan::InTurn { head, supersedes } => (head, supersedes),
            plan => panic!("{plan:?}"),
        }
    }

    /// A socket whose request has gone to this peer.
    fn asked(peer: PipeId) -> Req {
        let mut req = Req::new();
        head(&mut req, &Options::default());
        req.given(peer);
        req
    }

    /// RFC 28, "The REQ Socket Type": sends and then receives exactly one message at a time.
    #[test]
    fn works_in_lockstep() {
        let (mut req, options) = (Req::new(), Options::default());
        for _ in 0..2 {
            assert_eq!((req.can_send(&options), req.can_receive()), (Ok(()), SEND_FIRST));
            head(&mut req, &options);
            req.given(A);
            assert_eq!((req.can_send(&options), req.can_receive()), (RECEIVE_FIRST, Ok(())));
            let reply = Verdict::Deliver { hidden: 1, kept: 0 };
            assert_eq!(req.arrive(A, arrived(&frames(&["", "x"])), &options), reply);
            assert_eq!(req.can_send(&options), RECEIVE_FIRST, "until the user has the reply");
            req.take(Some(A), Vec::new());
        }
    }

    /// A message in frames is refused at its first frame.
    #[test]
    fn refuses_the_first_frame_out_of_turn() {
        let options = Options::default();
        assert_eq!(Req::new().begin(&options), Ok(Reserve::Turn));
        assert_eq!(asked(A).begin(&options).map(drop), RECEIVE_FIRST);
    }

    /// RFC 28: the outgoing message is prefixed with an empty delimiter frame.
    #[test]
    fn puts_a_delimiter_in_front() {
        let (head, supersedes) = head(&mut Req::new(), &Options::default());
        assert!(head.is_delimited && head.is_plain() && !supersedes);
    }

    /// RFC 28: only the last peer asked may reply; other messages are discarded.
    #[test]
    fn accepts_a_reply_from_the_peer_asked_alone() {
        let (mut req, options) = (asked(A), Options::default());
        let reply = frames(&["", "x"]);
        assert_eq!(req.arrive(B, arrived(&reply), &options), Verdict::Drop(Dropped::Unwanted));
        let verdict = req.arrive(A, arrived(&reply), &options);
        assert_eq!(verdict, Verdict::Deliver { hidden: 1, kept: 0 });
        assert_eq!(req.arrive(A, arrived(&reply), &options), Verdict::Drop(Dropped::Unwanted));
        let unasked = Req::new().arrive(A, arrived(&reply), &options);
        assert_eq!(unasked, Verdict::Drop(Dropped::Unwanted));
    }

    /// RFC 28: a reply has a delimiter and one or more data frames.
    #[test]
    fn drops_what_is_no_reply() {
        let options = Options::default();
        let malformed = Verdict::Drop(Dropped::Malformed);
        assert_eq!(asked(A).arrive(A, Arrived::Body(b"x"), &options), malformed);
        assert_eq!(asked(A).arrive(A, arrived(&frames(&["x", "y"])), &options), malformed);
        assert_eq!(asked(A).arrive(A, arrived(&frames(&[""])), &options), malformed);
    }

    /// RFC 28: a request that cannot be sent to one peer is not discarded.
    #[test]
    fn a_request_that_was_not_sent_goes_to_another_peer() {
        let (mut req, options) = (asked(A), Options::default());
        req.detach(A);
        assert_eq!(req.lost(A), Fate::Requeue);
        req.given(B);
        let reply = frames(&["", "x"]);
        assert_eq!(req.arrive(A, arrived(&reply), &options), Verdict::Drop(Dropped::Unwanted));
        let verdict = req.arrive(B, arrived(&reply), &options);
        assert_eq!(verdict, Verdict::Deliver { hidden: 1, kept: 0 });
    }

    #[test]
    fn the_next_peer_in_a_slot_was_not_asked() {
        let (mut req, options) = (asked(A), Options::default());
        req.detach(A);
        req.forget(A);
        let reply = frames(&["", "x"]);
        assert_eq!(req.arrive(A, arrived(&reply), &options), Verdict::Drop(Dropped::Unwanted));
        assert_eq!(req.can_receive(), Ok(()), "it still waits");
    }

    /// `ZMQ_REQ_RELAXED`.
    #[test]
    fn relaxed_it_may_ask_again() {
        let options = options(|options| options.req_relaxed = true);
        let mut req = asked(A);
        assert_eq!(req.can_send(&options), Ok(()));
        assert!(head(&mut req, &options).1, "the newer request takes the place of the older");
        assert_eq!(req.lost(A), Fate::Drop, "the older one is not sent again");
    }

    /// `ZMQ_REQ_CORRELATE`.
    #[test]
    fn correlated_it_knows_its_reply_by_a_number() {
        let options =
            options(|options| (options.req_relaxed, options.req_correlate) = (true, true));
        let mut req = Req::new();
        let (first, _) = head(&mut req, &options);
        let (second, _) = head(&mut req, &options);
        req.given(A);
        let reply = |head: Head| [head.numbered().unwrap(), Frame::new(), Frame::from("x")];
        let late = req.arrive(A, arrived(&reply(first)), &options);
        assert_eq!(late, Verdict::Drop(Dropped::Unwanted));
        let newer = reply(second);
        assert_eq!(req.ahead(A, begun(&newer[..2], ""), &options), Ahead::Known(2));
        let verdict = req.arrive(A, arrived(&newer), &options);
        assert_eq!(verdict, Verdict::Deliver { hidden: 2, kept: 0 });
    }

    /// A change of the option during a request applies to the next request.
    #[test]
    fn a_request_stays_as_it_was_sent() {
        let (mut req, plain) = (asked(A), Options::default());
        let numbered = options(|options| options.req_correlate = true);
        let reply = frames(&["", "x"]);
        let verdict = req.arrive(A, arrived(&reply), &numbered);
        assert_eq!(verdict, Verdict::Deliver { hidden: 1, kept: 0 });
        req.take(Some(A), Vec::new());
        let (head, _) = head(&mut req, &numbered);
        req.given(A);
        let reply = [head.numbered().unwrap(), Frame::new(), Frame::from("x")];
        let verdict = req.arrive(A, arrived(&reply), &plain);
        assert_eq!(verdict, Verdict::Deliver { hidden: 2, kept: 0 });
    }

    #[test]
    fn a_reply_under_way_is_known_behind_its_delimiter() {
        let (req, options) = (asked(A), Options::default());
        assert_eq!(req.ahead(A, begun(&[], "x"), &options), Ahead::Unknown);
        assert_eq!(req.ahead(A, begun(&frames(&[""]), ""), &options), Ahead::Known(1));
        assert_eq!(req.ahead(B, begun(&frames(&[""]), ""), &options), Ahead::Unknown);
        assert_eq!(req.ahead(A, begun(&frames(&["x"]), ""), &options), Ahead::Unknown);
    }

    /// If a request's file cannot be read any more, the request gets no reply.
    #[test]
    fn a_spoiled_request_may_be_followed_by_another() {
        let options = Options::default();
        for (peer, is_free) in [(Some(A), true), (None, true), (Some(B), false)] {
            let mut req = asked(A);
            req.spoiled(peer);
            assert_eq!(req.can_send(&options).is_ok(), is_free, "{peer:?}");
        }
    }
}
