//! Which lines are wanted, and which are never written whatever is wanted.

use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterFn, Targets, filter_fn};

/// Why a level cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no log level; allowed are error, warn, info, debug, trace, \
     or a list such as info,rolegate_core::imds=debug"
)]
pub struct LevelError(String);

/// Whether `--log-level` can be read.
///
/// # Errors
/// [`LevelError`] says what is allowed.
pub fn check_level(text: &str) -> Result<(), LevelError> {
    parse(text).map(drop)
}

/// A word (logrus's names included), or a list of words and `target=word`.
///
/// A bare word that is no level is refused: the library would take it for a target to be traced, and a
/// misspelt level would silence everything else.
pub(super) fn parse(text: &str) -> Result<Targets, LevelError> {
    text.split(',').try_fold(Targets::new(), |targets, part| {
        let (target, word) = part.rsplit_once('=').map_or((None, part), |(t, w)| (Some(t.trim()), w));
        let level =
            level(word.trim()).filter(|_| target != Some("")).ok_or_else(|| LevelError(text.to_owned()))?;
        Ok(match target {
            Some(target) => targets.with_target(target, level),
            None => targets.with_default(level),
        })
    })
}

fn level(word: &str) -> Option<LevelFilter> {
    Some(match word.to_ascii_lowercase().as_str() {
        "off" => LevelFilter::OFF,
        "error" | "fatal" | "panic" => LevelFilter::ERROR,
        "warn" | "warning" => LevelFilter::WARN,
        "info" => LevelFilter::INFO,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        _ => return None,
    })
}

/// Ours at any level; everybody else's up to `info`, the AWS SDK's up to `warn`.
///
/// The SDK's `trace` prints requests and responses of STS whole (`aws_smithy_runtime::client::orchestrator`:
/// "received response from service"), its `debug` the canonical request, and `aws_config` at `info` the
/// access key id of what it loaded. hyper and kube print headers at `trace`, the bearer token among them.
pub(super) fn cap() -> FilterFn {
    filter_fn(capped as fn(&Metadata<'_>) -> bool).with_max_level_hint(LevelFilter::TRACE)
}

fn capped(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    let most = if target.starts_with("rolegate") {
        Level::TRACE
    } else if target.starts_with("aws") {
        Level::WARN
    } else {
        Level::INFO
    };
    *metadata.level() <= most
}
