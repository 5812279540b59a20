//! How long a connection lives, told with a paused clock.

use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep};

use super::*;

/// What a connection waits at most for its source's place.
const HOLD: Duration = Duration::from_millis(900);
/// No connection without a complete header survives this.
const HEADER: Duration = Duration::from_secs(5);
/// No connection survives this.
const TOTAL: Duration = Duration::from_secs(10);

/// Answers `size` bytes, or reads a body that never ends.
struct Answers {
    size: usize,
}

impl Answer for Answers {
    async fn answer(&self, request: Request<Incoming>, _: Peer) -> Response<Full<Bytes>> {
        if request.method() == hyper::Method::PUT {
            let _ = request.into_body().collect().await;
        }
        Response::new(Full::new(vec![b'x'; self.size].into()))
    }
}

/// A running server.
struct Running {
    to: SocketAddr,
    open: IntGauge,
    _shutdown: tokio_util::sync::DropGuard,
}

// === impl Running ===

impl Running {
    fn start(per_pod: usize, size: usize) -> Self {
        let config = config::Server {
            app_port: 0,
            metrics_port: 0,
            connections_per_pod: per_pod,
            connections: 100,
            drain: Duration::ZERO,
        };
        let (registry, tracker) = (Registry::new(), TaskTracker::new());
        let answers = Arc::new(Answers { size });
        let server =
            Server::new(&config, HOLD, 1_000, Arc::clone(&answers), answers, tracker.clone(), &registry);
        let open = server.metrics.open.clone();
        let listener = listener(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let to = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let errors = AcceptErrors::register(&registry);
        tracker.spawn(server.run(Listeners(vec![listener]), errors, shutdown.clone()));
        Self { to, open, _shutdown: shutdown.drop_guard() }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.to).await.unwrap()
    }
}

/// How long the server lets the connection live while it is sent `first` at once and `then` every 100 ms.
async fn lives(mut stream: TcpStream, first: &[u8], then: &[u8]) -> Duration {
    let start = Instant::now();
    stream.write_all(first).await.unwrap();
    let (mut reader, mut writer) = stream.split();
    let mut answer = Vec::new();
    let trickle = async {
        loop {
            sleep(Duration::from_millis(100)).await;
            // Its end is the reader's to see.
            let _ = writer.write_all(then).await;
        }
    };
    tokio::select! {
        _ = reader.read_to_end(&mut answer) => start.elapsed(),
        () = trickle => Duration::MAX,
    }
}

/// P37, K21: without a complete header a connection ends within 5 s, whatever trickles in.
#[tokio::test(start_paused = true)]
async fn a_connection_without_a_complete_header_ends_within_five_seconds() {
    let running = Running::start(8, 1);
    let half: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nX-";
    let cases: [(&[u8], &[u8]); 4] = [(b"", b""), (half, b""), (half, b"x"), (b"", b"\r\n")];
    for (first, then) in cases {
        let lived = lives(running.connect().await, first, then).await;
        assert!(lived >= HEADER_TIMEOUT && lived <= HEADER, "{lived:?}: {first:?} {then:?}");
    }
}

/// P37: nor does one that first waited for a place live longer.
#[tokio::test(start_paused = true)]
async fn the_wait_for_a_place_is_part_of_the_five_seconds() {
    let running = Running::start(1, 1);
    let start = Instant::now();
    let first = running.connect().await;
    // It comes when the first has 800 ms left, waits as long, and has its own time then.
    sleep(HEADER_TIMEOUT - Duration::from_millis(800)).await;
    let came = Instant::now();
    let second = lives(running.connect().await, b"", b"").await;
    assert_eq!(lives(first, b"", b"").await, Duration::ZERO, "{:?}", start.elapsed());
    assert!(second > HEADER_TIMEOUT && second <= HEADER, "{second:?} since {:?}", came.elapsed());
}

/// P37, K21: a body that never comes, or trickles, ends with the connection after 10 s at the latest.
#[tokio::test(start_paused = true)]
async fn a_request_whose_body_never_ends_is_cut_off_after_ten_seconds() {
    let running = Running::start(8, 1);
    let length: &[u8] = b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000000\r\n\r\n";
    let chunked: &[u8] = b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let cases: [(&[u8], &[u8]); 3] = [(length, b""), (length, b"x"), (chunked, b"1\r\nx\r\n")];
    for (first, then) in cases {
        let lived = lives(running.connect().await, first, then).await;
        assert!(lived > HEADER && lived <= TOTAL, "{lived:?}: {first:?} {then:?}");
    }
}

/// P37, K21: who reads nothing of a large answer loses it after 10 s.
#[tokio::test(start_paused = true)]
async fn an_answer_that_nobody_reads_is_cut_off_after_ten_seconds() {
    let running = Running::start(8, 32 << 20);
    let mut stream = running.connect().await;
    let start = Instant::now();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    while running.open.get() < 1 {
        sleep(Duration::from_millis(1)).await;
    }
    while running.open.get() > 0 {
        sleep(Duration::from_millis(100)).await;
    }
    let lived = start.elapsed();
    assert!(lived > HEADER && lived <= TOTAL + Duration::from_millis(200), "{lived:?}");
}

#[tokio::test]
async fn an_accepted_connection_has_the_listeners_limit_for_unread_answers() {
    let listener = listener(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let limit = nix::sys::socket::getsockopt(&accepted, sockopt::TcpUserTimeout).unwrap();
    assert_eq!(limit, UNREAD_ANSWER_MILLIS);
}
