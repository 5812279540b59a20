//! A defect on the way of a request.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::task::TaskTracker;

use super::super::upstream::Upstream;
use super::*;
use crate::args::{self, Invocation};
use crate::config::Config;
use crate::credentials::{CredentialSource, Session, SessionKey, SourceError};
use crate::server::Destination;

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Is never asked.
struct Nobody;

impl CredentialSource for Nobody {
    fn fetch(&self, _: SessionKey) -> BoxFuture<'static, Result<Session, SourceError>> {
        Box::pin(std::future::pending())
    }
}

/// A door whose clock is at its end: who asks it for the time panics.
fn door_without_time(registry: &Registry) -> Door {
    let most = (0..64)
        .rev()
        .fold(SystemTime::UNIX_EPOCH, |at, bit| at.checked_add(Duration::from_secs(1 << bit)).unwrap_or(at));
    let clock = Clock::anchored(most + Duration::from_nanos(999_999_999));
    let argv = ["rolegate", "--node=node-1"].map(Into::into);
    let Invocation::Run { args, .. } = args::read(argv.into_iter()).unwrap() else { panic!("flags") };
    let config = Config::from_args(&args, Vec::new(), |_| None).unwrap();
    let imds = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let tasks = TaskTracker::new();
    Door::new(
        With {
            tokens: TokenKey::load_or_create(tempfile::tempdir().unwrap().path()).0,
            metadata: MetadataPolicy::new(&[], false).unwrap(),
            identity: Identity::new(
                watch::channel(Arc::default()).1,
                watch::channel(Arc::default()).1,
                registry,
            ),
            policy: watch::channel(None).1,
            broker: Broker::new(
                Arc::new(Nobody),
                config.credentials,
                clock.clone(),
                tasks,
                document::render_session,
                registry,
            ),
            passthrough: Passthrough::new(Arc::new(Upstream::new(imds, registry)), registry),
            clock,
            config: config.imds,
        },
        registry,
    )
}

/// K22: a panic on the way of a request is counted and has its line in the access log, and the pod is sent nothing of it.
#[tokio::test(start_paused = true)]
async fn request_that_ends_in_a_panic_is_counted_and_written_and_the_pod_is_sent_nothing() {
    let (registry, log) = (Registry::new(), Memory::default());
    let written = log.clone();
    let lines = tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || written.clone());
    let _lines = tracing::subscriber::set_default(lines.finish());
    let door = Arc::new(door_without_time(&registry));
    tokio::time::advance(Duration::from_secs(1)).await;
    let socket = SocketAddr::from(([10, 1, 0, 11], 40_000));
    let peer = Peer { socket, ip: PodIp::new(socket.ip()), destination: Destination::Imds, arrival: None };
    let (mut pod, agent) = tokio::io::duplex(4 * 1024);
    let service = service_fn(move |request| {
        let door = Arc::clone(&door);
        async move { Ok::<_, std::convert::Infallible>(door.answer(request, peer).await) }
    });
    let connection =
        TaskTracker::new().spawn(http1::Builder::new().serve_connection(TokioIo::new(agent), service));
    let put = "PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\n\
               X-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n";
    pod.write_all(put.as_bytes()).await.unwrap();
    let mut answer = String::new();
    // The connection ends; how is its own affair.
    let _ = pod.read_to_string(&mut answer).await;
    assert_eq!(answer, "");
    assert!(connection.await.unwrap_err().is_panic(), "the server is told");

    let refused = registry.gather().into_iter().find(|it| it.name() == "rolegate_requests_refused_total");
    let refused = refused.unwrap();
    let counted: Vec<_> =
        refused.get_metric().iter().filter(|it| it.get_counter().get_value() > 0.0).collect();
    let [only] = counted[..] else { panic!("{counted:?}") };
    assert_eq!((only.get_label()[0].value(), only.get_counter().get_value()), ("panic", 1.0));
    let log = String::from_utf8(log.0.lock().clone()).unwrap();
    let line: serde_json::Value = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .find(|it: &serde_json::Value| it["target"] == "rolegate::access")
        .unwrap();
    assert_eq!(
        (&line["route"], &line["status"], &line["reason"]),
        (&"token".into(), &500.into(), &"panic".into())
    );
    assert_eq!(line["peer"], "10.1.0.11:40000");
}
