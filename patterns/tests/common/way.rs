//! The ways of driving a socket; every test runs in several of them.

use std::fmt;
use std::time::Duration;

use zring::{Config, Driver, DriverKind, Wait, inline};

use super::{Context, seccomp, setting, within};

/// The kind of context and its driver.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Inline on io_uring, with these features hidden from the probe.
    Uring(&'static str),
    /// Inline on readiness.
    Ready,
    /// In the background, on io_uring.
    BackgroundUring,
    /// In the background, on readiness.
    BackgroundReady,
    /// In the background, on readiness, the connections of each socket spread over two shards.
    Spread,
}

/// Lists of kernel features hidden from the probe, one list per receive path: nothing hidden, fixed buffers, one-shot
/// receives, and no registered ring descriptor.
const MASKS: [&str; 4] = ["", "inc", "inc,multishot", "ringfd"];

impl Way {
    /// Each kind of context on each driver, and with several shards.
    pub(crate) fn all() -> Vec<Way> {
        let inline = [Way::Uring(""), Way::Ready];
        possible(inline.into_iter().chain(Way::background()))
    }

    /// As [`all`](Self::all), with every receive path of io_uring.
    pub(crate) fn every() -> Vec<Way> {
        let inline = MASKS.into_iter().map(Way::Uring);
        possible(inline.chain([Way::Ready]).chain(Way::background()))
    }

    /// The inline ways of [`all`](Self::all), for features of inline contexts only.
    pub(crate) fn inline() -> Vec<Way> {
        possible([Way::Uring(""), Way::Ready])
    }

    /// The inline ways of [`every`](Self::every).
    pub(crate) fn every_inline() -> Vec<Way> {
        possible(MASKS.into_iter().map(Way::Uring).chain([Way::Ready]))
    }

    /// The background ways of [`all`](Self::all).
    pub(crate) fn background() -> Vec<Way> {
        possible([Way::BackgroundUring, Way::BackgroundReady, Way::Spread])
    }

    /// `count` ways from `offset` on, cycling through all ways and all masks.
    pub(crate) fn rotated(offset: usize, count: usize) -> Vec<Way> {
        let all = Way::all();
        let turn = |at: usize| match all[at % all.len()] {
            Way::Uring(_) => Way::Uring(MASKS[at / all.len() % MASKS.len()]),
            way => way,
        };
        (offset..offset + count).map(turn).collect()
    }

    /// Whether the way's contexts are inline.
    pub(crate) fn is_inline(self) -> bool {
        matches!(self, Way::Uring(_) | Way::Ready)
    }

    /// The driver of this way.
    pub(crate) fn driver(self) -> DriverKind {
        match self {
            Way::Uring(_) | Way::BackgroundUring => DriverKind::Uring,
            Way::Ready | Way::BackgroundReady | Way::Spread => DriverKind::Ready,
        }
    }

    /// The configuration of this way's contexts.
    ///
    /// With `ZRING_TEST_SPIN` waits spin, because valgrind runs one thread at a time and does not switch away from a
    /// thread that sleeps in `io_uring_enter`.
    pub(crate) fn config(self) -> Config {
        let wait = if setting("ZRING_TEST_SPIN").is_some() { Wait::Spin } else { Wait::default() };
        let shards = if self == Way::Spread { 2 } else { 1 };
        let config = Config { wait, shards, uring_mask: Some(String::new()), ..Config::default() };
        if seccomp::hides_io_uring() {
            seccomp::refuse_io_uring();
            // The context has to detect the available driver by itself.
            return config;
        }
        match self {
            Way::Uring(mask) => {
                Config { driver: Driver::Uring, uring_mask: Some(mask.to_owned()), ..config }
            }
            Way::BackgroundUring => Config { driver: Driver::Uring, ..config },
            Way::Ready | Way::BackgroundReady | Way::Spread => {
                Config { driver: Driver::Ready, ..config }
            }
        }
    }

    /// A context of this way.
    pub(crate) fn context(self) -> Context {
        self.context_with(self.config())
    }

    /// As [`context`](Self::context), with the given configuration.
    pub(crate) fn context_with(self, config: Config) -> Context {
        if self.is_inline() {
            Context::Inline(inline::Context::with_config(config).expect("a context"))
        } else {
            Context::Background(self.background_with(config))
        }
    }

    /// A background context as its own type.
    pub(crate) fn background_context(self) -> zring::Context {
        self.background_with(self.config())
    }

    /// As [`background_context`](Self::background_context), with the given configuration.
    pub(crate) fn background_with(self, config: Config) -> zring::Context {
        assert!(!self.is_inline(), "{self:?} is inline");
        let ctx = zring::Context::with_config(config).expect("a context");
        assert_eq!(ctx.driver(), self.driver());
        ctx
    }
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Way::Uring("") => f.write_str("inline/uring"),
            Way::Uring(mask) => write!(f, "inline/uring without {mask}"),
            Way::Ready => f.write_str("inline/ready"),
            Way::BackgroundUring => f.write_str("background/uring"),
            Way::BackgroundReady => f.write_str("background/ready"),
            Way::Spread => f.write_str("background/ready, two shards"),
        }
    }
}

/// The possible ways: all, unless io_uring is hidden or missing on this system.
fn possible(ways: impl IntoIterator<Item = Way>) -> Vec<Way> {
    let hidden = seccomp::hides_io_uring() || !cfg!(target_os = "linux");
    ways.into_iter().filter(|way| !hidden || way.driver() == DriverKind::Ready).collect()
}

/// Runs `body` once in each of `ways`, each for at most `limit`; the way printed last is the one that failed.
pub(crate) fn in_ways(
    ways: Vec<Way>,
    limit: Duration,
    body: impl FnOnce(Way) + Copy + Send + 'static,
) {
    for way in ways {
        println!("{way:?}");
        within(limit, move || body(way));
    }
}
