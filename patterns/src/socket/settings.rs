//! Options of a socket, one by one and all at once.

use std::time::Duration;

use super::{Home, Socket};
use crate::{
    error::Error,
    options::{OptionError, Options},
    reactor::Reactor,
};

/// The setter of one option. It returns a `Result` only if the option has a check.
macro_rules! setter {
    ($(#[$doc:meta])* $name:ident $set:ident: $kind:ty,) => {
        $(#[$doc])*
        pub fn $set(&self, value: $kind) {
            self.change_options(|options| options.$set(value));
        }
    };
    ($(#[$doc:meta])* $name:ident $set:ident: $kind:ty, $check:ident) => {
        $(#[$doc])*
        ///
        /// # Errors
        /// [`OptionError`] for a value that is out of bounds, and then nothing is changed.
        pub fn $set(&self, value: $kind) -> Result<(), OptionError> {
            let mut options = self.options();
            options.$set(value)?;
            self.change_options(|options| options.$name = value);
            Ok(())
        }
    };
}

macro_rules! settings {
    (
        values {$(
            $(#[$doc:meta])*
            $name:ident $set:ident $with:ident: $kind:ty = $default:expr, $codec:ident [$($zmq:tt)*], $applies:ident,
            of [$($of:ident)*] $(, check $check:ident)?;
        )*}
        bytes {$(
            $(#[$bytes_doc:meta])*
            $bytes:ident $bytes_set:ident $bytes_with:ident [$($bytes_zmq:tt)*], $bytes_applies:ident,
            of [$($bytes_of:ident)*], check $bytes_check:ident;
        )*}
    ) => {
        $(
            setter!($(#[$doc])* $name $set: $kind, $($check)?);

            #[doc = concat!("The value of `", stringify!($name), "`; see [`Options::", stringify!($with), "`].")]
            #[must_use]
            pub fn $name(&self) -> $kind {
                self.reactor().hub.sockets[self.key()].options.$name
            }
        )*
        $(
            $(#[$bytes_doc])*
            ///
            /// # Errors
            /// [`OptionError`] for a value that is out of bounds, and then nothing is changed.
            pub fn $bytes_set(&self, value: impl AsRef<[u8]>) -> Result<(), OptionError> {
                let changed = self.options().$bytes_with(value)?;
                self.change_options(|options| options.$bytes.clone_from(&changed.$bytes));
                Ok(())
            }

            #[doc = concat!("The value of `", stringify!($bytes), "`; see [`Options::", stringify!($bytes_with), "`].")]
            #[must_use]
            pub fn $bytes(&self) -> Vec<u8> {
                self.reactor().hub.sockets[self.key()].options.$bytes.clone()
            }
        )*
    };
}

impl<C: Home> Socket<C> {
    option_table!(settings);

    /// Sets an option by its number in libzmq; see [`Options::set_raw`].
    ///
    /// # Errors
    /// As [`Options::set_raw`].
    pub fn set_raw(&self, number: i32, value: &[u8]) -> Result<(), OptionError> {
        let mut options = self.options();
        options.set_raw(number, value)?;
        self.change_options(|mine| mine.clone_from(&options));
        Ok(())
    }

    /// Reads an option by its number in libzmq; see [`Options::get_raw`].
    ///
    /// # Errors
    /// As [`Options::get_raw`].
    pub fn get_raw(&self, number: i32, value: &mut [u8]) -> Result<usize, OptionError> {
        self.reactor().hub.sockets[self.key()].options.get_raw(number, value)
    }

    /// All options at once.
    #[must_use]
    pub fn options(&self) -> Options {
        self.reactor().hub.sockets[self.key()].options.clone()
    }

    /// Replaces all options. Each change applies at the time that its option says.
    ///
    /// # Errors
    /// [`Error::Option`] for a value out of its bounds, and then nothing is changed.
    #[expect(clippy::needless_pass_by_value, reason = "each share keeps its own")]
    pub fn set_options(&self, options: Options) -> Result<(), Error> {
        options.validate()?;
        self.change_options(|mine| mine.clone_from(&options));
        Ok(())
    }

    fn change_options(&self, mut change: impl FnMut(&mut Options)) {
        self.each(|reactor, key| {
            change(&mut reactor.hub.sockets[key].options);
            let Reactor { shard, hub, .. } = reactor;
            hub.apply_options(shard, key);
        });
    }
}
