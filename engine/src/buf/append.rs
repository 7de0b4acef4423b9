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

#[cfg(test)]
mod tests {
    use super::*;

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
