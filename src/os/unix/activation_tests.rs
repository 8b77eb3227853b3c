use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use super::*;

fn lookup<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
    |name| {
        let found = pairs.iter().find(|(key, _)| *key == name)?;
        Some(found.1.to_owned())
    }
}

#[test]
fn variables_are_read_as_the_protocol_says() {
    let names = |pairs: &[(&str, &str)]| announced(lookup(pairs), 7).map_err(|e| e.to_string());
    assert_eq!(names(&[]), Ok(vec![]));
    assert_eq!(names(&[("LISTEN_FDS", "1")]), Ok(vec![]));
    let own = ("LISTEN_PID", "7");
    assert_eq!(names(&[("LISTEN_PID", "8"), ("LISTEN_FDS", "1")]), Ok(vec![]));
    assert_eq!(
        names(&[own, ("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "unix:http")]),
        Ok(vec!["unix".to_owned(), "http".to_owned()])
    );
    assert_eq!(
        names(&[own, ("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "unix")]),
        Ok(vec!["unix".to_owned(), "unknown".to_owned()])
    );
    assert_eq!(names(&[own, ("LISTEN_FDS", "1")]), Ok(vec!["unknown".to_owned()]));
    for count in ["-1", "65", "x", ""] {
        let refused = names(&[own, ("LISTEN_FDS", count)]).unwrap_err();
        assert!(refused.contains("LISTEN_FDS"), "{refused}");
    }
    assert!(names(&[("LISTEN_PID", "x"), ("LISTEN_FDS", "1")]).is_err());
}

/// Runs `helper` in a process of its own with `socket` as descriptor 3, and gives what it printed.
fn in_a_child(socket: OwnedFd) -> String {
    // Only a new process can learn its own number before it runs and have a free descriptor 3.
    let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ exec \"$0\" \"$@\"";
    let output = Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "unix::activation::tests::helper", "--nocapture"])
        .env("LISTEN_FDS", "1")
        .env("LISTEN_FDNAMES", "phi4d.socket")
        .env("PHI4D_TEST_ACTIVATION", "1")
        .stdin(Stdio::from(socket))
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("helper: "));
    line.unwrap().to_owned()
}

/// Does nothing when run as a test of its own.
#[tokio::test]
async fn helper() {
    if std::env::var_os("PHI4D_TEST_ACTIVATION").is_none() {
        return;
    }
    let take = || activated_listeners(|name| std::env::var(name).ok());
    let said = match take() {
        Err(error) => error.to_string(),
        Ok(listeners) => {
            let (name, listener) = &listeners[0];
            assert!(take().unwrap().is_empty(), "handed out twice");
            format!(
                "{} {name} {:?} {:?}",
                listeners.len(),
                listener.tcp_address(),
                listener.unix_path()
            )
        }
    };
    println!("\nhelper: {said}");
}

#[test]
fn adopts_tcp_and_unix_listeners_with_their_names() {
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    assert_eq!(in_a_child(tcp.into()), format!("1 phi4d.socket Some({address}) None"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let unix = UnixListener::bind(&path).unwrap();
    assert_eq!(in_a_child(unix.into()), format!("1 phi4d.socket None Some({path:?})"));
}

#[test]
fn refuses_what_can_not_be_accepted_from() {
    let (datagram, _other) = UnixDatagram::pair().unwrap();
    assert_eq!(
        in_a_child(datagram.into()),
        "socket activation: socket \"phi4d.socket\" (descriptor 3): not a stream socket"
    );
    let file = tempfile::tempfile().unwrap();
    let said = in_a_child(file.into());
    assert!(said.contains("(descriptor 3): Socket operation on non-socket"), "{said}");
    let (stream, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let said = in_a_child(stream.into());
    assert!(said.contains("not listening"), "{said}");
}
