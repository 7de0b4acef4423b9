//! The file to send: made for the run, without a name, full of words that encode their position.

use std::fs::File;
use std::io::{self, IoSliceMut, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::fstatfs;
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use crate::error::{Failure, Result};

/// Bytes written, or read, per step.
const PIECE_BYTES: usize = 1 << 20;
const WORD_BYTES: u64 = 8;
/// Distance between the bytes probed in the page cache.
const PROBE_DISTANCE: u64 = 512 << 10;
/// File systems in memory. Source: `statfs(2)`.
const IN_MEMORY: [u32; 2] = [0x0102_1994, 0x8584_58f6];

/// A file without a name: it vanishes with the last process that has it open, however that process ends.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) file: File,
    bytes: u64,
}

impl Source {
    /// Writes the file and waits until it is on its device, so that no writing continues during the runs. `each` gets
    /// the number of bytes written so far.
    pub(super) fn new(directory: &Path, bytes: u64, mut each: impl FnMut(u64)) -> Result<Self> {
        let failed = |error: io::Error| {
            Failure::Setup(format!(
                "a file of {bytes} bytes cannot be made in {}: {error}",
                directory.display()
            ))
        };
        let mut file = tempfile::tempfile_in(directory).map_err(failed)?;
        let mut piece = vec![0; PIECE_BYTES];
        let mut written = 0;
        while written < bytes {
            let filled = (bytes - written).min(PIECE_BYTES as u64) as usize;
            fill(&mut piece[..filled], written);
            file.write_all(&piece[..filled]).map_err(failed)?;
            written += filled as u64;
            each(written);
        }
        file.sync_data().map_err(failed)?;
        Ok(Self { file, bytes })
    }

    /// Whether the file is in memory only, as on tmpfs.
    pub(super) fn is_in_memory(&self) -> bool {
        fstatfs(&self.file).is_ok_and(|system| IN_MEMORY.contains(&(system.f_type as u32)))
    }

    /// Ensures that the file is in the page cache, by reading it if it is not; `false` if it does not stay there.
    pub(super) fn keep_cached(&self) -> Result<bool> {
        if self.is_in_memory() || self.is_cached()? == Some(true) {
            return Ok(true);
        }
        let mut piece = vec![0; PIECE_BYTES];
        let mut offset = 0;
        while offset < self.bytes {
            match self.file.read_at(&mut piece, offset)? {
                0 => break,
                read => offset += read as u64,
            }
        }
        // Where the system cannot tell, assume that it stays after it was read.
        Ok(self.is_cached()?.unwrap_or(true))
    }

    /// Whether all probed bytes could be read without the device; `None` if the file system does not tell.
    fn is_cached(&self) -> Result<Option<bool>> {
        let mut byte = [0];
        let mut offset = 0;
        while offset < self.bytes {
            let mut parts = [IoSliceMut::new(&mut byte)];
            match preadv2(&self.file, &mut parts, offset, ReadWriteFlags::NOWAIT) {
                Ok(_) => offset += PROBE_DISTANCE,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Some(false)),
                Err(Errno::OPNOTSUPP) => return Ok(None),
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
        Ok(Some(true))
    }
}

/// The word at `offset`, a multiple of its length. None of its bytes is zero.
fn word(offset: u64) -> [u8; WORD_BYTES as usize] {
    let place = offset / WORD_BYTES;
    let mixed = (place + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed | 0x0101_0101_0101_0101).to_le_bytes()
}

/// Fills a piece of the file; `offset` is a multiple of a word.
fn fill(piece: &mut [u8], offset: u64) {
    for (bytes, place) in piece.chunks_mut(WORD_BYTES as usize).zip(0..) {
        bytes.copy_from_slice(&word(offset + place * WORD_BYTES)[..bytes.len()]);
    }
}

/// Checks the first and the last whole word of a received piece: cheap, and the same for all subjects.
pub(super) fn check(offset: u64, piece: &[u8]) -> Result<()> {
    let begin = offset.next_multiple_of(WORD_BYTES);
    let end = offset + piece.len() as u64;
    let Some(last) = (end / WORD_BYTES * WORD_BYTES).checked_sub(WORD_BYTES) else { return Ok(()) };
    for at in [begin, last] {
        let start = at.checked_sub(offset).map(|start| start as usize);
        let found = start.and_then(|start| piece.get(start..start + WORD_BYTES as usize));
        if found.is_some_and(|found| found != word(at)) {
            return Err(Failure::Library(format!("the bytes at offset {at} are not the file's")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_byte_is_zero_and_places_differ() {
        let mut piece = vec![0; 4096];
        fill(&mut piece, 1 << 32);
        assert!(piece.iter().all(|byte| *byte != 0));
        assert_ne!(word(0), word(8));
        assert_ne!(word(0), word(1 << 32));
    }

    #[test]
    fn pieces_are_checked_at_both_ends() {
        let mut whole = vec![0; 100];
        fill(&mut whole, 0);
        for start in 0..40 {
            for end in start..=whole.len() {
                check(start as u64, &whole[start..end]).unwrap();
            }
        }
        assert!(check(8, &whole[..64]).is_err(), "bytes of another place");
        let mut damaged = whole.clone();
        damaged[17] ^= 1;
        assert!(check(16, &damaged[16..]).is_err());
        damaged[17] ^= 1;
        damaged[95] ^= 1;
        assert!(check(3, &damaged[3..]).is_err());
    }

    #[test]
    fn a_source_is_what_it_says() {
        let directory = tempfile::tempdir().unwrap();
        let mut told = Vec::new();
        let bytes = (2 << 20) + 5;
        let source = Source::new(directory.path(), bytes, |written| told.push(written)).unwrap();
        assert_eq!(told, [1 << 20, 2 << 20, bytes]);
        assert_eq!(source.file.metadata().unwrap().len(), bytes);
        let mut piece = [0; 64];
        source.file.read_exact_at(&mut piece, (1 << 20) - 30).unwrap();
        check((1 << 20) - 30, &piece).unwrap();
        assert!(source.keep_cached().is_ok());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "it has no name");
        let refusal = Source::new(Path::new("/nowhere"), 1, |_| ()).unwrap_err().to_string();
        assert!(refusal.contains("/nowhere"), "{refusal}");
    }
}
