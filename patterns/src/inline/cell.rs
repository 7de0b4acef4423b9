//! The reactor, for one borrower at a time.

use std::cell::{Ref, RefCell, RefMut};

use crate::reactor::Reactor;

/// A borrower may change anything, so borrowing closes the lane; a send in the lane leaves it open.
pub(crate) struct ReactorCell(RefCell<Reactor>);

impl ReactorCell {
    pub(crate) fn new(reactor: Reactor) -> Self {
        Self(RefCell::new(reactor))
    }

    pub(crate) fn borrow(&self) -> Ref<'_, Reactor> {
        self.0.borrow()
    }

    #[inline(always)]
    pub(crate) fn borrow_mut(&self) -> RefMut<'_, Reactor> {
        let mut reactor = self.0.borrow_mut();
        reactor.hub.close_lane();
        reactor
    }

    /// Borrows the reactor only to send in the lane, or to close the lane.
    #[inline(always)]
    pub(crate) fn borrow_for_lane(&self) -> RefMut<'_, Reactor> {
        self.0.borrow_mut()
    }
}
