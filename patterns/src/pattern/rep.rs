//! REP: a request, then the reply to whoever sent it (RFC 28).

use super::{
    Ahead, Arrived, Begun, Dropped, Facts, Fate, Head, Misuse, Pattern, Peers, Plan, Receiving,
    Reserve, Sending, Sends, Spread, Subscription, Takes, Verdict,
};
use crate::{frame::Frame, options::Options, route::PipeId, socket_type::SocketType};

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
    fn can_send(&self, _: &Options) -> Result<(), Misuse> {
        match self {
            Self::Idle => Err(Misuse::OutOfTurn("receive a request before sending a reply")),
            Self::Serving { .. } => Ok(()),
        }
    }

    fn begin(&self, options: &Options) -> Result<Reserve, Misuse> {
        self.can_send(options).map(|()| Reserve::Nothing)
    }

    /// "SHALL prepend the address envelope". A reply to a peer that is gone is nobody else's: it "SHALL be silently
    /// discarded", and is counted.
    fn route(&mut self, _: &Options) -> Plan {
        match std::mem::take(self) {
            Self::Serving { peer: Some(peer), envelope } => {
                Plan::To { peer, head: Head { first: None, frames: envelope, is_delimited: true } }
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
    fn can_receive(&self) -> Result<(), Misuse> {
        match self {
            Self::Idle => Ok(()),
            Self::Serving { .. } => {
                Err(Misuse::OutOfTurn("send the reply before the next request"))
            }
        }
    }

    fn filter(&self, _: &[u8]) -> bool {
        true
    }

    fn ahead(&self, _: PipeId, begun: Begun<'_>, _: &Options) -> Ahead {
        match begun.frames.iter().position(Frame::is_empty) {
            Some(delimiter) => Ahead::Known(delimiter + 1),
            None => Ahead::Unknown,
        }
    }

    /// The frames up to the first empty one are the way back.
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
