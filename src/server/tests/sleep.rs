//! `idle_exit`: a server ends by itself, and what its sockets hold is the next one's.

use std::sync::atomic::AtomicUsize;

use super::*;

async fn with_idle_exit(idle_exit: Duration) -> Daemon {
    let server = ServerOptions { idle_exit: Some(idle_exit), ..ServerOptions::default() };
    Daemon::with(Setup { server, ..Setup::default() }).await
}

/// Sockets that one server after another serves.
struct Held {
    tcp: std::net::TcpListener,
    unix: std::os::unix::net::UnixListener,
    folder: tempfile::TempDir,
    ended: AtomicUsize,
}

impl Held {
    fn new() -> Arc<Self> {
        let folder = tempfile::tempdir().unwrap();
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let unix = std::os::unix::net::UnixListener::bind(folder.path().join("held.sock")).unwrap();
        tcp.set_nonblocking(true).unwrap();
        unix.set_nonblocking(true).unwrap();
        Arc::new(Self { tcp, unix, folder, ended: AtomicUsize::new(0) })
    }

    async fn connect(&self, by_tcp: bool) -> Client {
        if by_tcp {
            let address = self.tcp.local_addr().unwrap();
            return Client::new(TcpStream::connect(address).await.unwrap());
        }
        let path = self.folder.path().join("held.sock");
        Client::new(UnixStream::connect(path).await.unwrap())
    }

    /// Begins a server as soon as the one before has ended as idle, until `asking` is over.
    async fn serve_while(&self, app: &App, asking: impl Future<Output = ()>) {
        let (_stop, stopped) = watch::channel(false);
        let serving = async {
            loop {
                let tcp = TcpListener::from_std(self.tcp.try_clone().unwrap()).unwrap();
                let unix = UnixListener::from_std(self.unix.try_clone().unwrap()).unwrap();
                let listeners = vec![Listener::Tcp(tcp), Listener::Unix(unix)];
                let why = serve(app.clone(), listeners, stopped.clone(), Duration::ZERO).await;
                assert_eq!(why, Ended::Idle);
                self.ended.fetch_add(1, Ordering::AcqRel);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            () = asking => {}
            () = serving => {}
        }
    }
}

async fn models(client: &mut Client) -> u16 {
    client.send("GET", "/v1/models", &[], "").await;
    client.response().await.status
}

#[tokio::test]
async fn idle_connections_are_closed_when_the_server_ends() {
    let daemon = with_idle_exit(Duration::from_millis(20)).await;
    let held = Held::new();
    let asking = async {
        let (mut tcp, mut unix) = (held.connect(true).await, held.connect(false).await);
        assert_eq!((models(&mut tcp).await, models(&mut unix).await), (200, 200));
        assert!(tcp.is_closed().await && unix.is_closed().await);
    };
    held.serve_while(&daemon.app, asking).await;
}

#[tokio::test]
async fn asked_to_stop_it_drains_although_it_could_end_as_idle() {
    let daemon = with_idle_exit(Duration::from_secs(3600)).await;
    assert_eq!(models(&mut daemon.tcp().await).await, 200);
    assert!(daemon.stop().await.is_clean());
}

/// Dozens of servers, one after another, on the same sockets, and clients that ask at any moment: while
/// one serves, decides to end, closes, or while there is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_where_one_server_ends_and_the_next_begins() {
    const SERVERS: usize = 60;
    let daemon = with_idle_exit(Duration::from_millis(2)).await;
    let held = Held::new();
    let clients: Vec<_> = (0..2_u64)
        .map(|number| {
            let held = Arc::clone(&held);
            tokio::spawn(async move {
                let mut random = number;
                while held.ended.load(Ordering::Acquire) < SERVERS {
                    // Knuth's generator: the pauses must differ, no more.
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    tokio::time::sleep(Duration::from_micros(random >> 50)).await;
                    let mut client = held.connect(number % 2 == 0).await;
                    client.send("GET", "/v1/models", &["Connection: close"], "").await;
                    assert_eq!(client.response().await.status, 200);
                }
            })
        })
        .collect();
    let asking = async {
        for client in clients {
            client.await.unwrap();
        }
    };
    held.serve_while(&daemon.app, asking).await;
}
