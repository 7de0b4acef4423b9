//! The engine and the hub, for one borrower at a time.

use std::cell::{Ref, RefCell, RefMut};

use crate::core::Core;

/// Whoever gets at the core may change anything, so that closes the lane; sending in it alone does not.
pub(crate) struct CoreCell(RefCell<Core>);

impl CoreCell {
    pub(crate) fn new(core: Core) -> Self {
        Self(RefCell::new(core))
    }

    pub(crate) fn borrow(&self) -> Ref<'_, Core> {
        self.0.borrow()
    }

    #[inline(always)]
    pub(crate) fn borrow_mut(&self) -> RefMut<'_, Core> {
        let mut core = self.0.borrow_mut();
        core.hub.close_lane();
        core
    }

    /// Only to send in the lane, or to close it.
    #[inline(always)]
    pub(crate) fn borrow_for_lane(&self) -> RefMut<'_, Core> {
        self.0.borrow_mut()
    }
}
