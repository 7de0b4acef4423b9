//! The options of a socket, named as libzmq's users know them.
//!
//! One [table] makes the fields and their defaults, the setters and what they check, access by libzmq's numbers, the
//! methods of [`Socket`](crate::Socket) and the list in the documentation.

mod checks;
mod raw;
#[macro_use]
mod table;

use std::time::Duration;

use thiserror::Error;

use self::{checks::HEARTBEAT_TTL_MAX, raw::Codec};
use crate::{
    deadline::duration_ns,
    socket_type::SocketType,
    wire::{BODY_BYTES_MAX, ROUTING_ID_BYTES_MAX},
};

/// Why the value of an option was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OptionError {
    /// A routing id does not fit the handshake.
    #[error("routing id of {bytes} bytes: at most {ROUTING_ID_BYTES_MAX} are allowed")]
    RoutingIdTooLong {
        /// Its length.
        bytes: usize,
    },
    /// A routing id begins with a zero byte. A ROUTER gives such ids to peers without one (RFC 28).
    #[error("a routing id must not begin with a zero byte")]
    RoutingIdLeadingZero,
    /// A PING cannot carry so long a time.
    #[error("heartbeat ttl of {0:?}: at most {HEARTBEAT_TTL_MAX:?} fit a PING")]
    HeartbeatTtlTooLong(Duration),
    /// A value outside what the option allows.
    #[error("{option} = {value}: expected {min} to {max}")]
    OutOfRange {
        /// The option's name.
        option: &'static str,
        /// The value given.
        value: u64,
        /// The smallest value allowed.
        min: u64,
        /// The largest value allowed.
        max: u64,
    },
    /// There is no option with this number.
    #[error("no option has the number {0}")]
    UnknownNumber(i32),
    /// A raw value of the wrong length: too long or short to be set, or with too little room to be read.
    #[error("{option}: {bytes} bytes instead of {expected}")]
    RawLength {
        /// The option's name.
        option: &'static str,
        /// The length of the value, or of the room for it.
        bytes: usize,
        /// The length expected.
        expected: usize,
    },
    /// A raw number that the option does not take.
    #[error("{option}: {value} is no value of this option")]
    RawValue {
        /// The option's name.
        option: &'static str,
        /// The number given.
        value: i64,
    },
}

/// When a change of an option applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Applies {
    /// At once. A message or a request that is under way is not changed.
    Now,
    /// To connections made afterwards or, if the option says so, to endpoints bound or connected afterwards.
    Afterwards,
}

/// One option, as [`Options::list`] describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OptionInfo {
    /// The name, as in the methods of [`Options`] and [`Socket`](crate::Socket).
    pub name: &'static str,
    /// The name and the number in libzmq; `None` for an option that libzmq does not have.
    pub zmq: Option<(&'static str, i32)>,
    /// The type in Rust.
    pub kind: &'static str,
    /// The default, as Rust writes it.
    pub default: &'static str,
    /// When a change applies.
    pub applies: Applies,
    /// The types of sockets that the option concerns; empty: all.
    pub of: &'static [SocketType],
    /// The text of the option's documentation.
    pub about: &'static str,
}

/// The name and number of an option in libzmq, if libzmq has it.
macro_rules! zmq {
    () => {
        None
    };
    ($number:literal $zmq:ident) => {
        Some((stringify!($zmq), $number))
    };
}

/// The setters of one option. They return a `Result` only if the option has a check.
macro_rules! setters {
    ($(#[$doc:meta])* $name:ident $set:ident $with:ident: $kind:ty,) => {
        $(#[$doc])*
        #[must_use]
        pub fn $with(mut self, value: $kind) -> Self {
            self.$name = value;
            self
        }

        #[doc = concat!("Sets `", stringify!($name), "`; see [`Options::", stringify!($with), "`].")]
        pub fn $set(&mut self, value: $kind) {
            self.$name = value;
        }
    };
    ($(#[$doc:meta])* $name:ident $set:ident $with:ident: $kind:ty, $check:ident) => {
        $(#[$doc])*
        ///
        /// # Errors
        /// [`OptionError`] for a value that is out of bounds.
        pub fn $with(mut self, value: $kind) -> Result<Self, OptionError> {
            self.$set(value)?;
            Ok(self)
        }

        #[doc = concat!("Sets `", stringify!($name), "`; see [`Options::", stringify!($with), "`].")]
        ///
        /// # Errors
        /// [`OptionError`] for a value that is out of bounds, and then nothing is changed.
        pub fn $set(&mut self, value: $kind) -> Result<(), OptionError> {
            checks::$check(stringify!($name), &value)?;
            self.$name = value;
            Ok(())
        }
    };
}

/// Raw access to one option, if libzmq has it.
macro_rules! raw_set {
    ($options:ident, $given:ident, $value:ident, $name:ident, $set:ident, $codec:ident, [], $($check:ident)?) => {};
    ($options:ident, $given:ident, $value:ident, $name:ident, $set:ident, $codec:ident, [$number:literal $zmq:ident], $($check:ident)?) => {
        if $given == $number {
            let option = stringify!($name);
            let number = raw::take(option, raw::$codec::LAYOUT, $value)?;
            let typed = raw::$codec::decode(number)
                .ok_or(OptionError::RawValue { option, value: number })?;
            $(checks::$check(option, &typed)?;)?
            $options.$name = typed;
            return Ok(());
        }
    };
}

macro_rules! raw_get {
    ($options:ident, $given:ident, $value:ident, $name:ident, $codec:ident, []) => {};
    ($options:ident, $given:ident, $value:ident, $name:ident, $codec:ident, [$number:literal $zmq:ident]) => {
        if $given == $number {
            let number = raw::$codec::encode(&$options.$name);
            return raw::put(stringify!($name), raw::$codec::LAYOUT, number, $value);
        }
    };
}

macro_rules! define {
    (
        values {$(
            $(#[doc = $doc:literal])*
            $name:ident $set:ident $with:ident: $kind:ty = $default:expr, $codec:ident [$($zmq:tt)*], $applies:ident,
            of [$($of:ident)*] $(, check $check:ident)?;
        )*}
        bytes {$(
            $(#[doc = $bytes_doc:literal])*
            $bytes:ident $bytes_set:ident $bytes_with:ident [$bytes_number:literal $bytes_zmq:ident],
            $bytes_applies:ident, of [$($bytes_of:ident)*], check $bytes_check:ident;
        )*}
    ) => {
        /// Everything that can be set on a socket. `Default` has libzmq's defaults, and bounds where libzmq has none.
        ///
        /// A setter refuses a value that is out of bounds; fields that were assigned to are checked when a socket gets
        /// the options ([`Options::validate`]). [`Options::list`] says for each option when a change applies to a
        /// socket that is in use.
        ///
        /// ```
        /// use std::time::Duration;
        /// use zring::{Options, SocketType, inline::Context};
        ///
        /// # fn main() -> Result<(), zring::Error> {
        /// let options = Options::new()
        ///     .with_sndhwm(10_000)
        ///     .with_linger(Some(Duration::from_secs(1)))
        ///     .with_sndbuf(Some(1 << 20))?;
        /// let context = Context::new()?;
        /// let push = context.socket_with(SocketType::Push, options)?;
        /// assert_eq!(push.sndhwm(), 10_000);
        /// push.set_sndhwm(100);
        /// # Ok(())
        /// # }
        /// ```
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Options {
            $(
                $(#[doc = $doc])*
                pub $name: $kind,
            )*
            $(pub(crate) $bytes: Vec<u8>,)*
        }

        impl Default for Options {
            fn default() -> Self {
                Self { $($name: $default,)* $($bytes: Vec::new(),)* }
            }
        }

        impl Options {
            /// The defaults.
            #[must_use]
            pub fn new() -> Self {
                Self::default()
            }

            $(
                setters!($(#[doc = $doc])* $name $set $with: $kind, $($check)?);

                #[doc = concat!("The value of `", stringify!($name), "`; see [`Options::", stringify!($with), "`].")]
                #[must_use]
                pub fn $name(&self) -> $kind {
                    self.$name
                }
            )*

            $(
                $(#[doc = $bytes_doc])*
                ///
                /// # Errors
                /// [`OptionError`] for a value that is out of bounds.
                pub fn $bytes_with(mut self, value: impl AsRef<[u8]>) -> Result<Self, OptionError> {
                    self.$bytes_set(value)?;
                    Ok(self)
                }

                #[doc = concat!("Sets `", stringify!($bytes), "`; see [`Options::", stringify!($bytes_with), "`].")]
                ///
                /// # Errors
                /// [`OptionError`] for a value that is out of bounds, and then nothing is changed.
                pub fn $bytes_set(&mut self, value: impl AsRef<[u8]>) -> Result<(), OptionError> {
                    checks::$bytes_check(stringify!($bytes), value.as_ref())?;
                    self.$bytes = value.as_ref().to_vec();
                    Ok(())
                }

                #[doc = concat!("The value of `", stringify!($bytes), "`; see [`Options::", stringify!($bytes_with), "`].")]
                #[must_use]
                pub fn $bytes(&self) -> &[u8] {
                    &self.$bytes
                }
            )*

            /// Checks the values of all fields.
            ///
            /// # Errors
            /// [`OptionError`] for the first option that is out of its bounds.
            pub fn validate(&self) -> Result<(), OptionError> {
                $($(checks::$check(stringify!($name), &self.$name)?;)?)*
                $(checks::$bytes_check(stringify!($bytes), &self.$bytes)?;)*
                Ok(())
            }

            /// Sets an option by its number in libzmq, as `zmq_setsockopt` does: an `int` or `int64_t` in the machine's
            /// byte order, or bytes.
            ///
            /// # Errors
            /// [`OptionError`] for an unknown number, or a value of the wrong length or out of bounds; then nothing is
            /// changed.
            pub fn set_raw(&mut self, number: i32, value: &[u8]) -> Result<(), OptionError> {
                $(raw_set!(self, number, value, $name, $set, $codec, [$($zmq)*], $($check)?);)*
                $(if number == $bytes_number {
                    return self.$bytes_set(value);
                })*
                Err(OptionError::UnknownNumber(number))
            }

            /// Reads an option by its number in libzmq, as `zmq_getsockopt` does, into `value`. Returns the length of
            /// the option's value in bytes. A value that libzmq's type cannot hold is given as the largest one that it
            /// can.
            ///
            /// # Errors
            /// [`OptionError`] for an unknown number, or too little room.
            pub fn get_raw(&self, number: i32, value: &mut [u8]) -> Result<usize, OptionError> {
                $(raw_get!(self, number, value, $name, $codec, [$($zmq)*]);)*
                $(if number == $bytes_number {
                    return raw::put_bytes(stringify!($bytes), &self.$bytes, value);
                })*
                Err(OptionError::UnknownNumber(number))
            }

            /// All options, as the [documentation] lists them.
            ///
            /// [documentation]: https://docs.rs/zring/latest/zring/struct.Options.html
            #[must_use]
            pub fn list() -> &'static [OptionInfo] {
                &[
                    $(OptionInfo {
                        name: stringify!($name),
                        zmq: zmq!($($zmq)*),
                        kind: stringify!($kind),
                        default: stringify!($default),
                        applies: Applies::$applies,
                        of: &[$(SocketType::$of),*],
                        about: concat!($($doc),*),
                    },)*
                    $(OptionInfo {
                        name: stringify!($bytes),
                        zmq: Some((stringify!($bytes_zmq), $bytes_number)),
                        kind: "bytes",
                        default: "empty",
                        applies: Applies::$bytes_applies,
                        of: &[$(SocketType::$bytes_of),*],
                        about: concat!($($bytes_doc),*),
                    },)*
                ]
            }
        }
    };
}

option_table!(define);

/// Values in the form that the engine and the wire need.
impl Options {
    /// The time to live that our PINGs carry, in tenths of a second, rounded up; 0: none.
    pub(crate) fn heartbeat_ttl_ds(&self) -> u16 {
        let ds = self.heartbeat_ttl.unwrap_or_default().as_nanos().div_ceil(100_000_000);
        u16::try_from(ds).unwrap_or(u16::MAX)
    }

    /// The largest frame body to accept, in bytes.
    pub(crate) fn body_bytes_max(&self) -> u64 {
        self.maxmsgsize.map_or(BODY_BYTES_MAX, |bytes| bytes.min(BODY_BYTES_MAX))
    }

    /// The interval between PINGs in nanoseconds; `None`: no heartbeat.
    pub(crate) fn heartbeat_ivl_ns(&self) -> Option<u64> {
        self.heartbeat_ivl.map(duration_ns).filter(|&ns| ns > 0)
    }

    /// The limit on silence in nanoseconds; `None`: as the interval, 0: no limit.
    pub(crate) fn heartbeat_timeout_ns(&self) -> Option<u64> {
        self.heartbeat_timeout.map(duration_ns)
    }

    /// The limit on greeting and handshake in nanoseconds; `None`: no limit.
    pub(crate) fn handshake_ivl_ns(&self) -> Option<u64> {
        self.handshake_ivl.map(duration_ns).filter(|&ns| ns > 0)
    }
}

#[cfg(test)]
mod tests;
