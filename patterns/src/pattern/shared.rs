//! What several types have in common, as macros for their rooms.

/// The type does not send.
macro_rules! never_sends {
    ($room:ty) => {
        impl $crate::pattern::Sending for $room {
            fn can_send(&self, _: &Options) -> Result<(), &'static Misuse> {
                Err(&Misuse::Unsupported("send"))
            }

            fn begin(&self, options: &Options) -> Result<Reserve, &'static Misuse> {
                self.can_send(options).map(|()| Reserve::Nothing)
            }

            fn route(&mut self, _: &Options) -> Plan {
                Plan::Lost
            }

            fn given(&mut self, _: PipeId) {}

            fn matches(&mut self, _: &[u8], _: &mut Vec<PipeId>) {}

            fn spoiled(&mut self, _: Option<PipeId>) {}

            fn lost(&mut self, _: PipeId) -> Fate {
                Fate::Drop
            }
        }
    };
}

/// Messages go to the peers in turn, unchanged. Messages that a lost connection did not send go to the next peer.
macro_rules! sends_by_turn {
    ($room:ty) => {
        impl $crate::pattern::Sending for $room {
            fn can_send(&self, _: &Options) -> Result<(), &'static Misuse> {
                Ok(())
            }

            fn begin(&self, _: &Options) -> Result<Reserve, &'static Misuse> {
                Ok(Reserve::Turn)
            }

            fn route(&mut self, _: &Options) -> Plan {
                Plan::InTurn { head: Head::default(), supersedes: false }
            }

            fn given(&mut self, _: PipeId) {}

            fn matches(&mut self, _: &[u8], _: &mut Vec<PipeId>) {}

            fn spoiled(&mut self, _: Option<PipeId>) {}

            fn lost(&mut self, _: PipeId) -> Fate {
                Fate::Requeue
            }
        }
    };
}

/// The type does not receive: a message from a peer is malformed.
macro_rules! never_receives {
    ($room:ty) => {
        impl $crate::pattern::Receiving for $room {
            fn can_receive(&self) -> Result<(), &'static Misuse> {
                Err(&Misuse::Unsupported("receive"))
            }

            fn wanted(&self) -> Option<&$crate::route::LocalSubscriptions> {
                None
            }

            fn ahead(&self, _: PipeId, _: Begun<'_>, _: &Options) -> Ahead {
                Ahead::Unknown
            }

            fn arrive(&mut self, _: PipeId, _: Arrived<'_>, _: &Options) -> Verdict {
                Verdict::Drop(Dropped::Malformed)
            }

            fn take(&mut self, _: Option<PipeId>, _: Vec<Frame>) {}
        }
    };
}

/// Every message goes to the user unchanged.
macro_rules! takes_freely {
    ($room:ty) => {
        impl $crate::pattern::Receiving for $room {
            fn can_receive(&self) -> Result<(), &'static Misuse> {
                Ok(())
            }

            fn wanted(&self) -> Option<&$crate::route::LocalSubscriptions> {
                None
            }

            fn ahead(&self, _: PipeId, _: Begun<'_>, _: &Options) -> Ahead {
                Ahead::Known(0)
            }

            fn arrive(&mut self, _: PipeId, _: Arrived<'_>, _: &Options) -> Verdict {
                Verdict::Deliver { hidden: 0, kept: 0 }
            }

            fn take(&mut self, _: Option<PipeId>, _: Vec<Frame>) {}
        }
    };
}

/// The type keeps no state of its peers.
macro_rules! knows_no_peers {
    ($room:ty) => {
        impl $crate::pattern::Peers for $room {
            fn attach(&mut self, _: PipeId, _: &mut dyn FnMut(Subscription<'_>)) {}

            fn detach(&mut self, _: PipeId) {}

            fn forget(&mut self, _: PipeId) {}
        }
    };
}

/// The type has no subscriptions: the user cannot make any, and a peer's are ignored.
macro_rules! never_subscribes {
    ($room:ty) => {
        impl $crate::pattern::Subscribing for $room {
            fn subscribe(&mut self, change: Subscription<'_>) -> Result<bool, &'static Misuse> {
                Err($crate::pattern::cannot(change))
            }

            fn command(&mut self, _: PipeId, _: Subscription<'_>, _: &Options) -> Verdict {
                Verdict::Done
            }

            fn subscribers(&mut self, _: &[u8]) -> Result<usize, &'static Misuse> {
                Err($crate::pattern::NO_SUBSCRIBERS)
            }

            fn subscriptions(&self, _: PipeId) -> usize {
                0
            }
        }
    };
}
