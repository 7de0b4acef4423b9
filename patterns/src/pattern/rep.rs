//! REP: a request, then the reply to the peer that sent it (RFC 28).

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

/// `Idle ─take▶ Serving ─route▶ Idle`.
#[derive(Debug, Default)]
pub(crate) enum Rep {
    #[default]
    Idle,
    /// The reply goes back along the envelope to this peer; `None`: the peer is gone.
    Serving { peer: Option<PipeId>, envelope: Vec<Frame> },
}

impl Pattern for Rep {
    const FACTS: Facts = Facts {
        socket_type: SocketType::Rep,
        sends: Sends::Decides,
        takes: Takes::Decides,
        spread: Spread::Answering,
        rotates: false,
        has_state: true,
        peers_max: usize::MAX,
    };

    fn new() -> Self {
        Self::Idle
    }
}

impl Sending for Rep {
    fn can_send(&self, _: &Options) -> Result<(), &'static Misuse> {
        match self {
            Self::Idle => Err(&Misuse::OutOfTurn("receive a request before sending a reply")),
            Self::Serving { .. } => Ok(()),
        }
    }

    fn begin(&self, options: &Options) -> Result<Reserve, &'static Misuse> {
        self.can_send(options).map(|()| Reserve::Nothing)
    }

    /// The address envelope and the delimiter stand in front of the reply. A reply to a peer that is gone is dropped.
    fn route(&mut self, _: &Options) -> Plan {
        match std::mem::take(self) {
            Self::Serving { peer: Some(peer), envelope } => {
                Plan::To { peer, head: Head { number: None, frames: envelope, is_delimited: true } }
            }
            Self::Serving { peer: None, .. } | Self::Idle => Plan::Lost,
        }
    }

    fn given(&mut self, _: PipeId) {}

    fn matches(&mut self, _: &[u8], _: &mut Vec<PipeId>) {}

    fn spoiled(&mut self, _: Option<PipeId>) {}

    fn lost(&mut self, _: PipeId) -> Fate {
        Fate::Drop
    }
}

impl Receiving for Rep {
    fn can_receive(&self) -> Result<(), &'static Misuse> {
        match self {
            Self::Idle => Ok(()),
            Self::Serving { .. } => {
                Err(&Misuse::OutOfTurn("send the reply before the next request"))
            }
        }
    }

    fn wanted(&self) -> Option<&LocalSubscriptions> {
        None
    }

    fn ahead(&self, _: PipeId, begun: Begun<'_>, _: &Options) -> Ahead {
        match begun.frames.iter().position(Frame::is_empty) {
            Some(delimiter) => Ahead::Known(delimiter + 1),
            None => Ahead::Unknown,
        }
    }

    /// The frames in front of the first empty one are the envelope, which is the way back.
    fn arrive(&mut self, _: PipeId, message: Arrived<'_>, _: &Options) -> Verdict {
        let Arrived::Frames(frames) = message else { return Verdict::Drop(Dropped::Malformed) };
        match frames.iter().position(Frame::is_empty) {
            Some(delimiter) if delimiter + 1 < frames.len() => {
                Verdict::Deliver { hidden: delimiter + 1, kept: delimiter }
            }
            _ => Verdict::Drop(Dropped::Malformed),
        }
    }

    fn take(&mut self, from: Option<PipeId>, kept: Vec<Frame>) {
        *self = Self::Serving { peer: from, envelope: kept };
    }
}

impl Peers for Rep {
    fn attach(&mut self, _: PipeId, _: &mut dyn FnMut(Subscription<'_>)) {}

    fn detach(&mut self, gone: PipeId) {
        if let Self::Serving { peer, .. } = self
            && *peer == Some(gone)
        {
            *peer = None;
        }
    }

    fn forget(&mut self, _: PipeId) {}
}

never_subscribes!(Rep);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::testing::{A, B, arrived, begun, frames};

    const RECEIVE_FIRST: Result<(), &'static Misuse> =
        Err(&Misuse::OutOfTurn("receive a request before sending a reply"));
    const SEND_FIRST: Result<(), &'static Misuse> =
        Err(&Misuse::OutOfTurn("send the reply before the next request"));

    /// RFC 28, "The REP Socket Type": receives and then sends exactly one message at a time.
    #[test]
    fn works_in_lockstep() {
        let (mut rep, options) = (Rep::new(), Options::default());
        for _ in 0..2 {
            assert_eq!((rep.can_receive(), rep.can_send(&options)), (Ok(()), RECEIVE_FIRST));
            rep.take(Some(A), Vec::new());
            assert_eq!((rep.can_receive(), rep.can_send(&options)), (SEND_FIRST, Ok(())));
            rep.route(&options);
        }
    }

    /// A message in frames is refused at its first frame. A reply never has to wait.
    #[test]
    fn refuses_the_first_frame_out_of_turn() {
        let (mut rep, options) = (Rep::new(), Options::default());
        assert_eq!(rep.begin(&options).map(drop), RECEIVE_FIRST);
        rep.take(Some(A), Vec::new());
        assert_eq!(rep.begin(&options), Ok(Reserve::Nothing));
        const { assert!(!Rep::FACTS.rotates) };
    }

    /// RFC 28: the envelope and the delimiter are removed and kept, and stand in front of the reply.
    #[test]
    fn sends_the_reply_back_along_the_envelope() {
        let (mut rep, options) = (Rep::new(), Options::default());
        let request = frames(&["far", "near", "", "x"]);
        let verdict = rep.arrive(A, arrived(&request), &options);
        assert_eq!(verdict, Verdict::Deliver { hidden: 3, kept: 2 });
        rep.take(Some(A), request[..2].to_vec());
        let Plan::To { peer, head } = rep.route(&options) else { panic!("to the requester") };
        assert_eq!((peer, head.is_delimited), (A, true));
        let way: Vec<&[u8]> = head.frames.iter().map(Frame::bytes).collect();
        assert_eq!(way, [&b"far"[..], b"near"]);
    }

    /// RFC 28: the envelope may be empty; data frames may be empty, too.
    #[test]
    fn the_first_empty_frame_is_the_delimiter() {
        let (mut rep, options) = (Rep::new(), Options::default());
        let verdict = rep.arrive(A, arrived(&frames(&["", "", ""])), &options);
        assert_eq!(verdict, Verdict::Deliver { hidden: 1, kept: 0 });
        assert_eq!(rep.ahead(A, begun(&frames(&["a", ""]), "x"), &options), Ahead::Known(2));
        assert_eq!(rep.ahead(A, begun(&frames(&["a"]), ""), &options), Ahead::Unknown);
    }

    /// RFC 28: a request has a delimiter and one or more data frames.
    #[test]
    fn drops_what_is_no_request() {
        let (mut rep, options) = (Rep::new(), Options::default());
        let malformed = Verdict::Drop(Dropped::Malformed);
        assert_eq!(rep.arrive(A, Arrived::Body(b"x"), &options), malformed);
        assert_eq!(rep.arrive(A, arrived(&frames(&["a", "b"])), &options), malformed);
        assert_eq!(rep.arrive(A, arrived(&frames(&["a", ""])), &options), malformed);
        assert_eq!(rep.can_receive(), Ok(()));
    }

    /// RFC 28: the reply is discarded if the originating peer is no longer connected.
    #[test]
    fn a_reply_to_a_peer_that_is_gone_is_lost() {
        let options = Options::default();
        let mut rep = Rep::new();
        rep.take(Some(A), Vec::new());
        rep.detach(B);
        rep.detach(A);
        assert_eq!(rep.can_send(&options), Ok(()), "the reply is the user's to send all the same");
        assert!(matches!(rep.route(&options), Plan::Lost));
        rep.take(None, Vec::new());
        assert!(matches!(rep.route(&options), Plan::Lost), "gone before the request was taken");
        assert_eq!(rep.lost(A), Fate::Drop);
    }
}
