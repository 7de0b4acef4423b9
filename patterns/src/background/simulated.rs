//! Shards inside of a simulated world, whose scheduler turns them instead of Runner threads.

use std::{sync::Arc, time::Duration};

use zring_engine::{
    lead::Lead,
    sim::{Turned, World, register},
};

use crate::{config::Config, deadline::duration_ns, error::Error, reactor::Reactor};

/// Opens a shard that the world turns. The seed chooses whether callers may lead, as on readiness, or only the world's
/// scheduler turns the shard, as on io_uring.
pub(super) fn open(config: &Config, world: &World) -> Result<Arc<Lead<Reactor>>, Error> {
    let mut reactor = Reactor::open_shared(config.clone())?;
    reactor.hub.seed(world.below(u64::MAX));
    let waker = reactor.shard.waker();
    let lead = Arc::new(Lead::new(reactor, waker, world.below(2) == 0, config.idle()));
    let turned = Arc::downgrade(&lead);
    let mut parking = None;
    register(Box::new(move || {
        let Some(lead) = turned.upgrade() else { return Turned::Gone };
        match lead.turn_parked(&mut parking) {
            Ok(0) => Turned::Parked { next_deadline_ns: lead.hold().shard.next_deadline_ns() },
            Ok(_) => Turned::Worked,
            Err(_) => Turned::Gone,
        }
    }));
    Ok(lead)
}

/// Lets the world go on until closed sockets have sent what they have queued, or the time is up.
pub(super) fn drain(leads: &[Arc<Lead<Reactor>>], time: Duration, world: &World) {
    let is_done = || leads.iter().all(|lead| lead.hold().is_reaped());
    world.run_until_within(Some(duration_ns(time)), is_done);
    for lead in leads {
        lead.hold().end_drain();
    }
}
