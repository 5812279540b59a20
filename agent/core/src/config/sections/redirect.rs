//! How pods' requests get here.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use rolegate_iptables::guard::DEFAULT_PREFERENCE;
use rolegate_iptables::route::DEFAULT_TABLE;

use super::super::mistakes::{ConfigError, Findings, flag};
use super::super::{Redirect, RedirectMode, SharedL2, values};
use crate::args::RedirectArgs;

/// How often the rules are compared, where it is not said, and the longest: legacy tables notify nobody, and
/// until the next look the guards alone stand in the way to the node's own credentials.
const RECONCILE: Duration = Duration::from_secs(5);

/// The rule of the main table (ip-rule(8)).
const MAIN_TABLE_RULE: u32 = 32_766;

/// `default`, `main` and `local` (ip-route(8)).
const KERNELS_TABLES: std::ops::RangeInclusive<u32> = 253..=255;

/// Where libcni keeps results unless told otherwise (containernetworking/cni, `libcni/api.go`, `CacheDir`).
const CNI_RESULTS: &str = "/var/lib/cni/results";

pub(super) fn build(found: &mut Findings, args: &RedirectArgs) -> Redirect {
    let mode = mode(found, args);
    let host_ips = host_ips(found, &args.host_ip);
    if mode == RedirectMode::Iptables && values::items(&args.host_ip).next().is_none() {
        found.missing(
            "--host-ip=ADDRESS is needed with --iptables: it is where pods' requests are redirected to",
        );
    }
    let allowed = "auto, or a list of interfaces such as cali+ or !eth0, of at most 15 characters each";
    let interfaces = flag("--host-interface", &args.host_interface);
    let interfaces =
        found.take(interfaces, allowed, |text| values::is_interface_list(text).then(|| text.to_owned()));
    let every = flag("--reconcile-period", &args.reconcile_period);
    let every = found.time(every, Duration::from_secs(1)..=RECONCILE);
    if found.boolean(flag("--resolve-duplicate-cache-ips", &args.resolve_duplicate_cache_ips), false) {
        found.warn(
            "--resolve-duplicate-cache-ips has no effect: of several pods with one address the live one is always found, and several live ones are refused",
        );
    }
    let interfaces = interfaces.unwrap_or_else(|| "auto".to_owned());
    Redirect {
        mode,
        interfaces,
        host_ips,
        reconcile_every: every.unwrap_or(RECONCILE),
        preference: preference(found, &args.rule_preference),
        table: table(found, &args.route_table),
        shared_l2: shared_l2(found, args),
        cni_results: PathBuf::from(flag("--cni-results", &args.cni_results).value.unwrap_or(CNI_RESULTS)),
    }
}

/// The preference of the first policy rule: its last one, four on, has to stay before that of the main table.
pub(super) fn preference(found: &mut Findings, given: &Option<String>) -> u32 {
    let number = |text: &str| text.parse().ok().filter(|number| (1..MAIN_TABLE_RULE - 4).contains(number));
    let allowed = format!("a number from 1 to {}", MAIN_TABLE_RULE - 5);
    found.take(flag("--rule-preference", given), &allowed, number).unwrap_or(DEFAULT_PREFERENCE)
}

fn table(found: &mut Findings, given: &Option<String>) -> u32 {
    let number =
        |text: &str| text.parse().ok().filter(|number| *number != 0 && !KERNELS_TABLES.contains(number));
    let allowed = "the number of a routing table: not 0, and not the kernel's own, 253 to 255";
    found.take(flag("--route-table", given), allowed, number).unwrap_or(DEFAULT_TABLE)
}

fn shared_l2(found: &mut Findings, args: &RedirectArgs) -> SharedL2 {
    let named = flag("--shared-l2", &args.shared_l2);
    let read = found.take(named, "allow, pin or refuse", |text| match text {
        "allow" => Some(SharedL2::Allow),
        "pin" => Some(SharedL2::Pin),
        "refuse" => Some(SharedL2::Refuse),
        _ => None,
    });
    read.unwrap_or(SharedL2::Pin)
}

fn mode(found: &mut Findings, args: &RedirectArgs) -> RedirectMode {
    let named = flag("--redirect", &args.redirect);
    let iptables = flag("--iptables", &args.iptables);
    let by_flag = found.take(iptables, "true or false", values::boolean);
    let by_name = found.parse(named, |text| match text {
        "auto" => Ok(RedirectMode::Auto),
        "iptables" => Ok(RedirectMode::Iptables),
        "route" => Ok(RedirectMode::Route),
        "none" => Ok(RedirectMode::None),
        _ => Err("allowed is auto, iptables, route or none"),
    });
    let of_flag = |on| if on { RedirectMode::Iptables } else { RedirectMode::None };
    match (by_name, by_flag.map(of_flag)) {
        (Some(named), Some(flagged)) if named != flagged => {
            found.conflict("--redirect", "--iptables", "they say different things");
            named
        }
        (Some(mode), _) | (None, Some(mode)) => mode,
        (None, None) => {
            if iptables.value.is_none() && named.value.is_none() {
                found.warn(
                    "neither --iptables nor --redirect is given: nothing redirects pods' requests: the guards refuse them, and where those cannot be put up they reach the node's own credentials",
                );
            }
            RedirectMode::None
        }
    }
}

fn host_ips(found: &mut Findings, values: &[String]) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for text in values::items(values) {
        let parsed = text.parse::<IpAddr>().map(|ip| ip.to_canonical()).ok();
        let usable = |ip: &IpAddr| !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast();
        match parsed.filter(usable) {
            None => {
                let allowed = "an address of this node that pods reach";
                found.mistakes.push(ConfigError::value("--host-ip", text, allowed));
            }
            Some(ip) if addresses.contains(&ip) => {}
            Some(ip) if addresses.iter().any(|other| other.is_ipv4() == ip.is_ipv4()) => {
                let allowed = "one IPv4 and one IPv6 address, and there is another of this family";
                found.mistakes.push(ConfigError::value("--host-ip", text, allowed));
            }
            Some(ip) => addresses.push(ip),
        }
    }
    addresses
}
