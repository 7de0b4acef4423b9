//! Interval logs.

use std::io::{self, Write};
use std::time::{Duration, Instant, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{
    IntervalLogWriterBuilder, IntervalLogWriterError, Tag,
};

/// Writes the histograms of consecutive intervals in the log format of HdrHistogram (version 1.3, compressed V2
/// histograms), which `HistogramLogProcessor`, HistogramLogAnalyzer and similar tools read. Values and the column of
/// maxima are in nanoseconds.
pub struct IntervalLog<W: Write> {
    out: W,
    serializer: V2DeflateSerializer,
    started: Instant,
    /// Start of the next interval.
    interval: Duration,
}

impl<W: Write> std::fmt::Debug for IntervalLog<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { started, interval, .. } = self;
        f.debug_struct("IntervalLog")
            .field("started", started)
            .field("interval", interval)
            .finish_non_exhaustive()
    }
}

impl<W: Write> IntervalLog<W> {
    /// Begins a log; the first interval begins now.
    ///
    /// # Errors
    /// Errors of `out`.
    pub fn new(mut out: W) -> io::Result<Self> {
        let mut serializer = V2DeflateSerializer::new();
        let now = SystemTime::now();
        IntervalLogWriterBuilder::new()
            .add_comment("[Histogram log format version 1.3]")
            .with_start_time(now)
            .with_base_time(now)
            .begin_log_with(&mut out, &mut serializer)?;
        out.write_all(
            b"\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n",
        )?;
        Ok(Self { out, serializer, started: Instant::now(), interval: Duration::ZERO })
    }

    /// Ends the current interval and writes its recordings. A `tag` distinguishes several series in one log.
    ///
    /// # Errors
    /// Errors of the output; [`io::ErrorKind::InvalidInput`] for a tag with a comma, a space or a line break.
    pub fn write(&mut self, histogram: &Histogram<u64>, tag: Option<&str>) -> io::Result<()> {
        let now = self.started.elapsed();
        let (started, length) = (self.interval, now - self.interval);
        self.write_at(histogram, started, length, tag)?;
        self.interval = now;
        Ok(())
    }

    /// Writes an interval that started at offset `started` of the log and lasted `length`.
    ///
    /// # Errors
    /// As [`IntervalLog::write`].
    pub fn write_at(
        &mut self,
        histogram: &Histogram<u64>,
        started: Duration,
        length: Duration,
        tag: Option<&str>,
    ) -> io::Result<()> {
        let wrong = || io::Error::new(io::ErrorKind::InvalidInput, "a tag is one word");
        let tag = tag.map(|tag| Tag::new(tag).ok_or_else(wrong)).transpose()?;
        IntervalLogWriterBuilder::new()
            .begin_log_with(&mut self.out, &mut self.serializer)?
            .write_histogram(histogram, started, length, tag)
            .map_err(|error| match error {
                IntervalLogWriterError::IoError(error) => error,
                IntervalLogWriterError::SerializeError(error) => io::Error::other(error),
            })
    }

    /// The output, with everything written to it.
    ///
    /// # Errors
    /// Errors of the output when it is flushed.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Recorder;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    fn recorded(microseconds: u64) -> Histogram<u64> {
        let mut recorder = Recorder::new();
        (1..=microseconds).for_each(|us| recorder.record(Duration::from_micros(us)));
        recorder.into_histogram()
    }

    #[test]
    fn a_log_reads_back() {
        let mut log = IntervalLog::new(Vec::new()).unwrap();
        let written = [recorded(10), recorded(1000), recorded(0)];
        for (second, histogram) in (0..).zip(&written) {
            let (started, length) = (Duration::from_secs(second), Duration::from_secs(1));
            log.write_at(histogram, started, length, Some("replies")).unwrap();
        }
        let text = log.finish().unwrap();
        assert!(text.starts_with(b"#[Histogram log format version 1.3]\n#[StartTime: "));
        let mut read = Vec::new();
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            // The legend is for human readers; the tools skip it, but this parser does not know it.
            if line.starts_with(b"\"") {
                continue;
            }
            for entry in IntervalLogIterator::new(line) {
                if let LogEntry::Interval(interval) = entry.unwrap() {
                    assert_eq!(interval.tag().unwrap().as_str(), "replies");
                    assert_eq!(interval.start_timestamp().as_secs(), read.len() as u64);
                    let bytes = base64(interval.encoded_histogram());
                    let histogram: Histogram<u64> =
                        Deserializer::new().deserialize(&mut &bytes[..]).unwrap();
                    read.push(histogram);
                }
            }
        }
        for (read, written) in read.iter().zip(&written) {
            assert_eq!((read.len(), read.max()), (written.len(), written.max()));
            assert_eq!(read.value_at_quantile(0.5), written.value_at_quantile(0.5));
        }
        assert_eq!(read.len(), written.len());
    }

    #[test]
    fn intervals_follow_each_other() {
        let mut log = IntervalLog::new(Vec::new()).unwrap();
        log.write(&recorded(3), None).unwrap();
        assert!(log.interval > Duration::ZERO);
        let refused = log.write(&recorded(3), Some("two words")).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    }

    /// Decodes the standard alphabet.
    fn base64(text: &str) -> Vec<u8> {
        const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut bytes = Vec::new();
        let (mut bits, mut held) = (0_u32, 0);
        for letter in text.bytes().filter(|letter| *letter != b'=') {
            let value = ALPHABET.iter().position(|known| *known == letter).unwrap();
            bits = bits << 6 | value as u32;
            held += 6;
            if held >= 8 {
                held -= 8;
                bytes.push((bits >> held) as u8);
            }
        }
        bytes
    }
}
