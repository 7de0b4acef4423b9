//! The floor of connections made for one request: `connect`, one round trip, `close`. There is no handshake.

use crate::error::Result;
use crate::sequence::{SequenceCheck, Verdict};
use crate::sides::Announce;
use crate::subject::raw::{DELIMITER, Echo, Frame};
use crate::subject::raw_link::{Link, Listener, Way};
use crate::subject::{Case, Replier, Requester, Visitor};

/// Side A.
pub(super) struct Guest {
    case: Case,
    way: Way,
    endpoint: String,
    frame: Option<Frame>,
}

impl Guest {
    pub(super) fn new(case: &Case, way: Way, endpoint: &str) -> Self {
        let frame = Some(Frame::new(case.size_bytes, &DELIMITER));
        Self { case: case.clone(), way, endpoint: endpoint.to_owned(), frame }
    }
}

impl Visitor for Guest {
    fn visit(&mut self, sequence: u64, check: &mut SequenceCheck) -> Result<Verdict> {
        let link = Link::connect(&self.endpoint, self.case.wait, self.way)?;
        let frame = self.frame.take();
        let frame = frame.unwrap_or_else(|| Frame::new(self.case.size_bytes, &DELIMITER));
        let mut echo = Echo { link, frame };
        let verdict = echo.round_trip(sequence, check)?;
        self.frame = Some(echo.frame);
        Ok(verdict)
    }
}

/// Side B: one connection, one request.
pub(super) struct Host {
    listener: Listener,
    case: Case,
    way: Way,
    frame: Frame,
    /// Kept until the guest has closed it, so that the guest's port is the one in TIME_WAIT.
    last: Option<Link>,
}

impl Host {
    pub(super) fn new(case: &Case, way: Way, announce: Announce) -> Result<Self> {
        let listener = Listener::bind(&case.bind, 16, announce)?;
        let frame = Frame::new(case.size_bytes, &DELIMITER);
        Ok(Self { listener, case: case.clone(), way, frame, last: None })
    }
}

impl Replier for Host {
    fn reply(&mut self, check: &mut SequenceCheck) -> Result<Verdict> {
        let link = self.listener.accept(self.case.wait, self.way)?;
        link.read_exact(&mut self.frame.bytes)?;
        let verdict = self.frame.judge(check)?;
        link.write_all(&self.frame.bytes)?;
        self.last = Some(link);
        Ok(verdict)
    }
}
