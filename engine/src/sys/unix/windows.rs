//! Socket files and names on Windows: a socket file is a reparse point of its own kind.

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::{MaybeUninit, offset_of};
use std::os::windows::fs::OpenOptionsExt;
use std::os::windows::io::AsRawHandle;
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::SockAddr;
use windows_sys::Win32::{
    Networking::WinSock::SOCKADDR_UN,
    Storage::FileSystem::{
        BY_HANDLE_FILE_INFORMATION, FILE_ATTRIBUTE_REPARSE_POINT, FILE_ATTRIBUTE_TAG_INFO,
        FILE_FLAG_BACKUP_SEMANTICS, FILE_FLAG_OPEN_REPARSE_POINT, FILE_READ_ATTRIBUTES,
        FileAttributeTagInfo, GetFileInformationByHandle, GetFileInformationByHandleEx,
    },
    System::SystemServices::IO_REPARSE_TAG_AF_UNIX,
};

use super::new_stream;
use crate::sys::net::SocketName;

/// Number of probes of a listener that refuses, and the pause between them: a full backlog refuses as well, but only
/// for a moment.
const PROBES: u32 = 3;
const PROBE_PAUSE: Duration = Duration::from_millis(5);
/// A listener that has not answered by then counts as live.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Identity of a file among all others: volume, number, and time of creation, because numbers are reused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileId {
    volume: u32,
    index: u64,
    created: u64,
}

fn join(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// Opens the file itself, not the target of a link.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .access_mode(FILE_READ_ATTRIBUTES)
        .custom_flags(FILE_FLAG_OPEN_REPARSE_POINT | FILE_FLAG_BACKUP_SEMANTICS)
        .open(path)
}

fn id_of(file: &File) -> io::Result<(FileId, u32)> {
    let mut about = MaybeUninit::<BY_HANDLE_FILE_INFORMATION>::zeroed();
    // SAFETY: the handle is open; the call writes one such structure or fails.
    if unsafe { GetFileInformationByHandle(file.as_raw_handle(), about.as_mut_ptr()) } == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: plain numbers, zeroed and then written.
    let about = unsafe { about.assume_init() };
    let id = FileId {
        volume: about.dwVolumeSerialNumber,
        index: join(about.nFileIndexHigh, about.nFileIndexLow),
        created: join(about.ftCreationTime.dwHighDateTime, about.ftCreationTime.dwLowDateTime),
    };
    Ok((id, about.dwFileAttributes))
}

impl FileId {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        Ok(id_of(&open(path)?)?.0)
    }
}

/// A [`FileId`] that is known to be a socket's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp(FileId);

impl Stamp {
    /// `None`: the file is no socket.
    pub(super) fn of(path: &Path) -> io::Result<Option<Self>> {
        let file = open(path)?;
        let (id, attributes) = id_of(&file)?;
        if attributes & FILE_ATTRIBUTE_REPARSE_POINT == 0 {
            return Ok(None);
        }
        let mut tag = FILE_ATTRIBUTE_TAG_INFO { FileAttributes: 0, ReparseTag: 0 };
        let bytes = size_of_val(&tag) as u32;
        // SAFETY: the handle is open; the call writes at most the size of the structure.
        let is_told = unsafe {
            GetFileInformationByHandleEx(
                file.as_raw_handle(),
                FileAttributeTagInfo,
                (&raw mut tag).cast(),
                bytes,
            )
        };
        if is_told == 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((tag.ReparseTag == IO_REPARSE_TAG_AF_UNIX).then_some(Self(id)))
    }
}

/// Connects; `ConnectionRefused`: no process listens.
pub(super) fn probe(addr: &SockAddr) -> io::Result<()> {
    let mut outcome = Ok(());
    for probe in 0..PROBES {
        if probe > 0 {
            std::thread::sleep(PROBE_PAUSE);
        }
        outcome = new_stream()?.connect_timeout(addr, PROBE_TIMEOUT);
        if !matches!(&outcome, Err(error) if error.kind() == io::ErrorKind::ConnectionRefused) {
            break;
        }
    }
    outcome
}

/// Never called: abstract names are refused earlier.
pub(super) fn abstract_addr(_bytes: &[u8]) -> io::Result<SockAddr> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(in crate::sys) fn name_of(addr: &SockAddr) -> SocketName {
    let len = (addr.len() as usize).min(size_of::<SOCKADDR_UN>());
    // SAFETY: an address is at least as long as its stated length, and consists of plain bytes.
    let bytes = unsafe { std::slice::from_raw_parts(addr.as_ptr().cast::<u8>(), len) };
    let path = bytes.get(offset_of!(SOCKADDR_UN, sun_path)..).unwrap_or_default();
    let path = path.split(|&byte| byte == 0).next().unwrap_or_default();
    match path {
        [] => SocketName::Unnamed,
        path => SocketName::Path(PathBuf::from(String::from_utf8_lossy(path).into_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{UNIX_PATH_BYTES_MAX, UnixListenError, check, listen_unix, path_addr};
    use super::*;

    #[test]
    fn names_are_told_from_addresses() {
        let path = Path::new(r"C:\some where\zring.sock");
        assert_eq!(name_of(&path_addr(path).unwrap()), SocketName::Path(path.to_path_buf()));
        let long = "x".repeat(UNIX_PATH_BYTES_MAX);
        assert_eq!(name_of(&path_addr(long.as_ref()).unwrap()), SocketName::Path(long.into()));
        for bad in ["", "a\0b", &"x".repeat(UNIX_PATH_BYTES_MAX + 1)] {
            let error = path_addr(bad.as_ref()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn files_have_identities_and_ordinary_ones_are_no_sockets() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        std::fs::write(&one, b"precious").unwrap();
        std::fs::write(&two, b"").unwrap();
        assert_eq!(FileId::of(&one).unwrap(), FileId::of(&one).unwrap());
        assert_ne!(FileId::of(&one).unwrap(), FileId::of(&two).unwrap());
        assert_eq!(Stamp::of(&one).unwrap(), None);
        assert_eq!(Stamp::of(dir.path()).unwrap(), None);
        let missing = Stamp::of(&dir.path().join("three")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_listener_at_a_path_or_the_reason_why_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        if let Err(error) = check() {
            println!("skipped: no AF_UNIX here");
            assert_eq!(error.kind(), io::ErrorKind::Unsupported);
            let error = io::Error::from(listen_unix(&path, 10).unwrap_err());
            assert_eq!(error.kind(), io::ErrorKind::Unsupported);
            return;
        }
        let (listener, bound) = listen_unix(&path, 10).unwrap();
        assert!(matches!(listen_unix(&path, 10), Err(UnixListenError::InUse(_))));
        drop(listener);
        // The path is stale now, so its file is replaced; the file bound before was another one.
        let (_listener, successor) = listen_unix(&path, 10).unwrap();
        assert!(!bound.unlink_if_ours().unwrap());
        assert!(successor.unlink_if_ours().unwrap());
        assert!(!successor.unlink_if_ours().unwrap());
        std::fs::write(&path, b"precious").unwrap();
        let error = listen_unix(&path, 10).unwrap_err();
        assert!(matches!(error, UnixListenError::NotASocket(_)), "{error}");
    }
}
