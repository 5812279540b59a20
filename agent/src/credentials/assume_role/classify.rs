//! What an error of STS means: by its code, never by its HTTP status (400 is throttling as well as a typo).

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_sts::error::{ProvideErrorMetadata, SdkError};

use crate::credentials::source::SourceError;

/// What is to be done about an error.
pub(super) enum Trouble {
    /// Load the agent's own credentials anew and try once more. The code.
    OwnCredentials(String),
    /// The SDK has just learnt the right time: try once more. The code.
    Clock(String),
    /// Nothing here.
    Other(SourceError),
}

// === impl Trouble ===

impl From<Trouble> for SourceError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::OwnCredentials(code) | Trouble::Clock(code) => Self::OwnCredentials { code },
            Trouble::Other(error) => error,
        }
    }
}

/// Names the trouble. Nothing of a request, and of an answer only STS's code and message, goes into it.
pub(super) fn classify<E>(error: &SdkError<E>) -> Trouble
where
    E: ProvideErrorMetadata + Error + 'static,
{
    if let SdkError::ServiceError(answer) = error {
        let meta = answer.err().meta();
        if meta.code().is_none_or(str::is_empty) {
            let reason = format!("HTTP {} without a code or a session of STS", answer.raw().status());
            return Trouble::Other(SourceError::Unavailable { reason });
        }
        return by_code(meta.code().unwrap_or_default(), meta.message().unwrap_or_default());
    }
    if caused_by::<CredentialsError>(error) {
        return Trouble::Other(SourceError::OwnCredentials { code: "CredentialsNotLoaded".into() });
    }
    let reason = match error {
        SdkError::TimeoutError(_) => "no answer in time".to_owned(),
        SdkError::DispatchFailure(failure) if failure.is_timeout() => "no connection in time".to_owned(),
        SdkError::DispatchFailure(failure) => {
            format!("no connection: {}", failure.as_connector_error().map(root_text).unwrap_or_default())
        }
        SdkError::ResponseError(_) => "the answer is cut short or not STS's".to_owned(),
        SdkError::ConstructionFailure(_) => format!("the request cannot be made: {}", root_text(error)),
        _ => "an unknown error of the SDK".to_owned(),
    };
    Trouble::Other(SourceError::Unavailable { reason })
}

fn by_code(code: &str, message: &str) -> Trouble {
    let (code, message) = (code.to_owned(), message.to_owned());
    match code.as_str() {
        "AccessDenied" | "AccessDeniedException" => Trouble::Other(SourceError::Unauthorized { message }),
        "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "RequestLimitExceeded"
        | "TooManyRequestsException"
        | "SlowDown" => Trouble::Other(SourceError::Throttled),
        "SignatureDoesNotMatch" | "RequestExpired" | "RequestTimeTooSkewed" | "RequestInTheFuture" => {
            Trouble::Clock(code)
        }
        "ExpiredToken"
        | "ExpiredTokenException"
        | "InvalidClientTokenId"
        | "InvalidAccessKeyId"
        | "UnrecognizedClientException"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "IncompleteSignature" => Trouble::OwnCredentials(code),
        "ValidationError"
        | "MalformedPolicyDocument"
        | "MalformedPolicyDocumentException"
        | "PackedPolicyTooLarge"
        | "PackedPolicyTooLargeException"
        | "RegionDisabledException"
        | "InvalidParameterValue"
        | "InvalidParameterCombination"
        | "MissingParameter" => Trouble::Other(SourceError::Rejected { code, message }),
        _ => Trouble::Other(SourceError::Unavailable { reason: code }),
    }
}

fn caused_by<T: Error + 'static>(error: &dyn Error) -> bool {
    let mut next = error.source();
    while let Some(source) = next {
        if source.is::<T>() {
            return true;
        }
        next = source.source();
    }
    false
}

/// The last cause, such as `Connection refused (os error 111)`.
fn root_text(error: &(impl Error + 'static)) -> String {
    let mut last: &dyn Error = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
