//! Loads credentials as any program with `aws-config` does, once for every line of standard input; prints one
//! JSON object a line: `access_key_id` and `expiration`, or `error`.

use std::error::Error as _;
use std::io::BufRead as _;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let config = aws_config::load_defaults(aws_config::BehaviorVersion::latest()).await;
    let provider = config.credentials_provider();
    for _ in std::io::stdin().lock().lines() {
        println!("{}", load(provider.as_ref()).await);
    }
}

async fn load(provider: Option<&SharedCredentialsProvider>) -> Value {
    let Some(provider) = provider else { return json!({ "error": "no credentials provider" }) };
    match provider.provide_credentials().await {
        Ok(credentials) => json!({
            "access_key_id": credentials.access_key_id(),
            "expiration": credentials.expiry().and_then(rfc3339),
        }),
        Err(error) => {
            let mut text = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                text.push_str(&format!(": {cause}"));
                source = cause.source();
            }
            json!({ "error": text })
        }
    }
}

fn rfc3339(time: SystemTime) -> Option<String> {
    let seconds = i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()?;
    let time = time::OffsetDateTime::from_unix_timestamp(seconds).ok()?;
    time.format(&time::format_description::well_known::Rfc3339).ok()
}
