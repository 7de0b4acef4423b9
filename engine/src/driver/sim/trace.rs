//! The last events of a world, for the report of a failure, and a digest of all events.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
};

/// How many lines are kept.
const LINES_MAX: usize = 50;

#[derive(Debug)]
struct Line {
    at_ns: u64,
    driver: Option<usize>,
    what: What,
}

#[derive(Debug)]
enum What {
    Event(&'static str, u64, u64),
    Text(Box<str>),
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    lines: VecDeque<Line>,
    digest: u64,
    counts: BTreeMap<&'static str, u64>,
}

impl Trace {
    pub(crate) fn note(
        &mut self,
        at_ns: u64,
        driver: Option<usize>,
        what: &'static str,
        a: u64,
        b: u64,
    ) {
        self.absorb(what.as_bytes());
        [at_ns, driver.map_or(u64::MAX, |driver| driver as u64), a, b]
            .iter()
            .for_each(|word| self.mix(*word));
        *self.counts.entry(what).or_default() += 1;
        self.push(Line { at_ns, driver, what: What::Event(what, a, b) });
    }

    pub(crate) fn say(&mut self, at_ns: u64, text: &str) {
        self.mix(at_ns);
        self.absorb(text.as_bytes());
        self.push(Line { at_ns, driver: None, what: What::Text(text.into()) });
    }

    fn push(&mut self, line: Line) {
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    fn absorb(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.mix(u64::from(*byte)));
    }

    fn mix(&mut self, word: u64) {
        self.digest = (self.digest.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    /// A number that differs if any event differed.
    pub(crate) fn digest(&self) -> u64 {
        self.digest
    }

    /// How often an event of this name was noted.
    pub(crate) fn count(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or(0)
    }

    pub(crate) fn lines(&self) -> impl Iterator<Item = String> + '_ {
        self.lines.iter().map(ToString::to_string)
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (us, ns) = (self.at_ns / 1000, self.at_ns % 1000);
        write!(f, "{us:>12}.{ns:03} us  ")?;
        match self.driver {
            Some(driver) => write!(f, "shard {driver}  ")?,
            None => f.write_str("         ")?,
        }
        match &self.what {
            What::Event(what, a, b) => write!(f, "{what} {a} {b}"),
            What::Text(text) => f.write_str(text),
        }
    }
}
