use std::{
    io::Write,
    net::{TcpListener, TcpStream},
    thread,
};

use super::*;
use crate::{
    buf::{PoolConfig, Segment},
    driver::Received,
    sys::{
        AsSocket,
        net::tests::{Stream, pair as connected},
        raw,
    },
};

const MODES: [PollMode; 2] = [PollMode::Level, PollMode::Oneshot];
const CONFIG: PoolConfig =
    PoolConfig { buffers: 8, buffer_bytes: 16 << 10, with_kernel: 4, reserve: 1 };
const PAUSE_NS: u64 = 20_000_000;

/// A driver with a mode of the poller that this system might not choose.
pub(in crate::driver) fn open_with(mode: PollMode, config: PoolConfig) -> (Ready, Pool) {
    let driver = Ready::with(Poller::new().unwrap(), mode, Calls::new(&Config::default()));
    let mut pool = Pool::new(config, true);
    pool.set_waker(driver.waker());
    (driver, pool)
}

fn open(mode: PollMode) -> (Ready, Pool) {
    open_with(mode, CONFIG)
}

fn pair() -> (Stream, Stream) {
    let (near, far) = connected();
    near.set_nonblocking(true).unwrap();
    far.set_nonblocking(true).unwrap();
    (near, far)
}

fn receive(driver: &mut Ready, token: Token, from: &impl AsSocket) -> OpId {
    driver.submit(token, Submission::Receive { fd: raw(from), once: false })
}

fn send(driver: &mut Ready, token: Token, to: &impl AsSocket, bytes: Vec<u8>) -> OpId {
    let mut gather = Gather::new();
    gather.push(Segment::Static(b"<"));
    gather.push(Segment::Arena(bytes));
    gather.push(Segment::Static(b">"));
    driver.submit(token, Submission::Send { fd: raw(to), gather, sent: 0 })
}

/// One turn: all completions of one poll.
fn turn(driver: &mut Ready, pool: &mut Pool, wait: Wait) -> Vec<Completion> {
    driver.poll(wait).unwrap();
    let completions = std::iter::from_fn(|| driver.next(pool)).collect();
    driver.flush().unwrap();
    completions
}

/// Fails unless a wait lasts as long as it was told to.
fn assert_silent(driver: &mut Ready, pool: &mut Pool) {
    // An event for an operation that has ended may show once.
    turn(driver, pool, Wait::No);
    let start = Instant::now();
    assert!(turn(driver, pool, Wait::Park(Some(PAUSE_NS))).is_empty());
    assert!(start.elapsed() >= Duration::from_nanos(PAUSE_NS), "{:?}", start.elapsed());
}

#[test]
fn a_stream_and_its_end_in_both_modes() {
    for mode in MODES {
        let (mut driver, mut pool) = open(mode);
        let (near, far) = pair();
        receive(&mut driver, 1, &far);
        let body: Vec<u8> = (0..3_000_000_u32).map(|at| (at / 7) as u8).collect();
        send(&mut driver, 2, &near, body.clone());
        let (mut received, mut near, mut is_over) = (Vec::new(), Some(near), false);
        while !is_over {
            for completion in turn(&mut driver, &mut pool, Wait::Park(None)) {
                match completion {
                    Completion::Sent { token: 2, bytes, error: None, .. } => {
                        assert_eq!(bytes, body.len() + 2);
                        drop(near.take().expect("it ends once"));
                    }
                    Completion::Received { token: 1, received: Received::Bytes(chunk), more } => {
                        assert!(more);
                        received.extend_from_slice(pool.bytes(&chunk));
                        pool.release(chunk);
                    }
                    Completion::Received { token: 1, received: Received::End, more: false } => {
                        is_over = true;
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        assert!(
            received[0] == b'<' && received[1..=body.len()] == body && received.ends_with(b">")
        );
        assert_eq!(driver.in_flight(), 0);
        assert_silent(&mut driver, &mut pool);
    }
}

#[test]
fn a_listener_goes_on_in_both_modes() {
    for mode in MODES {
        let (mut driver, mut pool) = open(mode);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let op = driver.submit(1, Submission::Accept { fd: raw(&listener) });
        for count in [1, 3, 90] {
            let _peers: Vec<_> = (0..count).map(|_| TcpStream::connect(at).unwrap()).collect();
            let mut accepted = 0;
            while accepted < count {
                let completions = turn(&mut driver, &mut pool, Wait::Park(None));
                assert!(completions.len() < 64, "a bound for each turn");
                for completion in completions {
                    let Completion::Accepted { token: 1, result: Ok(fd), more: true } = completion
                    else {
                        panic!("{completion:?}")
                    };
                    #[cfg(unix)]
                    assert!(
                        rustix::io::fcntl_getfd(&fd)
                            .unwrap()
                            .contains(rustix::io::FdFlags::CLOEXEC)
                    );
                    assert!(TcpStream::from(fd).take_error().unwrap().is_none());
                    accepted += 1;
                }
            }
            assert_silent(&mut driver, &mut pool);
        }
        driver.cancel(op);
        driver.cancel(op);
        let completions = turn(&mut driver, &mut pool, Wait::Park(None));
        let [Completion::Accepted { token: 1, result: Err(error), more: false }] = &completions[..]
        else {
            panic!("{completions:?}")
        };
        assert!(code::is_canceled(error));
    }
}

#[test]
fn a_number_that_is_used_again_is_another_descriptor() {
    for mode in MODES {
        let (mut driver, mut pool) = open(mode);
        let (near, far) = pair();
        let number = raw(&far);
        let op = receive(&mut driver, 1, &far);
        driver.cancel(op);
        // Close the socket before a flush, while a duplicate keeps its open file alive.
        let twin = far.try_clone().unwrap();
        driver.close(far.into());
        let (mut other_near, other_far) = pair();
        // Another test's thread may have taken the number in between: then this round proves less.
        let is_same = raw(&other_far) == number || raw(&other_near) == number;
        let cancelled = turn(&mut driver, &mut pool, Wait::No);
        assert!(matches!(&cancelled[..], [Completion::Received { token: 1, more: false, .. }]));
        receive(&mut driver, 2, &other_far);
        (&near).write_all(b"to the twin").unwrap();
        other_near.write_all(b"x").unwrap();
        let completions = turn(&mut driver, &mut pool, Wait::Park(Some(PAUSE_NS)));
        let [Completion::Received { token: 2, received: Received::Bytes(chunk), more: true }] =
            &completions[..]
        else {
            panic!("{completions:?}, the same number: {is_same}")
        };
        assert_eq!(pool.bytes(chunk), b"x");
        assert_silent(&mut driver, &mut pool);
        drop(twin);
    }
}

#[test]
fn a_descriptor_without_operations_is_silent_whatever_happens_to_it() {
    for mode in MODES {
        let (mut driver, mut pool) = open(mode);
        let (near, far) = pair();
        let receiving = receive(&mut driver, 1, &far);
        let sending = send(&mut driver, 2, &far, vec![0; 4 << 20]);
        assert_silent(&mut driver, &mut pool);
        driver.cancel(receiving);
        driver.cancel(sending);
        let completions = turn(&mut driver, &mut pool, Wait::Park(None));
        let [Completion::Received { .. }, Completion::Sent { bytes, error: Some(_), .. }] =
            &completions[..]
        else {
            panic!("{completions:?}")
        };
        assert!((1..4 << 20).contains(bytes), "what went out is told: {bytes}");
        // The peer leaves unread bytes and a hang-up.
        (&near).write_all(b"unread").unwrap();
        drop(near);
        assert_silent(&mut driver, &mut pool);
        receive(&mut driver, 3, &far);
        let completions = turn(&mut driver, &mut pool, Wait::Park(None));
        assert!(matches!(completions[0], Completion::Received { token: 3, .. }), "{completions:?}");
    }
}

#[test]
fn one_connection_does_not_keep_the_others_waiting() {
    for mode in MODES {
        let (mut driver, mut pool) = open(mode);
        let (flood, flooded) = pair();
        let (quiet, waiting) = pair();
        receive(&mut driver, 1, &flooded);
        receive(&mut driver, 2, &waiting);
        (&flood).write_all(&[7; 100_000]).unwrap();
        (&quiet).write_all(b"x").unwrap();
        // A sender whose sends complete at once, each time.
        let (echo, _sink) = pair();
        send(&mut driver, 3, &echo, vec![1]);
        driver.poll(Wait::No).unwrap();
        let (mut tokens, mut answers) = (Vec::new(), 0);
        while let Some(completion) = driver.next(&mut pool) {
            match completion {
                Completion::Received { token, received: Received::Bytes(chunk), .. } => {
                    tokens.push(token);
                    pool.release(chunk);
                }
                Completion::Sent { token: 3, .. } if answers < 100 => {
                    answers += 1;
                    send(&mut driver, 3, &echo, vec![1]);
                }
                Completion::Sent { .. } => break,
                other => panic!("{other:?}"),
            }
        }
        assert!(tokens[..2].contains(&2), "{tokens:?}");
        assert!(tokens.len() > 4 && answers == 100, "{tokens:?}, {answers}");
    }
}

#[test]
fn a_wake_is_told_once() {
    let (mut driver, mut pool) = open(PollMode::Level);
    let waker = driver.waker();
    for _ in 0..3 {
        waker.wake_by_ref();
        waker.wake_by_ref();
        let told = turn(&mut driver, &mut pool, Wait::Park(None));
        assert!(matches!(&told[..], [Completion::Woken]), "{told:?}");
        assert_silent(&mut driver, &mut pool);
    }
    let later = thread::spawn(move || {
        thread::sleep(Duration::from_millis(5));
        waker.wake();
    });
    let told = turn(&mut driver, &mut pool, Wait::Park(None));
    assert!(matches!(&told[..], [Completion::Woken]), "{told:?}");
    later.join().unwrap();
    assert!(turn(&mut driver, &mut pool, Wait::Spin).is_empty());
}

// Other systems have no descriptor that could show anything.
#[cfg(target_os = "linux")]
#[test]
fn what_ends_between_turns_shows_on_the_descriptor() {
    use crate::sys::net;

    for mode in MODES {
        let (mut driver, mut pool) = open(mode);
        let is_readable =
            |driver: &mut Ready| net::is_readable(driver.event_fd().unwrap()).unwrap();
        assert!(is_readable(&mut driver), "the first look is always due");
        turn(&mut driver, &mut pool, Wait::No);
        assert!(!is_readable(&mut driver));
        let (near, far) = pair();
        let op = receive(&mut driver, 1, &far);
        assert!(!is_readable(&mut driver));
        driver.cancel(op);
        assert!(is_readable(&mut driver));
        assert_eq!(turn(&mut driver, &mut pool, Wait::No).len(), 1);
        assert!(!is_readable(&mut driver));
        // The later one of two alarms is not forgotten.
        driver.alarm(2 * PAUSE_NS);
        driver.alarm(PAUSE_NS / 10);
        for _ in 0..2 {
            while !is_readable(&mut driver) {
                thread::yield_now();
            }
            turn(&mut driver, &mut pool, Wait::No);
        }
        assert!(!is_readable(&mut driver));
        send(&mut driver, 2, &near, vec![1]);
        assert!(is_readable(&mut driver));
    }
}

#[test]
fn a_turn_receives_so_much_and_those_left_over_come_first() {
    for mode in MODES {
        let (mut driver, mut pool) = open(mode);
        let pairs: Vec<_> = (0..6).map(|_| pair()).collect();
        for (token, (near, far)) in (0..).zip(&pairs) {
            (&mut &*near).write_all(&vec![7; 40_000]).unwrap();
            receive(&mut driver, token, far);
        }
        let mut received = [0; 6];
        for round in 1..=4 {
            let before = received.iter().sum::<usize>();
            for completion in turn(&mut driver, &mut pool, Wait::Park(None)) {
                let Completion::Received { token, received: Received::Bytes(chunk), more: true } =
                    completion
                else {
                    panic!("{completion:?}")
                };
                received[token as usize] += chunk.len();
                pool.release(chunk);
            }
            let bytes = received.iter().sum::<usize>() - before;
            let most = 4 * (16 << 10);
            assert!(bytes <= most && (round > 2 || bytes == most), "{bytes} in turn {round}");
            assert!(received.iter().all(|&bytes| round == 1 || bytes > 0), "{received:?}");
        }
        assert_eq!(received, [40_000; 6]);
    }
}
