//! Connects that fail.
//!
//! A poller reports the failure of a pending connect as an error, a hang-up, as readable, writable or all of that.

use std::{
    io::{ErrorKind, Read, Write},
    time::Duration,
};

use socket2::{Domain, SockAddr, Socket};

use super::{
    On,
    rig::{Rig, any_port, listen, patient, stream},
};

/// An address on which no socket listens, and the error of a connect to it.
struct Dead {
    domain: Domain,
    address: SockAddr,
    error: ErrorKind,
}

/// Resources that keep the addresses as they are.
struct Kept {
    _bound: Socket,
    #[cfg(unix)]
    dir: tempfile::TempDir,
}

fn dead() -> (Vec<Dead>, Kept) {
    // Bound and not listening: no other socket gets the port meanwhile, not even the connecting one.
    let bound = stream(Domain::IPV4);
    bound.bind(&any_port()).expect("bind");
    let address = bound.local_addr().expect("a name");
    #[allow(unused_mut, reason = "where there is nothing but TCP")]
    let mut dead =
        vec![Dead { domain: Domain::IPV4, address, error: ErrorKind::ConnectionRefused }];
    #[cfg(unix)]
    let dir = tempfile::tempdir().expect("a directory");
    #[cfg(unix)]
    {
        let at = |name| SockAddr::unix(dir.path().join(name)).expect("a short path");
        let stale = stream(Domain::UNIX);
        stale.bind(&at("stale")).expect("bind");
        stale.listen(1).expect("listen");
        drop(stale);
        std::fs::write(dir.path().join("file"), b"no socket").expect("a file");
        let refused = ErrorKind::ConnectionRefused;
        let names = [("stale", refused), ("missing", ErrorKind::NotFound), ("file", refused)];
        dead.extend(names.map(|(name, error)| Dead {
            domain: Domain::UNIX,
            address: at(name),
            error,
        }));
    }
    let kept = Kept {
        _bound: bound,
        #[cfg(unix)]
        dir,
    };
    (dead, kept)
}

/// Connects the socket of a failed connect after all, and sends bytes both ways.
#[cfg(any(target_os = "linux", windows))]
fn use_again(rig: &mut Rig, socket: &Socket, listener: &Socket, address: &SockAddr) {
    let mut connect = rig.connect(socket, address);
    rig.turn_until("a connect", |rig| rig.is_over(connect));
    // Linux: if the failure was read from `SO_ERROR`, the next `connect` reports one more error.
    if rig.ops[connect].error_kind() == Some(ErrorKind::ConnectionAborted) {
        connect = rig.connect(socket, address);
        rig.turn_until("a connect", |rig| rig.is_over(connect));
    }
    assert!(rig.ops[connect].is_done(), "{:?}", rig.ops[connect]);
    let (mut far, _) = listener.accept().expect("a connection");
    patient(&far);
    let receive = rig.receive(socket);
    far.write_all(b"there").expect("write");
    assert_eq!(rig.take(receive, 5), b"there");
    let send = rig.send(socket, b"back".to_vec());
    rig.turn_until("a send", |rig| rig.is_over(send));
    let mut back = [0; 4];
    far.read_exact(&mut back).expect("read");
    assert_eq!(&back, b"back");
    rig.cancel_and_reap(receive);
}

pub(super) fn refusals_are_told_once(on: On) {
    let mut rig = Rig::open(on);
    let (dead, kept) = dead();
    for times in [1, 30] {
        let mut connects = Vec::new();
        for _ in 0..times {
            for Dead { domain, address, error } in &dead {
                let socket = stream(*domain);
                connects.push((rig.connect(&socket, address), socket, *error));
            }
        }
        for &(op, _, error) in &connects {
            rig.turn_until("a refusal", |rig| rig.is_over(op));
            assert_eq!(rig.ops[op].error_kind(), Some(error), "{:?}", rig.ops[op]);
            // This cancel comes too late: it has no effect, and the failure is not reported again.
            rig.cancel(op);
        }
        rig.assert_idle();
        #[cfg(any(target_os = "linux", windows))]
        {
            let (tcp, address) = listen(4);
            use_again(&mut rig, &connects[0].1, &tcp, &address);
            #[cfg(unix)]
            {
                let name = format!("alive{times}");
                let address = SockAddr::unix(kept.dir.path().join(name)).expect("a short path");
                let unix = stream(Domain::UNIX);
                unix.bind(&address).expect("bind");
                unix.listen(4).expect("listen");
                connects[1..4].iter().for_each(|(_, socket, _)| {
                    use_again(&mut rig, socket, &unix, &address);
                });
            }
        }
        connects.into_iter().for_each(|(_, socket, _)| rig.close(socket));
        rig.assert_idle();
    }
    drop(kept);
}

pub(super) fn connects_under_way_are_refused_or_given_up(on: On) {
    let mut rig = Rig::open(on);
    // The kernel takes one connection more than the backlog. The others get no answer until their TCP tries again.
    let (listener, address) = listen(0);
    let sockets: Vec<_> = (0..16).map(|_| stream(Domain::IPV4)).collect();
    let ops: Vec<_> = sockets.iter().map(|socket| rig.connect(socket, &address)).collect();
    rig.turn_for(Duration::from_millis(20));
    let (done, waiting): (Vec<usize>, Vec<usize>) = ops.iter().partition(|&&op| rig.is_over(op));
    // Other systems refuse when the backlog is full, or have a larger one.
    assert!(!cfg!(target_os = "linux") || waiting.len() >= 8, "{}", waiting.len());
    assert!(done.iter().all(|&op| rig.ops[op].is_done() || !cfg!(target_os = "linux")));
    let never = stream(Domain::IPV4);
    let mut given_up = vec![rig.connect(&never, &address)];
    // Cancel a connect before any of it has reached the kernel, others while they are polled, and all of them twice.
    rig.cancel(given_up[0]);
    given_up.extend(waiting.iter().copied().filter(|op| op % 4 == 0));
    for &op in &given_up {
        rig.cancel_and_reap(op);
        rig.cancel(op);
        // The listener does not answer, so these connects end for no other reason.
        assert!(rig.ops[op].over.as_ref().is_some_and(Result::is_err), "{:?}", rig.ops[op]);
        assert_ne!(rig.ops[op].error_kind(), Some(ErrorKind::ConnectionRefused));
    }
    let waiting: Vec<_> = waiting.into_iter().filter(|op| !given_up.contains(op)).collect();
    rig.assert_silent();
    assert_eq!(rig.in_flight(), waiting.len(), "the others go on waiting");
    drop(listener);
    let before = rig.turns;
    rig.turn_until("a refusal of each", |rig| rig.are_over(&waiting));
    assert!(rig.turns - before < 500, "{} turns for nothing", rig.turns - before);
    for &op in &waiting {
        let refused = Some(ErrorKind::ConnectionRefused);
        assert_eq!(rig.ops[op].error_kind(), refused, "{:?}", rig.ops[op]);
    }
    rig.assert_idle();
    sockets.into_iter().chain([never]).for_each(|socket| rig.close(socket));
    rig.assert_idle();
    #[cfg(target_os = "linux")]
    a_full_backlog_is_given_up(&mut rig);
}

/// A Unix-domain connect to a full backlog is tried again and again until it is refused.
#[cfg(target_os = "linux")]
fn a_full_backlog_is_given_up(rig: &mut Rig) {
    let dir = tempfile::tempdir().expect("a directory");
    for (removes, error) in [(false, ErrorKind::ConnectionRefused), (true, ErrorKind::NotFound)] {
        let path = dir.path().join(format!("{removes}"));
        let address = SockAddr::unix(&path).expect("a short path");
        let listener = stream(Domain::UNIX);
        listener.bind(&address).expect("bind");
        listener.listen(0).expect("listen");
        let sockets: Vec<_> = (0..6).map(|_| stream(Domain::UNIX)).collect();
        let ops: Vec<_> = sockets.iter().map(|socket| rig.connect(socket, &address)).collect();
        rig.turn_for(Duration::from_millis(5));
        let waiting: Vec<_> = ops.into_iter().filter(|&op| !rig.is_over(op)).collect();
        assert!(waiting.len() >= 4);
        rig.cancel_and_reap(waiting[0]);
        if removes {
            std::fs::remove_file(&path).expect("its file");
        }
        drop(listener);
        rig.turn_until("an answer to each", |rig| rig.are_over(&waiting));
        for &op in &waiting[1..] {
            assert_eq!(rig.ops[op].error_kind(), Some(error), "{:?}", rig.ops[op]);
        }
        rig.assert_idle();
        sockets.into_iter().for_each(|socket| rig.close(socket));
    }
    rig.assert_idle();
}
