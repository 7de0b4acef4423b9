//! Sizes as people type and read them.

use crate::sequence::SEQUENCE_BYTES;

/// Largest body the harness sends: one gibibyte.
pub const SIZE_BYTES_MAX: usize = 1 << 30;

/// Parses `64`, `64B`, `4K`, `4KiB`, `1M`, `1MiB` or `1G`; the units are powers of 1024.
///
/// # Errors
/// A sentence for the command line, if the text is no size or lies outside
/// [`SEQUENCE_BYTES`]`..=`[`SIZE_BYTES_MAX`].
pub fn parse(text: &str) -> Result<usize, String> {
    let digits_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    let factor: usize = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        _ => return Err(format!("unknown unit `{unit}`, use K or M")),
    };
    let bytes = digits
        .parse::<usize>()
        .ok()
        .and_then(|count| count.checked_mul(factor))
        .ok_or_else(|| format!("`{text}` is not a size"))?;
    if !(SEQUENCE_BYTES..=SIZE_BYTES_MAX).contains(&bytes) {
        return Err(format!("a body has {SEQUENCE_BYTES} bytes (its sequence number) to 1G"));
    }
    Ok(bytes)
}

/// Writes a size the way [`parse`] reads it, with the largest unit that divides it.
pub fn display(bytes: usize) -> String {
    match bytes {
        0 => "0 B".to_owned(),
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
    }
}
