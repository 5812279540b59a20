//! `rolegate probe`: asks the metadata service as any pod does, and says who answered.
//!
//! Who answered is told by the token: it has to be one that an agent makes, with the end of life that was asked for a
//! moment ago. No other service can answer a request with such a token but by 401. No credentials are asked for.

use std::fmt;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use aws_lc_rs::rand;
use rolegate_iptables::{IMDS_PORT, IMDS_V4, IMDS_V6};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::imds::token;
use crate::types::Clock;

/// Longest that one question may take; an agent holds it for at most 900 ms.
const EXCHANGE: Duration = Duration::from_secs(3);

/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// Longest answer read, in bytes: a token or a role's name and its headers.
const LONGEST_ANSWER: u64 = 16 * 1024;

/// Shortest token life that is asked for, in seconds: longer than any exchange.
const LEAST_TTL: u32 = 60;

const ROLE_LIST: &str = "/latest/meta-data/iam/security-credentials/";

/// Who is behind an address of the metadata service.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Finding {
    /// The agent; the role it has for this pod, if any.
    Agent { role: Option<String> },
    /// The agent, which cannot say yet what this pod's role is.
    NotYet { status: u16 },
    /// Somebody else, and how that is seen.
    Other(String),
    /// Nobody.
    Nobody(String),
    /// This pod has no way to it: it lacks the family.
    NoRoute,
}

/// An answer: status and body.
struct Answer {
    status: u16,
    body: Vec<u8>,
}

/// Asks both addresses of the metadata service, for as long as `patience` if nobody answers or this pod is not known yet.
///
/// # Errors
/// When pods' requests are not captured, as far as can be seen from here; the error says what is seen instead.
pub async fn probe(patience: Duration, json: bool) -> anyhow::Result<()> {
    let clock = Clock::system();
    let give_up = Instant::now() + patience;
    let (v4, v6) = loop {
        let v4 = ask(IMDS_V4.into(), &clock).await;
        let v6 = ask(IMDS_V6.into(), &clock).await;
        let settled = mistake(&v4, &v6).is_none() || !v4.may_change();
        if settled || Instant::now() >= give_up {
            break (v4, v6);
        }
        sleep(PAUSE).await;
    };
    let mistake = mistake(&v4, &v6);
    let findings = [(IpAddr::from(IMDS_V4), &v4), (IpAddr::from(IMDS_V6), &v6)];
    let text = if json {
        let addresses: serde_json::Map<String, Value> =
            findings.iter().map(|(ip, finding)| (ip.to_string(), finding.as_json())).collect();
        json!({"captured": mistake.is_none(), "addresses": addresses}).to_string()
    } else {
        findings.map(|(ip, finding)| format!("{ip}: {finding}")).join("\n")
    };
    writeln!(io::stdout(), "{text}")?;
    mistake.map_or(Ok(()), |mistake| Err(anyhow::anyhow!(mistake)))
}

/// What is wrong, if anything is. Pods need not have IPv6, but what they have must be captured.
fn mistake(v4: &Finding, v6: &Finding) -> Option<&'static str> {
    match (v4, v6) {
        (Finding::Other(_), _) | (_, Finding::Other(_)) => {
            Some("not captured: pods' requests reach something that is not rolegate")
        }
        // A pod of IPv6 alone.
        (Finding::NoRoute, Finding::Agent { .. }) => None,
        (Finding::Nobody(_) | Finding::NoRoute, _) => Some("not captured: nobody answers pods"),
        (Finding::NotYet { .. }, _) => Some("captured, but rolegate does not know this pod"),
        (Finding::Agent { .. }, _) => None,
    }
}

/// A token, and with it the list of roles.
async fn ask(ip: IpAddr, clock: &Clock) -> Finding {
    let at = SocketAddr::new(ip, IMDS_PORT);
    let ttl = random_ttl();
    let ask_token =
        format!("PUT /latest/api/token HTTP/1.1\r\nX-aws-ec2-metadata-token-ttl-seconds: {ttl}\r\n");
    let answer = match exchange(at, &ask_token).await {
        Ok(answer) => answer,
        Err(error) if error.kind() == io::ErrorKind::NetworkUnreachable => return Finding::NoRoute,
        Err(error) => return Finding::Nobody(error.to_string()),
    };
    let now = clock.unix_seconds();
    if answer.status != 200 {
        return Finding::Other(format!("it answers {} to a request for a token", answer.status));
    }
    let made_now = |expiry: u64| expiry.abs_diff(now + u64::from(ttl)) <= EXCHANGE.as_secs();
    if !token::expiry(&answer.body).is_some_and(made_now) {
        return Finding::Other("it gives a token that rolegate does not make".to_owned());
    }
    let token = String::from_utf8_lossy(&answer.body);
    let ask_role = format!("GET {ROLE_LIST} HTTP/1.1\r\nX-aws-ec2-metadata-token: {token}\r\n");
    match exchange(at, &ask_role).await {
        Err(error) => Finding::Nobody(error.to_string()),
        Ok(answer) => match answer.status {
            200 => Finding::Agent { role: Some(String::from_utf8_lossy(&answer.body).into_owned()) },
            404 => Finding::Agent { role: None },
            401 => Finding::Other("it does not know rolegate's token: two services take turns".to_owned()),
            status => Finding::NotYet { status },
        },
    }
}

/// A number that nobody who has not read the request can hit upon.
fn random_ttl() -> u32 {
    let mut bytes = [0; 2];
    // Without randomness it is still the number that was asked for.
    let _ = rand::fill(&mut bytes);
    LEAST_TTL + u32::from(u16::from_be_bytes(bytes)) % (token::LONGEST_TTL_SECONDS - LEAST_TTL)
}

/// One request on a connection of its own, which both services close.
async fn exchange(at: SocketAddr, head: &str) -> io::Result<Answer> {
    let talk = async {
        let mut stream = TcpStream::connect(at).await?;
        let host = at.ip();
        let host = if host.is_ipv6() { format!("[{host}]") } else { host.to_string() };
        let request = format!("{head}Host: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(LONGEST_ANSWER).read_to_end(&mut answer).await?;
        parse(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP"))
    };
    timeout(EXCHANGE, talk)
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")))
}

fn parse(answer: &[u8]) -> Option<Answer> {
    const BLANK: &[u8] = b"\r\n\r\n";
    let end = answer.windows(BLANK.len()).position(|window| window == BLANK)?;
    let (head, body) = (answer.get(..end)?, answer.get(end + BLANK.len()..)?);
    let status = std::str::from_utf8(head).ok()?.strip_prefix("HTTP/1.")?.split(' ').nth(1)?;
    Some(Answer { status: status.parse().ok()?, body: body.to_vec() })
}

// === impl Finding ===

impl Finding {
    fn may_change(&self) -> bool {
        matches!(self, Self::NotYet { .. } | Self::Nobody(_) | Self::NoRoute)
    }

    fn as_json(&self) -> Value {
        match self {
            Self::Agent { role } => json!({"answers": "rolegate", "role": role}),
            Self::NotYet { status } => json!({"answers": "rolegate", "status": status}),
            Self::Other(what) => json!({"answers": "other", "why": what}),
            Self::Nobody(error) => json!({"answers": "nobody", "why": error}),
            Self::NoRoute => json!({"answers": "nobody", "why": "no route"}),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent { role: Some(role) } => write!(f, "rolegate answers, with role {role} for this pod"),
            Self::Agent { role: None } => f.write_str("rolegate answers, with no role for this pod"),
            Self::NotYet { status } => write!(f, "rolegate answers {status}: it does not know this pod"),
            Self::Other(what) => write!(f, "something else than rolegate answers: {what}"),
            Self::Nobody(error) => write!(f, "nobody answers: {error}"),
            Self::NoRoute => f.write_str("this pod has no route to it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_agents_answer_passes_whatever_ipv6_lacks() {
        let agent = || Finding::Agent { role: None };
        let nobody = || Finding::Nobody("unreachable".into());
        let other = || Finding::Other("a token of its own".into());
        assert_eq!(mistake(&agent(), &agent()), None);
        assert_eq!(mistake(&agent(), &nobody()), None);
        assert_eq!(mistake(&agent(), &Finding::NoRoute), None);
        assert_eq!(mistake(&Finding::NoRoute, &agent()), None);
        for (v4, v6) in [
            (other(), agent()),
            (agent(), other()),
            (nobody(), agent()),
            (Finding::NoRoute, nobody()),
            (Finding::NoRoute, other()),
            (Finding::NotYet { status: 500 }, nobody()),
        ] {
            assert!(mistake(&v4, &v6).is_some(), "{v4} {v6}");
        }
    }

    #[test]
    fn answers_are_read_and_others_are_not_taken_for_some() {
        let answer = parse(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc").unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (200, &b"abc"[..]));
        for bytes in
            [&b""[..], b"\r\n\r\n", b"HTTP/1.1 200 OK\r\n", b"SSH-2.0\r\n\r\n", b"HTTP/1.1 x\r\n\r\n"]
        {
            assert!(parse(bytes).is_none(), "{bytes:?}");
        }
    }

    #[test]
    fn life_that_is_asked_for_is_one_that_the_service_grants() {
        for _ in 0..1000 {
            assert!((LEAST_TTL..=token::LONGEST_TTL_SECONDS).contains(&random_ttl()));
        }
    }
}
