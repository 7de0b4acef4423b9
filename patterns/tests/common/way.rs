//! The ways in which a socket can be driven: every test goes through several of them.

use std::fmt;
use std::time::Duration;

use zring::{Config, Driver, DriverKind, Wait, inline};

use super::{Context, seccomp, setting, within};

/// Which kind of context, on which driver.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Inline on io_uring; these features are hidden from the probe.
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

/// The kernel features hidden from the probe, one list for each receive path: everything
/// shown, fixed buffers, one-shot receives, and no registered ring descriptor.
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

    /// The inline ones of [`all`](Self::all): for what only inline contexts have.
    pub(crate) fn inline() -> Vec<Way> {
        possible([Way::Uring(""), Way::Ready])
    }

    /// The inline ones of [`every`](Self::every).
    pub(crate) fn every_inline() -> Vec<Way> {
        possible(MASKS.into_iter().map(Way::Uring).chain([Way::Ready]))
    }

    /// The other ones of [`all`](Self::all).
    pub(crate) fn background() -> Vec<Way> {
        possible([Way::BackgroundUring, Way::BackgroundReady, Way::Spread])
    }

    /// `count` ways that go through all, and through the masks, beginning at `offset`.
    pub(crate) fn rotated(offset: usize, count: usize) -> Vec<Way> {
        let all = Way::all();
        let turn = |at: usize| match all[at % all.len()] {
            Way::Uring(_) => Way::Uring(MASKS[at / all.len() % MASKS.len()]),
            way => way,
        };
        (offset..offset + count).map(turn).collect()
    }

    /// Whether its contexts are inline ones.
    pub(crate) fn is_inline(self) -> bool {
        matches!(self, Way::Uring(_) | Way::Ready)
    }

    /// The driver it stands for.
    pub(crate) fn driver(self) -> DriverKind {
        match self {
            Way::Uring(_) | Way::BackgroundUring => DriverKind::Uring,
            Way::Ready | Way::BackgroundReady | Way::Spread => DriverKind::Ready,
        }
    }

    /// How a context of this kind is configured.
    ///
    /// With `ZRING_TEST_SPIN` its waits spin: valgrind runs one thread at a time and does not let
    /// go of a thread that sleeps in `io_uring_enter`.
    pub(crate) fn config(self) -> Config {
        let wait = if setting("ZRING_TEST_SPIN").is_some() { Wait::Spin } else { Wait::default() };
        let shards = if self == Way::Spread { 2 } else { 1 };
        let config = Config { wait, shards, uring_mask: Some(String::new()), ..Config::default() };
        if seccomp::hides_io_uring() {
            seccomp::refuse_io_uring();
            // What is there has to be found without being told.
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

    /// A context of this kind.
    pub(crate) fn context(self) -> Context {
        self.context_with(self.config())
    }

    /// As [`context`](Self::context), with the rest of the configuration as given.
    pub(crate) fn context_with(self, config: Config) -> Context {
        if self.is_inline() {
            Context::Inline(inline::Context::with_config(config).expect("a context"))
        } else {
            Context::Background(self.background_with(config))
        }
    }

    /// A background context, for tests that need to know.
    pub(crate) fn background_context(self) -> zring::Context {
        self.background_with(self.config())
    }

    /// As [`background_context`](Self::background_context), configured.
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

/// Those that can be had: all, unless io_uring is hidden or not this system's.
fn possible(ways: impl IntoIterator<Item = Way>) -> Vec<Way> {
    let hidden = seccomp::hides_io_uring() || !cfg!(target_os = "linux");
    ways.into_iter().filter(|way| !hidden || way.driver() == DriverKind::Ready).collect()
}

/// Runs `body` once in each of `ways`, each at most for `limit`; the last way printed is the one
/// that failed.
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
