//! Sessions from STS AssumeRole: one client, pooled connections, and nothing of AWS but STS.
//!
//! The endpoint is the region's own, unless `regional_endpoint` is off (`https://sts.amazonaws.com`, signed
//! for us-east-1) or the SDK's settings name one (`AWS_ENDPOINT_URL_STS`, `AWS_ENDPOINT_URL`, a profile's
//! `endpoint_url`). The agent's own credentials come from the SDK's default chain: environment, profile
//! files, web identity, container, and the node's IMDS, which the host network reaches uncaptured. Proxies of the
//! environment (`HTTPS_PROXY`, `NO_PROXY`) are used for TLS alone.
//!
//! A wall clock that is wrong: the SDK measures the difference from the `Date` of every answer, refusals
//! included, and signs the next request with it; so the one retry after such a refusal succeeds.

mod bounded;
mod classify;
mod transport;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::identity::IdentityCache;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig, imds};
use aws_sdk_sts::Client;
use aws_sdk_sts::types::Credentials;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_types::service_config::ServiceConfigKey;
use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use self::bounded::BoundedAnswers;
use self::classify::{Trouble, classify};
use super::source::{CredentialSource, Session, SessionKey, SourceError};
use crate::config;
use crate::types::{Clock, Secret};

/// Time to connect to STS: enough for one loss of the first packet (TCP sends it again after 1 s).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time of one attempt, of which each call has one: the broker retries.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time to connect to the node's IMDS, which is one hop away, and to read from it (the SDK's own default).
const IMDS_TIMEOUT: Duration = Duration::from_secs(1);
/// The address that the SDK asks unless told otherwise.
const IMDS_DEFAULT: ([u8; 4], u16) = ([169, 254, 169, 254], 80);
const GLOBAL_ENDPOINT: &str = "https://sts.amazonaws.com";
const GLOBAL_REGION: &str = "us-east-1";

/// Why there is no client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The operator must say which region, or make IMDS answer.
    #[error("the region is not known: set --region or AWS_REGION, or let IMDS answer")]
    NoRegion,
    /// The operator must mend `--metadata-addr`.
    #[error("the address of IMDS is not one: {0}")]
    ImdsEndpoint(String),
}

/// What STS says of the agent itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerIdentity {
    /// 12 digits.
    pub account: String,
    /// `arn:aws:sts::123456789012:assumed-role/NAME/SESSION`, or another principal's.
    pub arn: String,
    /// `NAME`, where it is an assumed role.
    pub role_name: Option<String>,
}

/// STS AssumeRole with the agent's own credentials; cheap to clone.
#[derive(Clone, Debug)]
pub struct AssumeRoleSource {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    clock: Clock,
    config: aws_sdk_sts::Config,
    client: Mutex<Client>,
}

// === impl AssumeRoleSource ===

impl AssumeRoleSource {
    /// Reads the SDK's settings. `region_of_imds` is used where the configuration names none; `imds` is where
    /// the agent's own credentials are asked for, if no other place has them.
    ///
    /// # Errors
    /// [`LoadError`]; whether the credentials are there shows at the first call.
    pub async fn load(
        config: &config::Credentials,
        region_of_imds: Option<&str>,
        imds: SocketAddr,
        clock: Clock,
    ) -> Result<Self, LoadError> {
        let region = config.region.as_deref().or(region_of_imds).map(str::to_owned);
        let region = region.or_else(|| (!config.regional_endpoint).then(|| GLOBAL_REGION.to_owned()));
        let region = Region::new(region.ok_or(LoadError::NoRegion)?);
        let http = transport::client();
        let mut loader =
            aws_config::defaults(BehaviorVersion::latest()).region(region.clone()).http_client(http.clone());
        if imds != SocketAddr::from(IMDS_DEFAULT) {
            loader = loader.credentials_provider(own_credentials(&region, imds, http).await?);
        }
        Ok(Self::new(&loader.load().await, config.regional_endpoint, clock))
    }

    /// With settings that are there already.
    #[must_use]
    pub fn new(sdk: &SdkConfig, regional_endpoint: bool, clock: Clock) -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
            .operation_timeout(ATTEMPT_TIMEOUT)
            .build();
        let mut builder = aws_sdk_sts::config::Builder::from(sdk)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .interceptor(BoundedAnswers)
            .identity_cache(IdentityCache::lazy().load_timeout(ATTEMPT_TIMEOUT).build());
        if !regional_endpoint {
            builder = builder.region(Region::from_static(GLOBAL_REGION));
            if !endpoint_is_set(sdk) {
                builder = builder.endpoint_url(GLOBAL_ENDPOINT);
            }
        }
        let config = builder.build();
        let client = Mutex::new(Client::from_conf(config.clone()));
        Self { inner: Arc::new(Inner { clock, config, client }) }
    }

    /// Who the agent is: GetCallerIdentity, which needs no permission.
    ///
    /// # Errors
    /// As [`CredentialSource::fetch`].
    pub async fn caller_identity(&self) -> Result<CallerIdentity, SourceError> {
        let call = |client: Client| async move { client.get_caller_identity().send().await };
        let said = self.inner.call(call).await?;
        let (Some(account), Some(arn)) = (said.account, said.arn) else {
            return Err(incomplete());
        };
        let role_name = arn.split_once(":assumed-role/").and_then(|(_, rest)| rest.split('/').next());
        Ok(CallerIdentity { account, role_name: role_name.map(str::to_owned), arn })
    }
}

impl CredentialSource for AssumeRoleSource {
    fn fetch(&self, key: SessionKey) -> BoxFuture<'static, Result<Session, SourceError>> {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move { inner.assume(&key).await })
    }
}

// === impl Inner ===

impl Inner {
    async fn assume(&self, key: &SessionKey) -> Result<Session, SourceError> {
        let seconds = i32::try_from(key.duration.as_secs()).unwrap_or(i32::MAX);
        let call = |client: Client| {
            client
                .assume_role()
                .role_arn(key.role.as_str())
                .role_session_name(key.session_name.as_str())
                .duration_seconds(seconds)
                .set_external_id(key.external_id.as_ref().map(|id| id.as_str().to_owned()))
                .send()
        };
        let answer = self.call(call).await.map_err(|error| self.explained(error))?;
        let assumed = answer.assumed_role_user.ok_or_else(incomplete)?;
        if !is_of(assumed.arn(), key) {
            return Err(SourceError::Mismatched { arn: assumed.arn });
        }
        session(answer.credentials.ok_or_else(incomplete)?, self.clock.now())
    }

    /// Where the words of STS leave open what to do.
    fn explained(&self, error: SourceError) -> SourceError {
        match error {
            SourceError::Rejected { code, message } if code == "RegionDisabledException" => {
                let region = self.config.region().map_or("an unknown region", Region::as_ref);
                let message = format!(
                    "{message} (asked in {region}: activate STS there in the account settings of the role's account, \
                     or name another region with --region or AWS_REGION)"
                );
                SourceError::Rejected { code, message }
            }
            other => other,
        }
    }

    /// One call; a second one where the agent's own credentials or clock were at fault, with what was learnt.
    async fn call<T, E, F>(&self, call: impl Fn(Client) -> F) -> Result<T, SourceError>
    where
        F: Future<Output = Result<T, aws_sdk_sts::error::SdkError<E>>>,
        E: aws_sdk_sts::error::ProvideErrorMetadata + std::error::Error + 'static,
    {
        let client = self.client.lock().clone();
        let trouble = match call(client).await {
            Ok(answer) => return Ok(answer),
            Err(error) => classify(&error),
        };
        let client = match trouble {
            Trouble::Other(error) => return Err(error),
            Trouble::Clock(_) => self.client.lock().clone(),
            Trouble::OwnCredentials(_) => self.renew_client(),
        };
        call(client).await.map_err(|error| classify(&error).into())
    }

    /// A client that loads the agent's own credentials anew.
    fn renew_client(&self) -> Client {
        let cache = IdentityCache::lazy().load_timeout(ATTEMPT_TIMEOUT).build();
        let client = Client::from_conf(self.config.to_builder().identity_cache(cache).build());
        *self.client.lock() = client.clone();
        client
    }
}

/// The SDK's default chain, with IMDS at `imds`.
async fn own_credentials(
    region: &Region,
    imds: SocketAddr,
    http: SharedHttpClient,
) -> Result<DefaultCredentialsChain, LoadError> {
    let settings = ProviderConfig::without_region()
        .with_behavior_version(Some(BehaviorVersion::latest()))
        .with_http_client(http);
    let client = imds::Client::builder()
        .configure(&settings)
        .endpoint(format!("http://{imds}"))
        .map_err(|error| LoadError::ImdsEndpoint(error.to_string()))?
        .connect_timeout(IMDS_TIMEOUT)
        .read_timeout(IMDS_TIMEOUT)
        .build();
    let chain = DefaultCredentialsChain::builder().configure(settings).region(region.clone());
    Ok(chain.imds_client(client).build().await)
}

/// The environment or a profile names an endpoint: the same look-up as the SDK's own.
fn endpoint_is_set(sdk: &SdkConfig) -> bool {
    let key = ServiceConfigKey::builder().service_id("STS").env("AWS_ENDPOINT_URL").profile("endpoint_url");
    let of_service = sdk.service_config().zip(key.build().ok()).and_then(|(of, key)| of.load_config(key));
    of_service.is_some() || sdk.endpoint_url().is_some()
}

/// The session is one of the role and of the name that were asked for. STS leaves out the role's path; no two
/// roles of an account have names that differ in case alone.
fn is_of(arn: &str, key: &SessionKey) -> bool {
    let (role, name) = (&key.role, key.session_name.as_str());
    let wanted = format!("arn:{}:sts::{}:assumed-role/{}", role.partition(), role.account(), role.name());
    arn.rsplit_once('/').is_some_and(|(of, session)| of.eq_ignore_ascii_case(&wanted) && session == name)
}

fn session(credentials: Credentials, received: SystemTime) -> Result<Session, SourceError> {
    let expiration = SystemTime::try_from(*credentials.expiration()).map_err(|_| incomplete())?;
    let complete = !credentials.access_key_id.is_empty()
        && !credentials.secret_access_key.is_empty()
        && !credentials.session_token.is_empty();
    if !complete {
        return Err(incomplete());
    }
    Ok(Session {
        access_key_id: credentials.access_key_id,
        secret_access_key: Secret::new(credentials.secret_access_key),
        token: Secret::new(credentials.session_token),
        expiration,
        received,
        document: Bytes::new(),
    })
}

fn incomplete() -> SourceError {
    SourceError::Unavailable { reason: "the answer of STS is incomplete".into() }
}
