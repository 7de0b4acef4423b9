//! Appends short frames one after another to a block.

/// Appends a header and a body to a block if the block has room for both; otherwise leaves the block unchanged and
/// returns `false`.
///
/// Two calls of `Vec::extend_from_slice`, each with its own check of the room, would be a third of the total cost of
/// sending a short message in a batch.
#[inline]
pub fn append_short(block: &mut Vec<u8>, header: [u8; 2], body: &[u8]) -> bool {
    let bytes = header.len() + body.len();
    if block.capacity() - block.len() < bytes {
        return false;
    }
    // SAFETY: header and body fit behind the bytes that are there. The body does not overlap the block, which is
    // borrowed mutably. Every byte that the new length covers is written.
    unsafe {
        let at = block.as_mut_ptr().add(block.len());
        at.cast::<[u8; 2]>().write(header);
        at.add(header.len()).copy_from_nonoverlapping(body.as_ptr(), body.len());
        block.set_len(block.len() + bytes);
    }
    true
}

/// Bodies up to this length are zeroed by storing this many bytes: a few stores, where the exact length would take a
/// call.
const ZEROED_BYTES: usize = 64;

/// Appends a header and a body of `len` bytes to the block. `fill` writes the body in its final place, over zeros. If
/// the block lacks room for both and a little more, it stays unchanged and `fill` is returned. If `fill` panics, the
/// block stays unchanged as well.
///
/// A short body that is made elsewhere and then copied here is read in pieces of another size than it was just written
/// in. Such a read waits for all earlier writes: a third of the cost of sending the body.
///
/// # Errors
/// `fill` itself, if there is no room.
// Always inline: a call would return `fill` and the result through memory.
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
    // SAFETY: all writes lie in the room behind the bytes that are there: the header, the body, and at most
    // `ZEROED_BYTES`. All bytes that the new length covers are written by then.
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

/// A function of its own, so that the compiler does not merge both ways of zeroing into one call.
///
/// # Safety
/// As [`pointer::write_bytes`].
#[inline(never)]
unsafe fn zero(body: *mut u8, len: usize) {
    // SAFETY: the caller upholds the contract.
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
                // Stale bytes in the spare capacity must not show.
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
