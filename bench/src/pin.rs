//! The core of each side of a pair.

use std::fmt;
use std::str::FromStr;

use crate::error::{Failure, Result};

/// The cores of side A (sender, requester) and side B (receiver, replier), in the system's numbering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Core of side A.
    pub a: usize,
    /// Core of side B.
    pub b: usize,
}

impl Pin {
    /// Whether both sides share one core.
    pub fn is_shared(self) -> bool {
        self.a == self.b
    }
}

impl FromStr for Pin {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let core =
            |part: &str| part.trim().parse().map_err(|_| format!("`{part}` is not a core number"));
        let (a, b) = text.split_once(',').ok_or("two cores are needed, as in `0,1`")?;
        Ok(Self { a: core(a)?, b: core(b)? })
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.a, self.b)
    }
}

/// Moves the calling thread to `core`.
///
/// # Errors
/// [`Failure::Setup`] if this process may not use that core.
pub fn pin_this_thread(core: usize) -> Result<()> {
    // Outside Unix the crate uses the core as a bit index in a word.
    let is_number = cfg!(unix) || core < usize::BITS as usize;
    if is_number && core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
        return Ok(());
    }
    Err(Failure::Setup(format!("cannot pin a thread to core {core}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses() {
        assert_eq!("0,1".parse(), Ok(Pin { a: 0, b: 1 }));
        assert_eq!("3, 3".parse(), Ok(Pin { a: 3, b: 3 }));
        for text in ["", "0", "0,", ",1", "a,b", "0,1,2", "-1,0"] {
            assert!(text.parse::<Pin>().is_err(), "{text}");
        }
    }
}
