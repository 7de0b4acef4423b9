//! Sizes, as typed and as displayed.

use crate::sequence::SEQUENCE_BYTES;

/// Largest body the harness sends: one gibibyte.
pub const SIZE_BYTES_MAX: usize = 1 << 30;

/// Largest file the harness sends: one tebibyte.
pub const FILE_BYTES_MAX: u64 = 1 << 40;

/// Parses the length of a body, as [`parse_bytes`] does.
///
/// # Errors
/// A sentence for the command line, if the text is no size or the size is outside
/// [`SEQUENCE_BYTES`]`..=`[`SIZE_BYTES_MAX`].
pub fn parse(text: &str) -> Result<usize, String> {
    usize::try_from(parse_bytes(text)?)
        .ok()
        .filter(|bytes| (SEQUENCE_BYTES..=SIZE_BYTES_MAX).contains(bytes))
        .ok_or_else(|| format!("a body has {SEQUENCE_BYTES} bytes (its sequence number) to 1G"))
}

/// Parses the length of a file, as [`parse_bytes`] does.
///
/// # Errors
/// A sentence for the command line, if the text is no size or the size is outside `1..=`[`FILE_BYTES_MAX`].
pub fn parse_file(text: &str) -> Result<u64, String> {
    match parse_bytes(text)? {
        bytes @ 1..=FILE_BYTES_MAX => Ok(bytes),
        _ => Err("a file has 1 byte to 1024G".to_owned()),
    }
}

/// Parses `64`, `64B`, `4K`, `4KiB`, `1M`, `1MiB`, `1G` and the like, in either case; the units are powers of 1024.
///
/// # Errors
/// A sentence for the command line, if the text is no size or the size is 2^64 bytes or more.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    if digits.is_empty() {
        return Err(format!("`{text}` is not a size: it has to be like 64, 4K, 16M or 1G"));
    }
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        _ if unit.starts_with('.') => {
            return Err(format!("`{text}` is not a whole number; use a smaller unit"));
        }
        _ => return Err(format!("unknown unit `{unit}`, use K, M or G (powers of 1024)")),
    };
    let bytes = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(factor));
    bytes.ok_or_else(|| format!("`{text}` is too large for a size"))
}

/// Formats a size so that [`parse`] can read it, with the largest unit that divides it.
pub fn display(bytes: usize) -> String {
    match bytes {
        0 => "0 B".to_owned(),
        b if b.is_multiple_of(1 << 30) => format!("{} GiB", b >> 30),
        b if b.is_multiple_of(1 << 20) => format!("{} MiB", b >> 20),
        b if b.is_multiple_of(1 << 10) => format!("{} KiB", b >> 10),
        b => format!("{b} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        for (text, bytes) in [
            ("8", 8),
            ("64", 64),
            ("64b", 64),
            ("4K", 4096),
            ("4k", 4096),
            ("64KiB", 65_536),
            ("1M", 1 << 20),
            ("2MiB", 2 << 20),
            ("1G", 1 << 30),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn refusals() {
        for text in [
            "",
            "K",
            "-8",
            "7",
            "0",
            "2G",
            "1.5K",
            "64X",
            "99999999999999999999",
            "18446744073709551615K",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn reads_back() {
        assert_eq!(display(64), "64 B");
        assert_eq!(display(1500), "1500 B");
        assert_eq!(display(4096), "4 KiB");
        assert_eq!(display(1 << 20), "1 MiB");
        assert_eq!(display(1025 << 20), "1025 MiB");
        assert_eq!(display(4 << 30), "4 GiB");
    }

    #[test]
    fn files_may_be_larger_than_bodies() {
        assert_eq!(parse_file("4G"), Ok(4 << 30));
        assert_eq!(parse_file("1"), Ok(1));
        assert_eq!(parse_file("1024G"), Ok(FILE_BYTES_MAX));
        assert_eq!(parse_bytes("0k"), Ok(0));
        for wrong in ["0", "1025G", "", "G"] {
            assert!(parse_file(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn refusals_say_what_is_wrong() {
        for (text, part) in [
            ("", "not a size"),
            ("K", "not a size"),
            ("-8", "not a size"),
            ("64X", "unknown unit `X`, use K, M or G"),
            ("64 K", "unknown unit"),
            ("1.5K", "whole number"),
            ("99999999999999999999", "too large"),
            ("18446744073709551615K", "too large"),
            ("7", "8 bytes"),
            ("4G", "to 1G"),
        ] {
            let refusal = parse(text).unwrap_err();
            assert!(refusal.contains(part), "{text}: {refusal}");
        }
    }
}
