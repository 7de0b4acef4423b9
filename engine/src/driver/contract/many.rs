//! More sockets than one look at the poller reports.

use std::{
    io::Write,
    sync::{Mutex, MutexGuard, PoisonError},
};

use socket2::{Domain, Socket, Type};

use super::{
    On,
    rig::{NETS, Net, Rig, listen, pair},
};
use crate::driver::Wait;

/// How many sockets are registered at once.
const SOCKETS: usize = 10_000;
/// How many descriptors other tests of this process may need within the same limit.
#[cfg(unix)]
const SPARE: usize = 1_500;
/// How many bytes the driver itself may keep for a socket with an operation.
const SOCKET_BYTES_MAX: isize = 1_024;

/// How many sockets a turn has to serve when more than enough are ready. A look reports 256. For a ring, the kernel
/// does 20 things before it returns, and runs out of whole buffers after 16.
fn served_per_turn_min(on: On) -> usize {
    if matches!(on, On::Ready(_)) { 128 } else { 8 }
}

/// Lets only one of these tests run at a time, because they share a limit.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many sockets a test may have, at best [`SOCKETS`]. Raises the limit first, where that is allowed. All tests of
/// this process profit from that.
pub(super) fn room() -> usize {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Nofile);
        let wanted = (SOCKETS + SPARE) as u64;
        if limit.current.is_some_and(|current| current < wanted) {
            limit.current = limit.maximum.map_or(Some(wanted), |most| Some(most.min(wanted)));
            setrlimit(Resource::Nofile, limit).expect("a limit below the hard one");
        }
        limit
            .current
            .map_or(SOCKETS, |most| (most as usize).saturating_sub(SPARE).clamp(1_000, SOCKETS))
    }
    // Wine takes minutes to connect ten thousand sockets.
    #[cfg(not(unix))]
    1_000
}

/// Makes `count` TCP connections of which the driver has both ends, and has accepted one. Returns the ends that
/// connected, then those that were accepted, in the same order.
fn connections(rig: &mut Rig, count: usize) -> Vec<Socket> {
    let (listener, address) = listen(128);
    let accept = rig.accept(&listener);
    let mut sockets = Vec::with_capacity(count * 2);
    for at in 1..=count {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.connect(&address).expect("connect");
        socket.set_nonblocking(true).expect("non-blocking");
        sockets.push(socket);
        // No more connections at a time than the backlog holds.
        if at % 64 == 0 || at == count {
            rig.turn_until("connections", |rig| rig.ops[accept].sockets.len() == at);
        }
    }
    sockets.append(&mut rig.ops[accept].sockets);
    rig.cancel_and_reap(accept);
    rig.close(listener);
    sockets
}

/// The other end of every socket writes before the driver looks. Checks that each socket receives its own bytes.
/// Returns how many turns that took.
fn burst(rig: &mut Rig, sockets: &[Socket], receives: &[usize], round: u64) -> usize {
    let half = sockets.len() / 2;
    let word = |at: usize| (round << 32 | at as u64).to_le_bytes();
    for at in 0..sockets.len() {
        // Connections are in the same order at both ends.
        let mut other = &sockets[(at + half) % sockets.len()];
        other.write_all(&word(at)).expect("write");
    }
    let before = rig.turns;
    let all = rig.bytes + sockets.len() * 8;
    rig.turn_until("a message for each", |rig| rig.bytes >= all);
    for (at, &receive) in receives.iter().enumerate() {
        let bytes = std::mem::take(&mut rig.ops[receive].bytes);
        assert_eq!(bytes, word(at), "socket {at} in round {round}");
    }
    rig.turns - before
}

pub(super) fn ten_thousand_sockets(on: On) {
    let _alone = alone();
    let mut rig = Rig::open(on);
    let half = room() / 2;
    if half * 2 < SOCKETS {
        eprintln!("only {} sockets of {SOCKETS}: RLIMIT_NOFILE is low", half * 2);
    }
    let mut sockets = connections(&mut rig, half);
    let all = sockets.len();
    assert_eq!((all, rig.in_flight()), (half * 2, 0));
    let turns_max = all / served_per_turn_min(on) + 20;
    let (before, mut settled) = (rig.live_bytes, None);
    let mut receives = Vec::new();
    for round in 0..3_u64 {
        receives = sockets.iter().map(|socket| rig.receive(socket)).collect();
        rig.turn(Wait::No);
        assert_eq!(rig.in_flight(), all);
        // Two bursts in the first round: a poller that has reported a socket once has to report it again.
        for part in 0..[2, 0, 1][round as usize] {
            let turns = burst(&mut rig, &sockets, &receives, round * 2 + part);
            assert!(turns <= turns_max, "{turns} turns for {all} sockets");
        }
        rig.assert_silent();
        let live = rig.live_bytes - before;
        assert!(live <= all as isize * SOCKET_BYTES_MAX, "{live} bytes for {all} sockets");
        // All receives stop and start again: nothing of the last round stays. After the first round the driver has room
        // for as many completions at once.
        if round > 0 {
            let most = *settled.get_or_insert(live + live / 10);
            assert!(live <= most, "{live} bytes in round {round}, {most} at most before");
        }
        if round < 2 {
            let ended = rig.ended + all;
            receives.iter().for_each(|&receive| rig.cancel(receive));
            rig.turn_until("the end of all receives", |rig| rig.ended == ended);
            rig.assert_idle();
        }
    }
    // The accepted sockets are closed. The other ends learn of that in one more burst.
    let accepted = sockets.split_off(half);
    let ended = rig.ended + half;
    receives[half..].iter().for_each(|&receive| rig.cancel(receive));
    rig.turn_until("the end of their receives", |rig| rig.ended == ended);
    accepted.into_iter().for_each(|socket| rig.close(socket));
    rig.turn_until("the end of each", |rig| rig.ended == ended + half);
    assert!(receives[..half].iter().all(|&receive| rig.ops[receive].is_done()));
    sockets.into_iter().for_each(|socket| rig.close(socket));
    rig.assert_idle();
}

pub(super) fn sockets_that_always_have_something_take_turns(on: On) {
    // Clearly more than one look of readiness reports.
    const COUNT: usize = 700;
    const TURNS: usize = 100;
    let _alone = alone();
    let mut rig = Rig::open(on);
    let (near, mut far): (Vec<_>, Vec<_>) = (0..COUNT)
        .map(|at| pair(if at % 9 == 0 { Net::Tcp } else { NETS[NETS.len() - 1] }))
        .unzip();
    let receives: Vec<_> = near.iter().map(|socket| rig.receive(socket)).collect();
    rig.turn(Wait::No);
    far.iter_mut().for_each(|far| far.write_all(b"x").expect("write"));
    // Two of them always have more than fits into a buffer. Not on a ring: the kernel decides there, and gives them all
    // the buffers.
    let floods = if matches!(on, On::Ready(_)) { 2 } else { 0 };
    let lot = vec![0; 256 << 10];
    for far in &far[COUNT - floods..] {
        far.set_nonblocking(true).expect("non-blocking");
    }
    let mut served = vec![0_usize; COUNT];
    for _ in 0..TURNS {
        for mut far in &far[COUNT - floods..] {
            while far.write(&lot).is_ok_and(|bytes| bytes == lot.len()) {}
        }
        rig.turn(Wait::Park(Some(1_000_000)));
        for (at, &receive) in receives.iter().enumerate() {
            let bytes = std::mem::take(&mut rig.ops[receive].bytes);
            served[at] += bytes.len();
            // A socket that was served gets new bytes at once.
            if !bytes.is_empty() && at < COUNT - floods {
                far[at].write_all(&bytes).expect("write");
            }
        }
    }
    let flooded = served.split_off(COUNT - floods);
    assert!(flooded.iter().all(|&bytes| bytes >= TURNS * (16 << 10)), "{flooded:?}");
    let (least, most) = (served.iter().min().expect("some"), served.iter().max().expect("some"));
    assert!(*least >= TURNS * served_per_turn_min(on) / COUNT, "{least} to {most}");
    assert!(*most <= 2 * least + 4, "{least} to {most} for each");
    receives.into_iter().for_each(|receive| rig.cancel_and_reap(receive));
    near.into_iter().for_each(|socket| rig.close(socket));
    rig.assert_idle();
}
