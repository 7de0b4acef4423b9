//! Message contents as a pure function of their numbers. `py/peerlib.py` has the same function, so either end can make
//! or check any message without having seen it.

use zring::Message;

use super::Socket;

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// `size` bytes of splitmix64 in counter mode, little endian.
pub(crate) fn body(seed: u64, size: usize) -> Vec<u8> {
    let mut out = vec![0; size];
    fill(seed, &mut out);
    out
}

/// Overwrites `out` with the result of [`body`].
pub(crate) fn fill(seed: u64, out: &mut [u8]) {
    let mut counter = seed.wrapping_mul(GOLDEN);
    for chunk in out.chunks_mut(8) {
        counter = counter.wrapping_add(GOLDEN);
        let mut z = counter;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        chunk.copy_from_slice(&z.to_le_bytes()[..chunk.len()]);
    }
}

/// The sizes at which frame header, inline bodies and buffers change.
pub(crate) const SIZES: [usize; 7] = [0, 1, 33, 255, 256, 65_535, 1 << 20];

/// A named list of messages, each a list of frame sizes; the Python peers use the same names.
pub(crate) fn plan(name: &str) -> Vec<Vec<usize>> {
    match name {
        "sizes" => {
            let thousand = (0..1000).map(|frame| frame % 40).collect();
            SIZES.iter().map(|size| vec![*size]).chain([thousand]).collect()
        }
        "huge" => vec![vec![64 << 20], vec![5], vec![64 << 20, 0, 3]],
        "burst" => (0..3000).map(|number| vec![number * 7 % 300]).collect(),
        other => panic!("no plan {other}"),
    }
}

/// The frames of message `number`.
pub(crate) fn frames(number: usize, sizes: &[usize]) -> Vec<Vec<u8>> {
    let seed = (number as u64) << 20;
    sizes.iter().enumerate().map(|(frame, size)| body(seed | frame as u64, *size)).collect()
}

/// Sends message `number` with `head` in front of it.
pub(crate) fn send(socket: &Socket, head: &[&[u8]], number: usize, sizes: &[usize]) {
    let body = frames(number, sizes);
    let all = head.iter().copied().chain(body.iter().map(Vec::as_slice));
    socket.send_multipart(all).unwrap_or_else(|error| panic!("message {number}: {error}"));
}

/// Checks that `message` is `head` and then message `number`, byte for byte.
pub(crate) fn check(message: &Message, head: &[&[u8]], number: usize, sizes: &[usize]) {
    let body = frames(number, sizes);
    let want: Vec<&[u8]> = head.iter().copied().chain(body.iter().map(Vec::as_slice)).collect();
    assert_eq!(message.frame_count(), want.len(), "frames of message {number}");
    for (at, want) in want.iter().enumerate() {
        let got = message.frame(at).expect("a frame below the count");
        assert_eq!(got.len(), want.len(), "bytes of frame {at} of message {number}");
        // Not assert_eq!: its output would be the megabytes themselves.
        assert!(got == *want, "frame {at} of message {number} ({} bytes) differs", want.len());
    }
}
