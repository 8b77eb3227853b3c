#![expect(unsafe_code, reason = "system calls that must be refused are made by their numbers")]

use std::io;
use std::process::Command;

use super::super::apart::in_a_process;
use super::*;

/// The error of a call by its number, with arguments that could do no harm if it were let through.
fn call(number: libc::c_long, arguments: [libc::c_long; 3]) -> Option<i32> {
    let [first, second, third] = arguments;
    // SAFETY: null pointers and numbers only; the kernel checks what it is given.
    let result = unsafe { libc::syscall(number, first, second, third, 0, 0, 0) };
    (result < 0).then(|| io::Error::last_os_error().raw_os_error().unwrap())
}

fn refusals_that_hold_for_all() {
    for number in syscalls::NEVER {
        assert_eq!(call(*number, [0; 3]), Some(libc::EPERM), "call {number}");
    }
    let other =
        [libc::AF_NETLINK, libc::AF_PACKET, libc::AF_VSOCK, libc::AF_ALG, libc::AF_BLUETOOTH];
    for family in other.map(libc::c_long::from) {
        let kind = libc::c_long::from(libc::SOCK_DGRAM);
        assert_eq!(call(libc::SYS_socket, [family, kind, 0]), Some(libc::EPERM), "{family}");
    }
    for flag in syscalls::NEW_NAMESPACE {
        let flags = libc::c_long::from(*flag) | libc::c_long::from(libc::CLONE_THREAD);
        assert_eq!(call(libc::SYS_clone, [flags, 0, 0]), Some(libc::EPERM), "{flag:x}");
    }
    let ran = Command::new("/bin/true").status();
    assert_eq!(ran.unwrap_err().raw_os_error(), Some(libc::EPERM));
}

fn status(field: &str) -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    tasks
        .map(|task| {
            let text = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            let line = text.lines().find_map(|line| line.strip_prefix(field));
            line.unwrap().trim_start_matches(':').trim().to_owned()
        })
        .collect()
}

/// Maps a page with `protection`.
fn map(protection: i32) -> libc::c_long {
    let (private, none) = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1);
    // SAFETY: a new mapping at an address of the kernel's choice.
    unsafe { libc::syscall(libc::SYS_mmap, 0, 4096, protection, private, none, 0) }
}

#[test]
fn the_daemon_serves_on_and_runs_no_programs() {
    in_a_process(module_path!(), "the_daemon_serves_on_and_runs_no_programs", || {
        let (go, wait) = std::sync::mpsc::sync_channel::<()>(0);
        // One from before and one from after are held to it alike.
        let before = std::thread::spawn(move || {
            let _ = wait.recv();
            call(libc::SYS_ptrace, [0; 3])
        });
        confine(Profile::Daemon).unwrap();
        assert!(status("Seccomp").iter().all(|mode| mode == "2"), "{:?}", status("Seccomp"));
        assert!(status("NoNewPrivs").iter().all(|set| set == "1"));
        drop(go);
        assert_eq!(before.join().unwrap(), Some(libc::EPERM));
        refusals_that_hold_for_all();
        let after = std::thread::spawn(|| call(libc::SYS_execve, [0; 3]));
        assert_eq!(after.join().unwrap(), Some(libc::EPERM));

        // No process of its own, no listener, no code of its own making.
        assert_eq!(
            call(libc::SYS_clone, [libc::c_long::from(libc::SIGCHLD), 0, 0]),
            Some(libc::EPERM)
        );
        assert_eq!(call(libc::SYS_clone3, [0; 3]), Some(libc::ENOSYS));
        assert_eq!(call(libc::SYS_listen, [0, 1, 0]), Some(libc::ENOSYS));
        assert_eq!(map(libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC), -1);
        let page = map(libc::PROT_READ | libc::PROT_WRITE);
        assert!(page > 0);
        let executable = libc::c_long::from(libc::PROT_READ | libc::PROT_EXEC);
        assert_eq!(call(libc::SYS_mprotect, [page, 4096, executable]), Some(libc::EPERM));
        let push = ioctl_number(libc::TIOCSTI);
        assert_eq!(call(libc::SYS_ioctl, [0, push, 0]), Some(libc::EPERM));
        let dumpable = libc::c_long::from(libc::PR_SET_DUMPABLE);
        assert_eq!(call(libc::SYS_prctl, [dumpable, 0, 0]), Some(libc::EPERM));
        assert_eq!(call(libc::SYS_prlimit64, [1, 0, 0]), Some(libc::EPERM));

        // What it lives on.
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        std::fs::write(&file, "a").unwrap();
        std::fs::rename(&file, folder.path().join("b")).unwrap();
        assert_eq!(std::fs::read(folder.path().join("b")).unwrap(), b"a");
        let _ = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(
            std::net::TcpStream::connect("127.0.0.1:1")
                .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        );
        assert!(std::net::ToSocketAddrs::to_socket_addrs("localhost:1").is_ok());
        assert!(crate::user_id("root").is_some());
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        assert_eq!(runtime.block_on(async { tokio::task::spawn_blocking(|| 7).await.unwrap() }), 7);
    });
}

#[test]
fn with_a_device_drivers_keep_what_they_may_need() {
    in_a_process(module_path!(), "with_a_device_drivers_keep_what_they_may_need", || {
        confine(Profile::DaemonWithDevice).unwrap();
        refusals_that_hold_for_all();
        assert!(map(libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC) > 0);
        assert_eq!(std::thread::spawn(|| 7).join().unwrap(), 7);
    });
}

#[test]
fn a_worker_opens_nothing_and_may_fork() {
    in_a_process(module_path!(), "a_worker_opens_nothing_and_may_fork", || {
        confine(Profile::Worker).unwrap();
        for number in syscalls::NEVER {
            let refused = call(*number, [0; 3]);
            assert_eq!(refused, Some(libc::EPERM), "call {number}");
        }
        for number in [
            libc::SYS_openat,
            libc::SYS_socketpair,
            libc::SYS_connect,
            libc::SYS_bind,
            libc::SYS_sendmsg,
            libc::SYS_kill,
            libc::SYS_unlinkat,
            libc::SYS_pipe2,
        ] {
            assert_eq!(call(number, [-1; 3]), Some(libc::ENOSYS), "call {number}");
        }
        assert!(std::fs::File::open("/proc/self/status").is_err());
        let flags = [libc::CLONE_VM, libc::CLONE_SIGHAND, libc::CLONE_THREAD];
        let thread = flags.into_iter().fold(0, |all, flag| all | libc::c_long::from(flag));
        assert_eq!(call(libc::SYS_clone, [thread, 0, 0]), Some(libc::EPERM));
        assert_eq!(map(libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC), -1);
        // What it lives on: memory in small and in large blocks, and forks.
        let small: Vec<Box<[u8]>> = (0..10_000).map(|size| vec![1; size % 300].into()).collect();
        drop((small, vec![1_u8; 64 << 20]));
        // SAFETY: the child does nothing but end.
        if unsafe { libc::fork() } == 0 {
            // SAFETY: ends this process, without handlers.
            unsafe { libc::_exit(0) }
        }
    });
}
