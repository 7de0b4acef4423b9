//! Unix-domain listeners: by path, by abstract name (Linux), or at a path of our own choosing.
//!
//! A path outlives the process that bound it. So binding again has to distinguish a *stale* socket file (no process
//! listens: the file is removed) from a *live* one (left alone: `InUse`) and from any other file at that path (never
//! touched: `NotASocket`).
//!
//! Windows has Unix-domain sockets since version 10 (1809), by path only. Where they are missing, all functions here
//! return `Unsupported`.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};
use thiserror::Error;

use super::net::backlog_arg;
use super::{OwnedSocket, code};

#[cfg(unix)]
#[path = "unix/posix.rs"]
mod files;
#[cfg(windows)]
#[path = "unix/windows.rs"]
mod files;

pub(super) use files::name_of;
use files::{FileId, Stamp};

/// Longest path or abstract name in bytes, the leading NUL of the latter included.
/// `sun_path` holds 108 on Linux and Windows, 104 on the BSDs and macOS, with the final NUL of a path.
pub const UNIX_PATH_BYTES_MAX: usize =
    if cfg!(any(target_os = "linux", windows)) { 107 } else { 103 };

/// How many binds are tried when the file at the path keeps changing, or generated names are taken.
const BIND_ATTEMPTS_MAX: u32 = 8;

/// Why a Unix-domain listener could not be made.
#[derive(Debug, Error)]
pub enum UnixListenError {
    /// A process listens there.
    #[error("{} is in use by a live socket", .0.display())]
    InUse(PathBuf),
    /// A file, directory, symbolic link or device exists at the path, and is not ours to delete.
    #[error("{} exists and is not a socket", .0.display())]
    NotASocket(PathBuf),
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<UnixListenError> for io::Error {
    fn from(error: UnixListenError) -> io::Error {
        match error {
            UnixListenError::InUse(_) => io::Error::new(io::ErrorKind::AddrInUse, error),
            UnixListenError::NotASocket(_) => io::Error::new(io::ErrorKind::AlreadyExists, error),
            UnixListenError::Io(error) => error,
        }
    }
}

/// The socket file of a listener with its identity, so that closing removes this file and no other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundPath {
    path: PathBuf,
    id: FileId,
}

impl BoundPath {
    fn of(path: &Path) -> io::Result<BoundPath> {
        let id = FileId::of(path)?;
        // A relative path would name another file once the program changes its directory.
        let path = std::path::absolute(path)?;
        Ok(BoundPath { path, id })
    }

    /// The absolute path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the file if it is still the bound one. `false`: the file is gone, or another took its place and was left
    /// alone. Call before closing the listener: while the listener is open, its inode number cannot be given to another
    /// file.
    ///
    /// # Errors
    /// The error of `lstat(2)` or `unlink(2)`, a missing file excepted.
    pub fn unlink_if_ours(&self) -> io::Result<bool> {
        let removed = match FileId::of(&self.path) {
            Ok(id) if id == self.id => std::fs::remove_file(&self.path),
            Ok(_) => return Ok(false),
            Err(error) => Err(error),
        };
        match removed {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Listens at `path`, replacing a stale socket file there.
///
/// To distinguish stale from live, this connects to the file once, which a live listener sees as a peer that comes and
/// goes. A process that has bound but not yet called `listen` looks stale for that instant.
///
/// # Errors
/// [`UnixListenError::InUse`], [`UnixListenError::NotASocket`], or the system's error: `NotFound` for a missing
/// directory, `PermissionDenied`, `InvalidInput` for an empty path or one longer than [`UNIX_PATH_BYTES_MAX`].
pub fn listen_unix(path: &Path, backlog: u32) -> Result<(OwnedSocket, BoundPath), UnixListenError> {
    let addr = path_addr(path)?;
    let socket = new_stream()?;
    let mut attempt = 1;
    loop {
        match socket.bind(&addr) {
            Ok(()) => break,
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => return Err(error.into()),
            Err(_) if attempt == BIND_ATTEMPTS_MAX => {
                return Err(UnixListenError::InUse(path.to_path_buf()));
            }
            Err(_) => remove_stale(path, &addr)?,
        }
        attempt += 1;
    }
    let bound = BoundPath::of(path)?;
    if let Err(error) = socket.listen(backlog_arg(backlog)) {
        let _ = bound.unlink_if_ours();
        return Err(error.into());
    }
    Ok((socket.into(), bound))
}

/// Listens at a fresh path in the directory for temporary files, as `ipc://*` requests.
///
/// # Errors
/// As [`listen_unix`].
pub fn listen_unix_temp(backlog: u32) -> Result<(OwnedSocket, BoundPath), UnixListenError> {
    let mut dir = std::env::temp_dir();
    // The names below have at most 30 bytes.
    if cfg!(unix) && dir.as_os_str().len() + 32 > UNIX_PATH_BYTES_MAX {
        dir = PathBuf::from("/tmp");
    }
    for _ in 1..BIND_ATTEMPTS_MAX {
        // Hashing nothing with fresh keys is std's only source of random numbers.
        let random = RandomState::new().hash_one(());
        let path = dir.join(format!("zring-{random:016x}.sock"));
        match listen_unix(&path, backlog) {
            Err(UnixListenError::InUse(_) | UnixListenError::NotASocket(_)) => {}
            result => return result,
        }
    }
    Err(UnixListenError::InUse(dir))
}

/// Listens on an abstract name (given without its leading NUL); the name vanishes with the socket.
///
/// # Errors
/// [`UnixListenError::InUse`]; `InvalidInput` for an empty or too long name; `Unsupported` outside Linux.
pub fn listen_abstract(name: &[u8], backlog: u32) -> Result<OwnedSocket, UnixListenError> {
    let addr = abstract_addr(name)?;
    let socket = new_stream()?;
    match socket.bind(&addr) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let shown = format!("@{}", name.escape_ascii());
            return Err(UnixListenError::InUse(PathBuf::from(shown)));
        }
        bound => bound?,
    }
    socket.listen(backlog_arg(backlog))?;
    Ok(socket.into())
}

/// The address to connect to for a listener at `path`.
///
/// # Errors
/// `InvalidInput` if the path is empty, longer than [`UNIX_PATH_BYTES_MAX`], contains a NUL, or on Windows is not
/// UTF-8.
pub fn path_addr(path: &Path) -> io::Result<SockAddr> {
    let bytes = path.as_os_str().as_encoded_bytes();
    if bytes.is_empty() || bytes.len() > UNIX_PATH_BYTES_MAX || bytes.contains(&0) {
        return Err(invalid("a socket path is 1 to 107 bytes (103 on BSD and macOS) without NUL"));
    }
    SockAddr::unix(path)
}

/// The address to connect to for a listener on the abstract `name` (given without its leading NUL).
///
/// # Errors
/// `InvalidInput` for an empty or too long name; `Unsupported` outside Linux.
pub fn abstract_addr(name: &[u8]) -> io::Result<SockAddr> {
    if !cfg!(target_os = "linux") {
        let why = "abstract socket names exist on Linux only";
        return Err(io::Error::new(io::ErrorKind::Unsupported, why));
    }
    if name.is_empty() || name.len() >= UNIX_PATH_BYTES_MAX {
        return Err(invalid("an abstract socket name is 1 to 106 bytes"));
    }
    let mut bytes = Vec::with_capacity(name.len() + 1);
    bytes.push(0);
    bytes.extend_from_slice(name);
    files::abstract_addr(&bytes)
}

/// Whether this system has Unix-domain sockets. For callers that cannot report an error later.
///
/// # Errors
/// `Unsupported`, or any other error of creating a socket.
pub fn check() -> io::Result<()> {
    // Elsewhere they are as old as TCP.
    if cfg!(windows) { new_stream().map(drop) } else { Ok(()) }
}

/// `Ok`: the path is worth another bind, because a stale file was removed or the file has disappeared.
fn remove_stale(path: &Path, addr: &SockAddr) -> Result<(), UnixListenError> {
    let Some(before) = identity(path)? else {
        return Ok(());
    };
    match files::probe(addr) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        // Connected, backlog full (EAGAIN), a datagram socket (EPROTOTYPE), no permission: not ours to take.
        _ => return Err(UnixListenError::InUse(path.to_path_buf())),
    }
    // Another process may have come to the same verdict and bound the path since.
    if identity(path)? != Some(before) {
        return Ok(());
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// The identity of a socket file, which differs from that of a later one at the same path. `None`: there is no file.
fn identity(path: &Path) -> Result<Option<Stamp>, UnixListenError> {
    match Stamp::of(path) {
        Ok(Some(stamp)) => Ok(Some(stamp)),
        Ok(None) => Err(UnixListenError::NotASocket(path.to_path_buf())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A non-blocking stream socket, close-on-exec.
///
/// # Errors
/// `Unsupported` where the system has no such sockets; otherwise it is out of descriptors or memory.
pub(super) fn new_stream() -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(|error| {
        if !code::is_no_family(&error) {
            return error;
        }
        let why = "this system has no Unix-domain sockets (Windows has them since 10, 1809)";
        io::Error::new(io::ErrorKind::Unsupported, why)
    })?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    use super::*;
    use crate::sys::net::{SocketName, local_name};

    #[test]
    fn a_path_is_bound_named_and_unlinked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let (fd, bound) = listen_unix(&path, 10).unwrap();
        assert_eq!(local_name(fd.as_fd()).unwrap(), SocketName::Path(path.clone()));
        UnixStream::connect(&path).unwrap();
        assert!(bound.unlink_if_ours().unwrap());
        assert!(!path.exists());
        assert!(!bound.unlink_if_ours().unwrap());
    }

    #[test]
    fn a_stale_file_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let (_fd, _bound) = listen_unix(&path, 10).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_live_listener_is_left_alone_even_with_a_full_backlog() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let (_fd, bound) = listen_unix(&path, 0).unwrap();
        for _ in 0..3 {
            let error = listen_unix(&path, 10).unwrap_err();
            assert!(matches!(&error, UnixListenError::InUse(at) if *at == path), "{error}");
            assert_eq!(io::Error::from(error).kind(), io::ErrorKind::AddrInUse);
        }
        assert!(bound.unlink_if_ours().unwrap());
    }

    #[test]
    fn another_kind_of_live_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let _datagram = UnixDatagram::bind(&path).unwrap();
        assert!(matches!(listen_unix(&path, 10), Err(UnixListenError::InUse(_))));
        assert!(path.exists());
    }

    #[test]
    fn whatever_is_not_a_socket_survives() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, b"precious").unwrap();
        let link = dir.path().join("link");
        let stale = dir.path().join("stale.sock");
        drop(UnixListener::bind(&stale).unwrap());
        std::os::unix::fs::symlink(&stale, &link).unwrap();
        for path in [file.as_path(), link.as_path(), dir.path()] {
            let error = listen_unix(path, 10).unwrap_err();
            assert!(matches!(error, UnixListenError::NotASocket(_)), "{error}");
        }
        assert_eq!(std::fs::read(&file).unwrap(), b"precious");
        assert!(link.symlink_metadata().unwrap().file_type().is_symlink());
    }

    #[test]
    fn a_successor_at_the_same_path_is_not_unlinked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let (_fd, bound) = listen_unix(&path, 10).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _successor = UnixListener::bind(&path).unwrap();
        assert!(!bound.unlink_if_ours().unwrap());
        assert!(path.exists());
    }

    #[test]
    fn a_missing_directory_and_bad_lengths_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nowhere/a.sock");
        let error = io::Error::from(listen_unix(&path, 10).unwrap_err());
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let long = "x".repeat(UNIX_PATH_BYTES_MAX + 1);
        for bad in ["", long.as_str(), "a\0b"] {
            assert_eq!(path_addr(Path::new(bad)).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        path_addr(Path::new(&long[1..])).unwrap();
    }

    #[test]
    fn temporary_paths_differ() {
        let (_a, first) = listen_unix_temp(1).unwrap();
        let (_b, second) = listen_unix_temp(1).unwrap();
        assert_ne!(first.path(), second.path());
        UnixStream::connect(first.path()).unwrap();
        assert!(first.unlink_if_ours().unwrap());
        assert!(second.unlink_if_ours().unwrap());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_abstract_name_is_taken_until_closed() {
        let name = format!("zring-test-{:x}", RandomState::new().hash_one(()));
        let fd = listen_abstract(name.as_bytes(), 10).unwrap();
        let expected = SocketName::Abstract(name.clone().into_bytes());
        assert_eq!(local_name(fd.as_fd()).unwrap(), expected);
        assert!(matches!(listen_abstract(name.as_bytes(), 10), Err(UnixListenError::InUse(_))));
        let client = new_stream().unwrap();
        client.connect(&abstract_addr(name.as_bytes()).unwrap()).unwrap();
        assert_eq!(local_name(client.as_fd()).unwrap(), SocketName::Unnamed);
        drop(fd);
        listen_abstract(name.as_bytes(), 10).unwrap();
        assert!(abstract_addr(b"").is_err());
        assert!(abstract_addr(&[b'x'; 107]).is_err());
        abstract_addr(&[b'x'; 106]).unwrap();
    }
}
