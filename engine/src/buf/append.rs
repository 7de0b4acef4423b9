//! Short frames behind each other in a block.

/// Appends a header and a body to a block if it has room for both; else leaves it as it was and returns `false`.
///
/// The same with `Vec::extend_from_slice` is two calls with a look at the room in each, which is a third of what sending
/// a short message in a batch costs altogether.
#[inline]
pub fn append_short(block: &mut Vec<u8>, header: [u8; 2], body: &[u8]) -> bool {
    let bytes = header.len() + body.len();
    if block.capacity() - block.len() < bytes {
        return false;
    }
    // SAFETY: header and body fit behind the bytes that are there. The body does not lie in the block, which is borrowed
    // to be changed. All that the new length covers is written.
    unsafe {
        let at = block.as_mut_ptr().add(block.len());
        at.cast::<[u8; 2]>().write(header);
        at.add(header.len()).copy_from_nonoverlapping(body.as_ptr(), body.len());
        block.set_len(block.len() + bytes);
    }
    true
}

/// For bodies up to this length so many bytes are zeroed, by a few stores where the exact length would take a call.
const ZEROED_BYTES: usize = 64;

/// Appends a header and a body of `len` bytes, which `fill` writes over zeros where they are to lie, if the block has room
/// for them and a little more; else leaves the block as it was and gives `fill` back. A `fill` that panics leaves it so, too.
///
/// A short body that is made elsewhere and copied here right away is read in other pieces than it was just written in, and
/// that waits for all writes before: a third of what sending it costs.
///
/// # Errors
/// `fill`, if there is no room.
// Always: as a call it gets back through memory what it was just given.
#[inline(always)]
pub fn append_with<const H: usize, F: FnOnce(&mut [u8])>(
    block: &mut Vec<u8>,
    header: [u8; H],
    len: usize,
    fill: F,
) -> Result<(), F> {
    let room = block.capacity() - block.len();
    if len.saturating_add(H + ZEROED_BYTES) > room {
        return Err(fill);
    }
    // SAFETY: all that is written lies in the room behind the bytes that are there: the header, the body, and at most
    // `ZEROED_BYTES`. What the new length covers is written by then.
    unsafe {
        let at = block.as_mut_ptr().add(block.len());
        at.cast::<[u8; H]>().write(header);
        let body = at.add(H);
        if len > ZEROED_BYTES {
            zero(body, len);
        } else {
            body.cast::<[u8; ZEROED_BYTES]>().write([0; ZEROED_BYTES]);
        }
        fill(std::slice::from_raw_parts_mut(body, len));
        block.set_len(block.len() + H + len);
    }
    Ok(())
}

/// Apart, lest both ways of zeroing be made one call for either.
///
/// # Safety
/// As [`pointer::write_bytes`].
#[inline(never)]
unsafe fn zero(body: *mut u8, len: usize) {
    // SAFETY: passed on to the caller.
    unsafe { body.write_bytes(0, len) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_written_in_place_where_there_is_room() {
        for len in (0..=300).chain([1000, 5000]) {
            for room in [len, len + 5, len + 9, len + 9 + ZEROED_BYTES, len + 100] {
                let mut block = Vec::with_capacity(5 + room);
                block.extend_from_slice(b"front");
                // What was there before does not show.
                block.resize(block.capacity(), 0xEE);
                block.truncate(5);
                let fits = block.capacity() - block.len() >= len + 9 + ZEROED_BYTES;
                let fill = |body: &mut [u8]| {
                    assert!(body.len() == len && body.iter().all(|&byte| byte == 0));
                    body[len / 2..].fill(7);
                };
                assert_eq!(append_with(&mut block, [3; 9], len, fill).is_ok(), fits, "{len}");
                let mut body = vec![0; len];
                body[len / 2..].fill(7);
                let behind = if fits { [&[3; 9], &body[..]].concat() } else { Vec::new() };
                assert_eq!(block, [b"front", &behind[..]].concat());
            }
        }
    }

    #[test]
    fn a_body_that_is_not_finished_is_not_there() {
        let mut block = Vec::with_capacity(100);
        block.extend_from_slice(b"front");
        let unfinished = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            append_with(&mut block, [1, 2], 10, |_| panic!("on purpose")).is_ok()
        }));
        assert!(unfinished.is_err() && block == b"front");
        assert!(append_with(&mut block, [1, 2], usize::MAX, |_| unreachable!()).is_err());
    }

    #[test]
    fn frames_are_appended_where_there_is_room() {
        for len in 0..=300 {
            let body: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            for room in [0, 1, len + 1, len + 2, len + 3] {
                let mut block = Vec::with_capacity(5 + room);
                block.extend_from_slice(b"front");
                let fits = block.capacity() - block.len() >= len + 2;
                assert_eq!(append_short(&mut block, [1, 2], &body), fits);
                let behind = if fits { [&[1, 2], &body[..]].concat() } else { Vec::new() };
                assert_eq!(block, [b"front", &behind[..]].concat());
            }
        }
    }
}
