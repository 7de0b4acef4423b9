//! Values of options as libzmq's `zmq_setsockopt` and `zmq_getsockopt` write them.

use std::time::Duration;

use super::OptionError;

/// The value of an option as bytes: an `int` or an `int64_t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    Int,
    Long,
}

/// Translates between a value and the number that libzmq has for it. `None`: the option has no such value.
pub(crate) trait Codec<T> {
    const LAYOUT: Layout;

    fn encode(value: &T) -> i64;
    fn decode(number: i64) -> Option<T>;
}

/// Writes a number into the caller's memory. Returns how many bytes that took.
pub(crate) fn put(
    option: &'static str,
    layout: Layout,
    number: i64,
    value: &mut [u8],
) -> Result<usize, OptionError> {
    // A value that libzmq's type cannot hold is shown as the largest one that it can.
    let int = i32::try_from(number).unwrap_or(i32::MAX).to_ne_bytes();
    let long = number.to_ne_bytes();
    put_bytes(option, if layout == Layout::Int { &int } else { &long }, value)
}

pub(crate) fn put_bytes(
    option: &'static str,
    bytes: &[u8],
    value: &mut [u8],
) -> Result<usize, OptionError> {
    let too_small = OptionError::RawLength { option, bytes: value.len(), expected: bytes.len() };
    value.get_mut(..bytes.len()).ok_or(too_small)?.copy_from_slice(bytes);
    Ok(bytes.len())
}

/// Reads a number from the caller's memory.
pub(crate) fn take(option: &'static str, layout: Layout, value: &[u8]) -> Result<i64, OptionError> {
    let expected = if layout == Layout::Int { size_of::<i32>() } else { size_of::<i64>() };
    let length = OptionError::RawLength { option, bytes: value.len(), expected };
    match layout {
        Layout::Int => {
            let bytes = value.try_into().map_err(|_| length)?;
            Ok(i32::from_ne_bytes(bytes).into())
        }
        Layout::Long => Ok(i64::from_ne_bytes(value.try_into().map_err(|_| length)?)),
    }
}

macro_rules! codecs {
    ($($(#[$doc:meta])* $name:ident: $kind:ty, $layout:ident, |$value:ident| $encode:expr, |$number:ident| $decode:expr;)*) => {$(
        $(#[$doc])*
        pub(crate) struct $name;

        impl Codec<$kind> for $name {
            const LAYOUT: Layout = Layout::$layout;

            fn encode($value: &$kind) -> i64 {
                $encode
            }

            fn decode($number: i64) -> Option<$kind> {
                $decode
            }
        }
    )*};
}

codecs! {
    /// A count; each option says what 0 means.
    Count: u32, Int, |value| i64::from(*value), |number| u32::try_from(number).ok();
    /// 0 or 1.
    Switch: bool, Int, |value| i64::from(*value), |number| match number {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    };
    /// 0 or 1; -1: the system's choice.
    Choice: Option<bool>, Int, |value| value.map_or(-1, i64::from), |number| match number {
        -1 => Some(None),
        0 => Some(Some(false)),
        1 => Some(Some(true)),
        _ => None,
    };
    /// A size in bytes; -1: the system's choice.
    Size: Option<usize>, Int, |value| value.map_or(-1, to_number), |number| or_none(number);
    /// A count; -1: the system's choice.
    CountOrSystems: Option<u32>, Int, |value| value.map_or(-1, i64::from), |number| or_none(number);
    /// A size in bytes; -1: no limit.
    Limit: Option<u64>, Long, |value| value.map_or(-1, to_number), |number| or_none(number);
    /// Milliseconds.
    Millis: Duration, Int, |value| millis(*value), |number| {
        u64::try_from(number).ok().map(Duration::from_millis)
    };
    /// Milliseconds; -1: for ever, or as another option says.
    MillisOrNone: Option<Duration>, Int, |value| value.map_or(-1, millis), |number| {
        or_none(number).map(|ms| ms.map(Duration::from_millis))
    };
    /// Milliseconds; 0: off.
    MillisOrOff: Option<Duration>, Int, |value| value.map_or(0, millis), |number| {
        let ms = u64::try_from(number).ok()?;
        Some((ms > 0).then(|| Duration::from_millis(ms)))
    };
    /// Seconds; -1: the system's choice.
    SecsOrSystems: Option<Duration>, Int, |value| value.map_or(-1, |time| to_number(time.as_secs())), |number| {
        or_none(number).map(|secs| secs.map(Duration::from_secs))
    };
}

fn to_number<T: TryInto<i64>>(value: T) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}

/// Rounds up, so that a short time is not shown as 0.
fn millis(time: Duration) -> i64 {
    to_number(time.as_nanos().div_ceil(1_000_000))
}

fn or_none<T: TryFrom<i64>>(number: i64) -> Option<Option<T>> {
    if number == -1 { Some(None) } else { T::try_from(number).ok().map(Some) }
}
