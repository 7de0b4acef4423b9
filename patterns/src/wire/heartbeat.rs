//! When to send a PING and when to consider the peer dead (RFC 37, "Connection Heartbeating").

/// The action that [`Heartbeat::handle_timeout`] requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeartbeatAction {
    /// No action; ask for the next deadline.
    None,
    /// Send a PING with [`Heartbeat::ttl_ds`].
    SendPing,
    /// The peer was silent for too long: close the connection.
    Expired,
}

/// The heartbeat of one connection. Times are nanoseconds of any monotonic clock.
///
/// Received traffic only updates a time; deadlines are checked when they pass, so a returned deadline may turn out
/// void. Call [`poll_timeout`](Self::poll_timeout) again after [`on_established`](Self::on_established),
/// [`handle_ping`](Self::handle_ping), [`resume`](Self::resume) and [`handle_timeout`](Self::handle_timeout).
#[derive(Clone, Debug)]
pub struct Heartbeat {
    ivl_ns: Option<u64>,
    timeout_ns: Option<u64>,
    ttl_ds: u16,
    heard_at: u64,
    /// Set once established, if PINGs are sent at all.
    ping_at: Option<u64>,
    /// How long the peer may be silent after our PING.
    answer: Option<Silence>,
    /// How long the peer may be silent after its own PING.
    peer_ttl: Option<Silence>,
    paused: bool,
}

/// The peer may not be silent from `since` on for longer than `limit_ns`.
#[derive(Clone, Copy, Debug)]
struct Silence {
    since: u64,
    limit_ns: u64,
}

impl Heartbeat {
    /// A heartbeat that sends a PING every `ivl_ns` (`None` or 0: never) and expects traffic within `timeout_ns` of it
    /// (`None`: within the interval, as libzmq; 0: no limit). `ttl_ds`, in tenths of a second, is the TTL in our PINGs;
    /// 0 for none.
    #[must_use]
    pub fn new(ivl_ns: Option<u64>, timeout_ns: Option<u64>, ttl_ds: u16) -> Self {
        let ivl_ns = ivl_ns.filter(|&ivl_ns| ivl_ns > 0);
        Self {
            ivl_ns,
            timeout_ns: timeout_ns.or(ivl_ns).filter(|&timeout_ns| timeout_ns > 0),
            ttl_ds,
            heard_at: 0,
            ping_at: None,
            answer: None,
            peer_ttl: None,
            paused: false,
        }
    }

    /// The TTL in our PINGs.
    #[must_use]
    pub fn ttl_ds(&self) -> u16 {
        self.ttl_ds
    }

    /// The handshake is over; PINGs begin. Call only for a peer that speaks 3.1: a peer of minor version 0 does not
    /// know PINGs, so its heartbeat is never started.
    pub fn on_established(&mut self, now: u64) {
        self.heard_at = now;
        self.ping_at = self.ivl_ns.map(|ivl_ns| now.saturating_add(ivl_ns));
    }

    /// Bytes arrived. Call for each batch of received bytes, before handling its commands.
    #[inline]
    pub fn handle_traffic(&mut self, now: u64) {
        self.heard_at = now;
    }

    /// A PING arrived. If its TTL is not 0 and no byte follows for that long, the peer is dead.
    pub fn handle_ping(&mut self, ttl_ds: u16, now: u64) {
        self.heard_at = now;
        self.peer_ttl =
            (ttl_ds > 0).then(|| Silence { since: now, limit_ns: u64::from(ttl_ds) * 100_000_000 });
    }

    /// Whether a PING of ours is unanswered.
    #[must_use]
    pub fn awaits_answer(&self) -> bool {
        self.answer.is_some_and(|answer| answer.lasts(self.heard_at))
    }

    /// The peer was seen to take bytes in front of our PING, so the time allowed for its answer starts again at `now`.
    /// Returns whether the peer counts as alive.
    pub fn handle_progress(&mut self, now: u64) -> bool {
        if let Some(answer) = &mut self.answer {
            answer.since = now;
        }
        self.expires_at().is_none_or(|at| at > now)
    }

    /// This side stopped receiving, so silence proves nothing. PINGs continue: the peer may have been told to expect
    /// them.
    pub fn pause(&mut self) {
        self.paused = true;
    }

    /// This side receives again; a running silence starts again at `now`.
    pub fn resume(&mut self, now: u64) {
        self.paused = false;
        let heard_at = self.heard_at;
        for silence in [&mut self.answer, &mut self.peer_ttl] {
            *silence = silence
                .filter(|silence| silence.lasts(heard_at))
                .map(|silence| Silence { since: now, ..silence });
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), if at all.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        self.ping_at.into_iter().chain(self.expires_at()).min()
    }

    /// A deadline passed, or may have passed; calls that come too early or too often do no harm.
    pub fn handle_timeout(&mut self, now: u64) -> HeartbeatAction {
        if self.expires_at().is_some_and(|at| at <= now) {
            return HeartbeatAction::Expired;
        }
        if self.ping_at.is_none_or(|at| at > now) {
            return HeartbeatAction::None;
        }
        self.ping_at = self.ivl_ns.map(|ivl_ns| now.saturating_add(ivl_ns));
        // An earlier PING that is still unanswered keeps its deadline.
        if !self.awaits_answer() {
            self.answer = self.timeout_ns.map(|limit_ns| Silence { since: now, limit_ns });
        }
        HeartbeatAction::SendPing
    }

    fn expires_at(&self) -> Option<u64> {
        if self.paused {
            return None;
        }
        [self.answer, self.peer_ttl]
            .into_iter()
            .flatten()
            .filter(|silence| silence.lasts(self.heard_at))
            .map(|silence| silence.since.saturating_add(silence.limit_ns))
            .min()
    }
}

impl Silence {
    /// Whether no byte arrived since the silence began.
    fn lasts(self, heard_at: u64) -> bool {
        heard_at <= self.since
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use HeartbeatAction::{Expired, SendPing};

    const NOTHING: HeartbeatAction = HeartbeatAction::None;
    const DS: u64 = 100_000_000;

    fn established(ivl_ns: u64, timeout_ns: Option<u64>) -> Heartbeat {
        let mut heartbeat = Heartbeat::new(Some(ivl_ns), timeout_ns, 0);
        heartbeat.on_established(0);
        heartbeat
    }

    #[test]
    fn without_an_interval_nothing_happens() {
        for ivl_ns in [None, Some(0)] {
            let mut heartbeat = Heartbeat::new(ivl_ns, Some(10), 5);
            heartbeat.on_established(0);
            assert_eq!(heartbeat.poll_timeout(), None);
            assert_eq!(heartbeat.handle_timeout(1_000_000), NOTHING);
        }
    }

    #[test]
    fn pings_come_at_the_interval_while_the_peer_answers() {
        let mut heartbeat = established(100, Some(30));
        for round in 1..10 {
            let now = round * 100;
            assert_eq!(heartbeat.poll_timeout(), Some(now));
            assert_eq!(heartbeat.handle_timeout(now - 1), NOTHING);
            assert_eq!(heartbeat.handle_timeout(now), SendPing);
            assert_eq!(heartbeat.poll_timeout(), Some(now + 30));
            heartbeat.handle_traffic(now + 10);
            assert_eq!(heartbeat.handle_timeout(now + 30), NOTHING);
        }
    }

    #[test]
    fn silence_after_a_ping_expires() {
        let mut heartbeat = established(100, Some(30));
        assert_eq!(heartbeat.handle_timeout(100), SendPing);
        assert_eq!(heartbeat.handle_timeout(129), NOTHING);
        assert_eq!(heartbeat.handle_timeout(130), Expired);
    }

    #[test]
    fn who_takes_what_is_in_front_of_the_ping_has_time_to_answer() {
        let mut heartbeat = established(100, Some(30));
        assert_eq!(heartbeat.handle_timeout(100), SendPing);
        assert_eq!(heartbeat.handle_timeout(130), Expired);
        assert!(heartbeat.handle_progress(131));
        assert_eq!(heartbeat.poll_timeout(), Some(161));
        assert_eq!(heartbeat.handle_timeout(160), NOTHING);
        assert_eq!(heartbeat.handle_timeout(161), Expired);
        // The TTL in the peer's own PING is another matter: progress does not extend it.
        let mut heartbeat = established(1000, Some(30));
        heartbeat.handle_ping(1, 0);
        assert_eq!(heartbeat.handle_timeout(DS), Expired);
        assert!(!heartbeat.handle_progress(DS));
    }

    #[test]
    fn a_timeout_longer_than_the_interval_counts_from_the_first_unanswered_ping() {
        let mut heartbeat = established(100, Some(250));
        for now in [100, 200, 300] {
            assert_eq!(heartbeat.handle_timeout(now), SendPing);
        }
        assert_eq!(heartbeat.poll_timeout(), Some(350));
        assert_eq!(heartbeat.handle_timeout(350), Expired);
    }

    #[test]
    fn the_timeout_defaults_to_the_interval_and_zero_means_none() {
        let mut heartbeat = established(100, None);
        assert_eq!(heartbeat.handle_timeout(100), SendPing);
        assert_eq!(heartbeat.handle_timeout(200), Expired);
        let mut heartbeat = established(100, Some(0));
        for now in [100, 200, 300] {
            assert_eq!(heartbeat.handle_timeout(now), SendPing);
        }
    }

    #[test]
    fn the_peers_ttl_is_voided_by_later_traffic() {
        let mut heartbeat = Heartbeat::new(None, None, 0);
        heartbeat.on_established(0);
        heartbeat.handle_traffic(50);
        heartbeat.handle_ping(2, 50);
        assert_eq!(heartbeat.poll_timeout(), Some(50 + 2 * DS));
        heartbeat.handle_traffic(60);
        assert_eq!(heartbeat.poll_timeout(), None);
        heartbeat.handle_ping(2, 70);
        assert_eq!(heartbeat.handle_timeout(70 + 2 * DS - 1), NOTHING);
        assert_eq!(heartbeat.handle_timeout(70 + 2 * DS), Expired);
        heartbeat.handle_ping(0, 80);
        assert_eq!(heartbeat.poll_timeout(), None);
    }

    #[test]
    fn silence_is_not_counted_while_we_do_not_listen() {
        let mut heartbeat = established(100, Some(30));
        heartbeat.handle_ping(1, 10);
        assert_eq!(heartbeat.handle_timeout(100), SendPing);
        heartbeat.pause();
        assert_eq!(heartbeat.poll_timeout(), Some(200));
        assert_eq!(heartbeat.handle_timeout(10 * DS), SendPing);
        heartbeat.resume(20 * DS);
        assert_eq!(heartbeat.handle_timeout(20 * DS + 29), SendPing);
        assert_eq!(heartbeat.handle_timeout(20 * DS + 30), Expired);
    }

    #[test]
    fn resuming_does_not_revive_what_was_answered() {
        let mut heartbeat = established(100, Some(30));
        assert_eq!(heartbeat.handle_timeout(100), SendPing);
        heartbeat.handle_traffic(110);
        heartbeat.pause();
        heartbeat.resume(1000);
        assert_eq!(heartbeat.handle_timeout(1000), SendPing);
        assert_eq!(heartbeat.poll_timeout(), Some(1030));
    }

    #[test]
    fn the_far_future_does_not_overflow() {
        let mut heartbeat = Heartbeat::new(Some(u64::MAX), Some(u64::MAX), 0);
        heartbeat.on_established(10);
        heartbeat.handle_ping(u16::MAX, u64::MAX - 1);
        assert_eq!(heartbeat.poll_timeout(), Some(u64::MAX));
    }
}
