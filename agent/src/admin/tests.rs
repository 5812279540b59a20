//! The admin pages, as called by the listener and over real connections.

use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tracing::Dispatch;

use super::*;
use crate::config::{Log, LogFormat};
use crate::telemetry::Telemetry;

const LOOPBACK: &str = "127.0.0.1:40000";
const POD: &str = "100.96.1.7:40000";

fn admin() -> (Admin, Gates) {
    let gates = Gates::new();
    let health = Health { host_ip: Some("172.20.0.9".parse().unwrap()), ..Health::default() };
    (Admin::new(Registry::new(), gates.clone(), health), gates)
}

fn quiet() -> (Dispatch, Telemetry) {
    let off = Log { format: LogFormat::Text, level: "off".into() };
    Telemetry::build(&off, &Registry::new(), Box::new(std::io::sink()), false).unwrap()
}

fn parts(method: &str, target: &str) -> Parts {
    http::Request::builder().method(method).uri(target).body(()).unwrap().into_parts().0
}

async fn ask_as(admin: &Admin, method: &str, target: &str, peer: &str, scope: Scope) -> (u16, String) {
    let response = admin.answer(&parts(method, target), peer.parse().unwrap(), scope);
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

async fn ask(admin: &Admin, target: &str) -> (u16, String) {
    ask_as(admin, "GET", target, POD, Scope::Full).await
}

#[tokio::test]
async fn readiness_names_what_it_waits_for_and_liveness_does_not_care() {
    let (admin, gates) = admin();
    let (pods, rule) = (gates.add("pods", "not listed yet"), gates.add("rule", "not installed"));
    pods.open();
    let closed = "[+]pods ok\n[-]rule not installed\nreadyz check failed\n";
    assert_eq!(ask(&admin, "/readyz").await, (503, closed.into()));
    assert_eq!(ask(&admin, "/readyz/pods").await, (200, "ok\n".into()));
    assert_eq!(ask(&admin, "/readyz/rule").await, (503, "[-]rule not installed\n".into()));
    assert_eq!(ask(&admin, "/readyz/other").await.0, 404);
    assert_eq!(ask(&admin, "/livez").await, (200, "ok\n".into()));
    rule.open();
    assert_eq!(ask(&admin, "/readyz").await, (200, "ok\n".into()));
    let open = "[+]pods ok\n[+]rule ok\nreadyz check passed\n";
    assert_eq!(ask(&admin, "/readyz?verbose").await, (200, open.into()));
}

#[tokio::test]
async fn healthz_speaks_as_kube2iam_does_and_never_waits_for_the_instance_id() {
    let (admin, gates) = admin();
    let _closed = gates.add("rule", "not installed");
    let (status, body) = ask(&admin, "/healthz").await;
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, body), (200, serde_json::json!({"hostIP": "172.20.0.9", "instanceId": ""})));
    admin.health.instance_id.set("i-0123456789abcdef0".into()).unwrap();
    assert!(ask(&admin, "/healthz").await.1.contains("i-0123456789abcdef0"));
}

#[tokio::test]
async fn a_narrow_scope_shows_nothing_else() {
    let (admin, _) = admin();
    for target in ["/livez", "/readyz", "/readyz/rule", "/debug/store", "/debug/log-level", "/", "//healthz"]
    {
        for scope in [Scope::Health, Scope::HealthAndMetrics] {
            assert_eq!(ask_as(&admin, "GET", target, LOOPBACK, scope).await.0, 404, "{target}");
        }
    }
    assert_eq!(ask_as(&admin, "GET", "/metrics", LOOPBACK, Scope::Health).await.0, 404);
    assert_eq!(ask_as(&admin, "GET", "/metrics", LOOPBACK, Scope::HealthAndMetrics).await.0, 200);
    assert_eq!(ask_as(&admin, "GET", "/healthz", LOOPBACK, Scope::Health).await.0, 200);
}

#[tokio::test]
async fn metrics_are_of_the_own_registry_and_say_what_was_built() {
    let (admin, _) = admin();
    let (status, page) = ask(&admin, "/metrics").await;
    assert_eq!(status, 200);
    let info =
        format!("rolegate_build_info{{revision=\"{REVISION}\",rustc=\"{RUSTC}\",version=\"{VERSION}\"}} 1");
    for line in [info.as_str(), "process_start_time_seconds ", "process_cpu_seconds_total "] {
        assert!(page.contains(line), "{line}\n{page}");
    }
}

#[tokio::test]
async fn the_store_is_shown_with_debug_and_on_loopback_only() {
    let (admin, _) = admin();
    assert_eq!(ask_as(&admin, "GET", "/debug/store", LOOPBACK, Scope::Full).await.0, 404);
    let (_dispatch, telemetry) = quiet();
    let store = Arc::new(|| serde_json::json!({"pods": 3}));
    let admin = admin.with_debug(DebugPages { store, levels: telemetry.levels() });
    assert_eq!(ask_as(&admin, "GET", "/debug/store", POD, Scope::Full).await.0, 403);
    for peer in [LOOPBACK, "[::1]:40000", "[::ffff:127.0.0.1]:40000"] {
        let (status, body) = ask_as(&admin, "GET", "/debug/store", peer, Scope::Full).await;
        assert_eq!((status, body.trim()), (200, "{\n  \"pods\": 3\n}"), "{peer}");
    }
}

#[tokio::test]
async fn the_log_level_is_changed_by_put_on_loopback_only() {
    let (_dispatch, telemetry) = quiet();
    let store = Arc::new(|| serde_json::Value::Null);
    let admin = admin().0.with_debug(DebugPages { store, levels: telemetry.levels() });
    let put = "/debug/log-level?level=info,rolegate_core::imds=debug";
    assert_eq!(ask_as(&admin, "PUT", put, POD, Scope::Full).await.0, 403);
    assert_eq!(ask_as(&admin, "POST", put, LOOPBACK, Scope::Full).await.0, 405);
    assert_eq!(ask_as(&admin, "GET", put, LOOPBACK, Scope::Full).await, (200, "off\n".into()));
    assert_eq!(ask_as(&admin, "PUT", put, LOOPBACK, Scope::Full).await.0, 200);
    assert!(ask_as(&admin, "GET", put, LOOPBACK, Scope::Full).await.1.contains("rolegate_core::imds=debug"));
    let (status, body) = ask_as(&admin, "PUT", "/debug/log-level?level=loud", LOOPBACK, Scope::Full).await;
    assert_eq!(status, 400, "{body}");
}

/// An admin listener on loopback and what ends it.
async fn served() -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<anyhow::Result<()>>, Arc<Admin>)
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let admin = Arc::new(admin().0);
    let errors = crate::accept::AcceptErrors::register(&Registry::new());
    let run = Arc::clone(&admin).run(listener, errors, shutdown.clone());
    let task = tokio_util::task::TaskTracker::new().spawn(run);
    (addr, shutdown, task, admin)
}

async fn raw(addr: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn over_the_wire_head_has_a_length_and_no_body_and_post_is_told_what_is_allowed() {
    let (addr, shutdown, task, _) = served().await;
    let head = raw(addr, "HEAD /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("content-length: 3\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    let post =
        raw(addr, "POST /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
    assert!(post.starts_with("HTTP/1.1 405") && post.contains("allow: GET, HEAD\r\n"), "{post}");
    shutdown.cancel();
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn shutdown_closes_idle_connections_and_ends_the_task() {
    let (addr, shutdown, task, _) = served().await;
    let stream = TcpStream::connect(addr).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let client = tokio_util::task::TaskTracker::new().spawn(connection);
    let request = hyper::Request::get("/livez").header("host", "x").body(Full::<Bytes>::default()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
    shutdown.cancel();
    task.await.unwrap().unwrap();
    client.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_never_sends_a_header_is_closed() {
    let (addr, _shutdown, _task, _) = served().await;
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
    let begin = tokio::time::Instant::now();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(begin.elapsed() < std::time::Duration::from_secs(10), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_crowd_is_refused_and_counted() {
    let (addr, _shutdown, _task, admin) = served().await;
    let mut crowd = Vec::new();
    for _ in 0..33 {
        crowd.push(TcpStream::connect(addr).await.unwrap());
    }
    let mut byte = [0];
    // The last one is closed unread; the others are being served.
    assert_eq!(crowd.last_mut().unwrap().read(&mut byte).await.unwrap_or(0), 0);
    assert_eq!(admin.refused.get(), 1);
}
