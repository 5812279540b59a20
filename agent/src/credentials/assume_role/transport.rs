//! The SDK's way out: TLS through the proxies of the environment, plain HTTP through none.
//!
//! Plain are the node's IMDS and the endpoints of container credentials, whose answers are the agent's own credentials:
//! a proxy would read them, or give the agent those of another machine.

use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;

/// Connections to one host that are kept for the next call. After the start, when every pod's session is fetched at once, there
/// were one for each, with buffers and TLS of some 30 KiB; refreshes are spread, and seldom need more than one.
const MOST_IDLE: usize = 4;

/// What one client of the SDK talks through.
#[derive(Debug)]
struct ByScheme {
    plain: SharedHttpClient,
    tls: SharedHttpClient,
    settings: HttpConnectorSettings,
    components: RuntimeComponents,
}

// === impl ByScheme ===

impl HttpConnector for ByScheme {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let client = if request.uri().starts_with("https:") { &self.tls } else { &self.plain };
        // The client keeps a connector for each of the settings it has seen.
        client.http_connector(&self.settings, &self.components).call(request)
    }
}

/// For every client of the SDK; what is made of it shares its connections.
pub(super) fn client() -> SharedHttpClient {
    let plain = Builder::new().build_with_connector_fn(|settings, components| {
        connector(ProxyConfig::disabled(), settings, components)
    });
    let tls = Builder::new().build_with_connector_fn(|settings, components| {
        connector(ProxyConfig::from_env(), settings, components)
    });
    http_client_fn(move |settings, components| {
        SharedHttpConnector::new(ByScheme {
            plain: plain.clone(),
            tls: tls.clone(),
            settings: settings.clone(),
            components: components.clone(),
        })
    })
}

fn connector(
    proxies: ProxyConfig,
    settings: Option<&HttpConnectorSettings>,
    components: Option<&RuntimeComponents>,
) -> Connector {
    let mut builder = Connector::builder().proxy_config(proxies).pool_max_idle_per_host(MOST_IDLE);
    builder.set_connector_settings(settings.cloned());
    builder.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
    builder.tls_provider(Provider::Rustls(CryptoMode::AwsLc)).build()
}
