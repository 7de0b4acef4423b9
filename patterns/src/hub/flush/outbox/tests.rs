//! Encoding, sending in pieces, and reading back what a lost connection left.

use super::*;

fn arena() -> ArenaPool {
    ArenaPool::new(4096, 8)
}

fn text(recovered: &Recovered) -> Vec<Vec<Vec<u8>>> {
    recovered.unsent.iter().map(Message::to_vecs).collect()
}

#[test]
fn a_cut_send_tells_handed_from_unsent() {
    for taken in 0..=15 {
        let (mut arena, mut outbox) = (arena(), Outbox::default());
        for body in ["one", "two", "six"] {
            outbox.append(&mut arena, false, body.as_bytes());
        }
        assert_eq!(outbox.messages(), 3);
        let gather = outbox.take_batch(&mut arena).unwrap();
        outbox.append(&mut arena, false, b"ten");
        let recovered = outbox.recover(Some((gather, taken)));
        assert_eq!(recovered.handed, taken as u64 / 5, "{taken}");
        let expected = ["one", "two", "six", "ten"].map(|body| vec![body.as_bytes().to_vec()]);
        assert_eq!(text(&recovered), expected[taken / 5..], "{taken}");
        assert_eq!((outbox.messages(), outbox.bytes()), (0, 0));
    }
}

#[test]
fn a_message_over_several_batches_is_kept_whole() {
    let (mut arena, mut outbox) = (arena(), Outbox::default());
    let frames: Vec<Vec<u8>> = (0..200).map(|at| vec![at as u8; 5000]).collect();
    let message = Message::from_frames(frames.clone()).unwrap();
    outbox.append_message(&mut arena, &message);
    let mut batches = 0;
    loop {
        let gather = outbox.take_batch(&mut arena).unwrap();
        batches += 1;
        if outbox.sealed.is_empty() && outbox.tail.is_empty() {
            let bytes = gather.bytes() - 1;
            let recovered = outbox.recover(Some((gather, bytes)));
            assert_eq!(recovered.handed, 0);
            assert_eq!(text(&recovered), [frames]);
            break;
        }
        assert_eq!(outbox.complete(&mut arena, gather), 0);
    }
    assert!(batches > 3);
}

#[test]
fn files_are_recovered_as_files() {
    let file = std::sync::Arc::new(tempfile::tempfile().unwrap());
    file.set_len(100_000).unwrap();
    let frame = |offset, len| Frame::from_file(file.clone(), offset, len).unwrap();
    let frames = [frame(0, 300), Frame::from("x"), frame(7, 5000), Frame::new(), frame(1, 1)];
    let message = Message::from_frames(frames.clone()).unwrap();
    let (first, last) = (Message::from("first"), Message::from("last"));
    let first_bytes = 2 + 5;
    let message_bytes = (9 + 300) + (2 + 1) + (9 + 5000) + 2 + (2 + 1);
    // Cut in the head of a file, inside of one, between two parts, and behind everything.
    for taken in [0, 6, 7, 8, 16, 17, 200, 316, 320, 330, 5000, 5325, 5328, 5333, 5339, 5340] {
        let (mut arena, mut outbox) = (arena(), Outbox::default());
        for message in [&first, &message, &last] {
            outbox.append_message(&mut arena, message);
        }
        let total = outbox.bytes();
        assert_eq!(total, first_bytes + message_bytes + 6);
        let gather = outbox.take_batch(&mut arena).unwrap();
        assert_eq!((gather.bytes(), gather.has_files()), (total, true));
        let recovered = outbox.recover(Some((gather, taken)));
        let all = [&first, &message, &last];
        let ends = [first_bytes, first_bytes + message_bytes, total];
        let handed = ends.iter().filter(|&&end| end <= taken).count();
        assert_eq!(recovered.handed, handed as u64, "{taken}");
        assert!(recovered.unsent.iter().eq(all[handed..].iter().copied()), "{taken}");
    }
}

#[test]
fn commands_are_not_recovered() {
    let (mut arena, mut outbox) = (arena(), Outbox::default());
    let mut ping = Vec::new();
    crate::wire::encode_ping(&mut ping, 10, b"ctx");
    outbox.append_command(&mut arena, &ping);
    outbox.append_message(&mut arena, &Message::from_frames(["a", "b"]).unwrap());
    outbox.append_command(&mut arena, &ping);
    outbox.append_message(&mut arena, &Message::from(vec![1; 9000]));
    let recovered = outbox.recover(None);
    assert_eq!(recovered.handed, 0);
    assert_eq!(text(&recovered), [vec![b"a".to_vec(), b"b".to_vec()], vec![vec![1; 9000]]]);
}

#[test]
fn a_block_sent_from_its_place_is_used_again() {
    let (mut arena, mut outbox) = (arena(), Outbox::default());
    outbox.append(&mut arena, true, b"");
    outbox.append(&mut arena, false, b"abc");
    let block = outbox.only_block().unwrap();
    let (address, len) = (block.as_ptr(), block.len());
    assert_eq!(len, 7);
    assert_eq!(outbox.complete_only_block(&mut arena), 1);
    assert_eq!((outbox.messages(), outbox.bytes()), (0, 0));
    outbox.append(&mut arena, false, b"def");
    assert_eq!(outbox.only_block().unwrap().as_ptr(), address);
    outbox.append_message(&mut arena, &Message::from(vec![1; 9000]));
    assert!(outbox.only_block().is_none(), "a referenced body is more than one block");
}

#[test]
fn counts_follow_a_completed_send() {
    let (mut arena, mut outbox) = (arena(), Outbox::default());
    for _ in 0..100 {
        outbox.append(&mut arena, false, &[0; 64]);
    }
    assert!(outbox.has_full_block());
    let gather = outbox.take_batch(&mut arena).unwrap();
    assert_eq!((outbox.messages(), outbox.bytes()), (100, 6600));
    assert_eq!(outbox.complete(&mut arena, gather), 100);
    assert_eq!((outbox.messages(), outbox.bytes()), (0, 0));
    assert!(outbox.take_batch(&mut arena).is_none());
}

#[test]
fn a_message_joins_what_stays_below_all_bounds() {
    const FREE: Bounds = Bounds { messages: u32::MAX, bytes: u64::MAX, block_bytes: usize::MAX };
    let (mut arena, mut one, mut other) = (arena(), Outbox::default(), Outbox::default());
    assert!(!one.join(b"first", &FREE), "there is no block");
    for outbox in [&mut one, &mut other] {
        outbox.append(&mut arena, false, b"first");
    }
    for body in [&b""[..], b"x", &[7; 255]] {
        assert!(one.join(body, &FREE));
        other.append(&mut arena, false, body);
    }
    assert!(!one.join(&[7; 256], &FREE), "its header is another");
    assert_eq!(one.only_block(), other.only_block());
    assert_eq!((one.messages(), one.bytes()), (4, 7 + 2 + 3 + 257));

    let (messages, bytes) = (one.messages(), one.bytes() + 4);
    let at = |messages, bytes, block_bytes| Bounds { messages, bytes, block_bytes };
    assert!(!one.join(b"ab", &at(messages + 1, u64::MAX, usize::MAX)), "full with it");
    assert!(!one.join(b"ab", &at(u32::MAX, bytes as u64, usize::MAX)));
    assert!(!one.join(b"ab", &at(u32::MAX, u64::MAX, bytes)));
    assert_eq!(one.messages(), messages);
    assert!(one.join(b"ab", &at(messages + 2, bytes as u64 + 1, bytes + 1)));
    while one.join(&[1; 64], &FREE) {}
    assert!(one.tail.capacity() - one.tail.len() < 66 && !one.has_full_block());
    one.append(&mut arena, false, &[1; 64]);
    assert!(!one.join(b"", &FREE), "a whole block waits");
    let all = one.messages();
    let recovered = one.recover(None);
    assert_eq!(recovered.unsent.len(), all as usize);
    assert_eq!(recovered.unsent[4].body(), b"ab");
}

#[test]
fn what_is_written_in_place_is_as_if_it_were_copied() {
    let room = Room { ends: u32::MAX, bytes: usize::MAX };
    let (mut arena, mut one, mut other) = (arena(), Outbox::default(), Outbox::default());
    assert!(one.join_within_with(0, &room, |_| {}).is_err(), "there is no block");
    for outbox in [&mut one, &mut other] {
        outbox.append(&mut arena, false, b"first");
    }
    for len in [0, 1, 63, 64, 65, 254, 255, 256, 1000] {
        let body: Vec<u8> = (0..len).map(|at| at as u8).collect();
        assert!(one.join_within_with(len, &room, |out| out.copy_from_slice(&body)).is_ok());
        other.append(&mut arena, false, &body);
    }
    assert_eq!(one.only_block(), other.only_block());
    assert_eq!((one.messages(), one.bytes()), (other.messages(), other.bytes()));

    for (room, len) in [
        (room, REFERENCE_BYTES_MIN),
        (Room { ends: one.tail_ends, ..room }, 1),
        (Room { bytes: one.tail.len() + FRAME_HEADER_BYTES_MAX + 1, ..room }, 1),
    ] {
        let refused = one.join_within_with(len, &room, |_| unreachable!("it is given back"));
        assert!(refused.is_err(), "{room:?}, {len} bytes");
    }
    assert_eq!(one.messages(), other.messages());
}

#[test]
fn full_blocks_go_without_the_one_that_is_being_filled() {
    let (mut arena, mut outbox) = (arena(), Outbox::default());
    assert!(outbox.take_full_blocks(&mut arena).is_none());
    while !outbox.has_full_block() {
        outbox.append(&mut arena, false, &[7; 64]);
    }
    let messages = outbox.messages();
    let gather = outbox.take_full_blocks(&mut arena).unwrap();
    assert_eq!(gather.segments().len(), 1);
    assert_eq!(gather.bytes(), (messages as usize - 1) * 66, "whole messages");
    assert!(!outbox.has_full_block());
    assert_eq!(outbox.complete(&mut arena, gather), messages - 1);
    assert_eq!((outbox.messages(), outbox.bytes()), (1, 66));
    assert_eq!(outbox.only_block().map(<[u8]>::len), Some(66));

    // A message whose first frame fills the block, and whose second one opens another, is taken back whole.
    let body = vec![1; outbox.tail.capacity() - outbox.tail.len() - 9];
    outbox.append(&mut arena, true, &body);
    outbox.append(&mut arena, false, &[2; 64]);
    let gather = outbox.take_full_blocks(&mut arena).unwrap();
    let bytes = gather.bytes();
    assert_eq!(outbox.complete(&mut arena, gather), 1);
    assert_eq!(outbox.messages(), 1);
    let recovered = outbox.recover(None);
    assert_eq!((recovered.handed, recovered.unsent.len()), (0, 1), "{bytes} bytes were taken");
    assert_eq!(recovered.unsent[0].to_vecs(), [body, vec![2; 64]]);
}
