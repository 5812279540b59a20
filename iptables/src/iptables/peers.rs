//! Recognises the rule that kube2iam and kiam put into `nat PREROUTING`.

use super::drift::Peer;

/// kiam's own default port; kube2iam's is 8181.
const KIAM_PORT: &str = "3100";

/// Whose rule this is, if it is of exactly the shape that both write:
/// `-d 169.254.169.254/32 [[!] -i IF] -p tcp -m tcp --dport 80 -j DNAT --to-destination HOST:PORT`.
/// They differ only in that kiam alone knows `!` and in the default port.
pub(crate) fn owner(rule: &str) -> Option<Peer> {
    let words: Vec<&str> = rule.split(' ').collect();
    let rest = words.strip_prefix(["-d", "169.254.169.254/32"].as_slice())?;
    let (negated, rest) = match rest {
        ["!", "-i", _, rest @ ..] => (true, rest),
        ["-i", _, rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let ["-p", "tcp", "-m", "tcp", "--dport", "80", "-j", "DNAT", "--to-destination", target] = rest else {
        return None;
    };
    let (_, port) = target.rsplit_once(':')?;
    Some(if negated || port == KIAM_PORT { Peer::Kiam } else { Peer::Kube2iam })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_their_shape_is_theirs() {
        let rule = |middle: &str, port: &str| {
            format!(
                "-d 169.254.169.254/32 {middle}-p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.1:{port}"
            )
        };
        for (middle, port, expected) in [
            ("-i cbr0 ", "8181", Peer::Kube2iam),
            ("-i eni+ ", "9000", Peer::Kube2iam),
            ("", "8181", Peer::Kube2iam),
            ("-i cali+ ", "3100", Peer::Kiam),
            ("! -i eth0 ", "8181", Peer::Kiam),
        ] {
            assert_eq!(owner(&rule(middle, port)), Some(expected), "{middle}{port}");
        }
    }

    #[test]
    fn anything_more_or_less_is_not() {
        for rule in [
            "-d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j ACCEPT",
            "-d 169.254.169.254/32 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.0.0.1:8181",
            "-d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.1",
            "-d 169.254.170.2/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.1:8181",
            "-s 10.2.0.0/24 -d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.1:8181",
            "-d 169.254.169.254/32 -p tcp -m comment --comment mine -m tcp --dport 80 -j DNAT --to-destination \
             10.0.0.1:8181",
            "-d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.1:8181 --random",
        ] {
            assert_eq!(owner(rule), None, "{rule}");
        }
    }
}
