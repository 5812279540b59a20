//! Flags to configuration, section by section.

mod imds;
mod kubernetes;
mod policy;
mod redirect;

use std::time::Duration;

use super::mistakes::{ConfigError, ConfigErrors, Findings, flag};
use super::values;
use super::{Command, Config, Credentials, Log, LogFormat, Server};
use crate::args::{CleanupArgs, CredentialsArgs, GuardArgs, LogArgs, ProbeArgs, RunArgs, ServerArgs};

/// Shortest and longest session that STS gives (STS API reference, `DurationSeconds`).
const SESSION: (Duration, Duration) = (Duration::from_secs(900), Duration::from_secs(43_200));

/// Of a session, where nothing else is said: outlives botocore's and s3fs's refresh windows of up to 25 min.
const SESSION_DEFAULT: Duration = Duration::from_secs(3600);

/// Age of refresh, where nothing else is said.
const REFRESH_AGE: Duration = Duration::from_secs(900);

/// Longer than anything that is waited for.
const DAY: Duration = Duration::from_secs(86_400);

/// A new pod is known to its agent within seconds.
const PROBE_PATIENCE: Duration = Duration::from_secs(30);

type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Whose defaults apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Profile {
    Rolegate,
    Kube2iam,
}

/// Builds everything, and says everything that is wrong.
pub(super) fn build(
    args: &RunArgs,
    unknown: Vec<String>,
    env: Environment<'_>,
) -> Result<Config, ConfigErrors> {
    let mut found = Findings::default();
    found.mistakes.extend(unknown.into_iter().map(ConfigError::Unknown));
    let profile = profile(&mut found, &args.log);
    let log = log(&mut found, &args.log);
    let redirect = redirect::build(&mut found, &args.redirect);
    let host_ip_given = values::items(&args.redirect.host_ip).next().is_some();
    let host_ips = host_ip_given.then_some(redirect.host_ips.as_slice());
    let kubernetes = kubernetes::build(&mut found, args, host_ips);
    let credentials = credentials(&mut found, &args.credentials, env);
    let session = session_duration(&mut found, &args.credentials, credentials.refresh_age);
    let discovery = policy::discovery(&mut found, &args.roles);
    let policy = policy::build(&mut found, args, profile, &kubernetes.node, session);
    let imds = imds::build(&mut found, &args.metadata, profile);
    let server = server(&mut found, &args.server);
    let debug = found.boolean(flag("--debug", &args.server.debug), false);
    let Findings { mistakes, warnings } = found;
    if mistakes.is_empty() {
        Ok(Config {
            kubernetes,
            policy,
            discovery,
            credentials,
            imds,
            server,
            redirect,
            log,
            debug,
            warnings,
        })
    } else {
        Err(ConfigErrors(mistakes))
    }
}

/// What `guard` is to do.
pub(super) fn guard(args: &GuardArgs) -> Result<Command, ConfigErrors> {
    let mut found = Findings::default();
    let preference = redirect::preference(&mut found, &args.rule_preference);
    let json = is_json(&mut found, &args.output);
    found.unless_mistaken(Command::Guard { preference, json })
}

/// What `cleanup` is to do.
pub(super) fn cleanup(args: &CleanupArgs) -> Result<Command, ConfigErrors> {
    let mut found = Findings::default();
    let peers = found.boolean(flag("--peers", &args.peers), false);
    let json = is_json(&mut found, &args.output);
    let stay = found.boolean(flag("--stay", &args.stay), false);
    found.unless_mistaken(Command::Cleanup { peers, stay, json })
}

/// What `probe` is to do.
pub(super) fn probe(args: &ProbeArgs) -> Result<Command, ConfigErrors> {
    let mut found = Findings::default();
    let patience = found.time(flag("--wait", &args.wait), Duration::ZERO..=DAY).unwrap_or(PROBE_PATIENCE);
    let json = is_json(&mut found, &args.output);
    found.unless_mistaken(Command::Probe { patience, json })
}

fn is_json(found: &mut Findings, output: &Option<String>) -> bool {
    let format = |text: &str| match text {
        "text" => Some(false),
        "json" => Some(true),
        _ => None,
    };
    found.take(flag("--output", output), "text or json", format).unwrap_or(false)
}

fn profile(found: &mut Findings, args: &LogArgs) -> Profile {
    let parse = |text: &str| match text {
        "rolegate" => Some(Profile::Rolegate),
        "kube2iam" => Some(Profile::Kube2iam),
        _ => None,
    };
    found.take(flag("--profile", &args.profile), "rolegate or kube2iam", parse).unwrap_or(Profile::Rolegate)
}

fn credentials(found: &mut Findings, args: &CredentialsArgs, env: Environment<'_>) -> Credentials {
    let age = flag("--iam-role-session-ttl", &args.iam_role_session_ttl);
    let error_ttl = found.time(flag("--iam-role-error-ttl", &args.iam_role_error_ttl), Duration::ZERO..=DAY);
    let legacy = env("AWS_STS_REGIONAL_ENDPOINTS").is_some_and(|value| value.eq_ignore_ascii_case("legacy"));
    let regional = flag("--use-regional-sts-endpoint", &args.use_regional_sts_endpoint);
    let in_flight = flag("--sts-calls-in-flight", &args.sts_calls_in_flight);
    Credentials {
        refresh_age: found.time(age, Duration::from_secs(1)..=DAY).unwrap_or(REFRESH_AGE),
        error_ttl: error_ttl.filter(|ttl| !ttl.is_zero()),
        calls_in_flight: found.count(in_flight, 32_u16).into(),
        calls_burst: found.count(flag("--sts-burst", &args.sts_burst), 50),
        calls_per_second: found.count(flag("--sts-rate", &args.sts_rate), 5),
        prefetch: found.boolean(flag("--prefetch", &args.prefetch), true),
        region: region(found, args, env),
        regional_endpoint: found.boolean(regional, !legacy),
    }
}

fn region(found: &mut Findings, args: &CredentialsArgs, env: Environment<'_>) -> Option<String> {
    let from_env = || env("AWS_REGION").or_else(|| env("AWS_DEFAULT_REGION"));
    let given = args.region.clone().filter(|region| !region.is_empty()).or_else(from_env);
    let allowed = "a region such as eu-central-1 (AWS_REGION and AWS_DEFAULT_REGION are read as well)";
    let plain = |text: &str| text.len() <= 63 && !text.contains('.') && values::is_dns_subdomain(text);
    found.take(flag("--region", &given), allowed, |text| plain(text).then(|| text.to_owned()))
}

/// `--session-duration`, or what goes with the age of refresh: an hour or twice that age.
fn session_duration(found: &mut Findings, args: &CredentialsArgs, refresh_age: Duration) -> Duration {
    let (least, most) = SESSION;
    let given = found.time(flag("--session-duration", &args.session_duration), least..=most);
    let session = given.unwrap_or_else(|| (refresh_age * 2).clamp(SESSION_DEFAULT, most));
    if refresh_age >= session {
        let allowed = format!("a time shorter than that of the session, {}", values::written(session));
        let age = values::written(refresh_age);
        found.mistakes.push(ConfigError::value("--iam-role-session-ttl", &age, &allowed));
    }
    session
}

fn server(found: &mut Findings, args: &ServerArgs) -> Server {
    let drain = flag("--drain-timeout", &args.drain_timeout);
    let per_pod = flag("--connections-per-pod", &args.connections_per_pod);
    Server {
        app_port: found.count(flag("--app-port", &args.app_port), 8181),
        metrics_port: found.count(flag("--metrics-port", &args.metrics_port), 9543),
        connections_per_pod: found.count(per_pod, 128_u16).into(),
        connections: found.count(flag("--max-connections", &args.max_connections), 4096_u16).into(),
        drain: found
            .time(drain, Duration::ZERO..=Duration::from_secs(600))
            .unwrap_or(Duration::from_secs(10)),
    }
}

fn log(found: &mut Findings, args: &LogArgs) -> Log {
    let format = |text: &str| match text {
        "text" => Some(LogFormat::Text),
        "json" => Some(LogFormat::Json),
        _ => None,
    };
    // The names of logrus, which kube2iam took, and those of tracing.
    let level = |text: &str| match text.to_ascii_lowercase().as_str() {
        "panic" | "fatal" | "error" => Some("error"),
        "warn" | "warning" => Some("warn"),
        "info" => Some("info"),
        "debug" => Some("debug"),
        "trace" => Some("trace"),
        _ => None,
    };
    let format = found.take(flag("--log-format", &args.log_format), "text or json", format);
    let level = found.take(flag("--log-level", &args.log_level), "error, warn, info, debug or trace", level);
    let verbose = found.boolean(flag("--verbose", &args.verbose), false);
    let level = level.filter(|level| !verbose || *level == "trace");
    let level = level.unwrap_or(if verbose { "debug" } else { "info" }).to_owned();
    Log { format: format.unwrap_or(LogFormat::Text), level }
}
