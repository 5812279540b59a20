//! How long a connection lives, told with a paused clock.

use std::net::Ipv4Addr;

use http_body_util::BodyExt as _;
use nix::sys::socket::sockopt;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::time::{Instant, sleep};

use super::listeners::{UNREAD_ANSWER_MILLIS, listener};
use super::*;

/// What a connection waits at most for its source's place.
const HOLD: Duration = Duration::from_millis(900);
/// No connection without a complete header survives this.
const HEADER: Duration = Duration::from_secs(5);
/// No connection survives this.
const TOTAL: Duration = Duration::from_secs(10);

/// Answers `size` bytes, or reads a body that never ends; remembers who was answered, in order.
struct Answers {
    size: usize,
    order: Arc<Mutex<Vec<PodIp>>>,
}

impl Answer for Answers {
    async fn answer(&self, request: Request<Incoming>, peer: Peer) -> Response<Full<Bytes>> {
        self.order.lock().push(peer.ip);
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
    order: Arc<Mutex<Vec<PodIp>>>,
    _shutdown: tokio_util::sync::DropGuard,
}

// === impl Running ===

impl Running {
    fn start(per_pod: usize, size: usize) -> Self {
        let listener = listener(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        Self::with(listener, per_pod, size)
    }

    fn with(listener: std::net::TcpListener, per_pod: usize, size: usize) -> Self {
        Self::sharing(listener, watch::channel(Queue::Own).1, per_pod, size)
    }

    fn sharing(
        listener: std::net::TcpListener,
        queue: watch::Receiver<Queue>,
        per_pod: usize,
        size: usize,
    ) -> Self {
        let config = config::Server {
            app_port: 0,
            metrics_port: 0,
            connections_per_pod: per_pod,
            connections: 100,
            drain: Duration::ZERO,
        };
        let (registry, tracker) = (Registry::new(), TaskTracker::new());
        let order = Arc::<Mutex<Vec<PodIp>>>::default();
        let answers = Arc::new(Answers { size, order: Arc::clone(&order) });
        let server =
            Server::new(&config, HOLD, 1_000, Arc::clone(&answers), answers, tracker.clone(), &registry);
        let open = server.shared.metrics.open.clone();
        let to = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let errors = AcceptErrors::register(&registry);
        tracker.spawn(server.run(Listeners(vec![listener]), errors, queue, shutdown.clone()));
        Self { to, open, order, _shutdown: shutdown.drop_guard() }
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

/// P37: what is buffered of a header is bounded; a longer one is refused while it comes.
#[tokio::test(start_paused = true)]
async fn a_header_of_eight_kibibytes_is_refused_and_a_shorter_one_is_read() {
    let running = Running::start(8, 1);
    for (bytes, status) in [(7 * 1024, "200"), (8 * 1024, "431"), (64 * 1024, "431")] {
        let mut stream = running.connect().await;
        let request = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n", "x".repeat(bytes));
        // It may be closed before all is sent.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, format!("HTTP/1.1 {status}").as_bytes(), "{bytes}");
    }
}

#[tokio::test]
async fn an_accepted_connection_has_the_listeners_limit_for_unread_answers() {
    let listener = listener(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = TcpListener::from_std(listener).unwrap().accept().await.unwrap();
    let limit = nix::sys::socket::getsockopt(&accepted, sockopt::TcpUserTimeout).unwrap();
    assert_eq!(limit, UNREAD_ANSWER_MILLIS);
}

/// P36: a burst of one source does not go before the request that another makes after it.
#[tokio::test(start_paused = true)]
async fn a_burst_of_one_source_is_not_answered_before_the_request_of_another() {
    let listener = listener(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let to = listener.local_addr().unwrap();
    // All are there before the first is accepted: fifty of one source, then one of another.
    let (hostile, neighbour) = (Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3));
    let mut streams = Vec::new();
    for from in std::iter::repeat_n(hostile, 50).chain([neighbour]) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        let mut stream = socket.connect(to).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        streams.push(stream);
    }
    let running = Running::with(listener, 128, 1);
    for mut stream in streams {
        stream.read_to_end(&mut Vec::new()).await.unwrap();
    }
    let order = running.order.lock();
    let place = order.iter().position(|ip| *ip == PodIp::new(neighbour.into())).unwrap();
    assert_eq!(order.len(), 51);
    assert!(place <= 2, "it was answered after {place} others");
}

/// As [`Running`] with the sender of its queue, and a clone of its listener as another process has it.
fn shared(queue: Queue) -> (Running, watch::Sender<Queue>, std::net::TcpListener) {
    let listener = listener(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let other = listener.try_clone().unwrap();
    let (sender, receiver) = watch::channel(queue);
    (Running::sharing(listener, receiver, 8, 1), sender, other)
}

#[tokio::test]
async fn what_is_left_to_another_process_waits_until_it_is_not() {
    let (running, queue, other) = shared(Queue::Left);
    let other = TcpListener::from_std(other).unwrap();
    let mut client = running.connect().await;
    client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    // The other finds it there, whoever is first.
    other.accept().await.unwrap();
    assert_eq!(running.open.get(), 0);

    let mut client = running.connect().await;
    client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    queue.send_replace(Queue::Own);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
}

#[tokio::test]
async fn at_the_end_a_shared_socket_is_left_as_it_is() {
    let (running, _queue, other) = shared(Queue::Shared);
    let to = running.to;
    drop(running);
    let other = TcpListener::from_std(other).unwrap();
    // New connections are made, and nobody but the other takes them.
    for _ in 0..5 {
        let _client = TcpStream::connect(to).await.unwrap();
        other.accept().await.unwrap();
    }
}
