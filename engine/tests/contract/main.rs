//! The contract between a shard and the operating system: one suite, run over every driver and geometry,
//! over TCP and over Unix-domain sockets.
//!
//! A test body is a `fn(&Case)` in one of the modules; the list at the end makes one test per body and case. To add a
//! driver, add another pair of lines to `contract!`. Every test runs under a watchdog (see `case::run`); slow machinery
//! such as a sanitizer sets `ZRING_PATIENCE_FACTOR`.
#![cfg(any(target_os = "linux", windows))]

mod case;
mod closing;
mod content;
mod direct;
mod errno;
// Windows has no event descriptor.
#[cfg(target_os = "linux")]
mod event;
mod files;
mod parking;
mod pool;
mod readable;
mod record;
mod setup;
mod stream;
mod timing;
mod world;
#[cfg(target_os = "linux")]
mod zero_copy;

macro_rules! contract {
    ($($module:ident :: $body:ident),+ $(,)?) => {
        $(
            mod $body {
                use crate::case::{Net::{Tcp, Unix}, On::*, run, run_spinning};
                use crate::$module::$body as body;

                #[cfg(target_os = "linux")]
                #[test]
                fn uring_over_tcp() {
                    run(Uring(""), Tcp, body);
                }
                #[cfg(target_os = "linux")]
                #[test]
                fn uring_over_unix() {
                    run(Uring(""), Unix, body);
                }
                #[cfg(target_os = "linux")]
                #[test]
                fn uring_whole_buffers_over_tcp() {
                    run(Uring("inc"), Tcp, body);
                }
                #[cfg(target_os = "linux")]
                #[test]
                fn uring_whole_buffers_over_unix() {
                    run(Uring("inc"), Unix, body);
                }
                #[cfg(target_os = "linux")]
                #[test]
                fn uring_one_shot_over_tcp() {
                    run(Uring("inc,multishot"), Tcp, body);
                }
                #[cfg(target_os = "linux")]
                #[test]
                fn uring_one_shot_over_unix() {
                    run(Uring("inc,multishot"), Unix, body);
                }
                #[cfg(target_os = "linux")]
                #[test]
                fn uring_one_shot_incremental_over_tcp() {
                    run(Uring("multishot"), Tcp, body);
                }
                #[cfg(target_os = "linux")]
                #[test]
                fn uring_plain_ring_fd_over_tcp() {
                    run(Uring("ringfd"), Tcp, body);
                }
                #[cfg(target_os = "linux")]
                #[test]
                fn uring_copying_over_tcp() {
                    run(Uring("zc"), Tcp, body);
                }
                #[cfg(target_os = "linux")]
                #[test]
                fn uring_spinning_over_tcp() {
                    run_spinning(Uring(""), Tcp, body);
                }
                #[cfg(target_os = "linux")]
                #[test]
                fn uring_spinning_over_unix() {
                    run_spinning(Uring(""), Unix, body);
                }
                #[cfg(target_os = "linux")]
                #[test]
                fn uring_spinning_whole_buffers_over_tcp() {
                    run_spinning(Uring("inc"), Tcp, body);
                }
                #[test]
                fn ready_over_tcp() {
                    run(Ready, Tcp, body);
                }
                #[test]
                fn ready_over_unix() {
                    run(Ready, Unix, body);
                }
                #[test]
                fn ready_spinning_over_tcp() {
                    run_spinning(Ready, Tcp, body);
                }
            }
        )+
    };
}

contract! {
    setup::connections_are_accepted,
    setup::a_refused_connect_is_reported,
    setup::a_full_backlog_is_waited_for,
    setup::a_closed_listener_is_gone,
    setup::an_accepted_connection_moves_to_another_shard,
    setup::more_operations_than_the_queue_holds,
    stream::every_size_both_ways,
    stream::leases_are_sent_on,
    stream::sends_begun_at_once_go_on_in_order,
    stream::large_gathers_reach_a_slow_reader,
    stream::receiving_stops_and_starts,
    stream::stops_while_data_arrives,
    stream::a_stop_inside_the_callback_counts,
    stream::a_full_completion_queue_loses_nothing,
    stream::connections_that_always_have_something_take_turns,
    stream::many_connections_that_always_have_something_take_turns,
    stream::connections_that_always_have_a_lot_take_turns,
    stream::a_half_closed_peer_still_receives,
    stream::an_urgent_byte_disturbs_nobody,
    files::files_of_every_size,
    files::files_among_other_segments_reach_a_slow_reader,
    files::a_send_goes_on_from_anywhere,
    files::a_file_that_is_cut_off_ends_its_send,
    files::a_peer_that_goes_ends_the_send_of_a_file,
    files::files_on_their_way_can_be_closed_and_dropped,
    files::large_files_take_turns,
    direct::every_split,
    direct::a_large_body_grows_with_its_bytes,
    direct::a_stop_gives_the_memory_back,
    direct::the_peers_end_gives_the_memory_back,
    direct::alternates_with_the_ring,
    readable::bytes_go_where_they_are_wanted,
    readable::awaiting_and_the_ring_take_turns,
    readable::awaiting_stops,
    readable::the_end_and_a_reset_are_told,
    readable::a_close_ends_the_waiting,
    pool::exhaustion_and_recovery,
    pool::leases_leave_a_reserve,
    pool::a_lease_dropped_elsewhere_ends_a_park,
    pool::leases_from_before_the_exhaustion_end_a_park,
    pool::a_single_buffer_serves_many,
    pool::a_starved_receive_stops,
    pool::leases_outlive_the_shard,
    pool::leases_keep_their_bytes_while_buffers_circulate,
    closing::a_close_ends_everything_in_flight,
    closing::a_close_in_each_callback,
    closing::a_reset_peer_ends_the_send,
    closing::stale_ids_are_ignored,
    closing::a_shard_dropped_with_everything_in_flight,
    closing::connections_come_and_go,
    timing::timers_come_in_order,
    timing::a_park_ends_in_time,
    timing::a_waker_ends_a_park,
    timing::wakes_are_never_lost,
    timing::names_are_resolved,
    timing::a_shard_serves_and_keeps_time,
    parking::a_wait_without_the_shard_ends,
    parking::what_is_begun_during_a_wait_takes_effect,
    parking::a_mobile_shard_moves,
}

// Features that Windows lacks or does not report: AFD reports no event for a socket that does not listen.
#[cfg(target_os = "linux")]
contract! {
    setup::accepting_resumes_after_a_failure,
    event::a_lease_dropped_elsewhere_signals_the_event_fd,
    event::a_lease_dropped_here_signals_the_event_fd,
    event::a_chunk_released_between_turns_signals_the_event_fd,
    zero_copy::exactly_one_send_of_each_connection_asks,
    zero_copy::a_body_is_held_until_the_peer_has_it,
    zero_copy::a_close_waits_for_no_held_body,
    zero_copy::a_close_in_the_middle_of_a_large_body,
    zero_copy::a_shard_is_dropped_with_a_body_held,
    event::it_follows_data,
    event::it_follows_receives_into_given_memory,
    event::it_follows_files,
    event::it_follows_wakes,
    event::it_follows_timers,
    event::it_follows_what_a_turn_left_over,
    event::it_follows_a_close_between_turns,
}
