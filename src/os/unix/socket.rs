//! The daemon's own Unix socket: a path left by a dead process is taken over, one in use is not,
//! and no client can connect before the file has its mode.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _,
};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
};

use super::super::listen::{BindError, Listener};

/// The path that a listener's socket has, if it has one.
pub fn path_of(listener: &tokio::net::UnixListener) -> Option<PathBuf> {
    let address = listener.local_addr().ok()?;
    address.as_pathname().map(ToOwned::to_owned)
}

/// Removes the socket's file when dropped, unless another process has put its own there since.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode));
        if ours {
            // The next start takes a left file over, so that a failure here costs nothing.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listens on a Unix socket at `path`, whose file gets `mode`. The folder is made if it is
/// missing and its own folder is there. Must be called within the tokio runtime.
///
/// # Errors
/// If a program listens there already, something else is in the way, or the system refuses.
pub fn bind_unix(path: &Path, mode: u32) -> Result<(Listener, SocketFile), BindError> {
    let failed = |action: &'static str| {
        move |source: io::Error| BindError::Unix { path: path.to_owned(), action, source }
    };
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    prepare_folder(path, folder)?;
    // Two daemons that start at once must not each remove the other's socket as stale: the lock
    // on the folder is held from the check to the moment when the new socket answers.
    let folder = fs::File::open(folder).map_err(failed("open its folder"))?;
    let _lock = Flock::lock(folder, FlockArg::LockExclusive)
        .map_err(|(_, errno)| failed("lock its folder")(errno.into()))?;
    remove_stale(path)?;

    let address = UnixAddr::new(path).map_err(|errno| failed("make its address")(errno.into()))?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)
        .map_err(|errno| failed("make a socket")(errno.into()))?;
    bind(fd.as_raw_fd(), &address).map_err(|errno| failed("make its file")(errno.into()))?;
    let metadata = fs::symlink_metadata(path).map_err(failed("look at its file"))?;
    let file = SocketFile { path: path.to_owned(), device: metadata.dev(), inode: metadata.ino() };
    // Until `listen` every connection is refused, so the mode is set before anyone can use it.
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed("set its mode"))?;
    listen(&fd, Backlog::MAXCONN).map_err(|errno| failed("listen")(errno.into()))?;
    let listener = tokio::net::UnixListener::from_std(UnixListener::from(fd))
        .map_err(failed("hand it to the runtime"))?;
    Ok((Listener::Unix(listener), file))
}

fn prepare_folder(path: &Path, folder: &Path) -> Result<(), BindError> {
    let failed = |action, source| BindError::Unix { path: path.to_owned(), action, source };
    match DirBuilder::new().mode(0o755).create(folder) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed("make its folder", error)),
    }
    let owner = fs::metadata(folder).map_err(|error| failed("look at its folder", error))?.uid();
    let own = super::peer::effective_uid();
    if own == 0 || owner == own || owner == 0 {
        return Ok(());
    }
    Err(BindError::ForeignFolder { path: path.to_owned(), owner })
}

/// Removes a socket's file on which nobody listens any more.
fn remove_stale(path: &Path) -> Result<(), BindError> {
    let failed = |action, source| BindError::Unix { path: path.to_owned(), action, source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at its file", error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(BindError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match probe(path) {
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove the file of a dead process", error))
            }
            _ => Ok(()),
        },
        // EAGAIN is a listener whose queue is full; EPROTOTYPE one of another type.
        Ok(()) | Err(Errno::EAGAIN | Errno::EPROTOTYPE) => {
            Err(BindError::InUse { path: path.to_owned() })
        }
        Err(errno) => Err(failed("see whether it is in use", errno.into())),
    }
}

/// Connects without waiting, to see whether anyone listens.
fn probe(path: &Path) -> Result<(), Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn mode_of(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[tokio::test]
    async fn sets_the_mode_and_removes_the_file_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        for mode in [0o600, 0o660, 0o666] {
            let path = folder.path().join(format!("{mode:o}.sock"));
            let (listener, file) = bind_unix(&path, mode).unwrap();
            assert_eq!(mode_of(&path), mode);
            assert_eq!(listener.unix_path().as_deref(), Some(path.as_path()));
            UnixStream::connect(&path).unwrap();
            drop(file);
            assert!(!path.exists());
        }
    }

    #[tokio::test]
    async fn makes_a_missing_folder_but_not_a_tree() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/phi4d.sock");
        let (_listener, _file) = bind_unix(&path, 0o660).unwrap();
        assert_eq!(mode_of(path.parent().unwrap()) & 0o022, 0);
        let deep = folder.path().join("a/b/phi4d.sock");
        let error = bind_unix(&deep, 0o660).unwrap_err();
        assert!(matches!(error, BindError::Unix { action: "make its folder", .. }));
    }

    #[tokio::test]
    async fn takes_over_what_a_dead_process_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("phi4d.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "std leaves the file behind");
        let (_listener, _file) = bind_unix(&path, 0o660).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[tokio::test]
    async fn refuses_what_is_in_use_and_leaves_it_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("phi4d.sock");
        let first = UnixListener::bind(&path).unwrap();
        let error = bind_unix(&path, 0o660).unwrap_err();
        assert!(matches!(error, BindError::InUse { .. }), "{error}");
        first.set_nonblocking(true).unwrap();
        first.accept().unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[tokio::test]
    async fn refuses_a_listener_whose_queue_is_full() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("phi4d.sock");
        let fd =
            socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(fd.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&fd, Backlog::new(0).unwrap()).unwrap();
        // Connections stay in the queue after their clients left; a queue of 0 holds one.
        let full = (0..4).find_map(|_| probe(&path).err());
        assert_eq!(full, Some(Errno::EAGAIN));
        let error = bind_unix(&path, 0o660).unwrap_err();
        assert!(matches!(error, BindError::InUse { .. }), "{error}");
    }

    #[tokio::test]
    async fn leaves_files_that_are_no_sockets_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("precious");
        fs::write(&path, "text").unwrap();
        let error = bind_unix(&path, 0o660).unwrap_err();
        assert!(matches!(error, BindError::NotASocket { .. }), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "text");
    }

    #[tokio::test]
    async fn the_guard_leaves_a_successors_socket_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("phi4d.sock");
        let (listener, file) = bind_unix(&path, 0o660).unwrap();
        // The old file is kept under another name: a freed inode number may be used again.
        fs::rename(&path, folder.path().join("old")).unwrap();
        let _successor = UnixListener::bind(&path).unwrap();
        drop(listener);
        drop(file);
        assert!(path.exists());
    }
}
