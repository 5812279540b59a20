//! What a request says of its way: a host that it was meant for, proxies that it came through, another path or method that it
//! once had. The host must be the metadata service; a forwarded request proves nothing; all else changes nothing.

use std::io;

use rolegate_tests::http::Response;
use rolegate_tests::topology::imds_v6;
use rolegate_tests::world::RunningPod;

use crate::lab::{
    OWN_DOCUMENT, ROLES, TOKENS_REQUIRED, USUAL, VICTIM_ROLE, WIDEST, Wrong, everything,
    only_what_is_open_reached_imds, statuses,
};

const PUT: &str = "PUT /latest/api/token HTTP/1.1\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n";
const HOST: &str = "Host: 169.254.169.254\r\n";
const USER_DATA: &str = "/latest/user-data";

/// Headers that some server or proxy acts upon; `{victim}` is another pod's address.
const HEADERS: &[&str] = &[
    // Another path.
    "X-Original-URL: /latest/user-data",
    "X-Original-URI: /latest/user-data",
    "X-Original-Path: /latest/user-data",
    "X-Rewrite-URL: /latest/user-data",
    "X-Rewrite-URL: /latest/meta-data/iam/security-credentials/VictimRole",
    "X-Override-URL: /latest/user-data",
    "X-Accel-Redirect: /latest/user-data",
    "X-Sendfile: /latest/user-data",
    "X-Envoy-Original-Path: /latest/user-data",
    "X-Forwarded-URI: /latest/user-data",
    "X-Forwarded-Path: /latest/user-data",
    "X-Forwarded-Prefix: /latest/user-data?",
    "X-Script-Name: /latest/user-data",
    "Destination: http://169.254.169.254/latest/user-data",
    "Content-Location: /latest/user-data",
    "Referer: http://169.254.169.254/latest/user-data",
    // Another method.
    "X-HTTP-Method-Override: PUT",
    "X-HTTP-Method: POST",
    "X-Method-Override: DELETE",
    "X-Forwarded-Method: PUT",
    "Access-Control-Request-Method: PUT",
    // Another host, port or scheme.
    "X-Forwarded-Host: evil.example",
    "X-Forwarded-Server: evil.example",
    "X-Forwarded-Port: 8181",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Scheme: https",
    "X-Forwarded-SSL: on",
    "X-Host: evil.example",
    "X-HTTP-Host-Override: evil.example",
    "Forwarded: for={victim};host=evil.example;proto=https;by=10.0.0.10",
    "Forwarded: for=\"[fd00:64:1::c]\"",
    "Via: 1.1 evil.example",
    "Via: 1.0 a, 1.1 b (squid)",
    "Proxy: http://evil.example:3128",
    "Proxy-Connection: keep-alive",
    "Proxy-Authorization: Basic Y2FuYXJ5OmNhbmFyeQ==",
    "Origin: http://evil.example",
    "Max-Forwards: 0",
    // Another caller.
    "X_Forwarded_For: {victim}",
    "X-Forwarded: {victim}",
    "Forwarded-For: {victim}",
    "X-Forwarded-For-Original: {victim}",
    "X-Original-Forwarded-For: {victim}",
    "X-Envoy-External-Address: {victim}",
    "X-Real-IP: {victim}",
    "X-Client-IP: {victim}",
    "X-Cluster-Client-IP: {victim}",
    "X-Originating-IP: {victim}",
    "X-Remote-IP: {victim}",
    "X-Remote-Addr: {victim}",
    "True-Client-IP: {victim}",
    "CF-Connecting-IP: {victim}",
    "Fastly-Client-IP: {victim}",
    "Client-IP: {victim}",
    "X-ProxyUser-Ip: {victim}",
    "X-Aws-Ec2-Metadata-Role: VictimRole",
    "Authorization: Bearer canary",
    "Cookie: role=VictimRole",
    "Metadata: true",
    "Metadata-Flavor: Google",
    // Another connection, or a part of the answer.
    "Connection: close, Host",
    "Connection: X-aws-ec2-metadata-token-ttl-seconds, Host",
    "Connection: keep-alive\r\nKeep-Alive: timeout=600, max=1000",
    "Connection: Upgrade\r\nUpgrade: h2c, websocket",
    "TE: trailers, deflate",
    "Trailer: Host",
    "Expect: 200-ok",
    "Range: bytes=0-3",
    "If-Range: \"x\"\r\nRange: bytes=2-2",
    "If-Match: \"x\"",
    "If-None-Match: *",
    "If-Modified-Since: Sat, 01 Jan 2050 00:00:00 GMT",
    "If-Unmodified-Since: Sat, 01 Jan 2000 00:00:00 GMT",
    "Accept: application/xml;q=1, */*;q=0",
    "Accept-Encoding: gzip, br;q=1, identity;q=0",
    "Accept-Charset: utf-16",
    "Content-Type: application/x-www-form-urlencoded; charset=utf-7",
];

fn get(pod: &RunningPod, path: &str, lines: &str) -> io::Result<Response> {
    pod.imds().raw(format!("GET {path} HTTP/1.1\r\n{HOST}{lines}\r\n").as_bytes())
}

#[test]
fn header_of_a_proxy_changes_neither_path_nor_method_nor_caller_nor_answer() {
    for shared in [&USUAL, &WIDEST] {
        let Some(lab) = shared.get() else { return };
        let (pod, victim, mut wrong) = (lab.pod("own"), lab.pod("victim"), Wrong::default());
        let own = pod.imds().get(OWN_DOCUMENT).unwrap().body;
        for header in HEADERS {
            let lines =
                format!("{header}\r\nX-Canary: 1\r\n").replace("{victim}", &victim.net.ip4().to_string());
            for (path, status, body) in [
                (ROLES, 200, &b"MyPodRole"[..]),
                (OWN_DOCUMENT, 200, &own),
                ("/latest/meta-data/mac", 200, b"0e:49:61:0f:c3:11"),
                (&format!("{ROLES}{VICTIM_ROLE}"), 404, b""),
                (USER_DATA, 404, b""),
            ] {
                let answer = get(&pod, path, &lines);
                wrong.unless_answered(status, (header, path), &answer);
                wrong.unless(answer.is_ok_and(|it| it.body == body), (header, path), "another body");
            }
            let token = pod.imds().raw(format!("{PUT}{HOST}{lines}\r\n").as_bytes());
            wrong.unless_answered(200, (header, "PUT"), &token);
            wrong.unless(token.is_ok_and(|it| it.body.len() == 56), (header, "PUT"), "no token");
        }
        only_what_is_open_reached_imds(shared, &lab, &mut wrong);
        wrong.none();
    }
}

/// Hosts that are the metadata service.
const HOSTS: &[&str] = &[
    "Host: 169.254.169.254",
    "Host: 169.254.169.254:80",
    "host:169.254.169.254",
    "HOST:\t 169.254.169.254 \t",
    "Host: instance-data",
    "Host: Instance-Data.EC2.internal:80",
    "Host: [fd00:ec2::254]",
    "Host: [FD00:EC2:0::254]:80",
];

/// Hosts that are not, whoever resolves them to it.
const FOREIGN_HOSTS: &[&str] = &[
    "",
    "Host:",
    "Host: rebind.evil.example",
    "Host: evil.example:80",
    "Host: 169.254.169.254.evil.example",
    "Host: 169.254.169.254.nip.io",
    "Host: evil.example.169.254.169.254",
    "Host: instance-data.evil.example",
    "Host: instance-data.ec2.internal.evil.example",
    "Host: instance-data.",
    "Host: xinstance-data",
    "Host: metadata",
    "Host: metadata.google.internal",
    "Host: localhost",
    "Host: 127.0.0.1",
    "Host: [::1]",
    "Host: 10.0.0.10",
    "Host: 10.0.0.10:8181",
    "Host: 169.254.169.253",
    "Host: 169.254.170.2",
    "Host: [fd00:ec2::23]",
    "Host: 169.254.169.254.",
    "Host: 2852039166",
    "Host: 0xa9fea9fe",
    "Host: 0xa9.0xfe.0xa9.0xfe",
    "Host: 0251.0376.0251.0376",
    "Host: 169.254.43518",
    "Host: 0169.254.169.254",
    "Host: [::ffff:169.254.169.254]",
    "Host: [::ffff:a9fe:a9fe]",
    "Host: [fd00:ec2::254%25eth0]",
    "Host: [fd00:ec2::254",
    "Host: fd00:ec2::254",
    "Host: [169.254.169.254]",
    "Host: 169.254.169.254:8181",
    "Host: 169.254.169.254:0",
    "Host: 169.254.169.254:080",
    "Host: 169.254.169.254:80:80",
    "Host: 169.254.169.254:",
    "Host: user@169.254.169.254",
    "Host: user:80@169.254.169.254",
    "Host: 169.254.169.254@evil.example",
    "Host: 169.254.169.254/",
    "Host: 169.254.169.254#",
    "Host: 169.254.169.254 evil.example",
    "Host: 169.254.169.254, evil.example",
    "Host: http://169.254.169.254",
    "Host: %31%36%39.254.169.254",
    "Host: １６９.254.169.254",
    "Host: *",
    "Host: 169.254.169.254\r\nHost: 169.254.169.254",
    "Host: 169.254.169.254\r\nHost: evil.example",
    "Host: evil.example\r\nHost: 169.254.169.254",
    "Host: 169.254.169.254\r\nhost:",
    "X-Forwarded-Host: 169.254.169.254",
    "Host: evil.example\r\nX-Forwarded-Host: 169.254.169.254",
];

/// In every spelling of its name, with whatever is in it.
const FORWARDED: &[&str] = &[
    "X-Forwarded-For: 1.2.3.4",
    "x-forwarded-for:1.2.3.4",
    "X-FORWARDED-FOR: 1.2.3.4",
    "X-Forwarded-For:",
    "X-Forwarded-For: unknown",
    "X-Forwarded-For: 127.0.0.1",
    "X-Forwarded-For: 169.254.169.254",
    "X-Forwarded-For: {victim}",
    "X-Forwarded-For: 1.2.3.4, {victim}",
    "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: {victim}",
    "X-Forwarded-For: 1.2.3.4\r\nConnection: close, X-Forwarded-For",
    "X-Forwarded-For: ::1\r\nVia: 1.1 proxy\r\nForwarded: for=1.2.3.4",
];

/// What a pod asks for, GETs with this `token`.
fn asked(token: &str) -> Vec<String> {
    let mut asked = vec![PUT.to_owned()];
    for path in ["/", ROLES, OWN_DOCUMENT, "/latest/meta-data/instance-id", USER_DATA, "/nothing"] {
        asked.push(format!("GET {path} HTTP/1.1\r\nX-aws-ec2-metadata-token: {token}\r\n"));
    }
    asked
}

/// P27: with `X-Forwarded-For` a PUT and a GET with a token are 403, and so is everything for a Host that is not
/// allow-listed or given twice; without a Host only HTTP/1.0 is answered.
#[test]
fn forwarded_token_and_foreign_host_are_403() {
    for shared in [&USUAL, &WIDEST, &TOKENS_REQUIRED] {
        let Some(lab) = shared.get() else { return };
        let (pod, mut wrong) = (lab.pod("own"), Wrong::default());
        let victim = lab.pod("victim").net.ip4().to_string();
        let (token, bad) = (pod.imds().imds_token(300).unwrap(), "INVALID");
        let raw = |head: &str, lines: &str| pod.imds().raw(format!("{head}{lines}\r\n\r\n").as_bytes());
        for (token, heads) in [("good", asked(&token)), ("bad", asked(bad))] {
            for head in &heads {
                for lines in FORWARDED {
                    let lines = format!("{HOST}{}", lines.replace("{victim}", &victim));
                    wrong.unless_answered(403, (head, &lines, token), &raw(head, &lines));
                }
            }
        }
        for head in asked(&token) {
            for lines in FOREIGN_HOSTS {
                // A line less where there is no Host at all.
                let request = format!("{head}{lines}{}\r\n", if lines.is_empty() { "" } else { "\r\n" });
                wrong.unless_answered(403, (&head, lines), &pod.imds().raw(request.as_bytes()));
            }
            let old = head.replace("HTTP/1.1", "HTTP/1.0");
            let status = if head.contains(USER_DATA) || head.contains("/nothing") { 404 } else { 200 };
            wrong.unless_answered(403, (&old, "foreign"), &raw(&old, "Host: evil.example"));
            wrong.unless_answered(403, (&old, "empty"), &raw(&old, "Host:"));
            let none = pod.imds().raw(format!("{old}\r\n").as_bytes());
            wrong.unless_answered(status, (&old, "no Host"), &none);
            for lines in HOSTS {
                wrong.unless_answered(status, (&head, lines), &raw(&head, lines));
                wrong.unless_answered(status, (&old, lines), &raw(&old, lines));
            }
        }
        only_what_is_open_reached_imds(shared, &lab, &mut wrong);
        wrong.none();
    }
}

#[test]
fn forwarding_without_a_token_changes_nothing() {
    for (shared, status) in [(&USUAL, 200), (&WIDEST, 200), (&TOKENS_REQUIRED, 401)] {
        let Some(lab) = shared.get() else { return };
        let (pod, mut wrong) = (lab.pod("own"), Wrong::default());
        let victim = lab.pod("victim").net.ip4().to_string();
        for lines in FORWARDED {
            let lines = lines.replace("{victim}", &victim);
            let list = get(&pod, ROLES, &format!("{lines}\r\n"));
            wrong.unless_answered(status, (&lines, ROLES), &list);
            let own = status != 200 || list.is_ok_and(|list| list.body == b"MyPodRole");
            wrong.unless(own, (&lines, ROLES), "another pod's");
            let refused = if status == 200 { 404 } else { status };
            for path in [USER_DATA, &format!("{ROLES}{VICTIM_ROLE}")] {
                wrong.unless_answered(refused, (&lines, path), &get(&pod, path, &format!("{lines}\r\n")));
            }
        }
        only_what_is_open_reached_imds(shared, &lab, &mut wrong);
        wrong.none();
    }
}

#[test]
fn host_may_be_the_ipv6_address_over_ipv6() {
    let Some(lab) = USUAL.get() else { return };
    let pod = lab.pod("own");
    for (status, host) in [(200, "[FD00:EC2::254]:80"), (200, "169.254.169.254"), (403, "[fd00:64:1::c]")] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let answers = everything(&pod, imds_v6(), request.as_bytes()).unwrap();
        assert_eq!(statuses(&answers), [status], "{host}: {}", String::from_utf8_lossy(&answers));
    }
}
