//! Connections of which one direction has ended.

use std::{
    io::{ErrorKind, Read, Write},
    net::Shutdown,
    thread,
};

use socket2::Socket;

use super::{
    On,
    rig::{NETS, Net, PAUSE, Rig, content, pair},
};
use crate::driver::Wait;

const BROKEN: [ErrorKind; 3] =
    [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset, ErrorKind::ConnectionAborted];

/// Receives until the peer's orderly end; returns the bytes before it.
#[track_caller]
fn receive_all(rig: &mut Rig, op: usize) -> Vec<u8> {
    rig.turn_until("the peer's end", |rig| rig.is_over(op));
    assert!(rig.ops[op].is_done(), "{:?}", rig.ops[op]);
    std::mem::take(&mut rig.ops[op].bytes)
}

pub(super) fn a_receive_for_one_piece_ends_with_it(on: On) {
    let mut rig = Rig::open(on);
    let data = content(200_000);
    for &net in NETS {
        let (near, mut far) = pair(net);
        let (from, to) = (data.clone(), far.try_clone().expect("a twin"));
        let writer = thread::spawn(move || (&to).write_all(&from).expect("write"));
        let (mut got, mut pieces) = (Vec::new(), 0);
        while got.len() < data.len() {
            let receive = rig.receive_once(&near);
            rig.turn_until("a piece", |rig| rig.is_over(receive));
            assert!(rig.ops[receive].is_done(), "{:?}", rig.ops[receive]);
            got.append(&mut rig.ops[receive].bytes);
            pieces += 1;
        }
        writer.join().expect("the writer");
        assert!(got == data && pieces > 1, "{pieces} pieces");
        // No receive is armed when these bytes arrive.
        far.write_all(b"abc").expect("write");
        rig.assert_idle();
        let there = rig.receive_once(&near);
        assert_eq!(rig.take(there, 3), b"abc");
        assert!(rig.ops[there].is_done());
        let late = rig.receive_once(&near);
        rig.assert_silent();
        far.write_all(b"d").expect("write");
        assert_eq!(rig.take(late, 1), b"d");
        assert!(rig.ops[late].is_done());
        let none = rig.receive_once(&near);
        rig.turn(Wait::No);
        rig.cancel_and_reap(none);
        assert!(rig.ops[none].error_kind().is_some());
        drop(far);
        let end = rig.receive_once(&near);
        assert_eq!(receive_all(&mut rig, end), b"");
        rig.close(near);
    }
    rig.assert_idle();
}

pub(super) fn an_end_comes_behind_the_data(on: On) {
    let mut rig = Rig::open(on);
    let (data, answer) = (content(60_000), content(3 << 20).repeat(2));
    for (&net, is_early) in NETS.iter().flat_map(|net| [(net, true), (net, false)]) {
        let (near, mut far) = pair(net);
        let mut receive = None;
        if is_early {
            receive = Some(rig.receive(&near));
            rig.turn(Wait::No);
        }
        far.write_all(&data).expect("write");
        far.shutdown(Shutdown::Write).expect("shutdown");
        let receive = receive.unwrap_or_else(|| rig.receive(&near));
        assert!(receive_all(&mut rig, receive) == data, "all of it, and then the end");
        // No operation waits for the socket any more, which stays readable for ever.
        rig.assert_idle();
        // Each later operation learns of the end again, once.
        let readable = rig.await_readable(&near);
        rig.turn_until("the end", |rig| rig.is_over(readable));
        assert!(rig.ops[readable].is_done());
        let again = rig.receive(&near);
        assert_eq!(receive_all(&mut rig, again), b"");
        // The other direction still works, and the driver sleeps while it waits for it.
        let send = rig.send(&near, answer.clone());
        rig.turn_for(PAUSE);
        assert!(!rig.is_over(send), "more than fits");
        rig.assert_silent();
        let len = answer.len();
        let reader = thread::spawn(move || {
            let mut got = vec![0; len];
            far.read_exact(&mut got).expect("read");
            (got, far)
        });
        rig.turn_until("a send", |rig| rig.is_over(send));
        assert!(rig.ops[send].is_done(), "{:?}", rig.ops[send]);
        let (got, far) = reader.join().expect("the reader");
        assert!(got == answer, "what was sent arrives");
        // Both directions are over now, and there is nothing to report.
        drop(far);
        rig.assert_idle();
        rig.close(near);
    }
    rig.assert_idle();
}

pub(super) fn an_end_in_the_middle_of_a_turn_is_told(on: On) {
    let mut rig = Rig::open(on);
    for (&net, at) in NETS.iter().flat_map(|net| (0..4).map(move |at| (net, at))) {
        let (near, mut far) = pair(net);
        let receive = rig.receive(&near);
        rig.turn(Wait::No);
        far.write_all(b"last words").expect("write");
        let end = |step| {
            if at == step {
                far.shutdown(Shutdown::Write).expect("shutdown");
            }
        };
        end(0);
        rig.look(Wait::Park(Some(1_000_000_000)));
        // The poller has reported the words. It has to report the end, too, whenever that comes.
        end(1);
        assert!(rig.step());
        end(2);
        while rig.step() {}
        rig.flush();
        end(3);
        assert_eq!(receive_all(&mut rig, receive), b"last words");
        rig.assert_idle();
        rig.close(near);
    }
}

/// Sends until a send fails, at most `times` times. Returns the kind of the error.
fn send_until_refused(rig: &mut Rig, near: &Socket, times: usize) -> Option<ErrorKind> {
    (0..times).find_map(|_| {
        let send = rig.send(near, vec![7; 100]);
        rig.turn_until("a send", |rig| rig.is_over(send));
        rig.turn_for(std::time::Duration::from_millis(1));
        rig.ops[send].error_kind()
    })
}

pub(super) fn peers_that_do_not_read(on: On) {
    let mut rig = Rig::open(on);
    for &net in NETS {
        // The peer shuts its reading side down. TCP cannot tell us that, and the bytes are thrown away.
        let (near, mut far) = pair(net);
        let receive = rig.receive(&near);
        rig.turn(Wait::No);
        far.shutdown(Shutdown::Read).expect("shutdown");
        let refused = send_until_refused(&mut rig, &near, 5);
        let is_broken = refused.is_some_and(|kind| BROKEN.contains(&kind));
        assert!(is_broken || (net == Net::Tcp && refused.is_none()), "{refused:?}");
        if cfg!(target_os = "linux") {
            far.write_all(b"and yet").expect("write");
            assert_eq!(rig.take(receive, 7), b"and yet");
            rig.assert_silent();
        }
        drop(far);
        rig.turn_until("the end", |rig| rig.is_over(receive));
        rig.assert_idle();
        rig.close(near);

        // The peer closes with bytes unread. That is no end but a reset, reported once, behind the bytes that came
        // before.
        let (near, mut far) = pair(net);
        let receive = rig.receive(&near);
        assert_eq!(send_until_refused(&mut rig, &near, 1), None);
        far.write_all(b"the last").expect("write");
        assert_eq!(rig.take(receive, 8), b"the last");
        rig.assert_silent();
        drop(far);
        rig.turn_until("a reset", |rig| rig.is_over(receive));
        // Wine's poll takes the error, and the rest looks like an end.
        let kind = rig.ops[receive].error_kind();
        assert!(kind == Some(ErrorKind::ConnectionReset) || cfg!(windows) && kind.is_none());
        rig.assert_idle();
        if cfg!(target_os = "linux") {
            let again = rig.receive(&near);
            assert_eq!(receive_all(&mut rig, again), b"", "the error was taken");
        }
        let refused = send_until_refused(&mut rig, &near, 3).expect("a refusal");
        assert!(BROKEN.contains(&refused), "{refused:?}");
        rig.assert_idle();
        rig.close(near);
    }
}

pub(super) fn we_shut_down(on: On) {
    let mut rig = Rig::open(on);
    for &net in NETS {
        // We shut our writing side down: the peer learns of it, and goes on sending.
        let (near, mut far) = pair(net);
        let receive = rig.receive(&near);
        let send = rig.send(&near, b"goodbye".to_vec());
        rig.turn_until("a send", |rig| rig.is_over(send));
        near.shutdown(Shutdown::Write).expect("shutdown");
        let mut got = Vec::new();
        far.read_to_end(&mut got).expect("read");
        assert_eq!(got, b"goodbye");
        rig.assert_silent();
        far.write_all(b"farewell").expect("write");
        assert_eq!(rig.take(receive, 8), b"farewell");
        rig.assert_silent();
        let refused = send_until_refused(&mut rig, &near, 1).expect("a refusal");
        // Windows has an error for this that `ErrorKind` does not name (WSAESHUTDOWN).
        assert!(BROKEN.contains(&refused) || cfg!(windows), "{refused:?}");
        assert!(!rig.is_over(receive));
        // With the peer's end both directions are over, which is a hang-up.
        far.shutdown(Shutdown::Write).expect("shutdown");
        assert_eq!(receive_all(&mut rig, receive), b"");
        rig.assert_idle();
        rig.close(near);

        // We shut both directions down while an operation waits for each.
        if cfg!(unix) {
            let (near, _far) = pair(net);
            let (receive, send) = (rig.receive(&near), rig.send(&near, vec![7; 8 << 20]));
            rig.turn_for(PAUSE);
            assert!(!rig.is_over(receive) && !rig.is_over(send));
            near.shutdown(Shutdown::Both).expect("shutdown");
            assert_eq!(receive_all(&mut rig, receive), b"");
            rig.turn_until("the end of the send", |rig| rig.is_over(send));
            let kind = rig.ops[send].error_kind().expect("not all was sent");
            assert!(BROKEN.contains(&kind) && rig.ops[send].sent < 8 << 20, "{kind:?}");
            rig.assert_idle();
            rig.close(near);
        }
    }
    rig.assert_idle();
}
