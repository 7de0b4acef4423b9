//! The behaviour that all drivers share, however their pollers report readiness: io_uring, readiness that is reported
//! for as long as it lasts, and readiness that is reported once.
//!
//! The suite in `tests/contract` runs whole shards. This suite runs the drivers alone, so that it can choose either
//! mode of the poller, act between a look and the handling of its events, and count the events of each look. A test's
//! body is a `fn(On)`; the list at the end makes a test of it for each driver. Each test runs under a watchdog. Slow
//! environments, such as a sanitizer, set `ZRING_PATIENCE_FACTOR`.

mod count;
mod half;
mod many;
mod refused;
mod reuse;
mod rig;
mod storm;

use std::{
    panic::resume_unwind,
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::Duration,
};

/// How long a single wait may take. The watchdog allows three such waits.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a single wait may take on this machine.
fn patience() -> Duration {
    let factor = std::env::var("ZRING_PATIENCE_FACTOR").ok().and_then(|value| value.parse().ok());
    PATIENCE.mul_f32(factor.unwrap_or(1.0))
}

/// A driver and its mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum On {
    /// With a mask of io_uring's features.
    #[cfg(target_os = "linux")]
    Uring(&'static str),
    Ready(polling::PollMode),
}

/// Runs `body` on a thread of its own. Fails if the body fails, or if it takes too long.
fn run(on: On, body: fn(On)) {
    many::room();
    let (done, outcome) = channel();
    let worker = thread::spawn(move || {
        body(on);
        let _ = done.send(());
    });
    match outcome.recv_timeout(patience() * 3) {
        Ok(()) => worker.join().expect("it has ended"),
        Err(RecvTimeoutError::Timeout) => panic!("not finished after {:?}", patience() * 3),
        Err(RecvTimeoutError::Disconnected) => {
            resume_unwind(worker.join().expect_err("it sends when it succeeds"))
        }
    }
}

macro_rules! contract {
    ($($module:ident :: $body:ident),+ $(,)?) => {
        $(
            mod $body {
                use polling::PollMode::{Level, Oneshot};

                use super::{On::Ready, run};

                #[cfg(target_os = "linux")]
                #[test]
                fn uring() {
                    run(super::On::Uring(""), super::$module::$body);
                }
                #[cfg(target_os = "linux")]
                #[test]
                fn uring_whole_buffers() {
                    run(super::On::Uring("inc"), super::$module::$body);
                }
                #[test]
                fn ready_level() {
                    run(Ready(Level), super::$module::$body);
                }
                #[test]
                fn ready_oneshot() {
                    run(Ready(Oneshot), super::$module::$body);
                }
            }
        )+
    };
}

contract! {
    refused::refusals_are_told_once,
    refused::connects_under_way_are_refused_or_given_up,
    reuse::a_number_used_again_hears_nothing_of_its_past,
    reuse::peers_vanish_while_polled,
    many::ten_thousand_sockets,
    many::sockets_that_always_have_something_take_turns,
    storm::a_storm_of_wakes_stops_nobody,
    storm::wakes_of_many_threads_are_never_lost,
    half::a_receive_for_one_piece_ends_with_it,
    half::an_end_comes_behind_the_data,
    half::an_end_in_the_middle_of_a_turn_is_told,
    half::peers_that_do_not_read,
    half::we_shut_down,
}
