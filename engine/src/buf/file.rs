//! Bodies in files.

use std::{fs::File, io, sync::Arc};

use crate::sys::{code, file};

/// Why a part of a file cannot be a body.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// A directory, a pipe or a device: its length cannot be relied on.
    #[error("not a regular file")]
    NotRegular,
    /// The file was not opened for reading.
    #[error("the file is not open for reading")]
    NotReadable,
    /// The file is open with `O_DIRECT`, which bypasses the page cache; bodies are sent from the page cache.
    #[error("the file is open for direct I/O, without the page cache")]
    Direct,
    /// The file ends before the region does.
    #[error("{len} bytes from {offset} on are not in a file of {file_bytes} bytes")]
    BeyondEnd {
        /// Where the region begins.
        offset: u64,
        /// How long it is.
        len: u64,
        /// How long the file is.
        file_bytes: u64,
    },
    /// The region is longer than the address space of this machine.
    #[error("{0} bytes are more than one body can have")]
    TooLong(u64),
    /// A system call on the file failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Why a region could not be read to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FileFault {
    /// The file has become shorter: it ends at or before this offset.
    #[error("the file was cut off: nothing at {at}")]
    Truncated {
        /// Offset in the file, in bytes.
        at: u64,
    },
    /// Reading failed.
    #[error("the file cannot be read at {at}: {}", io::Error::from_raw_os_error(*errno))]
    Unreadable {
        /// Offset in the file, in bytes.
        at: u64,
        /// The system's error number.
        errno: i32,
    },
}

impl FileFault {
    /// The fault inside a send error, if the file and not the connection caused the error.
    #[must_use]
    pub fn within(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    pub(crate) fn unreadable(at: u64, error: &io::Error) -> Self {
        Self::Unreadable { at, errno: error.raw_os_error().unwrap_or(code::IO_FAULT) }
    }
}

impl From<FileFault> for io::Error {
    fn from(fault: FileFault) -> Self {
        Self::other(fault)
    }
}

/// `len` bytes of an open file from `offset` on, as one body. Cheap to clone; the file stays open with the last clone.
#[derive(Debug, Clone)]
pub struct FileRegion {
    file: Arc<File>,
    offset: u64,
    len: usize,
}

impl FileRegion {
    /// Checks that the file can be read and reaches far enough.
    ///
    /// # Errors
    /// See [`FileError`].
    pub fn new(file: impl Into<Arc<File>>, offset: u64, len: u64) -> Result<Self, FileError> {
        let file = file.into();
        let about = file.metadata()?;
        if !about.is_file() {
            return Err(FileError::NotRegular);
        }
        match file::access(&file)? {
            file::Access::None => return Err(FileError::NotReadable),
            file::Access::Direct => return Err(FileError::Direct),
            file::Access::Cached => {}
        }
        let file_bytes = about.len();
        if offset.checked_add(len).is_none_or(|end| end > file_bytes) {
            return Err(FileError::BeyondEnd { offset, len, file_bytes });
        }
        let fitting = usize::try_from(len).ok().filter(|&len| len <= isize::MAX as usize);
        let len = fitting.ok_or(FileError::TooLong(len))?;
        Ok(Self { file, offset, len })
    }

    /// The number of bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the region has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A part of the region.
    ///
    /// # Panics
    /// If `range` does not lie inside.
    #[must_use]
    pub fn slice(&self, range: std::ops::Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len, "slice out of bounds");
        Self { file: self.file.clone(), offset: self.offset + range.start as u64, len: range.len() }
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Where in the file it begins, in bytes.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether both are the same part of the same open file.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.file, &other.file) && (self.offset, self.len) == (other.offset, other.len)
    }

    /// Fills `into` from `at` bytes behind the region's beginning. Waits for the disk.
    ///
    /// # Errors
    /// When the file has become shorter or cannot be read.
    ///
    /// # Panics
    /// If the read reaches beyond the region.
    pub fn read_at(&self, at: usize, into: &mut [u8]) -> Result<(), FileFault> {
        assert!(at + into.len() <= self.len, "beyond the region");
        file::read_exactly(&self.file, self.offset + at as u64, into)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::OpenOptions, io::Write};

    use super::*;

    #[test]
    fn what_cannot_be_sent_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("body");
        File::create(&path).unwrap().write_all(b"0123456789").unwrap();
        let open = || File::open(&path).unwrap();
        let region = FileRegion::new(open(), 3, 7).unwrap();
        assert_eq!((region.len(), region.offset()), (7, 3));
        assert!(FileRegion::new(open(), 10, 0).unwrap().is_empty());
        for (offset, len) in [(3, 8), (11, 0), (u64::MAX, 1), (1, u64::MAX)] {
            let refused = FileRegion::new(open(), offset, len).unwrap_err();
            assert!(matches!(refused, FileError::BeyondEnd { file_bytes: 10, .. }), "{refused}");
        }
        // Windows cannot open a directory in this way.
        if !cfg!(windows) {
            let directory = File::open(dir.path()).unwrap();
            assert!(matches!(FileRegion::new(directory, 0, 0), Err(FileError::NotRegular)));
        }
        let blind = OpenOptions::new().write(true).open(&path).unwrap();
        assert!(matches!(FileRegion::new(blind, 0, 1), Err(FileError::NotReadable)));
    }

    #[test]
    fn reading_tells_where_the_file_ends() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let region = FileRegion::new(file, 2, 8).unwrap();
        let mut some = [0; 3];
        region.read_at(1, &mut some).unwrap();
        assert_eq!(&some, b"345");
        region.file().set_len(6).unwrap();
        let fault = region.read_at(0, &mut [0; 8]).unwrap_err();
        assert_eq!(fault, FileFault::Truncated { at: 6 });
        let error = io::Error::from(fault.clone());
        assert_eq!(FileFault::within(&error), Some(&fault));
        assert_eq!(FileFault::within(&io::Error::from_raw_os_error(code::IO_FAULT)), None);
    }
}
