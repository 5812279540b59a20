//! A defect of what answers ends its connection and nothing else.

use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// Panics over one path.
struct Clumsy;

impl Answer for Clumsy {
    async fn answer(&self, request: Request<Incoming>, _: Peer) -> Response<Full<Bytes>> {
        assert!(request.uri().path() != "/clumsy", "words that are nobody's business");
        Response::new(Full::new(Bytes::from_static(b"fine")))
    }
}

/// K22: a panic of what answers is counted, its words are not sent, and others are served as before.
#[tokio::test]
async fn answer_that_panics_is_counted_and_the_pod_is_sent_nothing_of_it() {
    let (registry, tracker, answers) = (Registry::new(), TaskTracker::new(), Arc::new(Clumsy));
    let config = config::Server {
        app_port: 0,
        metrics_port: 0,
        connections_per_pod: 10,
        connections: 10,
        drain: Duration::ZERO,
    };
    let hold = Duration::from_secs(1);
    let server = Server::new(&config, hold, 1_000, Arc::clone(&answers), answers, tracker.clone(), &registry);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let mut said = Vec::new();
    for path in ["/", "/clumsy", "/clumsy", "/"] {
        let mut pod = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, socket) = listener.accept().await.unwrap();
        server.start(stream, socket, CancellationToken::new());
        pod.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        // Closed or reset: either way nothing more comes.
        let _ = pod.read_to_string(&mut answer).await;
        said.push(answer);
    }
    assert!(said[0].ends_with("fine") && said[3].ends_with("fine"), "{said:?}");
    assert_eq!((said[1].as_str(), said[2].as_str()), ("", ""));
    tracker.close();
    tracker.wait().await;
    assert_eq!((server.shared.metrics.panics.get(), server.shared.metrics.open.get()), (2, 0));
}
