//! The engine and the hub, for one borrower at a time.

use std::cell::{Ref, RefCell, RefMut};

use crate::reactor::Reactor;

/// A borrower of the reactor may change anything, so each borrow closes the lane, except to send in it.
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

    /// Only to send in the lane, or to close it.
    #[inline(always)]
    pub(crate) fn borrow_for_lane(&self) -> RefMut<'_, Reactor> {
        self.0.borrow_mut()
    }
}
