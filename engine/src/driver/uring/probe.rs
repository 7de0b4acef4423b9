//! The features of this kernel's io_uring. A feature is a value that only the probe builds, so no code below the driver
//! ever looks at a version.

use std::io;

use io_uring::{IoUring, opcode};

use super::bufring::BufRing;
use crate::error::Error;

/// The environment variable that hides features from the probe: a comma-separated list of names.
pub const MASK_VARIABLE: &str = "ZRING_URING_MASK";

/// A set of features to hide, for tests that must cover every geometry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mask {
    inc: bool,
    multishot: bool,
    zc: bool,
    fixed: bool,
}

impl Mask {
    /// Reads a list such as `inc,multishot`. Names: `inc` (incremental buffer consumption),
    /// `multishot` (receives that re-arm themselves), `zc` (sends without a copy), `fixed`
    /// (receives into registered memory), `ringfd` (the registered ring descriptor, which is
    /// not used at present: the io-uring crate keeps its index in a value that a ring cannot hold).
    ///
    /// # Errors
    /// [`Error::UnknownFeature`] for a name that is none of these.
    pub fn parse(list: &str) -> Result<Self, Error> {
        let mut mask = Self::default();
        for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match name {
                "inc" => mask.inc = true,
                "multishot" => mask.multishot = true,
                "zc" => mask.zc = true,
                "fixed" => mask.fixed = true,
                "ringfd" => {}
                other => return Err(Error::UnknownFeature(other.to_owned())),
            }
        }
        Ok(mask)
    }

    /// The configured list, or else the environment's.
    pub(super) fn resolve(configured: Option<&str>) -> Result<Self, Error> {
        match configured {
            Some(list) => Self::parse(list),
            None => Self::parse(&std::env::var(MASK_VARIABLE).unwrap_or_default()),
        }
    }
}

/// Proof that buffers of the receive ring may be consumed piece by piece (Linux 6.12).
#[derive(Debug, Clone, Copy)]
pub(super) struct Incremental(());

/// Proof that a receive may re-arm itself (Linux 6.0).
#[derive(Debug, Clone, Copy)]
pub(super) struct Multishot(());

/// Proof that a send may go without a copy (Linux 6.1).
#[derive(Debug, Clone, Copy)]
pub(super) struct ZeroCopySends(());

/// Permission to try receives into registered memory (Linux 5.19, on sockets 6.4).
#[derive(Debug, Clone, Copy)]
pub(super) struct Fixed(());

#[cfg(test)]
impl Fixed {
    pub(super) fn for_tests() -> Self {
        Self(())
    }
}

impl ZeroCopySends {
    #[cfg(test)]
    pub(super) fn for_tests() -> Self {
        Self(())
    }
}

/// The features that the probe found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Features {
    pub(super) incremental: Option<Incremental>,
    pub(super) multishot: Option<Multishot>,
    pub(super) zero_copy: Option<ZeroCopySends>,
    pub(super) fixed: Option<Fixed>,
}

impl Features {
    /// Tries what the kernel accepts on one of our rings. Features in `mask` count as missing.
    pub(super) fn probe(ring: &IoUring, mask: Mask) -> io::Result<Self> {
        // Linux 6.0 has SINGLE_ISSUER, 6.1 DEFER_TASKRUN: a ring that was set up with both also has
        // multishot receives, so only the mask decides.
        let multishot = (!mask.multishot).then_some(Multishot(()));
        let incremental =
            (!mask.inc && BufRing::accepts_incremental(ring)?).then_some(Incremental(()));
        let zero_copy = (!mask.zc && knows_zero_copy(ring)?).then_some(ZeroCopySends(()));
        // The first registration tells whether the kernel supports it, and the first receive whether its sockets do.
        let fixed = (!mask.fixed).then_some(Fixed(()));
        Ok(Self { incremental, multishot, zero_copy, fixed })
    }
}

fn knows_zero_copy(ring: &IoUring) -> io::Result<bool> {
    let mut probe = io_uring::Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    Ok(probe.is_supported(opcode::SendMsgZc::CODE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_names_known_features_only() {
        assert_eq!(Mask::parse("").unwrap(), Mask::default());
        let mask = Mask::parse(" inc, ringfd").unwrap();
        assert!(mask.inc && !mask.multishot);
        assert!(matches!(Mask::parse("zc9"), Err(Error::UnknownFeature(name)) if name == "zc9"));
    }
}
