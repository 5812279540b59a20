//! What pods see of the instance metadata.

use std::time::Duration;

use super::super::mistakes::{ConfigError, Findings, flag};
use super::super::{Imds, values};
use super::{DAY, Profile};
use crate::args::MetadataArgs;
use crate::imds::route::MetadataPolicy;

/// Longest that a request is held: below the 1 s that most SDKs wait, once.
const HOLD: Duration = Duration::from_millis(900);

pub(super) fn build(found: &mut Findings, args: &MetadataArgs, profile: Profile) -> Imds {
    let upstream = flag("--metadata-addr", &args.metadata_addr);
    let upstream = found.take(upstream, "an address or address:port", values::metadata_address);
    let mode = |text: &str| match text {
        "allow" => Some(true),
        "deny" => Some(false),
        _ => None,
    };
    let directory = |text: &str| (text.starts_with('/') && !text.contains('\0')).then(|| text.into());
    let state_dir = found.take(flag("--state-dir", &args.state_dir), "an absolute path", directory);
    let metadata_allow = patterns(found, &args.metadata_allow);
    interval(found, args);
    Imds {
        upstream: upstream.unwrap_or_else(|| ([169, 254, 169, 254], 80).into()),
        allow_v1: found.take(flag("--imds-v1", &args.imds_v1), "allow or deny", mode).unwrap_or(true),
        metadata_everything: profile == Profile::Kube2iam && metadata_allow.is_empty(),
        metadata_allow,
        state_dir: state_dir.unwrap_or_else(|| "/var/lib/rolegate".into()),
        hold: hold(found, args),
        token_hop_limit: found.count(flag("--token-hop-limit", &args.token_hop_limit), 1),
    }
}

fn patterns(found: &mut Findings, values: &[String]) -> Vec<String> {
    let patterns: Vec<String> = values::items(values).map(ToOwned::to_owned).collect();
    for pattern in &patterns {
        if let Err(why) = MetadataPolicy::check_pattern(pattern) {
            found.mistakes.push(ConfigError::wrong("--metadata-allow", pattern, &why));
        }
    }
    patterns
}

fn hold(found: &mut Findings, args: &MetadataArgs) -> Duration {
    let longest = flag("--backoff-max-elapsed-time", &args.backoff_max_elapsed_time);
    let Some(asked) = found.take(longest, "a time of at most 900ms", values::duration) else {
        return HOLD;
    };
    // 0 is no limit, as for kube2iam.
    if asked > HOLD || asked.is_zero() {
        found.warn("--backoff-max-elapsed-time: 900ms is the most that SDKs wait for, and is taken instead");
        return HOLD;
    }
    asked
}

fn interval(found: &mut Findings, args: &MetadataArgs) {
    let interval = flag("--backoff-max-interval", &args.backoff_max_interval);
    if found.time(interval, Duration::ZERO..=DAY).is_some() {
        found.warn(
            "--backoff-max-interval has no effect: a request is woken by the pod's event and does not poll",
        );
    }
}
