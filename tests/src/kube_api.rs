//! A double of the Kubernetes API server: lists and watches of pods and namespaces over TLS, nodes and patches of
//! them, as the real one gives them, and every way in which the real one fails.
//!
//! It runs on a thread and a runtime of its own, so that it does not care what the test's runtime does
//! (paused time, a namespace's thread); every method here is synchronous and takes effect at once.

mod answers;
mod faults;
mod nodes;
mod objects;
mod server;
mod state;
mod tls;
mod watcher;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::Context;
use parking_lot::Mutex;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

pub use answers::Answer;
pub use faults::Faults;
pub use objects::Pod;
pub use server::Body;
pub use state::{Request, Resource};

use self::server::Tls;
use self::state::Shared;
pub(crate) use self::tls::Authority;

/// The token that is good at first.
const FIRST_TOKEN: &str = "kube-api-token-of-the-harness";

/// The server's name in its certificate, besides its address.
const SERVER_NAME: &str = "kubernetes.default.svc";

/// A running API server. Dropping it ends it.
#[derive(Debug)]
pub struct KubeApi {
    address: SocketAddr,
    authority: Box<Authority>,
    tls: Tls,
    shared: Arc<Shared>,
    shutdown: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

/// The same server without sockets, on the runtime and the clock of whoever asks.
#[derive(Clone, Debug)]
pub struct InProcess {
    shared: Arc<Shared>,
}

// === impl KubeApi ===

impl KubeApi {
    /// Starts on a free port of the loopback address.
    ///
    /// # Errors
    /// If no socket, certificate or thread can be made.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_on(TcpListener::bind("127.0.0.1:0").context("bind the Kubernetes API")?)
    }

    /// Starts on a listener that was bound elsewhere, such as in a network namespace.
    ///
    /// # Errors
    /// If no certificate or thread can be made.
    pub fn start_on(listener: TcpListener) -> anyhow::Result<Self> {
        let address = listener.local_addr()?;
        let authority = Authority::generate()?;
        let identity = authority.certify(&[address.ip()], SERVER_NAME)?;
        let tls = Tls::new(Mutex::new(identity.server_config()?));
        let shared = Arc::new(Shared::new(FIRST_TOKEN));
        let shutdown = CancellationToken::new();
        let serve = server::prepare(listener, Arc::clone(&tls), Arc::clone(&shared), shutdown.clone())?;
        let thread = std::thread::Builder::new().name("kube-api".to_owned()).spawn(serve)?;
        Ok(Self { address, authority: Box::new(authority), tls, shared, shutdown, thread: Some(thread) })
    }

    /// Answers from within the process.
    #[must_use]
    pub fn in_process(&self) -> InProcess {
        InProcess { shared: Arc::clone(&self.shared) }
    }

    /// From now on connections meet a new certificate, of the same authority or of another's.
    ///
    /// # Errors
    /// If none can be made.
    pub fn renew_certificate(&self, same_authority: bool) -> anyhow::Result<()> {
        let identity = if same_authority {
            self.authority.certify(&[self.address.ip()], SERVER_NAME)?
        } else {
            Authority::generate()?.certify(&[self.address.ip()], SERVER_NAME)?
        };
        *self.tls.lock() = identity.server_config()?;
        Ok(())
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `https://address:port`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The certificate authority that its certificate is from.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.authority.pem
    }

    /// The bearer token that is good now.
    #[must_use]
    pub fn token(&self) -> String {
        self.shared.state().token.clone()
    }

    /// A kubeconfig with address, authority and token.
    #[must_use]
    pub fn kubeconfig(&self) -> String {
        use base64::Engine;
        let ca = base64::engine::general_purpose::STANDARD.encode(&self.authority.pem);
        let (url, token) = (self.url(), self.token());
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             clusters:\n- name: test\n  cluster:\n    server: {url}\n    tls-server-name: {SERVER_NAME}\n    \
             certificate-authority-data: {ca}\n\
             users:\n- name: test\n  user:\n    token: {token}\n\
             contexts:\n- name: test\n  context:\n    cluster: test\n    user: test\n"
        )
    }

    /// Creates or replaces a pod; its UID. Replacing keeps the UID, unless the pod names another: then the
    /// old one is deleted first.
    pub fn apply_pod(&self, pod: &Pod) -> String {
        self.shared.change(|state| state.apply_pod(pod))
    }

    /// Deletes a pod; false if there is none.
    pub fn delete_pod(&self, namespace: &str, name: &str) -> bool {
        self.shared.change(|state| state.delete(Resource::Pods, &format!("{namespace}/{name}")))
    }

    /// Creates a namespace, or replaces its annotations.
    pub fn apply_namespace(&self, name: &str, annotations: &[(&str, &str)]) {
        self.shared.change(|state| state.apply_namespace(name, annotations));
    }

    /// Deletes a namespace (not its pods); false if there is none.
    pub fn delete_namespace(&self, name: &str) -> bool {
        self.shared.change(|state| state.delete(Resource::Namespaces, name))
    }

    /// Creates or replaces a node with these taints.
    pub fn apply_node(&self, name: &str, taints: &Value) {
        self.shared.change(|state| state.apply_node(name, taints));
    }

    /// A node as it is now.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<Value> {
        self.shared.state().of(Resource::Nodes).objects.get(name).map(|node| (**node).clone())
    }

    /// What can go wrong.
    #[must_use]
    pub fn faults(&self) -> Faults<'_> {
        Faults::new(&self.shared)
    }

    /// How many watches are open.
    #[must_use]
    pub fn open_watches(&self) -> usize {
        self.shared.state().open_watches
    }

    /// How many connections (in process: requests) were turned away while it was down.
    #[must_use]
    pub fn turned_away(&self) -> usize {
        self.shared.state().turned_away
    }

    /// Every request so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.shared.state().requests.clone()
    }

    /// Waits until the requests so far are as `enough` wants them, and returns what it made of them.
    pub async fn wait_for<T>(&self, mut enough: impl FnMut(&[Request]) -> Option<T>) -> T {
        let mut changed = self.shared.subscribe();
        loop {
            changed.mark_unchanged();
            if let Some(made) = enough(&self.shared.state().requests) {
                return made;
            }
            // The sender lives in `self.shared`: it never closes.
            let _ = changed.changed().await;
        }
    }
}

// === impl InProcess ===

impl InProcess {
    /// The answer to one request of somebody whose token is good.
    ///
    /// # Errors
    /// While the server is down.
    pub async fn answer<B>(self, mut request: http::Request<B>) -> io::Result<http::Response<Body>>
    where
        B: hyper::body::Body<Data = bytes::Bytes>,
    {
        if self.shared.state().down {
            self.shared.change(|state| state.turned_away += 1);
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let token = format!("Bearer {}", self.shared.state().token);
        let token = http::HeaderValue::try_from(token).map_err(io::Error::other)?;
        request.headers_mut().insert(http::header::AUTHORIZATION, token);
        Ok(server::answer(&self.shared, request).await)
    }
}

impl Drop for KubeApi {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
