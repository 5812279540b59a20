//! A client of the API server, from configuration.

use std::fmt;

use kube::config::KubeConfigOptions;
use kube::{Client, Config};

use super::answer::chain;
use super::kubeconfig;
use crate::config::{ApiSource, Kubernetes};

/// The client could not be made: kubeconfig, token or certificates. The operator's to mend.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a Kubernetes client: {0}")]
pub(super) struct ConnectError(String);

/// Where clients come from.
pub(super) enum Connector {
    /// From configuration.
    Config(Kubernetes),
    /// One that is there already.
    Client(Client),
}

// === impl Connector ===

impl Connector {
    /// A new client, reading token, certificates and kubeconfig afresh. It retries nothing by itself and
    /// takes no proxy from the environment.
    pub(super) async fn connect(&self) -> Result<Client, ConnectError> {
        match self {
            Self::Config(config) => connect(config).await,
            Self::Client(client) => Ok(client.clone()),
        }
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(config) => f.debug_tuple("Config").field(config).finish(),
            Self::Client(_) => f.write_str("Client"),
        }
    }
}

async fn connect(config: &Kubernetes) -> Result<Client, ConnectError> {
    let mut api = match &config.api {
        ApiSource::InCluster => Config::incluster().map_err(|error| ConnectError(chain(&error)))?,
        ApiSource::Kubeconfig(path) => {
            let file = kubeconfig::read(path).map_err(ConnectError)?;
            let mut clusters = file.clusters.iter().filter_map(|named| named.cluster.as_ref());
            let proxy_of_its_own = clusters.any(|cluster| cluster.proxy_url.is_some());
            let mut api = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .map_err(|error| ConnectError(chain(&error)))?;
            // The environment's, which kube reads for kubeconfigs alone.
            api.proxy_url = api.proxy_url.filter(|_| proxy_of_its_own);
            api
        }
        ApiSource::Server { url, token } => {
            let url = url.parse().map_err(|error: http::uri::InvalidUri| ConnectError(chain(&error)))?;
            let mut api = Config::new(url);
            api.auth_info.token = token.as_ref().map(|token| token.expose().to_owned().into());
            api
        }
    };
    api.default_retry = false;
    if config.insecure {
        api.accept_invalid_certs = true;
        // No roots are needed then; the system may have none.
        api.root_cert = Some(Vec::new());
        api.root_cert_file = None;
    }
    Client::try_from(api).map_err(|error| ConnectError(chain(&error)))
}
