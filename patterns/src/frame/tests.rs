//! Bodies in all kinds of memory.

use super::*;

#[test]
fn short_bodies_are_inline_and_long_ones_shared() {
    let short = Frame::from(vec![7; INLINE_BYTES_MAX]);
    assert!(matches!(short.0, Body::Inline { .. }));
    let long = Frame::from(vec![7; INLINE_BYTES_MAX + 1]);
    assert!(matches!(long.0, Body::Shared(_)));
    assert_eq!(long.clone().len(), INLINE_BYTES_MAX + 1);
    assert_eq!(Frame::new(), Frame::from(""));
}

#[test]
fn a_frame_that_is_used_again_keeps_nothing() {
    let mut frame = Frame::vacant();
    for body in [&[1; 40][..], &[2; 3], &[3; 200], &[4; INLINE_BYTES_MAX], &[], &[5; 40]] {
        frame.copy_in_place(Site::Pool, body);
        assert_eq!(frame.bytes(), body);
        frame.clear();
        assert!(frame.is_empty());
    }
    let shared = Shared::zeroed(5000);
    frame = Frame(Body::Shared(shared.clone()));
    frame.clear();
    assert!(Frame(Body::Shared(shared)).get_mut().is_some(), "the body was let go of");
    frame.copy_in_place(Site::Pool, &[8; 8]);
    assert_eq!(frame.bytes(), [8; 8]);
}

#[test]
fn a_slice_shares_what_can_be_shared() {
    let bodies = [vec![7; 10], (0..200).collect::<Vec<u8>>()];
    for (body, is_shared) in bodies.into_iter().zip([false, true]) {
        let frame = Frame::from(body.clone());
        let slice = frame.slice(2..9);
        assert_eq!(slice.bytes(), &body[2..9]);
        let is_inside = frame.bytes().as_ptr_range().contains(&slice.bytes().as_ptr());
        assert_eq!(is_inside, is_shared);
        assert_eq!(slice.slice(1..=2).bytes(), &body[3..5], "of a slice");
        assert_eq!((frame.slice(..).len(), frame.slice(5..5).len()), (body.len(), 0));
        drop(frame);
        assert_eq!(slice.bytes(), &body[2..9]);
    }
    static BODY: [u8; 100] = [1; 100];
    let slice = Frame::from_static(&BODY).slice(10..);
    assert_eq!((slice.bytes().as_ptr(), slice.len()), (BODY[10..].as_ptr(), 90));
}

#[test]
#[should_panic(expected = "out of range")]
fn a_slice_beyond_the_body_panics() {
    let _ = Frame::from("short").slice(3..6);
}

#[test]
fn only_unshared_heap_is_writable() {
    let mut frame = Frame::with_size(100);
    frame.get_mut().unwrap()[0] = 1;
    let clone = frame.clone();
    assert!(frame.get_mut().is_none());
    drop(clone);
    assert_eq!(frame.get_mut().unwrap()[0], 1);
    assert!(Frame::from_static(b"x").get_mut().is_none());
    assert_eq!(Frame::with_size(3).bytes(), [0, 0, 0]);
}

#[test]
fn a_file_frame_has_a_length_and_no_bytes() {
    let file = Arc::new(tempfile::tempfile().unwrap());
    file.set_len(100).unwrap();
    zring_engine::sys::file::write_all_at(&file, b"abc", 10).unwrap();
    let mut frame = Frame::from_file(file.clone(), 9, 5).unwrap();
    assert_eq!((frame.len(), frame.bytes(), frame.is_empty()), (5, &b""[..], false));
    assert!(frame.is_file() && frame.get_mut().is_none());
    let read = frame.read().unwrap();
    assert_eq!((read.bytes(), read.is_file()), (&b"\0abc\0"[..], false));
    assert_eq!(frame.load(3).unwrap().bytes(), b"\0ab");
    // A frame equals only the same part of the same file.
    assert_eq!(frame, frame.clone());
    assert_eq!(frame, Frame::from_file(file.clone(), 9, 5).unwrap());
    for other in [read, Frame::new(), Frame::from_file(file.clone(), 8, 5).unwrap()] {
        assert_ne!(frame, other);
        assert_ne!(other, frame);
    }
    assert!(!Frame::from_file(file.clone(), 100, 0).unwrap().is_file());
    assert!(matches!(Frame::from_file(file.clone(), 100, 1), Err(Error::File(_))));
    file.set_len(11).unwrap();
    assert_eq!(frame.read().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}
