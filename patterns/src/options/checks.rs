//! Checks of the values of options.

use std::time::Duration;

use super::OptionError;
use crate::wire::ROUTING_ID_BYTES_MAX;

/// Longest time to live a PING can carry: 16 bits of tenths of a second (RFC 37).
pub(crate) const HEARTBEAT_TTL_MAX: Duration = Duration::from_millis(u16::MAX as u64 * 100);

/// Longest keep-alive time and interval Linux takes, in seconds (`tcp(7)`).
const KEEPALIVE_SECS_MAX: u64 = 32_767;

/// Most keep-alive probes Linux takes (`tcp(7)`).
const KEEPALIVE_PROBES_MAX: u64 = 127;

/// `setsockopt(2)` takes the sizes of socket buffers as an `int`.
const BUFFER_BYTES_MAX: u64 = i32::MAX as u64;

fn within(option: &'static str, value: Option<u64>, max: u64) -> Result<(), OptionError> {
    match value {
        Some(value) if !(1..=max).contains(&value) => {
            Err(OptionError::OutOfRange { option, value, min: 1, max })
        }
        _ => Ok(()),
    }
}

pub(crate) fn at_least_1<T: Copy + Into<u64>>(
    option: &'static str,
    value: &T,
) -> Result<(), OptionError> {
    within(option, Some((*value).into()), u64::MAX)
}

pub(crate) fn buffer_bytes(option: &'static str, value: &Option<usize>) -> Result<(), OptionError> {
    within(option, value.map(|bytes| bytes as u64), BUFFER_BYTES_MAX)
}

pub(crate) fn keepalive_secs(
    option: &'static str,
    value: &Option<Duration>,
) -> Result<(), OptionError> {
    within(option, value.map(|time| time.as_secs()), KEEPALIVE_SECS_MAX)
}

pub(crate) fn keepalive_probes(
    option: &'static str,
    value: &Option<u32>,
) -> Result<(), OptionError> {
    within(option, value.map(u64::from), KEEPALIVE_PROBES_MAX)
}

pub(crate) fn fits_a_ping(_: &'static str, value: &Option<Duration>) -> Result<(), OptionError> {
    match *value {
        Some(ttl) if ttl > HEARTBEAT_TTL_MAX => Err(OptionError::HeartbeatTtlTooLong(ttl)),
        _ => Ok(()),
    }
}

pub(crate) fn routing_id(_: &'static str, id: &[u8]) -> Result<(), OptionError> {
    if id.len() > ROUTING_ID_BYTES_MAX {
        return Err(OptionError::RoutingIdTooLong { bytes: id.len() });
    }
    if id.first() == Some(&0) {
        return Err(OptionError::RoutingIdLeadingZero);
    }
    Ok(())
}
