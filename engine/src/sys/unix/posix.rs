//! Socket files and names on Unix.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use socket2::SockAddr;

use super::new_stream;
use crate::sys::net::SocketName;

/// Identity of an open file among all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileId {
    dev: u64,
    ino: u64,
}

impl FileId {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let meta = std::fs::symlink_metadata(path)?;
        Ok(Self { dev: meta.dev(), ino: meta.ino() })
    }
}

/// As [`FileId`], for a file that may not be open. Some file systems reuse inode numbers at once, but never change
/// times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    id: FileId,
    changed_ns: i128,
}

impl Stamp {
    /// `None`: the file is no socket.
    pub(super) fn of(path: &Path) -> io::Result<Option<Self>> {
        let meta = std::fs::symlink_metadata(path)?;
        if !meta.file_type().is_socket() {
            return Ok(None);
        }
        let changed_ns = i128::from(meta.ctime()) * 1_000_000_000 + i128::from(meta.ctime_nsec());
        Ok(Some(Self { id: FileId { dev: meta.dev(), ino: meta.ino() }, changed_ns }))
    }
}

/// Connects once; `ConnectionRefused`: no process listens.
pub(super) fn probe(addr: &SockAddr) -> io::Result<()> {
    new_stream()?.connect(addr)
}

/// The address of a name with its leading NUL.
pub(super) fn abstract_addr(bytes: &[u8]) -> io::Result<SockAddr> {
    SockAddr::unix(std::ffi::OsStr::from_bytes(bytes))
}

pub(in crate::sys) fn name_of(addr: &SockAddr) -> SocketName {
    if let Some(path) = addr.as_pathname() {
        return SocketName::Path(path.to_path_buf());
    }
    match addr.as_abstract_namespace() {
        Some(name) => SocketName::Abstract(name.to_vec()),
        None => SocketName::Unnamed,
    }
}
